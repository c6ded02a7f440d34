//! A minimal bbolt file with etcd's SHA-256 trailer: what a snapshot is and what a recovery reads (talos.md 9).

use prost::encoding::{WireType, encode_key, encode_varint};
use sha2::{Digest as _, Sha256};

const PAGE: usize = 4096;
const MAGIC: u32 = 0xED0C_DAED;
const FLAG_LEAF: u16 = 0x02;
const FLAG_META: u16 = 0x04;
const FLAG_FREELIST: u16 = 0x10;
/// A leaf element that is a bucket.
const BUCKET: u32 = 1;
/// The key below which the lab keeps the cluster's objects.
const STORE_KEY: &[u8] = b"/registry/lab.cortex/objects";

/// Why a snapshot cannot be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    #[error("snapshot missing hash but --skip-hash-check=false")]
    NoHash,
    #[error("snapshot hash does not match")]
    WrongHash,
    #[error("snapshot is not an etcd backend file")]
    NotBolt,
}

/// Writes a snapshot of the objects at a revision.
pub(crate) fn write(objects: &[u8], revision: u64) -> Vec<u8> {
    let keys = leaf_bytes(&[(0, revision_key(revision), key_value(objects, revision))]);
    let key_pages = keys.len().div_ceil(PAGE);
    let meta_leaf = inline_bucket(&[(0, b"consistent_index".to_vec(), revision.to_be_bytes().to_vec())]);
    let mut key_bucket = 4u64.to_le_bytes().to_vec();
    key_bucket.extend([0u8; 8]);
    let root = leaf_bytes(&[(BUCKET, b"key".to_vec(), key_bucket), (BUCKET, b"meta".to_vec(), meta_leaf)]);
    let high_water = 4 + key_pages as u64;

    let mut file = Vec::with_capacity((4 + key_pages) * PAGE + 32);
    for page in 0..2u64 {
        append_page(&mut file, page, FLAG_META, 0, &meta_body(page, high_water));
    }
    append_page(&mut file, 2, FLAG_FREELIST, 0, &[]);
    append_page(&mut file, 3, FLAG_LEAF, 2, &root[16..]);
    append_page(&mut file, 4, FLAG_LEAF, 1, &keys[16..]);
    let hash = Sha256::digest(&file);
    file.extend(hash);
    file
}

/// Reads the objects back; `skip_hash` is for a file copied from a data directory.
pub(crate) fn read(snapshot: &[u8], skip_hash: bool) -> Result<Vec<u8>, Damage> {
    let trailer = snapshot.len() % 512 == 32;
    let body = if trailer { &snapshot[..snapshot.len() - 32] } else { snapshot };
    if !skip_hash {
        if !trailer {
            return Err(Damage::NoHash);
        }
        if Sha256::digest(body)[..] != snapshot[body.len()..] {
            return Err(Damage::WrongHash);
        }
    }
    objects(body).ok_or(Damage::NotBolt)
}

fn objects(body: &[u8]) -> Option<Vec<u8>> {
    (u32_at(body, 16)? == MAGIC).then_some(())?;
    let root = usize::try_from(u64_at(body, 32)?).ok()?;
    let bucket = elements(body, root * PAGE)?.into_iter().find(|(key, _)| key == b"key")?.1;
    let page = usize::try_from(u64_at(&bucket, 0)?).ok()?;
    let (_, record) = elements(body, page * PAGE)?.into_iter().next_back()?;
    value_of(&record)
}

/// Keys and values of the leaf page at an offset.
fn elements(body: &[u8], page: usize) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let count = usize::from(u16::from_le_bytes(body.get(page + 10..page + 12)?.try_into().ok()?));
    (0..count)
        .map(|index| {
            let element = page + 16 + index * 16;
            let position = element + u32_at(body, element + 4)? as usize;
            let (key, value) = (u32_at(body, element + 8)? as usize, u32_at(body, element + 12)? as usize);
            Some((
                body.get(position..position + key)?.to_vec(),
                body.get(position + key..position + key + value)?.to_vec(),
            ))
        })
        .collect()
}

