//! Packet capture: a pcap stream with the TCP handshakes that peers make with the services of a node (talos.md 3.9).

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::{StreamExt as _, stream};
use talos::proto::common::Data;
use talos::proto::machine::PacketCaptureRequest;
use tonic::Status;

use super::{Api, Frames};

/// Bytes of a packet that are kept when the client does not say.
const SNAP_LENGTH: u32 = 4096;
/// Ethernet, the link type of every card and of the loopback.
const ETHERNET: u32 = 1;
/// How often a peer knocks.
const PAUSE: Duration = Duration::from_secs(1);
/// Who knocks: a card of the host that the machine runs on.
const PEER: [u8; 6] = [0xBC, 0x24, 0x11, 0x00, 0x00, 0x01];
const SYN: u8 = 0x02;
const RST_ACK: u8 = 0x14;
const SYN_ACK: u8 = 0x12;

impl Api {
    pub(super) fn capture(&self, request: &PacketCaptureRequest) -> Result<Frames<Data>, Status> {
        let name = &request.interface;
        let network = self.boot.network();
        let link = network.links.iter().find(|link| link.name == *name);
        if link.is_none() && name != "lo" {
            return Err(Status::not_found(format!("interface {name:?} not found")));
        }
        let snap = if request.snap_len == 0 { SNAP_LENGTH } else { request.snap_len };
        let own = link.and_then(|link| mac(&link.mac)).unwrap_or_default();
        let address = link.and_then(|link| link.addresses.first().map(ipnet::IpNet::addr));
        let filtered = !request.bpf_filter.is_empty();
        let boot = std::sync::Arc::clone(&self.boot);
        let header = stream::iter([Ok(frame(header(snap)))]);
        // What a filter lets through is for a machine to say that runs it; here nothing passes one.
        let packets = stream::unfold(0_u16, move |count| {
            let boot = std::sync::Arc::clone(&boot);
            async move {
                boot.world.idle(PAUSE).await;
                let Some(IpAddr::V4(address)) = address.filter(|_| !filtered) else {
                    std::future::pending::<()>().await;
                    return None;
                };
                let open = boot.services.is_up("apid");
                let knock = handshake(count, (own, address), open).into_iter();
                let bytes = knock.flat_map(|packet| record(snap, now(), &packet)).collect();
                Some((Ok(frame(bytes)), count.wrapping_add(1)))
            }
        });
        let stop = self.boot.stop.clone();
        Ok(header.chain(packets).take_until(async move { stop.cancelled().await }).boxed())
    }
}

fn frame(bytes: Vec<u8>) -> Data {
    Data { metadata: None, bytes: bytes.into() }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn mac(text: &str) -> Option<[u8; 6]> {
    hex::decode(text.replace(':', "")).ok()?.try_into().ok()
}

/// The file header: magic, version 2.4, snap length, link type.
fn header(snap: u32) -> Vec<u8> {
    let mut bytes = 0xA1B2_C3D4_u32.to_le_bytes().to_vec();
    bytes.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(snap.to_le_bytes());
    bytes.extend(ETHERNET.to_le_bytes());
    bytes
}

/// A packet with its time and lengths.
fn record(snap: u32, at: Duration, packet: &[u8]) -> Vec<u8> {
    let full = u32::try_from(packet.len()).unwrap_or(u32::MAX);
    let kept = full.min(snap);
    let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
    let words = [seconds, at.subsec_micros(), kept, full];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(&packet[..kept as usize]);
    bytes
}

/// A peer's SYN to apid and what the node answers.
fn handshake(count: u16, (mac, address): ([u8; 6], Ipv4Addr), open: bool) -> [Vec<u8>; 2] {
    let [a, b, ..] = address.octets();
    let (peer, port) = (Ipv4Addr::new(a, b, 0, 11), 32_768 + count % 28_000);
    let sequence = 0x1000_0000 + u32::from(count) * 4096;
    let syn = segment((PEER, peer, port), (mac, address, 50_000), (SYN, sequence, 0));
    let (flags, own) = if open { (SYN_ACK, sequence ^ 0x5555_5555) } else { (RST_ACK, 0) };
    let answer = segment((mac, address, 50_000), (PEER, peer, port), (flags, own, sequence + 1));
    [syn, answer]
}

type End = ([u8; 6], Ipv4Addr, u16);

/// An empty TCP segment in IPv4 in Ethernet, with its checksums.
fn segment(from: End, to: End, (flags, sequence, acknowledged): (u8, u32, u32)) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(from.2.to_be_bytes());
    tcp.extend(to.2.to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledged.to_be_bytes());
    tcp.extend([0x50, flags, 0xFF, 0xFF, 0, 0, 0, 0]);
    let mut pseudo = [from.1.octets(), to.1.octets()].concat();
    pseudo.extend([0, 6, 0, 20]);
    pseudo.extend(&tcp);
    tcp[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    ip.extend(from.1.octets());
    ip.extend(to.1.octets());
    let sum = checksum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    let mut packet = [to.0, from.0].concat();
    packet.extend([0x08, 0x00]);
    packet.extend(ip);
    packet.extend(tcp);
    packet
}

/// The internet checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default());
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xFFFF {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_whole_and_their_checksums_hold() {
        let [syn, answer] = handshake(0, ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(127, 20, 1, 1)), true);
        for packet in [&syn, &answer] {
            assert_eq!((packet.len(), &packet[12..14]), (54, &[8, 0][..]));
            assert_eq!(checksum(&packet[14..34]), 0, "over a header with its sum the sum is zero");
            let mut pseudo = packet[26..34].to_vec();
            pseudo.extend([0, 6, 0, 20]);
            pseudo.extend(&packet[34..]);
            assert_eq!(checksum(&pseudo), 0);
        }
        assert_eq!((syn[47], answer[47]), (SYN, SYN_ACK));
        let cut = record(20, Duration::from_micros(1_500_000), &syn);
        assert_eq!(cut.len(), 16 + 20);
        assert_eq!(cut[..16], [1, 0, 0, 0, 0x20, 0xA1, 7, 0, 20, 0, 0, 0, 54, 0, 0, 0]);
        assert_eq!(header(SNAP_LENGTH).len(), 24);
    }
}
