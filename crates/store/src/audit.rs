//! The audit log: who did what, as a hash chain that commits together with what was done.
//!
//! Each record's hash is SHA-256 over the canonical JSON (RFC 8785) of its other fields, one of which is the hash of the
//! record before. Whoever alters, removes or reorders a record breaks the chain; whoever cuts its end off contradicts
//! the heads that were published elsewhere, so a verification takes those, too.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    archive,
    commit::CommitError,
    draft::{Draft, decode_own},
    keys,
    record::VALUE_CAP,
};

/// Records that become one compressed row together: about 6 KiB, and more rows than one where they do not compress.
pub(crate) const PACK: u64 = 64;
/// Bytes of one text of a deed; some come from whoever sends a message.
const TEXT: usize = 512;
/// What the first record names as the hash before it.
const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One thing that somebody did, asked for or was refused. Never holds a secret or a message's values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// Who: `/operator/ada`, or the message that caused it (`/talos/01a2…`).
    pub who: String,
    /// The last 8 characters of the public key that proves it: a name is only what somebody calls themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What: `run_started`, `plan_approved`, `command_asked`, …
    pub did: String,
    /// To what: a playbook, a command, a message's subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// About which cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// In which flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<Uuid>,
    /// In which run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Uuid>,
    /// Hash of the plan that was shown or approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

impl Deed {
    /// With every text cut to a length that the log can hold.
    fn clipped(self) -> Self {
        let clip = |text: Option<String>| text.map(clipped);
        Self {
            who: clipped(self.who),
            key: clip(self.key),
            did: clipped(self.did),
            object: clip(self.object),
            cluster: clip(self.cluster),
            plan: clip(self.plan),
            outcome: clip(self.outcome),
            ..self
        }
    }
}

fn clipped(mut text: String) -> String {
    if text.len() > TEXT {
        text.truncate(text.floor_char_boundary(TEXT));
        text.push('…');
    }
    text
}

/// A deed in its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its place, from 1 without gaps.
    pub seq: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// What was done.
    #[serde(flatten)]
    pub deed: Deed,
    /// Hash of the record before, 64 hexadecimal digits; zeros for the first.
    pub prev: String,
    /// Hash of this record: SHA-256 over the canonical JSON of all other fields.
    pub hash: String,
}

/// The end of the chain at some moment: what is published elsewhere, to be compared later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditHead {
    /// Number of records.
    pub seq: u64,
    /// Hash of the last.
    pub hash: String,
}

impl Default for AuditHead {
    fn default() -> Self {
        Self { seq: 0, hash: GENESIS.to_owned() }
    }
}

/// What a verification of the chain found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditVerified {
    /// Records that fit, from the first on.
    pub records: u64,
    /// Where the chain ends.
    pub head: AuditHead,
    /// Heads from elsewhere that the chain was compared with.
    pub heads: u64,
    /// The first record that does not fit; none when all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<AuditProblem>,
}

/// The first place where a chain does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditProblem {
    /// Which record.
    pub seq: u64,
    /// What does not fit.
    pub reason: String,
}

/// Appends a deed to the chain.
pub(crate) fn append(draft: &mut Draft<'_>, deed: Deed, at: Timestamp) -> Result<(), CommitError> {
    let head = head(draft)?;
    let deed = deed.clipped();
    let mut record = AuditRecord { seq: head.seq + 1, at, deed, prev: head.hash, hash: String::new() };
    record.hash = hash_of(&record).map_err(CommitError::Invalid)?;
    draft.put_json(keys::audit(record.seq), &record, "audit record")?;
    let head = AuditHead { seq: record.seq, hash: record.hash };
    draft.put_json(keys::AUDIT_HEAD.to_owned(), &head, "audit head")?;
    if head.seq.is_multiple_of(PACK) { pack(draft, head.seq) } else { Ok(()) }
}

/// Where the chain ends. Where that row is damaged the last record says it, too: what is done goes on to be recorded.
fn head(draft: &Draft<'_>) -> Result<AuditHead, CommitError> {
    match draft.json(keys::AUDIT_HEAD) {
        Err(CommitError::Damaged(reason)) => {
            let last = last_record(draft)?.ok_or_else(|| CommitError::Damaged(reason.clone()))?;
            tracing::error!(reason, seq = last.seq, "the audit log's head is damaged; its last record stands for it");
            Ok(AuditHead { seq: last.seq, hash: last.hash })
        }
        found => Ok(found?.unwrap_or_default()),
    }
}

fn last_record(draft: &Draft<'_>) -> Result<Option<AuditRecord>, CommitError> {
    let row = draft.last(keys::AUDIT)?.map(|(key, row)| decode_own::<AuditRecord>(&key, &row)).transpose()?;
    let packed = draft.last(keys::AUDIT_PACK)?.map(|(key, row)| last_of_pack(key, row)).transpose()?;
    Ok(row.into_iter().chain(packed).max_by_key(|record| record.seq))
}

