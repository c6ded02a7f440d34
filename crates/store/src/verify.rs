//! Reads every row and checks that they fit together.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    apply::{Counters, InventoryRow, SecretHead, StoredMessage},
    archive,
    audit::AuditHead,
    commit::{InboxKey, RunId},
    keys,
    reader::{PAGE, ReadError, Reader},
    record,
    rows::{InboxRow, RunRow},
    view::View,
};

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Number of rows, by kind.
    pub rows: BTreeMap<String, u64>,
    /// What does not fit, one line each; empty when the store is sound.
    pub problems: Vec<String>,
}

impl Reader {
    /// Reads every row and checks that they fit together; secrets are opened when the store has its key. It blocks the
    /// caller's thread: some 100,000 rows per second. Commits go on in between, as each row is compared with those that it
    /// belongs to as of one moment.
    pub fn verify(&self) -> Result<Verified, ReadError> {
        let mut check = Check::default();
        let mut next = Some(Vec::new());
        while let Some(first) = next {
            next = check.page(&self.view(), &first);
        }
        if let Some(problem) = self.verify_audit(&[])?.problem {
            check.found.problems.push(format!("audit record {}: {}", problem.seq, problem.reason));
        }
        if self.shared.sealer.is_some() {
            for (name, generation) in &check.secrets {
                if let Err(error) = self.secret_generation(name, *generation) {
                    check.found.problems.push(error.to_string());
                }
            }
        }
        Ok(check.found)
    }
}

/// What is found on the way.
#[derive(Default)]
struct Check {
    found: Verified,
    counters: Counters,
    /// Names and generations, to be opened afterwards.
    secrets: Vec<(String, u64)>,
    /// The run whose rows stand alone, told once for all of them.
    lonely: Option<(String, RunId)>,
}

impl Check {
    /// Some rows from `first` on, as of one moment; where to go on.
    fn page(&mut self, view: &View<'_>, first: &[u8]) -> Option<Vec<u8>> {
        self.counters = view.json(keys::COUNTERS).ok().flatten().unwrap_or_default();
        let mut last = None;
        for row in view.tree.range(first..).take(PAGE) {
            match row {
                Err(error) => {
                    self.problem("the tree", &format!("it cannot be read to its end: {error}"));
                    return None;
                }
                Ok((key, row)) => {
                    match std::str::from_utf8(&key) {
                        Ok(key) => self.row(view, key, &row),
                        Err(_) => self.problem("a key", "it is not text"),
                    }
                    last = Some(key);
                }
            }
        }
        // What sorts right behind the last.
        last.map(|key| [&key[..], &[0]].concat())
    }

    fn problem(&mut self, key: &str, reason: &str) {
        self.found.problems.push(format!("{}: {reason}", key.escape_debug()));
    }

    fn row(&mut self, view: &View<'_>, key: &str, row: &[u8]) {
        let kind = key.split('/').next().unwrap_or(key);
        *self.found.rows.entry(kind.to_owned()).or_default() += 1;
        if let Err(reason) = record::decode(key, row) {
            return self.problem(key, &reason);
        }
        match format!("{kind}/").as_str() {
            keys::INVENTORY => drop(self.json::<InventoryRow<Value>>(key, row)),
            keys::RUN => {
                if let Some(row) = self.json::<RunRow>(key, row) {
                    self.run(view, &row);
                }
            }
            keys::JOURNAL if keys::trailing_seq(key).is_none() => self.problem(key, "it names no run and event"),
            keys::JOURNAL | keys::ARCHIVE => self.part_of_run(view, kind, key),
            keys::INDEX => {
                let run = view.indexed(key);
                self.compare(
                    key,
                    "index and run differ",
                    run.is_ok_and(|run| archive::index_keys(&run).iter().any(|of| of == key)),
                );
            }
            keys::SECRET_HEAD => {
                if let Some(head) = self.json::<SecretHead>(key, row) {
                    self.secret(view, &key[keys::SECRET_HEAD.len()..], &head);
                }
            }
            keys::SECRET_PART => {
                let head = keys::secret_of_part(key).and_then(|name| {
                    view.json(&keys::secret_head(name)).ok().flatten().map(|head: SecretHead| (name, head))
                });
                let is_part = head.is_some_and(|(name, head)| part_keys(name, &head).iter().any(|of| of == key));
                self.compare(key, "secret and its parts differ", is_part);
            }
            keys::INBOX => {
                if let Some(row) = self.json::<InboxRow>(key, row) {
                    let time = time_key(&key[keys::INBOX.len()..], &row);
                    let time = time.filter(|time| view.contains(time)).is_some();
                    self.compare(key, "inbox and its index differ", time);
                }
            }
            keys::INBOX_TIME => {
                let of = keys::inbox_of_time(key).map(|(source, id)| keys::inbox(&InboxKey { source, id }));
                let row = of.as_ref().and_then(|of| view.json::<InboxRow>(of).ok().flatten());
                let time = of.zip(row).and_then(|(of, row)| time_key(&of[keys::INBOX.len()..], &row));
                self.compare(key, "inbox and its index differ", time.as_deref() == Some(key));
            }
            keys::OUTBOX | keys::PARKED => self.message(key, row),
            keys::DEFINITION => drop(self.json::<String>(key, row)),
            // The walk of the chain reads these again, in order.
            keys::AUDIT | keys::AUDIT_PACK => {}
            _ if key == keys::AUDIT_HEAD => drop(self.json::<AuditHead>(key, row)),
            _ if key == keys::COUNTERS => drop(self.json::<Counters>(key, row)),
            _ if key == keys::FORMAT => drop(self.json::<Value>(key, row)),
            _ => self.problem(key, "nothing knows this kind of row"),
        }
    }

