//! UPIDs: the names of Proxmox tasks.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// `UPID:<node>:<pid>:<pstart>:<starttime>:<type>:<id>:<user>:` in parts (proxmox.md 2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Upid {
    /// Where the task runs; only this node can be asked about it.
    pub node: String,
    /// Process id.
    pub pid: u64,
    /// Start of the process in clock ticks since boot.
    pub pstart: u64,
    /// Unix seconds.
    pub starttime: u64,
    /// `qmcreate`, `qmclone`, …
    pub kind: String,
    /// VMID, file name, or empty. For a clone it is the *source*.
    pub subject: String,
    /// `user@realm` or `user@realm!token`.
    pub user: String,
}

/// The text is not a UPID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UPID: {0:?}")]
pub struct NotAUpid(String);

impl FromStr for Upid {
    type Err = NotAUpid;

    fn from_str(text: &str) -> Result<Self, NotAUpid> {
        let no = || NotAUpid(text.chars().take(120).collect());
        let parts: Vec<&str> = text.split(':').collect();
        let ["UPID", node, pid, pstart, starttime, kind, subject, user, ""] = parts.as_slice() else {
            return Err(no());
        };
        // Parts of it go into paths of requests: nothing is taken that Proxmox does not write.
        let is_plain = |part: &&str| part.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#%".contains(&byte));
        if ![node, kind].into_iter().all(|part| !part.is_empty() && is_plain(part)) || user.is_empty() {
            return Err(no());
        }
        let hex = |part: &str| {
            let digits = Some(part).filter(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()));
            digits.and_then(|part| u64::from_str_radix(part, 16).ok()).ok_or_else(no)
        };
        Ok(Self {
            node: (*node).to_owned(),
            pid: hex(pid)?,
            pstart: hex(pstart)?,
            starttime: hex(starttime)?,
            kind: (*kind).to_owned(),
            subject: (*subject).to_owned(),
            user: (*user).to_owned(),
        })
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, pid, pstart, starttime, kind, subject, user } = self;
        write!(f, "UPID:{node}:{pid:08X}:{pstart:08X}:{starttime:08X}:{kind}:{subject}:{user}:")
    }
}

impl TryFrom<String> for Upid {
    type Error = NotAUpid;

    fn try_from(text: String) -> Result<Self, NotAUpid> {
        text.parse()
    }
}

impl From<Upid> for String {
    fn from(upid: Upid) -> Self {
        upid.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_upid_with_token_long_pstart_and_empty_id_survives() {
        for text in [
            "UPID:pve1:0003B1C2:12345678A:65F0ABCD:imgcopy::root@pam!cortex:",
            "UPID:pve-2:00001234:00ABCDEF:65F00000:qmcreate:100:cortex@pve:",
        ] {
            assert_eq!(text.parse::<Upid>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_upid_is_refused() {
        for text in [
            "",
            "OK",
            "UPID:pve1:1:2:3:qmstart:100:root@pam",
            "UPID:pve1:zz:2:3:qmstart:100:root@pam:",
            "UPID:pve1:+1:2:3:qmstart:100:root@pam:",
            "UPID:../../x:1:2:3:qmstart:100:root@pam:",
        ] {
            assert!(text.parse::<Upid>().is_err(), "{text}");
        }
    }
}
