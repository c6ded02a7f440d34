//! What differs between the Talos releases that the lab can boot (talos.md 1).

use std::fmt;

/// A minor line of Talos.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) enum Line {
    V1_12,
    V1_13,
    V1_14,
}

impl Line {
    /// As the columns of the embedded tables name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V1_12 => "1.12",
            Self::V1_13 => "1.13",
            Self::V1_14 => "1.14",
        }
    }

    /// The Kubernetes minors whose images this line accepts (`SupportedKubernetesVersions`).
    pub(crate) fn kubernetes_minors(self) -> std::ops::RangeInclusive<u64> {
        match self {
            Self::V1_12 => 30..=35,
            Self::V1_13 => 31..=36,
            Self::V1_14 => 32..=37,
        }
    }
}

/// A Talos release such as `v1.13.9`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Release {
    tag: String,
    pub(crate) line: Line,
    /// Numeric core of the version.
    pub(crate) core: (u64, u64, u64),
}

impl Release {
    /// Reads `v1.13.9` or `1.14.0-rc.1`; `None` for what the lab cannot boot.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix('v').unwrap_or(text);
        let core = core_of(bare)?;
        let line = match (core.0, core.1) {
            (1, 12) => Line::V1_12,
            (1, 13) => Line::V1_13,
            (1, 14) => Line::V1_14,
            _ => return None,
        };
        Some(Self { tag: format!("v{bare}"), line, core })
    }

    /// `v1.13.9`.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    /// The etcd that ships with it.
    pub(crate) fn etcd(&self) -> &'static str {
        match self.line {
            Line::V1_12 => "3.6.10",
            Line::V1_13 => "3.6.12",
            Line::V1_14 => "3.7.1",
        }
    }

    pub(crate) fn kernel(&self) -> &'static str {
        match self.line {
            Line::V1_12 => "6.18.29-talos",
            Line::V1_13 => "6.18.44-talos",
            Line::V1_14 => "6.18.52-talos",
        }
    }

    pub(crate) fn containerd(&self) -> &'static str {
        match self.line {
            Line::V1_12 => "2.1.6",
            Line::V1_13 => "2.2.4",
            Line::V1_14 => "2.3.1",
        }
    }

    pub(crate) fn go_version(&self) -> &'static str {
        "go1.26.4"
    }

    /// Why this installer refuses to run on `host` (talos.md 1.3); `None` when it accepts.
    pub(crate) fn refuses_host(&self, host: &Self) -> Option<String> {
        let minor = self.core.1;
        let (lowest, below) = (minor.saturating_sub(2), minor + 2);
        if host.core.1 < lowest {
            return Some(format!("host version {} is too old to upgrade to Talos {}", &host.tag[1..], &self.tag[1..]));
        }
        (host.core.1 >= below)
            .then(|| format!("host version {} is too new to downgrade to Talos {}", &host.tag[1..], &self.tag[1..]))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tag)
    }
}

fn core_of(bare: &str) -> Option<(u64, u64, u64)> {
    let core = bare.split(['-', '+']).next()?;
    let mut parts = core.split('.').map(str::parse::<u64>);
    let (major, minor, patch) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    parts.next().is_none().then_some((major, minor, patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installer_accepts_hosts_two_minors_older_and_one_newer() {
        let target = Release::parse("v1.14.0-rc.1").unwrap();
        assert_eq!(target.refuses_host(&Release::parse("1.12.11").unwrap()), None);
        let older = Release::parse("v1.12.0").unwrap();
        assert_eq!(older.refuses_host(&Release::parse("v1.13.9").unwrap()), None);
        assert!(older.refuses_host(&target).unwrap().contains("too new to downgrade"));
        assert_eq!(Release::parse("v1.11.0"), None);
        assert_eq!(Release::parse("latest"), None);
    }
}