    fn json<T: DeserializeOwned>(&mut self, key: &str, row: &[u8]) -> Option<T> {
        match record::decode_json(key, row) {
            Ok(Ok(value)) => Some(value),
            Ok(Err(error)) => {
                self.problem(key, &format!("it has another shape: {error}"));
                None
            }
            Err(reason) => {
                self.problem(key, &reason);
                None
            }
        }
    }

    fn compare(&mut self, key: &str, difference: &str, is_same: bool) {
        if !is_same {
            self.problem(key, difference);
        }
    }

    fn run(&mut self, view: &View<'_>, row: &RunRow) {
        for key in archive::index_keys(row) {
            self.compare(&key, "index and run differ", view.contains(&key));
        }
        if let Some(reason) = check_run(view, row) {
            self.found.problems.push(format!("run {}: {reason}", row.run));
        }
    }

    /// A row of a journal or an archive: whether all of them are there is looked at with their run.
    fn part_of_run(&mut self, view: &View<'_>, kind: &str, key: &str) {
        let Some(run) = keys::run_of(key) else { return self.problem(key, "it names no run") };
        let lonely = Some((kind.to_owned(), run));
        if self.lonely != lonely && !view.contains(&keys::run(run)) {
            self.found.problems.push(format!("{kind} of {run}: there is no such run"));
            self.lonely = lonely;
        }
    }

    fn secret(&mut self, view: &View<'_>, name: &str, head: &SecretHead) {
        for part in part_keys(name, head) {
            self.compare(&part, "secret and its parts differ", view.contains(&part));
        }
        self.secrets.extend(head.parts.keys().map(|generation| (name.to_owned(), *generation)));
    }

    fn message(&mut self, key: &str, row: &[u8]) {
        let Some(stored) = self.json::<StoredMessage>(key, row) else { return };
        let newest = self.counters.newest(stored.message.lane);
        if keys::trailing_seq(key).is_none_or(|seq| seq > newest) {
            self.problem(key, &format!("its sequence is above the newest, {newest}"));
        }
    }
}

fn check_run(view: &View<'_>, row: &RunRow) -> Option<String> {
    let journal = view.tree.scan_prefix(keys::journal_of(row.run)).keys().filter_map(Result::ok);
    let last = |key: &sled::IVec| std::str::from_utf8(key).ok().and_then(keys::trailing_seq);
    let (count, last) = journal.fold((0, None), |(count, _), key| (count + 1, last(&key)));
    let parts: Vec<_> = view.rows(&keys::archive_of(row.run)).filter_map(Result::ok).collect();
    if row.archived {
        return match archive::unpack(&parts) {
            _ if count > 0 => Some("it is archived and has journal rows".to_owned()),
            Ok(events) if events.len() as u64 == row.seq => None,
            Ok(events) => Some(format!("its archive holds {} of {} events", events.len(), row.seq)),
            Err(reason) => Some(format!("its archive cannot be read: {reason}")),
        };
    }
    if !parts.is_empty() {
        return Some("it is not archived and has an archive".to_owned());
    }
    let is_complete = count == row.seq && last.is_none_or(|last| last + 1 == row.seq);
    (!is_complete).then(|| format!("its journal holds {count} of {} events", row.seq))
}

fn part_keys(name: &str, head: &SecretHead) -> Vec<String> {
    let generations = head.parts.iter();
    generations
        .flat_map(|(generation, count)| {
            let prefix = keys::secret_parts(name, *generation);
            (0..*count).map(move |index| keys::part(&prefix, index))
        })
        .collect()
}

fn time_key(key: &str, row: &InboxRow) -> Option<String> {
    let (source, id) = key.split_once(keys::END)?;
    let key = InboxKey { source: source.to_owned(), id: id.to_owned() };
    Some(keys::inbox_time(row.at, &key))
}

#[cfg(test)]
mod tests {
    use super::Check;
    use crate::{Commit, Deed, InventoryChange, Options, Store, reader::PAGE};

    #[test]
    fn the_writer_waits_for_one_page_and_not_for_the_whole_check() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Options { min_free_bytes: 0, ..Options::default() }).unwrap();
        let put = |n| InventoryChange::put(format!("vm/{n}"), serde_json::json!({ "n": n }));
        let deed = |n: u64| Deed { who: "/operator/ada".into(), did: format!("deed {n}"), ..Deed::default() };
        let (inventory, audit) = ((0..2_000).map(put).collect(), (0..700).map(deed).collect());
        store.commit_blocking(Commit { inventory, audit, ..Commit::default() }).unwrap();

        let (reader, mut check) = (store.reader(), Check::default());
        let (mut first, mut seen) = (Vec::new(), 0);
        while let Some(next) = check.page(&reader.view(), &first) {
            let all: u64 = check.found.rows.values().sum();
            assert!(all - seen <= PAGE as u64, "{} rows in one page", all - seen);
            (first, seen) = (next, all);
        }
        assert!(seen > 2_000, "{seen} rows");
        let pages = [1, 200, 600].map(|from| reader.audit_page(from).len());
        assert_eq!(pages, [PAGE, PAGE, 101]);
        assert_eq!(reader.verify().unwrap().problems, Vec::<String>::new());
        drop(reader);
        store.close_blocking();
    }
}
