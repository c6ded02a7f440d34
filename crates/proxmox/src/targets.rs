//! Where connections may go: an allow-list of networks that is asked before every dial.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// Networks that may be dialled. Empty means that nothing may.
///
/// A test or a demo allows 127.0.0.0/8, so an address from an example is refused there instead of dialled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedTargets(Vec<IpNet>);

impl AllowedTargets {
    /// Only these networks.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().collect())
    }

    /// 127.0.0.0/8 and ::1.
    pub fn loopback() -> Self {
        Self::new(["127.0.0.0/8", "::1/128"].map(|text| IpNet::from_str(text).expect("a literal network")))
    }

    /// Whether `address` may be dialled.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl fmt::Display for AllowedTargets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        if names.is_empty() { f.write_str("none") } else { f.write_str(&names.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_does_not_slip_through() {
        let targets = AllowedTargets::loopback();
        for (address, allowed) in [
            ("127.9.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:10.0.0.1", false),
            ("192.168.1.10", false),
        ] {
            assert_eq!(targets.allows(address.parse().unwrap()), allowed, "{address}");
        }
    }
}
