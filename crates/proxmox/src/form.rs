//! Parameters and their percent-encoding, strict enough for Proxmox's form decoder.

use std::fmt::{Display, Write};

/// The named parameters of one call.
///
/// Proxmox splits a form body at `&` *and* `;` and cuts a value at a second `=` (proxmox.md 1.2), so everything that
/// is not unreserved is percent-encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// The parameters with one more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Display) -> Self {
        self.push(name, value);
        self
    }

    /// The parameters with one more if there is a value.
    #[must_use]
    pub fn with_some(mut self, name: &str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            self.push(name, value);
        }
        self
    }

    /// The parameters with a boolean, which Proxmox takes only as `0` or `1`.
    #[must_use]
    pub fn with_flag(self, name: &str, value: bool) -> Self {
        self.with(name, u8::from(value))
    }

    /// Adds one.
    pub fn push(&mut self, name: impl Into<String>, value: impl Display) {
        self.0.push((name.into(), value.to_string()));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// `a=1&b=x%3Dy`.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        for (name, value) in &self.0 {
            if !out.is_empty() {
                out.push('&');
            }
            encode_into(&mut out, name, b"");
            out.push('=');
            encode_into(&mut out, value, b"");
        }
        out
    }
}

/// One path segment: `:`, `@` and `!` stay readable, `/` does not survive.
pub fn segment(text: &str) -> String {
    let mut out = String::new();
    encode_into(&mut out, text, b":@!");
    out
}

/// A path under `/api2/json` from segments: `path(&["nodes", "pve1", "qemu"])`.
pub(crate) fn path(segments: &[&str]) -> String {
    segments.iter().fold(String::new(), |path, text| path + "/" + &segment(text))
}

fn encode_into(out: &mut String, text: &str, keep: &[u8]) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_form_decoder_would_cut_is_encoded() {
        let params = Params::default()
            .with("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0")
            .with("tags", "a;b")
            .with_flag("onboot", true)
            .with("description", "ü & ö\n");
        assert_eq!(
            params.encode(),
            "net0=virtio%3DBC%3A24%3A11%3A00%3A00%3A01%2Cbridge%3Dvmbr0&tags=a%3Bb&onboot=1&description=%C3%BC%20%26%20%C3%B6%0A"
        );
    }

    #[test]
    fn a_upid_stays_readable_in_a_path() {
        assert_eq!(segment("UPID:pve1:0:0:0:qmstart:100:root@pam!t:"), "UPID:pve1:0:0:0:qmstart:100:root@pam!t:");
        assert_eq!(path(&["a/b", "c d"]), "/a%2Fb/c%20d");
    }
}