fn last_of_pack(key: String, row: Vec<u8>) -> Result<AuditRecord, CommitError> {
    let damaged = |reason: String| CommitError::Damaged(format!("audit pack: {reason}"));
    let last = archive::unpack(&[(key, row)]).map_err(damaged)?.pop();
    let last = last.ok_or_else(|| damaged("it is empty".to_owned()))?;
    serde_json::from_value(last).map_err(|error| damaged(error.to_string()))
}

/// Replaces the newest [`PACK`] records by compressed rows. Records that cannot be read stay as they are, and so do those
/// beside them: they are for whoever verifies the log, and nobody's commit depends on them.
fn pack(draft: &mut Draft<'_>, last: u64) -> Result<(), CommitError> {
    let first = last - PACK + 1;
    match (first..=last).map(|seq| stored(draft, seq)).collect::<Result<Vec<Value>, _>>() {
        Ok(records) => put_pack(draft, first, &records),
        Err(CommitError::Damaged(reason)) => {
            tracing::error!(reason, "audit records stay uncompressed, as one of them is damaged");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn stored(draft: &Draft<'_>, seq: u64) -> Result<Value, CommitError> {
    let key = keys::audit(seq);
    let row = draft.row(&key)?.ok_or_else(|| CommitError::Damaged(format!("audit record {seq} is missing")))?;
    decode_own(&key, &row)
}

/// Packs `records`, the first of which has the sequence `first`, under the sequence of the last; in two packs where one
/// would be above the cap of a value.
fn put_pack(draft: &mut Draft<'_>, first: u64, records: &[Value]) -> Result<(), CommitError> {
    let packed = archive::pack(records).map_err(|error| CommitError::Invalid(format!("audit pack: {error}")))?;
    let count = records.len() as u64;
    if packed.len() <= VALUE_CAP {
        (first..first + count).for_each(|seq| draft.remove(keys::audit(seq)));
        return draft.put_bytes(keys::audit_pack(first + count - 1), &packed, "audit pack");
    }
    let (earlier, later) = records.split_at(records.len() / 2);
    if earlier.is_empty() {
        // One record that does not compress, from before texts were cut: its row serves as well.
        return Ok(());
    }
    put_pack(draft, first, earlier)?;
    put_pack(draft, first + earlier.len() as u64, later)
}

fn hash_of(record: &AuditRecord) -> Result<String, String> {
    let mut value = serde_json::to_value(record).map_err(|error| error.to_string())?;
    if let Value::Object(fields) = &mut value {
        fields.remove("hash");
    }
    let canonical = serde_json_canonicalizer::to_vec(&value).map_err(|error| error.to_string())?;
    Ok(hex::encode(Sha256::digest(canonical)))
}

/// Walks a chain from its beginning.
pub(crate) struct Walk<'h> {
    end: AuditHead,
    heads: &'h [AuditHead],
}

impl<'h> Walk<'h> {
    /// A walk that compares what it passes with `heads` from elsewhere.
    pub(crate) fn new(heads: &'h [AuditHead]) -> Self {
        Self { end: AuditHead::default(), heads }
    }

    /// The sequence that must come next.
    pub(crate) fn next(&self) -> u64 {
        self.end.seq + 1
    }

    /// The record that must come next: what does not fit, if it does not.
    pub(crate) fn step(&mut self, record: &AuditRecord) -> Result<(), AuditProblem> {
        let seq = self.next();
        let problem = |reason: String| Err(AuditProblem { seq, reason });
        if record.seq != seq {
            return problem(format!("it is missing: record {} stands in its place", record.seq));
        }
        if record.prev != self.end.hash {
            return problem("it does not follow the record before: one of the two was altered or moved".to_owned());
        }
        match hash_of(record) {
            Ok(hash) if hash == record.hash => {}
            Ok(_) => return problem("its content was altered: its hash does not fit".to_owned()),
            Err(reason) => return problem(reason),
        }
        if self.heads.iter().any(|head| head.seq == seq && head.hash != record.hash) {
            return problem("it is not the record whose hash was published: the log was rewritten".to_owned());
        }
        self.end = AuditHead { seq, hash: record.hash.clone() };
        Ok(())
    }

    /// The end: `head` is what the store says of itself.
    pub(crate) fn finish(self, head: &AuditHead, problem: Option<AuditProblem>) -> AuditVerified {
        let known = self.heads.iter().map(|head| head.seq).chain([head.seq]).max().unwrap_or_default();
        let cut = || {
            let next = self.next();
            let reason = format!("it is missing, and so is what follows: {known} records were written");
            (self.end.seq < known).then_some(AuditProblem { seq: next, reason })
        };
        AuditVerified {
            records: self.end.seq,
            heads: self.heads.len() as u64,
            problem: problem.or_else(cut),
            head: self.end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Commit, Options, Store,
        record::{self, Encoding},
    };

    async fn filled(folder: &std::path::Path, records: u64) -> Store {
        let store = Store::open(folder, Options { min_free_bytes: 0, ..Options::default() }).unwrap();
        for number in 1..=records {
            let deed = Deed { who: "/operator/ada".into(), did: format!("deed {number}"), ..Deed::default() };
            store.commit(Commit { audit: vec![deed], ..Commit::default() }).await.unwrap();
        }
        store
    }

    fn problem(store: &Store, heads: &[AuditHead]) -> Option<(u64, String)> {
        store.reader().verify_audit(heads).unwrap().problem.map(|problem| (problem.seq, problem.reason))
    }

    #[tokio::test]
    async fn records_are_found_again_whether_packed_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(folder.path(), 2 * PACK + 6).await;
        let verified = store.reader().verify_audit(&[]).unwrap();
        assert_eq!((verified.records, verified.problem), (2 * PACK + 6, None));
        let found = store.reader().audit(PACK - 1, 4).unwrap();
        let found: Vec<(u64, String)> = found.into_iter().map(|record| (record.seq, record.deed.did)).collect();
        assert_eq!(found, (PACK - 1..PACK + 3).map(|seq| (seq, format!("deed {seq}"))).collect::<Vec<_>>());
        assert_eq!(store.reader().verify().unwrap().problems, Vec::<String>::new());
        store.close().await;
    }

    #[tokio::test]
    async fn the_first_record_that_was_altered_removed_or_reordered_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(folder.path(), 9).await;
        let reader = store.reader();
        let row = |seq: u64| reader.shared.rows().get(keys::audit(seq)).unwrap().unwrap().to_vec();
        // Whoever alters a row also mends its checksum.
        let put = |seq: u64, body: &[u8]| {
            let key = keys::audit(seq);
            reader.shared.rows().insert(key.as_bytes(), record::encode(&key, Encoding::Json, body)).unwrap();
        };
        let body = |seq: u64| record::decode(&keys::audit(seq), &row(seq)).unwrap().1.to_vec();
        let (second, third, seventh) = (body(2), body(3), body(7));

        put(7, String::from_utf8(seventh.clone()).unwrap().replace("/operator/ada", "/operator/eve").as_bytes());
        assert_eq!(problem(&store, &[]), Some((7, "its content was altered: its hash does not fit".into())));
        assert_eq!(reader.verify().unwrap().problems.len(), 1, "the check of the whole store says so, too");
        reader.shared.rows().remove(keys::audit(7)).unwrap();
        assert_eq!(problem(&store, &[]), Some((7, "it is missing: record 8 stands in its place".into())));
        put(7, &seventh);
        assert_eq!(problem(&store, &[]), None);

        put(2, &third);
        put(3, &second);
        assert_eq!(problem(&store, &[]), Some((2, "it is missing: record 3 stands in its place".into())));
        put(2, &second);
        put(3, &third);

        reader.shared.rows().remove(keys::audit(9)).unwrap();
        let cut = Some((9, "it is missing, and so is what follows: 9 records were written".to_owned()));
        assert_eq!(problem(&store, &[]), cut);
        store.close().await;
    }

    #[tokio::test]
    async fn what_was_altered_removed_or_swapped_inside_a_pack_is_named_and_so_is_a_pack_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(folder.path(), 3 * PACK + 2).await;
        let reader = store.reader();
        let key = |pack: u64| keys::audit_pack(pack * PACK);
        let sound = |pack: u64| reader.shared.rows().get(key(pack)).unwrap().unwrap().to_vec();
        let [first, second, third] = [1, 2, 3].map(sound);
        let records = archive::unpack(&[(key(2), second.clone())]).unwrap();
        assert_eq!(records.len() as u64, PACK);
        let put = |pack: u64, row: &[u8]| drop(reader.shared.rows().insert(key(pack).as_bytes(), row).unwrap());
        // Whoever changes a pack also mends its checksum.
        let pack_of = |records: &[Value]| {
            let packed = archive::pack(records).unwrap();
            record::encode(&key(2), Encoding::Bytes, &packed)
        };
        let changed = |change: &dyn Fn(&mut Vec<Value>)| {
            let mut records = records.clone();
            change(&mut records);
            put(2, &pack_of(&records));
            let found = problem(&store, &[]);
            put(2, &second);
            found
        };
        assert_eq!(changed(&|_| {}), None, "packing it again changes nothing");
        let altered = "its content was altered: its hash does not fit".to_owned();
        assert_eq!(changed(&|records| records[5]["who"] = "/operator/eve".into()), Some((PACK + 6, altered)));
        let missing = |seq: u64, other: u64| Some((seq, format!("it is missing: record {other} stands in its place")));
        assert_eq!(changed(&|records| drop(records.remove(10))), missing(PACK + 11, PACK + 12));
        assert_eq!(changed(&|records| records.swap(20, 21)), missing(PACK + 21, PACK + 22));
        assert_eq!(changed(&|records| records.truncate(60)), missing(PACK + 61, 2 * PACK + 1));
        let from_one = Value::from(1);
        let renumbered = changed(&|records| records[0]["seq"] = from_one.clone()).unwrap();
        assert_eq!(renumbered.0, PACK + 1, "{}", renumbered.1);

        for (pack, row, next) in [(1, &first, PACK + 1), (2, &second, 2 * PACK + 1), (3, &third, 3 * PACK + 1)] {
            reader.shared.rows().remove(key(pack)).unwrap();
            assert_eq!(problem(&store, &[]), missing((pack - 1) * PACK + 1, next), "pack {pack} is gone");
            put(pack, row);
        }
        assert_eq!(problem(&store, &[]), None);
        store.close().await;
    }

    #[tokio::test]
    async fn a_log_that_was_cut_or_made_anew_contradicts_the_published_heads() {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(folder.path(), 5).await;
        let published = store.reader().audit_head().unwrap();
        store.close().await;
        let other = tempfile::tempdir().unwrap();
        let forged = filled(other.path(), 5).await;
        assert_eq!(problem(&forged, &[]), None, "by itself it looks sound");
        let rewritten = "it is not the record whose hash was published: the log was rewritten".to_owned();
        assert_eq!(problem(&forged, std::slice::from_ref(&published)), Some((5, rewritten)));
        let longer = AuditHead { seq: 8, ..published };
        let cut = "it is missing, and so is what follows: 8 records were written".to_owned();
        assert_eq!(problem(&forged, &[longer]), Some((6, cut)));
        forged.close().await;
    }

    /// Texts that do not compress, in every field.
    fn noisy() -> Deed {
        let noise = || (0..300).map(|_| Uuid::new_v4().to_string()).collect::<String>();
        Deed {
            who: noise(),
            did: "message_refused".into(),
            object: Some(noise()),
            cluster: Some(noise()),
            plan: Some(noise()),
            outcome: Some(format!("{}\u{1}€", noise())),
            ..Deed::default()
        }
    }

    #[tokio::test]
    async fn deeds_of_any_length_and_content_never_stop_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(folder.path(), 1).await;
        for _ in 0..2 * PACK {
            store.commit(Commit { audit: vec![noisy()], ..Commit::default() }).await.unwrap();
        }
        let verified = store.reader().verify_audit(&[]).unwrap();
        assert_eq!((verified.records, verified.problem), (2 * PACK + 1, None));
        let packs = store.reader().shared.rows().scan_prefix(keys::AUDIT_PACK).count();
        assert!(packs > 2, "{packs} packs: the test does not fill one");
        let found: Vec<u64> = store.reader().audit(PACK / 2, 50).unwrap().iter().map(|record| record.seq).collect();
        assert_eq!(found, (PACK / 2..PACK / 2 + 50).collect::<Vec<_>>());
        store.close().await;
    }

    #[tokio::test]
    async fn a_damaged_record_or_head_is_named_and_the_log_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(folder.path(), 9).await;
        let reader = store.reader();
        let spoil = |key: &str| reader.shared.rows().insert(key.as_bytes(), b"spoilt").map(drop).unwrap();
        spoil(&keys::audit(5));
        for _ in 10..=2 * PACK {
            let deed = Deed { who: "/operator/ada".into(), did: "more".into(), ..Deed::default() };
            store.commit(Commit { audit: vec![deed], ..Commit::default() }).await.unwrap();
        }
        let (seq, reason) = problem(&store, &[]).unwrap();
        assert!(seq == 5 && reason.contains("audit/0000000000000005"), "{seq}: {reason}");
        let sound: Vec<u64> = reader.audit(6, 2 * PACK as usize).unwrap().iter().map(|record| record.seq).collect();
        assert_eq!(sound, (6..=2 * PACK).collect::<Vec<_>>(), "rows before the pack that follows them");

        for last_in_row in [false, true] {
            let before = reader.audit_head().unwrap();
            spoil(keys::AUDIT_HEAD);
            let deed = Deed { who: "/operator/ada".into(), did: "after".into(), ..Deed::default() };
            store.commit(Commit { audit: vec![deed], ..Commit::default() }).await.unwrap();
            let last = reader.audit(before.seq + 1, 2).unwrap();
            assert_eq!((last.len(), &last[0].prev), (1, &before.hash), "the last is in a row: {last_in_row}");
        }
        store.close().await;
    }
}
