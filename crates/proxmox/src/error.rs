//! What can go wrong when talking to Proxmox VE, told apart by the texts that its status lines carry.

use std::{collections::BTreeMap, fmt};

use crate::Upid;

/// A failed call or task.
///
/// `Display` is one line that never repeats the request's parameters: they may hold a ticket or a password.
#[derive(Clone, Debug)]
pub struct Error {
    /// What a program decides on.
    pub kind: Kind,
    /// What was being done: `POST /nodes/pve1/qemu`, or `task qmcreate 100 on pve1`.
    pub context: String,
    /// HTTP status, if an answer came at all.
    pub status: Option<u16>,
    /// Proxmox's own words, or those of the transport.
    pub text: String,
    /// For a failed task: who it was and the last lines of its log.
    pub task: Option<Box<FailedTask>>,
}

/// The task behind an error.
#[derive(Clone, Debug)]
pub struct FailedTask {
    /// Its id.
    pub upid: Upid,
    /// The last lines of its log, oldest first.
    pub log: Vec<String>,
}

/// What kind of failure it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The thing named is not there (Proxmox answers 500, never 404; proxmox.md 1.4).
    NotFound(Missing),
    /// VMID, file, pool or name is taken.
    AlreadyExists,
    /// The VM's config carries a `lock`, for example `clone`.
    Locked(String),
    /// A file, storage or cluster lock was busy for its whole waiting time (proxmox.md 5).
    LockTimeout,
    /// The config changed since its digest was read.
    Modified,
    /// A download has another checksum than promised.
    ChecksumMismatch,
    /// A right is missing.
    Permission {
        /// `/vms/100`; empty if the text names none.
        path: String,
        /// Any of these would do.
        privileges: Vec<String>,
    },
    /// Parameters were refused, by name.
    Parameter(BTreeMap<String, String>),
    /// No valid credential.
    Authentication,
    /// The node that must act is down: 595 to 599 from the node-to-node proxy, empty body.
    NodeOffline,
    /// The cluster has no quorum: reads work, writes do not.
    NoQuorum,
    /// A storage has no room.
    StorageFull,
    /// A storage is offline, disabled, or not on that node.
    StorageUnavailable,
    /// The host has no memory for the VM.
    HostFull,
    /// The VM must be stopped for this.
    Running,
    /// The VM runs already.
    AlreadyRunning,
    /// The VM must run for this.
    NotRunning,
    /// `protection` is set.
    Protected,
    /// `got no worker upid`: nothing was started.
    WorkerNotStarted,
    /// The task's process died without a last word, for example when its node rebooted.
    TaskLost,
    /// Asked for longer than the caller wanted to wait. The work may still end.
    TimedOut,
    /// No endpoint took the connection. Nothing was sent.
    Unreachable,
    /// Sent, but no answer came. It may have been executed.
    ReplyLost,
    /// The address is outside the allowed targets. Nothing was dialled.
    TargetRefused,
    /// The server's certificate is not the pinned one.
    Untrusted,
    /// This Proxmox does not know the call.
    Unsupported,
    /// The answer is not what the API promises.
    Protocol,
    /// Anything else, in Proxmox's words.
    Other,
}

/// What is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No such VM on that node. The API does not follow a migrated VM.
    Vm,
    /// No such storage.
    Storage,
    /// No such volume or file.
    Volume,
    /// No such pool.
    Pool,
    /// No such cluster node.
    Node,
    /// No such task.
    Task,
    /// Something else.
    Other,
}

/// What a caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The world is not ready: look again later, without counting it as an attempt.
    Wait,
    /// Try again, after looking whether it happened.
    Retry,
    /// Trying again will not help.
    Fail,
}

impl Error {
    pub(crate) fn new(kind: Kind, context: impl Into<String>, text: impl Into<String>) -> Self {
        Self { kind, context: context.into(), status: None, text: text.into(), task: None }
    }

