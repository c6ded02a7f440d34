//! A loopback network of one's own: `127.N.0.0/16`, claimed for as long as a lab lives.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use ipnet::Ipv4Net;

/// The port that marks a network as taken, on its last address.
const CLAIM_PORT: u16 = 49_999;
/// The networks labs share; lower ones belong to whoever uses loopback addresses by hand, 127.250 to the simulators' tests.
const FIRST: u8 = 16;
const LAST: u8 = 249;

/// A claimed network; dropping it gives it back.
#[derive(Debug)]
pub struct Subnet {
    number: u8,
    _claim: TcpListener,
}

impl Subnet {
    /// Claims one network.
    pub fn claim(number: u8) -> io::Result<Self> {
        Ok(Self { number, _claim: TcpListener::bind(Self::marker(number))? })
    }

    /// Where whoever has claimed network `number` listens.
    pub(super) fn marker(number: u8) -> SocketAddr {
        (Ipv4Addr::new(127, number, 255, 254), CLAIM_PORT).into()
    }

    /// Claims the first free network, looking from a place that differs between processes.
    pub fn find() -> io::Result<Self> {
        let count = u32::from(LAST - FIRST) + 1;
        let start = std::process::id();
        let free = (0..count).find_map(|step| {
            let number = FIRST + u8::try_from((start + step) % count).unwrap_or_default();
            Self::claim(number).ok()
        });
        free.ok_or_else(|| io::Error::new(io::ErrorKind::AddrInUse, "no free network between 127.16 and 127.249"))
    }

    pub fn number(&self) -> u8 {
        self.number
    }

    /// `127.N.0.0/16`
    pub fn network(&self) -> Ipv4Net {
        Ipv4Net::new_assert(self.address(0, 0), 16)
    }

    /// `127.N.third.fourth`
    pub fn address(&self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.number, third, fourth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_claimed_once() {
        let first = Subnet::find().unwrap();
        let second = Subnet::find().unwrap();
        assert_ne!(first.number(), second.number());
        assert!(Subnet::claim(first.number()).is_err());
        assert_eq!(first.network().prefix_len(), 16);
    }
}