/// Field five of the record: its value.
fn value_of(record: &[u8]) -> Option<Vec<u8>> {
    let mut rest = record;
    while !rest.is_empty() {
        let (number, wire) = prost::encoding::decode_key(&mut rest).ok()?;
        match wire {
            WireType::Varint => {
                prost::encoding::decode_varint(&mut rest).ok()?;
            }
            WireType::LengthDelimited => {
                let length = usize::try_from(prost::encoding::decode_varint(&mut rest).ok()?).ok()?;
                let content = rest.get(..length)?;
                if number == 5 {
                    return Some(content.to_vec());
                }
                rest = rest.get(length..)?;
            }
            _ => return None,
        }
    }
    None
}

/// Main revision, underscore, sub revision.
fn revision_key(revision: u64) -> Vec<u8> {
    [&revision.to_be_bytes()[..], b"_", &0u64.to_be_bytes()].concat()
}

/// `mvccpb.KeyValue`: key, create_revision, mod_revision, version, value.
fn key_value(objects: &[u8], revision: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, STORE_KEY);
    for (field, value) in [(2, revision), (3, revision), (4, 1)] {
        encode_key(field, WireType::Varint, &mut out);
        encode_varint(value, &mut out);
    }
    put_bytes(&mut out, 5, objects);
    out
}

fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A leaf page: sixteen bytes of header, the elements, then keys and values.
fn leaf_bytes(elements: &[(u32, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = page_header(0, FLAG_LEAF, elements.len(), 0);
    let mut position = elements.len() * 16;
    for (index, (flags, key, value)) in elements.iter().enumerate() {
        out.extend(flags.to_le_bytes());
        out.extend(((position - index * 16) as u32).to_le_bytes());
        out.extend((key.len() as u32).to_le_bytes());
        out.extend((value.len() as u32).to_le_bytes());
        position += key.len() + value.len();
    }
    for (_, key, value) in elements {
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }
    out
}

/// A bucket small enough to live in its parent: root page zero, sequence, then the page.
fn inline_bucket(elements: &[(u32, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    [vec![0; 16], leaf_bytes(elements)].concat()
}

fn meta_body(transaction: u64, high_water: u64) -> Vec<u8> {
    let mut meta = Vec::new();
    for word in [MAGIC, 2, PAGE as u32, 0] {
        meta.extend(word.to_le_bytes());
    }
    for word in [3, 0, 2, high_water, transaction] {
        meta.extend(word.to_le_bytes());
    }
    let checksum = fnv1a(&meta);
    meta.extend(checksum.to_le_bytes());
    meta
}

fn append_page(file: &mut Vec<u8>, id: u64, flags: u16, count: usize, body: &[u8]) {
    let start = file.len();
    let overflow = (body.len() + 16).div_ceil(PAGE) - 1;
    file.extend(page_header(id, flags, count, overflow as u32));
    file.extend_from_slice(body);
    file.resize(start + (overflow + 1) * PAGE, 0);
}

fn page_header(id: u64, flags: u16, count: usize, overflow: u32) -> Vec<u8> {
    let mut header = id.to_le_bytes().to_vec();
    header.extend(flags.to_le_bytes());
    header.extend((count as u16).to_le_bytes());
    header.extend(overflow.to_le_bytes());
    header
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_restores_unless_it_was_damaged() {
        for objects in [vec![b'x'; 10], vec![b'y'; 20_000]] {
            let snapshot = write(&objects, 42);
            assert_eq!(snapshot.len() % 512, 32);
            assert_eq!(read(&snapshot, false).unwrap(), objects);
            assert_eq!(read(&snapshot[..snapshot.len() - 32], true).unwrap(), objects);
            assert_eq!(read(&snapshot[..snapshot.len() - 32], false), Err(Damage::NoHash));
            let mut damaged = snapshot.clone();
            damaged[5 * PAGE - 1] ^= 1;
            assert_eq!(read(&damaged, false), Err(Damage::WrongHash));
        }
        assert_eq!(read(&[0; 544], true), Err(Damage::NotBolt));
    }
}
