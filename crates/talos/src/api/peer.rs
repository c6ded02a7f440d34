//! What a server's certificate says of whoever answers at an address.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

use super::Fingerprint;

/// The common name of every machine that waits for its configuration (talos.md 2.2).
const MAINTENANCE: &str = "maintenance-service.talos.dev";
/// As much of a name as is shown.
const LONGEST: usize = 100;

/// Whoever showed a certificate. Nobody has to vouch for what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The names it goes by, the common name first.
    pub names: Vec<String>,
    /// Its addresses, without those that every host has.
    pub addresses: Vec<IpAddr>,
    /// From when on its certificate is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
    /// Of its key.
    pub key: Fingerprint,
}

impl Peer {
    /// Reads a certificate; `None` if it is none.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let (mut names, mut addresses) = (Vec::new(), Vec::new());
        names.extend(parsed.subject().iter_common_name().filter_map(|name| Some(clean(name.as_str().ok()?))));
        let alternative = parsed.subject_alternative_name().ok().flatten();
        for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.push(clean(name)),
                GeneralName::IPAddress(octets) => addresses.extend(address(octets)),
                _ => {}
            }
        }
        let mut known = std::collections::HashSet::new();
        names.retain(|name| !name.is_empty() && known.insert(name.clone()));
        addresses.retain(|address| *address != Ipv4Addr::LOCALHOST && *address != Ipv6Addr::LOCALHOST);
        let validity = parsed.validity();
        let (not_before, not_after) = (time(validity.not_before)?, time(validity.not_after)?);
        Some(Self { names, addresses, not_before, not_after, key: Fingerprint::of(certificate)? })
    }

    /// Whether it is a machine that has no configuration yet, by its own word.
    pub fn is_unconfigured(&self) -> bool {
        self.names.first().is_some_and(|name| name == MAINTENANCE)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.addresses.iter().take(4).map(ToString::to_string).collect();
        let name = self.names.iter().find(|name| *name != MAINTENANCE).map_or("a nameless host", String::as_str);
        let state = if self.is_unconfigured() { " without a configuration" } else { "" };
        if addresses.is_empty() {
            write!(f, "{name}{state}")
        } else {
            write!(f, "{name}{state} ({})", addresses.join(", "))
        }
    }
}

/// A stranger's text, fit for a message.
fn clean(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(LONGEST).collect()
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let short = <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    short.or_else(|| <[u8; 16]>::try_from(octets).ok().map(IpAddr::from))
}

fn time(time: ASN1Time) -> Option<Timestamp> {
    Timestamp::from_second(time.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Algorithm, ServerNames, authority, server_certificate};

    #[test]
    fn a_certificate_says_names_addresses_and_dates_and_nothing_that_breaks_a_line() {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let authority = authority(Algorithm::Ed25519, Some("talos"), now).unwrap();
        let names = ServerNames {
            common_name: "edge (1)".to_owned(),
            dns: vec!["edge-1".to_owned()],
            addresses: vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 0, 0, 7])],
        };
        let pair = server_certificate(&authority, Algorithm::Ed25519, &names, now).unwrap();
        let peer = Peer::of(&pair.certificate().unwrap()).unwrap();
        assert_eq!((peer.not_before, peer.is_unconfigured()), (now, false));
        assert_eq!(peer.to_string(), "edge(1) (10.0.0.7)");
        assert!(Peer::of(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])).is_none());
    }
}
