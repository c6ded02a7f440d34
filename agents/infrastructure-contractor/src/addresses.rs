//! Addresses: ranges as written in the configuration, and the next free one.

use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `192.168.1.10-192.168.1.99`, `192.168.1.10`, or `192.168.1.32/27` (the whole network, edges left out).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
}

impl JsonSchema for Range {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AddressRange".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "Addresses: 192.168.1.10-192.168.1.99, 192.168.1.10, or 192.168.1.32/27"
        })
    }
}

impl Range {
    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// Whether all of it lies in `network`.
    pub fn is_within(&self, network: &IpNet) -> bool {
        network.contains(&self.first) && network.contains(&self.last)
    }

    /// Its addresses in order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (first, last) = (number(self.first), number(self.last));
        let v4 = self.first.is_ipv4();
        (first..=last).map(move |number| address(number, v4))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    if v4 { IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()) } else { IpAddr::V6(number.into()) }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no = || format!("{text:?} is not an address, a range first-last, or a CIDR");
        let parse = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| no());
        if text.contains('/') {
            let network: IpNet = text.parse().map_err(|_| no())?;
            let (first, last) = (number(network.network()), number(network.broadcast()));
            let edge = u128::from(last - first > 1);
            let v4 = network.network().is_ipv4();
            return Ok(Self { first: address(first + edge, v4), last: address(last - edge, v4) });
        }
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (parse(first)?, parse(last)?),
            None => (parse(text)?, parse(text)?),
        };
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(format!("{text:?} ends before it begins"));
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl TryFrom<String> for Range {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Range> for String {
    fn from(range: Range) -> Self {
        range.to_string()
    }
}

/// The addresses of an IPv4 network that no machine can have: its own and the one for broadcasts.
pub fn edges(network: &IpNet) -> Vec<IpAddr> {
    match network {
        IpNet::V4(network) if network.prefix_len() < 31 => vec![network.network().into(), network.broadcast().into()],
        _ => Vec::new(),
    }
}

/// The free addresses of `ranges` in order: not excluded, not taken.
pub fn free<'a>(
    ranges: &'a [Range],
    excluded: &'a [Range],
    taken: &'a BTreeSet<IpAddr>,
) -> impl Iterator<Item = IpAddr> + 'a {
    ranges
        .iter()
        .flat_map(Range::iter)
        .filter(move |address| !taken.contains(address) && !excluded.iter().any(|range| range.contains(*address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusions_and_leases_are_left_out() {
        let ranges = ["10.0.0.8-10.0.0.10".parse().unwrap(), "10.0.0.32/30".parse().unwrap()];
        let excluded = ["10.0.0.9".parse().unwrap()];
        let taken = BTreeSet::from(["10.0.0.33".parse().unwrap()]);
        let free: Vec<_> = free(&ranges, &excluded, &taken).map(|address| address.to_string()).collect();
        assert_eq!(free, ["10.0.0.8", "10.0.0.10", "10.0.0.34"]);
    }

    #[test]
    fn the_edges_of_a_network_are_nobodys() {
        let edges = |text: &str| edges(&text.parse().unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(edges("10.0.0.0/24"), ["10.0.0.0", "10.0.0.255"]);
        assert!(edges("10.0.0.0/31").is_empty() && edges("fd00::/64").is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "10.0.0.9-10.0.0.8", "10.0.0.1-fd00::1", "10.0.0.1/33", "ten"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }
}
