//! Where each row lives in the one sled tree; every key is text, so that an export can be read.

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    commit::{InboxKey, Lane, RunId},
    rows::RunState,
};

/// Ends a name of free form within a key; refused inside names.
pub(crate) const END: char = '\u{1f}';

pub(crate) const FORMAT: &str = "meta/format";
pub(crate) const COUNTERS: &str = "meta/counters";
pub(crate) const AUDIT_HEAD: &str = "meta/audit-head";
pub(crate) const AUDIT: &str = "audit/";
pub(crate) const AUDIT_PACK: &str = "audit-pack/";
pub(crate) const INVENTORY: &str = "inventory/";
pub(crate) const SECRET_HEAD: &str = "secret/";
pub(crate) const SECRET_PART: &str = "secret-part/";
pub(crate) const RUN: &str = "run/";
pub(crate) const JOURNAL: &str = "journal/";
pub(crate) const ARCHIVE: &str = "archive/";
pub(crate) const INDEX: &str = "index/";
pub(crate) const INBOX: &str = "inbox/";
pub(crate) const INBOX_TIME: &str = "inbox-time/";
pub(crate) const OUTBOX: &str = "outbox/";
pub(crate) const PARKED: &str = "parked/";
pub(crate) const DEFINITION: &str = "definition/";

/// Names and keys given by callers: short, printable, not empty.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 512 || name.chars().any(char::is_control) {
        return Err(format!("{what} `{}` is empty, too long or has control characters", name.escape_debug()));
    }
    Ok(())
}

pub(crate) fn inventory(key: &str) -> String {
    format!("{INVENTORY}{key}")
}

pub(crate) fn secret_head(name: &str) -> String {
    format!("{SECRET_HEAD}{name}")
}

pub(crate) fn secret_parts(name: &str, generation: u64) -> String {
    format!("{SECRET_PART}{name}{END}{generation:016x}/")
}

/// The name of the secret that a [`SECRET_PART`] key belongs to.
pub(crate) fn secret_of_part(key: &str) -> Option<&str> {
    key.strip_prefix(SECRET_PART)?.rsplit_once(END).map(|(name, _)| name)
}

pub(crate) fn part(prefix: &str, index: usize) -> String {
    format!("{prefix}{index:04x}")
}

pub(crate) fn run(run: RunId) -> String {
    format!("{RUN}{run}")
}

pub(crate) fn journal_of(run: RunId) -> String {
    format!("{JOURNAL}{run}/")
}

pub(crate) fn journal(run: RunId, seq: u64) -> String {
    format!("{JOURNAL}{run}/{seq:016x}")
}

/// What sorts right behind all of a run's journal.
pub(crate) fn journal_end(run: RunId) -> String {
    // `0` follows `/`.
    format!("{JOURNAL}{run}0")
}

pub(crate) fn archive_of(run: RunId) -> String {
    format!("{ARCHIVE}{run}/")
}

pub(crate) fn index_time() -> String {
    format!("{INDEX}time/")
}

pub(crate) fn index_state(state: RunState) -> String {
    format!("{INDEX}state/{}/", state.as_str())
}

pub(crate) fn index_flow(flow: Uuid) -> String {
    format!("{INDEX}flow/{flow}/")
}

pub(crate) fn index_cluster(cluster: &str) -> String {
    format!("{INDEX}cluster/{cluster}{END}")
}

/// Sorts by the time that the run began; ends in the run's id.
pub(crate) fn indexed(prefix: &str, started_at: Timestamp, run: RunId) -> String {
    format!("{prefix}{}/{run}", time(started_at))
}

/// The run that an index key ends in.
pub(crate) fn indexed_run(key: &str) -> Option<RunId> {
    Uuid::parse_str(key.rsplit('/').next()?).ok()
}

pub(crate) fn inbox(key: &InboxKey) -> String {
    format!("{INBOX}{}{END}{}", key.source, key.id)
}

pub(crate) fn inbox_time(at: Timestamp, key: &InboxKey) -> String {
    format!("{INBOX_TIME}{}/{}{END}{}", time(at), key.source, key.id)
}

/// The first key of [`INBOX_TIME`] that is not older than `at`.
pub(crate) fn inbox_time_end(at: Timestamp) -> String {
    format!("{INBOX_TIME}{}/", time(at))
}

pub(crate) fn lane(lane: Lane) -> &'static str {
    match lane {
        Lane::Handoff => "handoff",
        Lane::Event => "event",
        Lane::DeadLetter => "dead-letter",
    }
}

pub(crate) fn outbox_of(of: Lane) -> String {
    format!("{OUTBOX}{}/", lane(of))
}

pub(crate) fn outbox(of: Lane, seq: u64) -> String {
    format!("{OUTBOX}{}/{seq:016x}", lane(of))
}

pub(crate) fn parked(of: Lane, seq: u64) -> String {
    format!("{PARKED}{}/{seq:016x}", lane(of))
}

/// The sequence that a journal, outbox or parked key ends in.
pub(crate) fn trailing_seq(key: &str) -> Option<u64> {
    u64::from_str_radix(key.rsplit('/').next()?, 16).ok()
}

pub(crate) fn audit(seq: u64) -> String {
    format!("{AUDIT}{seq:016x}")
}

/// The pack whose last record is `seq`.
pub(crate) fn audit_pack(seq: u64) -> String {
    format!("{AUDIT_PACK}{seq:016x}")
}

pub(crate) fn definition(hash: &str) -> String {
    format!("{DEFINITION}{hash}")
}

fn time(at: Timestamp) -> String {
    format!("{:016x}", at.as_microsecond().max(0))
}

/// Source and id of the message that an [`INBOX_TIME`] key stands for.
pub(crate) fn inbox_of_time(key: &str) -> Option<(String, String)> {
    let message = key.strip_prefix(INBOX_TIME)?.split_once('/')?.1;
    message.split_once(END).map(|(source, id)| (source.to_owned(), id.to_owned()))
}

/// The run that a journal or archive key belongs to.
pub(crate) fn run_of(key: &str) -> Option<RunId> {
    Uuid::parse_str(key.split('/').nth(1)?).ok()
}