    /// The error of an HTTP answer with `status`, told apart by its text.
    pub fn answered(context: String, status: u16, text: String, errors: BTreeMap<String, String>) -> Self {
        let kind = classify_answer(status, &text, errors);
        Self { kind, context, status: Some(status), text: text.trim_end().to_owned(), task: None }
    }

    /// The error of a task that ended with `exit` and wrote `log`.
    pub(crate) fn task(upid: &Upid, exit: &str, log: Vec<String>) -> Self {
        let lost = exit == "unexpected status" || exit.starts_with("unable to get last line");
        let told = classify_text(exit);
        let kind = match told {
            _ if lost => Some(Kind::TaskLost),
            Kind::Other => log.iter().rev().map(|line| classify_text(line)).find(|k| *k == Kind::HostFull),
            kind => Some(kind),
        };
        let context = format!("task {} {} on {}", upid.kind, upid.subject, upid.node);
        let task = Some(Box::new(FailedTask { upid: upid.clone(), log }));
        Self { kind: kind.unwrap_or(Kind::Other), context, status: None, text: exit.to_owned(), task }
    }

    /// Whether waiting, retrying or giving up is right.
    pub fn advice(&self) -> Advice {
        match &self.kind {
            Kind::Locked(_)
            | Kind::LockTimeout
            | Kind::NodeOffline
            | Kind::NoQuorum
            | Kind::StorageFull
            | Kind::StorageUnavailable
            | Kind::HostFull
            | Kind::Unreachable => Advice::Wait,
            // Nothing happened: an API that hangs is one that cannot be reached.
            Kind::ReplyLost if self.context.starts_with("GET ") => Advice::Wait,
            Kind::Modified
            | Kind::WorkerNotStarted
            | Kind::TaskLost
            | Kind::TimedOut
            | Kind::ReplyLost
            | Kind::Protocol
            | Kind::NotFound(Missing::Task) => Advice::Retry,
            Kind::Other if self.text.contains("got timeout") => Advice::Retry,
            Kind::Other if matches!(self.status, Some(502..=504)) => Advice::Retry,
            // Proxmox always says why: without a word it was not Proxmox's own answer.
            Kind::Other if self.status == Some(500) && self.text.trim().is_empty() => Advice::Retry,
            _ => Advice::Fail,
        }
    }

    /// Whether the request may have been executed although it failed: look before asking again (proxmox.md 5).
    pub fn may_have_run(&self) -> bool {
        matches!(self.kind, Kind::ReplyLost | Kind::TimedOut | Kind::TaskLost) || matches!(self.status, Some(596..=599))
    }

    /// Whether it is certain that nothing was done: Proxmox refused in its own words, or was not reached.
    pub fn is_refusal(&self) -> bool {
        let said_why = !self.text.trim().is_empty();
        match self.status {
            Some(status) => matches!(status, 400..=403 | 595) || (matches!(status, 500 | 501) && said_why),
            None => matches!(self.kind, Kind::Unreachable | Kind::TargetRefused | Kind::Untrusted),
        }
    }

