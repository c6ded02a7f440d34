//! Which Talos, Kubernetes and upgrade steps go together (talos.md 1.2 to 1.4).

use semver::Version;

/// What a Talos minor version takes as its host and runs on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    pub talos_minor: u64,
    /// Oldest minor from which it can be upgraded to.
    pub host_at_least: u64,
    /// First minor from which it can no longer be downgraded to.
    pub host_below: u64,
    pub oldest_kubernetes: u64,
    pub newest_kubernetes: u64,
}

/// talos.md 1.3, one row per target minor.
pub const SUPPORT: [Support; 14] = [
    row(2, (0, 3), (23, 25)),
    row(3, (0, 5), (24, 26)),
    row(4, (0, 6), (25, 27)),
    row(5, (2, 7), (26, 28)),
    row(6, (3, 8), (24, 29)),
    row(7, (4, 9), (25, 30)),
    row(8, (5, 10), (26, 31)),
    row(9, (8, 11), (27, 32)),
    row(10, (8, 12), (28, 33)),
    row(11, (9, 13), (29, 34)),
    row(12, (10, 14), (30, 35)),
    row(13, (11, 15), (31, 36)),
    row(14, (12, 16), (32, 37)),
    row(15, (13, 17), (33, 38)),
];

/// Kubernetes minors between which upgrades are known (talos.md 1.4).
const KUBERNETES_MINORS: std::ops::RangeInclusive<u64> = 19..=37;

const fn row(talos_minor: u64, host: (u64, u64), kubernetes: (u64, u64)) -> Support {
    Support {
        talos_minor,
        host_at_least: host.0,
        host_below: host.1,
        oldest_kubernetes: kubernetes.0,
        newest_kubernetes: kubernetes.1,
    }
}

/// Why two versions do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    #[error("Talos {0} is not known")]
    UnknownTalos(Version),
    #[error(
        "version of Kubernetes {kubernetes} is too old to be used with Talos {talos}, which runs 1.{oldest} to 1.{newest}"
    )]
    KubernetesTooOld { kubernetes: Version, talos: Version, oldest: u64, newest: u64 },
    #[error(
        "version of Kubernetes {kubernetes} is too new to be used with Talos {talos}, which runs 1.{oldest} to 1.{newest}"
    )]
    KubernetesTooNew { kubernetes: Version, talos: Version, oldest: u64, newest: u64 },
    #[error("Talos {host} is too old to be upgraded to {target}: 1.{at_least} is the oldest that can be")]
    HostTooOld { host: Version, target: Version, at_least: u64 },
    #[error("Talos {host} is too new to be downgraded to {target}: it must be below 1.{below}")]
    HostTooNew { host: Version, target: Version, below: u64 },
    #[error("Kubernetes cannot go from {from} to {to}: only patches and the next minor version are a step")]
    KubernetesStep { from: Version, to: Version },
}

/// The row of a Talos version; only its minor counts, pre-releases are not told apart.
pub fn support(talos: &Version) -> Option<Support> {
    SUPPORT.into_iter().find(|row| talos.major == 1 && row.talos_minor == talos.minor)
}

/// Checks that a Talos version runs a Kubernetes version.
pub fn check_kubernetes(talos: &Version, kubernetes: &Version) -> Result<(), Incompatible> {
    let row = support(talos).ok_or_else(|| Incompatible::UnknownTalos(talos.clone()))?;
    let (oldest, newest) = (row.oldest_kubernetes, row.newest_kubernetes);
    let (kubernetes, talos) = (kubernetes.clone(), talos.clone());
    match (kubernetes.major, kubernetes.minor) {
        (1, minor) if (oldest..=newest).contains(&minor) => Ok(()),
        (1, minor) if minor < oldest => Err(Incompatible::KubernetesTooOld { kubernetes, talos, oldest, newest }),
        (0, _) => Err(Incompatible::KubernetesTooOld { kubernetes, talos, oldest, newest }),
        _ => Err(Incompatible::KubernetesTooNew { kubernetes, talos, oldest, newest }),
    }
}

/// Checks that a node running `host` takes the installer of `target`, up or down.
pub fn check_talos_step(host: &Version, target: &Version) -> Result<(), Incompatible> {
    let row = support(target).ok_or_else(|| Incompatible::UnknownTalos(target.clone()))?;
    let (host, target) = (host.clone(), target.clone());
    if host.minor < row.host_at_least {
        return Err(Incompatible::HostTooOld { host, target, at_least: row.host_at_least });
    }
    if host.minor >= row.host_below {
        return Err(Incompatible::HostTooNew { host, target, below: row.host_below });
    }
    Ok(())
}

/// The minors to install one after the other, each in its latest patch: the documented way, stricter than
/// [`check_talos_step`]. Empty within one minor; `None` for a downgrade.
pub fn talos_path(host: &Version, target: &Version) -> Option<Vec<u64>> {
    (host.minor <= target.minor).then(|| (host.minor + 1..=target.minor).collect())
}

/// Checks that Kubernetes can go from one version to another in one step.
pub fn check_kubernetes_step(from: &Version, to: &Version) -> Result<(), Incompatible> {
    let is_known = KUBERNETES_MINORS.contains(&from.minor) && KUBERNETES_MINORS.contains(&to.minor);
    let is_step = from.major == to.major && (to.minor == from.minor || to.minor == from.minor + 1);
    if is_known && is_step { Ok(()) } else { Err(Incompatible::KubernetesStep { from: from.clone(), to: to.clone() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Minor;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap()
    }

    #[test]
    fn a_jump_of_two_minors_is_taken_and_of_three_is_not() {
        assert!(check_talos_step(&version("1.11.5"), &version("1.13.9")).is_ok());
        let refused = check_talos_step(&version("1.10.0"), &version("1.13.9")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Talos 1.10.0 is too old to be upgraded to 1.13.9: 1.11 is the oldest that can be"
        );
        assert!(check_talos_step(&version("1.14.0-rc.1"), &version("1.13.9")).is_ok(), "one minor down");
        assert!(check_talos_step(&version("1.15.0"), &version("1.13.9")).is_err(), "two minors down");
        assert_eq!(talos_path(&version("1.11.0"), &version("1.13.9")), Some(vec![12, 13]));
    }

    #[test]
    fn the_table_agrees_with_the_supported_lines() {
        for minor in Minor::ALL {
            let talos = version(minor.newest().trim_start_matches('v'));
            let row = support(&talos).unwrap();
            assert_eq!((row.oldest_kubernetes, row.newest_kubernetes), minor.kubernetes_minors());
            assert!(check_kubernetes(&talos, &version(minor.default_kubernetes())).is_ok());
        }
        assert!(check_kubernetes(&version("1.13.9"), &version("1.37.0")).is_err());
        assert!(check_kubernetes(&version("1.13.9"), &version("1.30.0")).is_err());
    }

    #[test]
    fn kubernetes_skips_no_minor_and_never_goes_back_one() {
        assert!(check_kubernetes_step(&version("1.35.4"), &version("1.36.0")).is_ok());
        assert!(check_kubernetes_step(&version("1.36.3"), &version("1.36.1")).is_ok());
        assert!(check_kubernetes_step(&version("1.34.0"), &version("1.36.0")).is_err());
        assert!(check_kubernetes_step(&version("1.36.0"), &version("1.35.4")).is_err());
    }
}
