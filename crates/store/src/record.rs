//! How one row looks on disk: version, encoding, checksum over key and body, body.

use serde::{Serialize, de::DeserializeOwned};

/// The format that this code writes; an older one is upgraded when it is read, a newer one refused.
const VERSION: u8 = 1;
/// Bytes of a row before its body.
pub(crate) const HEADER: usize = 6;

/// Cap of one value's body in bytes: below it sled keeps everything in its log (crates.md, trap 2).
pub(crate) const VALUE_CAP: usize = 60 * 1024;
/// Cap of what is kept in chunks: secrets and archives.
pub(crate) const CHUNKED_CAP: usize = 64 * 1024 * 1024;

/// What the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json = 0,
    Bytes = 1,
}

/// A row as bytes, for `key`.
pub(crate) fn encode(key: &str, encoding: Encoding, body: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(HEADER + body.len());
    row.extend_from_slice(&[VERSION, encoding as u8]);
    row.extend_from_slice(&checksum(key, encoding as u8, body).to_le_bytes());
    row.extend_from_slice(body);
    row
}

/// A value as a JSON row.
pub(crate) fn encode_json<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, serde_json::Error> {
    Ok(encode(key, Encoding::Json, &serde_json::to_vec(value)?))
}

/// The body of a row, after its checksum was found right; the reason otherwise.
pub(crate) fn decode<'a>(key: &str, row: &'a [u8]) -> Result<(Encoding, &'a [u8]), String> {
    let (Some(header), Some(body)) = (row.get(..HEADER), row.get(HEADER..)) else {
        return Err(format!("{} bytes are too short for a record", row.len()));
    };
    if header[0] != VERSION {
        return Err(format!("record version {} is not {VERSION}", header[0]));
    }
    let encoding = match header[1] {
        0 => Encoding::Json,
        1 => Encoding::Bytes,
        other => return Err(format!("unknown record encoding {other}")),
    };
    let stored = u32::from_le_bytes([header[2], header[3], header[4], header[5]]);
    if stored != checksum(key, header[1], body) {
        return Err("its checksum does not fit its content".to_owned());
    }
    Ok((encoding, body))
}

/// The JSON value of a row; `Ok(Err)` is a sound record of another shape.
pub(crate) fn decode_json<T: DeserializeOwned>(key: &str, row: &[u8]) -> Result<Result<T, serde_json::Error>, String> {
    match decode(key, row)? {
        (Encoding::Json, body) => Ok(serde_json::from_slice(body)),
        (Encoding::Bytes, _) => Err("bytes stand where JSON belongs".to_owned()),
    }
}

fn checksum(key: &str, encoding: u8, body: &[u8]) -> u32 {
    let crc = crc32c::crc32c(key.as_bytes());
    let crc = crc32c::crc32c_append(crc, &[0, VERSION, encoding]);
    crc32c::crc32c_append(crc, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_under_another_key_or_with_a_flipped_bit_is_refused() {
        let row = encode("vm/a", Encoding::Json, br#"{"id":1}"#);
        assert_eq!(decode("vm/a", &row), Ok((Encoding::Json, br#"{"id":1}"#.as_slice())));
        assert!(decode("vm/b", &row).is_err());
        for bit in 0..row.len() * 8 {
            let mut bad = row.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode("vm/a", &bad).is_err(), "bit {bit} flipped unnoticed");
        }
    }
}