    /// Whether it says that this VM is not on that node.
    pub fn is_missing_vm(&self) -> bool {
        self.kind == Kind::NotFound(Missing::Vm)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.context)?;
        if let Some(status) = self.status {
            write!(f, "{status} ")?;
        }
        f.write_str(self.text.lines().next().unwrap_or_default())?;
        if let Kind::Parameter(errors) = &self.kind {
            for (name, text) in errors {
                write!(f, " [{name}: {}]", text.trim_end())?;
            }
        }
        if let Some(task) = &self.task {
            let tail: Vec<_> = task.log.iter().rev().take(4).rev().map(String::as_str).collect();
            if !tail.is_empty() {
                write!(f, " (log: {})", tail.join(" | "))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

fn classify_answer(status: u16, text: &str, errors: BTreeMap<String, String>) -> Kind {
    match status {
        401 => Kind::Authentication,
        403 => permission(text),
        595..=599 => Kind::NodeOffline,
        501 => Kind::Unsupported,
        400 if !errors.is_empty() => match errors.values().map(|text| classify_text(text)).find(named) {
            Some(kind) => kind,
            None => Kind::Parameter(errors),
        },
        _ => classify_text(text),
    }
}

fn named(kind: &Kind) -> bool {
    matches!(kind, Kind::NotFound(_) | Kind::AlreadyExists)
}

/// Kinds by text, first match wins. The texts are those of proxmox.md 5 and 6.
fn classify_text(text: &str) -> Kind {
    let has = |needle: &str| text.contains(needle);
    if has("no quorum") {
        Kind::NoQuorum
    } else if let Some((_, rest)) = text.split_once("VM is locked (") {
        Kind::Locked(rest.split(')').next().unwrap_or_default().to_owned())
    } else if (has("can't lock file") && has("got timeout"))
        || has("got lock request timeout")
        || has("-locked command timed out")
    {
        Kind::LockTimeout
    } else if has("file change by other user") || has("detected modified configuration") {
        Kind::Modified
    } else if has("checksum mismatch") {
        Kind::ChecksumMismatch
    } else if has("not enough free space") || has("No space left on device") || has("out of space") {
        Kind::StorageFull
    } else if has("Cannot allocate memory") || has("not enough memory") {
        Kind::HostFull
    } else if has("hostname lookup '") || has("no such cluster node") {
        Kind::NotFound(Missing::Node)
    } else if has("is not available on node") || has("is not online") || (has("storage '") && has("is disabled")) {
        Kind::StorageUnavailable
    } else if has("already exists") || has("refusing to override existing file") || has("File exists") {
        Kind::AlreadyExists
    } else if let Some(missing) = missing(text) {
        Kind::NotFound(missing)
    } else if has("protection mode enabled") {
        Kind::Protected
    } else if has("already running") {
        Kind::AlreadyRunning
    } else if has("not running") {
        Kind::NotRunning
    } else if has("is running - destroy failed") || has("if VM is running") {
        Kind::Running
    } else if has("got no worker upid") {
        Kind::WorkerNotStarted
    } else {
        Kind::Other
    }
}

fn missing(text: &str) -> Option<Missing> {
    if text.contains("no such task") {
        return Some(Missing::Task);
    }
    if text.contains("unable to find configuration file for VM") {
        return Some(Missing::Vm);
    }
    if !text.contains("does not exist") {
        return None;
    }
    Some(if text.contains("Configuration file '") {
        Missing::Vm
    } else if text.contains("storage '") {
        Missing::Storage
    } else if text.contains("volume '") {
        Missing::Volume
    } else if text.contains("pool '") {
        Missing::Pool
    } else {
        Missing::Other
    })
}

/// `Permission check failed (/vms/100, VM.Allocate|VM.Clone)`; root-only texts have no path.
fn permission(text: &str) -> Kind {
    let inner = text.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map(|(inner, _)| inner);
    match inner.and_then(|inner| inner.split_once(',')) {
        Some((path, privileges)) if path.starts_with('/') => Kind::Permission {
            path: path.trim().to_owned(),
            privileges: privileges.split(['|', ',']).map(|name| name.trim().to_owned()).collect(),
        },
        _ => Kind::Permission { path: String::new(), privileges: Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxmox_texts_become_kinds() {
        let cases = [
            (500, "Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist", Kind::NotFound(Missing::Vm)),
            (500, "unable to find configuration file for VM 100 on node 'pve1'", Kind::NotFound(Missing::Vm)),
            (500, "unable to create VM 100 - VM 100 already exists on node 'pve1'", Kind::AlreadyExists),
            (500, "unable to create VM 102: config file already exists", Kind::AlreadyExists),
            (500, "VM is locked (clone)", Kind::Locked("clone".into())),
            (500, "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout", Kind::LockTimeout),
            (500, "cfs-lock 'storage-x' error: got lock request timeout", Kind::LockTimeout),
            (500, "'storage-x'-locked command timed out - aborting", Kind::LockTimeout),
            (500, "cfs-lock 'storage-x' error: no quorum!", Kind::NoQuorum),
            (500, "cluster not ready - no quorum?", Kind::NoQuorum),
            (500, "checksum mismatch (file change by other user?)", Kind::Modified),
            (500, "checksum mismatch: got 'a' != expect 'b', aborting", Kind::ChecksumMismatch),
            (500, "storage 'x' does not exist", Kind::NotFound(Missing::Storage)),
            (500, "storage 'x' is not available on node 'n'", Kind::StorageUnavailable),
            (500, "storage 'x' is disabled", Kind::StorageUnavailable),
            (500, "volume 'local:iso/x.iso' does not exist", Kind::NotFound(Missing::Volume)),
            (500, "VM 100 is running - destroy failed", Kind::Running),
            (500, "VM 100 already running", Kind::AlreadyRunning),
            (500, "VM 100 not running", Kind::NotRunning),
            (500, "can't remove VM 100 - protection mode enabled", Kind::Protected),
            (500, "got no worker upid - start worker failed", Kind::WorkerNotStarted),
            (595, "No route to host", Kind::NodeOffline),
            (401, "Authentication failed!", Kind::Authentication),
            (501, "Method 'GET /x/y' not implemented", Kind::Unsupported),
            (
                500,
                "hostname lookup 'x' failed - failed to get address info for: x: Name or service not known",
                Kind::NotFound(Missing::Node),
            ),
            (
                403,
                "Permission check failed (/vms/100, VM.Allocate|VM.Clone)",
                Kind::Permission { path: "/vms/100".into(), privileges: vec!["VM.Allocate".into(), "VM.Clone".into()] },
            ),
            (
                403,
                "Permission check failed (user != root@pam)",
                Kind::Permission { path: String::new(), privileges: vec![] },
            ),
        ];
        for (status, text, kind) in cases {
            let error = Error::answered("GET /x".into(), status, text.into(), BTreeMap::new());
            assert_eq!(error.kind, kind, "{text}");
        }
    }

    #[test]
    fn what_may_have_been_done_is_no_refusal() {
        let refused =
            |status, text: &str| Error::answered("POST /x".into(), status, text.into(), BTreeMap::new()).is_refusal();
        assert!(refused(500, "unable to create VM 102: config file already exists") && refused(403, "no"));
        assert!(refused(595, "No route to host"));
        assert!(!refused(596, "Connection timed out") && !refused(500, "") && !refused(502, "Bad Gateway"));
        assert!(Error::new(Kind::Unreachable, "POST /x", "Connection refused").is_refusal());
        assert!(!Error::new(Kind::ReplyLost, "POST /x", "no answer within 45 s").is_refusal());
    }

    #[test]
    fn a_taken_vmid_is_seen_through_a_parameter_error() {
        let errors = BTreeMap::from([("vmid".to_owned(), "VM 100 already exists".to_owned())]);
        let text = "Parameter verification failed.\n".to_owned();
        assert_eq!(Error::answered("GET /cluster/nextid".into(), 400, text, errors).kind, Kind::AlreadyExists);
    }

    #[test]
    fn parameter_errors_are_all_named_in_one_line() {
        let errors = BTreeMap::from([
            ("name".to_owned(), "invalid format - value does not look like a valid DNS name\n".to_owned()),
            ("tags".to_owned(), "invalid format - invalid characters in tag\n".to_owned()),
        ]);
        let error = Error::answered("POST /x".into(), 400, "Parameter verification failed.\n".into(), errors);
        assert_eq!(
            error.to_string(),
            "POST /x: 400 Parameter verification failed. [name: invalid format - value does not look like a valid \
             DNS name] [tags: invalid format - invalid characters in tag]"
        );
    }

    #[test]
    fn a_task_without_memory_is_a_full_host() {
        let upid: Upid = "UPID:pve1:00001234:00ABCDEF:65F00000:qmstart:100:root@pam!t:".parse().unwrap();
        let log = vec!["kvm: cannot set up guest memory 'pc.ram': Cannot allocate memory".to_owned()];
        let error = Error::task(&upid, "start failed: QEMU exited with code 1", log);
        assert_eq!((error.kind.clone(), error.advice()), (Kind::HostFull, Advice::Wait));
    }
}
