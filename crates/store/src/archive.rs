//! Ended runs: one compressed row instead of a journal, and the index that lists runs without journals.

use serde_json::Value;

use crate::{
    commit::{CommitError, RunId},
    draft::{Draft, decode_own},
    keys,
    record::{self, CHUNKED_CAP},
    rows::RunRow,
};

/// zstd level: a run of 60 events becomes about 2 to 4 KiB.
const LEVEL: i32 = 3;

/// Bytes of one row of an archive: with its header below 8 KiB, so that a leaf of old runs stays small (crates.md, trap 3).
const PART: usize = 8 * 1024 - record::HEADER;

/// The index keys of a run.
pub(crate) fn index_keys(row: &RunRow) -> Vec<String> {
    let mut prefixes =
        vec![keys::index_time(), keys::index_state(row.summary.state), keys::index_flow(row.summary.flow)];
    prefixes.extend(row.summary.cluster.as_deref().map(keys::index_cluster));
    prefixes.into_iter().map(|prefix| keys::indexed(&prefix, row.started_at, row.run)).collect()
}

pub(crate) fn unindex(draft: &mut Draft<'_>, row: &RunRow) {
    for key in index_keys(row) {
        draft.remove(key);
    }
}

pub(crate) fn index(draft: &mut Draft<'_>, row: &RunRow) -> Result<(), CommitError> {
    if let Some(cluster) = &row.summary.cluster {
        keys::check_name("cluster", cluster).map_err(CommitError::Invalid)?;
    }
    for key in index_keys(row) {
        draft.put_json(key, &(), "run index")?;
    }
    Ok(())
}

/// Replaces a run's journal by its archive; archiving twice changes nothing.
pub(crate) fn archive(draft: &mut Draft<'_>, run: RunId) -> Result<(), CommitError> {
    let key = keys::run(run);
    let Some(row) = draft.json::<RunRow>(&key)? else {
        return Err(CommitError::Invalid(format!("there is no run {run} to archive")));
    };
    if row.archived {
        return Ok(());
    }
    if !row.summary.state.is_terminal() {
        return Err(CommitError::Invalid(format!(
            "run {run} is {} and cannot be archived",
            row.summary.state.as_str()
        )));
    }
    let rows = draft.rows(&keys::journal_of(run))?;
    let events = rows.iter().map(|(key, row)| decode_own(key, row)).collect::<Result<Vec<Value>, _>>()?;
    if events.len() as u64 != row.seq {
        return Err(CommitError::Damaged(format!("journal of run {run} has {} of {} events", events.len(), row.seq)));
    }
    let packed = pack(&events).map_err(|error| CommitError::Invalid(format!("archive of run {run}: {error}")))?;
    draft.put_parts(&keys::archive_of(run), &packed, PART);
    for key in rows.into_keys() {
        draft.remove(key);
    }
    draft.put_json(key, &RunRow { archived: true, ..row }, "run row")
}

pub(crate) fn pack(events: &[Value]) -> std::io::Result<Vec<u8>> {
    // All at once, so that the tables are made for as much: those for any length cost more than a run is worth.
    zstd::bulk::compress(&serde_json::to_vec(events)?, LEVEL)
}

/// The events of an archive, from its parts in order.
pub(crate) fn unpack(parts: &[(String, Vec<u8>)]) -> Result<Vec<Value>, String> {
    let mut packed = Vec::new();
    for (key, row) in parts {
        let (_, body) = record::decode(key, row)?;
        packed.extend_from_slice(body);
    }
    let mut text = Vec::new();
    let decoder = zstd::Decoder::new(packed.as_slice()).map_err(|error| error.to_string())?;
    std::io::Read::read_to_end(&mut std::io::Read::take(decoder, CHUNKED_CAP as u64), &mut text)
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}
