//! gRPC frames as bytes, for proxying without knowing the messages (talos.md 2.4).

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use talos::proto::common::Metadata;

/// Puts frames together from the chunks of a body.
#[derive(Default)]
pub(crate) struct Deframer {
    buffer: BytesMut,
}

impl Deframer {
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole message.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let header = self.buffer.get(..5)?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if self.buffer.len() < 5 + length {
            return None;
        }
        self.buffer.advance(5);
        Some(self.buffer.split_to(length).freeze())
    }
}

/// An uncompressed frame around a message.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 5);
    out.extend_from_slice(&[0]);
    out.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(message);
    out.freeze()
}

/// Adds `metadata` (field 1) to every inner message of an `XResponse { repeated X messages = 1 }`.
pub(crate) fn with_metadata(response: &[u8], metadata: &Metadata) -> Vec<u8> {
    let tail = metadata_field(metadata);
    let mut out = Vec::with_capacity(response.len() + tail.len() + 8);
    let mut rest = response;
    while !rest.is_empty() {
        let Ok((1, WireType::LengthDelimited)) = decode_key(&mut rest) else { break };
        let Some(length) = decode_varint(&mut rest).ok().and_then(|length| usize::try_from(length).ok()) else { break };
        let Some((inner, after)) = rest.split_at_checked(length) else { break };
        put_message(&mut out, &[inner, &tail].concat());
        rest = after;
    }
    out
}

/// A frame of a stream with its own metadata appended.
pub(crate) fn stream_frame_with_metadata(message: &[u8], metadata: &Metadata) -> Vec<u8> {
    [message, &metadata_field(metadata)].concat()
}

/// A response that only says that a node failed.
pub(crate) fn failure(metadata: &Metadata) -> Vec<u8> {
    let mut out = Vec::new();
    put_message(&mut out, &metadata_field(metadata));
    out
}

/// The same as a frame of a stream.
pub(crate) fn metadata_field(metadata: &Metadata) -> Vec<u8> {
    let mut out = Vec::new();
    put_message(&mut out, &metadata.encode_to_vec());
    out
}

fn put_message(out: &mut Vec<u8>, message: &[u8]) {
    encode_key(1, WireType::LengthDelimited, out);
    encode_varint(message.len() as u64, out);
    out.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use talos::proto::machine::{Hostname, HostnameResponse};

    use super::*;

    #[test]
    fn metadata_lands_in_every_inner_message() {
        let response =
            HostnameResponse { messages: vec![Hostname { metadata: None, hostname: "a".into() }] }.encode_to_vec();
        let metadata = Metadata { hostname: "10.0.0.1".into(), ..Metadata::default() };
        let mut all = with_metadata(&response, &metadata);
        all.extend(failure(&Metadata { error: "down".into(), ..Metadata::default() }));
        let decoded = HostnameResponse::decode(&*all).unwrap();
        assert_eq!(decoded.messages[0].metadata.as_ref().unwrap().hostname, "10.0.0.1");
        assert_eq!(decoded.messages[0].hostname, "a");
        assert_eq!(decoded.messages[1].metadata.as_ref().unwrap().error, "down");
    }

    #[test]
    fn frames_come_out_of_any_chunks() {
        let bytes = [frame(b"one"), frame(b""), frame(b"three")].concat();
        let mut deframer = Deframer::default();
        let mut seen = Vec::new();
        for byte in bytes {
            deframer.push(&[byte]);
            while let Some(message) = deframer.next() {
                seen.push(message);
            }
        }
        assert_eq!(seen, [&b"one"[..], b"", b"three"]);
    }
}
