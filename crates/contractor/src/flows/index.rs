//! Which flows are open, and which ended when, as rows of the inventory beside their records: thousands of records that are
//! over need not be read to find the few that matter.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use store::{Commit, InventoryChange, ReadError, Reader, Store};
use uuid::Uuid;

use super::{FLOWS, FlowRecord, State, key};
use crate::intake::chain;

/// Followed by a flow's id, while it is open.
const OPEN: &str = "flow-open/";
/// Followed by when a flow ended, and its id.
const ENDED: &str = "flow-ended/";
/// There once every record has its row.
const MADE: &str = "flow-index";
/// Changes of one commit.
const SOME: usize = 200;

/// A flow that ended.
pub(super) struct Ended {
    /// Its row here.
    pub(super) row: String,
    /// The flow.
    pub(super) flow: Uuid,
}

/// What of a record decides where it belongs.
#[derive(Deserialize)]
struct Standing {
    flow: Uuid,
    state: State,
    ended: Option<Timestamp>,
}

/// What a flow that begins adds to the inventory.
pub fn begun(record: &FlowRecord) -> [InventoryChange; 2] {
    [InventoryChange::create(key(record.flow), record.to_value()), is_open(record.flow)]
}

/// What goes with the end of a flow, beside its record.
pub fn ended(flow: Uuid, at: Timestamp) -> [InventoryChange; 2] {
    [InventoryChange::delete(format!("{OPEN}{flow}")), InventoryChange::put(ended_key(flow, at), json!({}))]
}

fn is_open(flow: Uuid) -> InventoryChange {
    InventoryChange::put(format!("{OPEN}{flow}"), json!({}))
}

fn ended_key(flow: Uuid, at: Timestamp) -> String {
    format!("{}{flow}", ended_at(at))
}

/// Sorts by time.
fn ended_at(at: Timestamp) -> String {
    format!("{ENDED}{:016x}/", at.as_millisecond().max(0))
}

/// The id that a row ends in.
fn flow_of(row: &str) -> Option<Uuid> {
    row.rsplit('/').next()?.parse().ok()
}

/// The flows that are open.
pub(super) fn open(reader: &Reader) -> Result<impl Iterator<Item = Uuid>, ReadError> {
    Ok(reader.keys(OPEN)?.into_iter().filter_map(|(row, _)| flow_of(&row)))
}

/// The flows that ended before `at`.
pub(super) fn ended_before(reader: &Reader, at: Timestamp) -> Result<impl Iterator<Item = Ended>, ReadError> {
    let rows = reader.keys_before(ENDED, &ended_at(at))?.into_iter();
    Ok(rows.filter_map(|row| flow_of(&row).map(|flow| Ended { row, flow })))
}

/// Makes the rows of a store that was written before there were any. A flow whose record cannot be read counts as open.
///
/// # Errors
/// Why they could not be made; what was made of them stays.
pub(super) async fn make(store: &Store) -> Result<(), String> {
    let reader = store.reader();
    if reader.get::<serde_json::Value>(MADE).map_err(|error| chain(&error))?.is_some() {
        return Ok(());
    }
    let mut changes = Vec::new();
    let listed = reader.each::<Standing>(FLOWS, |(key, found)| match found.map(|found| found.value) {
        Ok(Standing { flow, ended: Some(at), state }) if state != State::Open => {
            changes.push(InventoryChange::put(ended_key(flow, at), json!({})));
        }
        Ok(Standing { flow, .. }) => changes.push(is_open(flow)),
        Err(error) => {
            tracing::error!(key, error = chain(&error), "a flow cannot be read and counts as open");
            changes.extend(key.strip_prefix(FLOWS).and_then(|flow| flow.parse().ok()).map(is_open));
        }
    });
    listed.map_err(|error| chain(&error))?;
    changes.push(InventoryChange::put(MADE.to_owned(), json!({})));
    for some in changes.chunks(SOME) {
        let commit = Commit { inventory: some.to_vec(), ..Commit::default() };
        store.commit(commit).await.map_err(|error| chain(&error))?;
    }
    Ok(())
}
