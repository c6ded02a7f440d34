//! A journal in memory that survives the process, as a disk does, and kills it at chosen commits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use contractor::driver::Journal;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;
use store::{
    Commit, CommitError, Committed, InboxKey, InboxRow, Outgoing, Precondition, ReadError, Reader, RunQuery, RunRow,
    RunSummary, Store,
};
use tokio::sync::watch;
use uuid::Uuid;

use super::Crash;

/// What actions read through: an empty store. The fakes read nothing.
static EMPTY: LazyLock<(tempfile::TempDir, Store)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let store = Store::open(&folder.path().join("store"), store::Options::default()).expect("an empty store opens");
    (folder, store)
});

/// The disk: what is in here is durable.
#[derive(Clone, Default)]
pub struct MemoryJournal {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Disk {
    runs: BTreeMap<Uuid, Run>,
    definitions: BTreeMap<String, String>,
    inventory: BTreeMap<String, u64>,
    inbox: BTreeMap<(String, String), Uuid>,
    outgoing: Vec<Outgoing>,
    /// Commits of any run.
    revision: u64,
    /// Runs whose commits do not count.
    beside: BTreeSet<Uuid>,
    commits: u64,
    /// The commit in which each step instance of a run was started first.
    started: BTreeMap<(Uuid, String), u64>,
    crashes: Vec<Crash>,
    progress: watch::Sender<Progress>,
}

/// How far the journal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Commits that are durable, over all lives; those of runs beside the one under test do not count.
    pub commits: u64,
    /// Lives that ended.
    pub deaths: u64,
}

struct Run {
    summary: RunSummary,
    events: Vec<Value>,
}

impl MemoryJournal {
    /// One that kills the process at these commits.
    pub fn new(crashes: &[Crash]) -> Self {
        let disk = Disk { crashes: crashes.to_vec(), ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// The same, in which the commits of these runs are not counted, whatever else happens beside them.
    #[must_use]
    pub fn beside(self, runs: impl IntoIterator<Item = Uuid>) -> Self {
        self.disk().beside.extend(runs);
        self
    }

    /// Puts a run into it as another program left it: how its row reads, its entries, and the texts that it goes by.
    pub fn hold(&self, run: Uuid, summary: RunSummary, events: Vec<Value>, texts: BTreeMap<String, String>) {
        let mut disk = self.disk();
        disk.runs.insert(run, Run { summary, events });
        disk.definitions.extend(texts);
    }

    /// Follows it.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.disk().progress.subscribe()
    }

    /// Every message that was committed, in order.
    pub fn outgoing(&self) -> Vec<Outgoing> {
        self.disk().outgoing.clone()
    }

    /// How many runs there are; those beside the one under test do not count.
    pub fn runs(&self) -> usize {
        let disk = self.disk();
        disk.runs.keys().filter(|run| !disk.beside.contains(run)).count()
    }

    /// The commit in which each step instance of a run was started first. One commit may start several.
    pub fn started(&self, run: Uuid) -> BTreeMap<String, u64> {
        let disk = self.disk();
        disk.started
            .iter()
            .filter(|((of, _), _)| *of == run)
            .map(|((_, step), commit)| (step.clone(), *commit))
            .collect()
    }

    /// What the inventory has below `prefix`, without the prefix.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let disk = self.disk();
        disk.inventory.keys().filter_map(|key| Some(key.strip_prefix(prefix)?.to_owned())).collect()
    }

    /// Looks at the events of a run.
    pub fn look<T>(&self, run: Uuid, look: impl FnOnce(&[Value]) -> T) -> T {
        look(self.disk().runs.get(&run).map_or(&[], |run| run.events.as_slice()))
    }

    /// Takes the commit; none when the process dies of it.
    fn take(&self, commit: Commit) -> Option<Result<Committed, CommitError>> {
        let mut disk = self.disk();
        let counts = commit.run.as_ref().is_none_or(|append| !disk.beside.contains(&append.run));
        let number = disk.commits + u64::from(counts);
        let crash = disk.crashes.iter().position(|crash| counts && crash.commit == number);
        let crash = crash.map(|at| disk.crashes.remove(at));
        if crash.is_some_and(|crash| !crash.durable) {
            disk.die();
            return None;
        }
        let result = disk.apply(commit, number);
        if result.is_ok() && counts {
            disk.commits = number;
            disk.progress.send_modify(|progress| progress.commits = number);
        }
        if crash.is_some() {
            disk.die();
            return None;
        }
        Some(result)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn die(&mut self) {
        self.progress.send_modify(|progress| progress.deaths += 1);
    }

    fn apply(&mut self, commit: Commit, number: u64) -> Result<Committed, CommitError> {
        self.check(&commit)?;
        self.revision += 1;
        let revision = self.revision;
        let run = commit.run.as_ref().map(|append| append.run);
        let mut run_seq = None;
        if let Some(append) = commit.run
            && let Some(summary) = append.summary
        {
            let run =
                self.runs.entry(append.run).or_insert_with(|| Run { summary: summary.clone(), events: Vec::new() });
            run.summary = summary;
            for event in append.events.iter().filter(|event| event["event"] == "started") {
                let step = event["step"].as_str().unwrap_or_default().to_owned();
                self.started.entry((append.run, step)).or_insert(number);
            }
            run.events.extend(append.events);
            run_seq = Some(run.events.len() as u64);
        }
        for definition in commit.definitions {
            self.definitions.insert(definition.hash, definition.text);
        }
        for change in commit.inventory {
            match change.value {
                Some(_) => drop(self.inventory.insert(change.key, revision)),
                None => drop(self.inventory.remove(&change.key)),
            }
        }
        if let (Some(key), Some(run)) = (commit.inbox, run) {
            self.inbox.insert((key.source, key.id), run);
        }
        self.outgoing.extend(commit.outgoing);
        Ok(Committed { revision, run_seq, generations: BTreeMap::new(), outgoing: Vec::new() })
    }

    fn check(&self, commit: &Commit) -> Result<(), CommitError> {
        if let Some(InboxKey { source, id }) = &commit.inbox
            && let Some(run) = self.inbox.get(&(source.clone(), id.clone()))
        {
            let first = Box::new(InboxRow { at: Timestamp::UNIX_EPOCH, run: Some(*run), said: None });
            return Err(CommitError::Duplicate { key: InboxKey { source: source.clone(), id: id.clone() }, first });
        }
        if let Some(append) = &commit.run {
            let actual = self.runs.get(&append.run).map_or(0, |run| run.events.len() as u64);
            if actual != append.expected_seq {
                return Err(CommitError::Sequence { run: append.run, expected: append.expected_seq, actual });
            }
        }
        for change in &commit.inventory {
            let actual = self.inventory.get(&change.key).copied();
            let holds = match change.precondition {
                Precondition::Any => true,
                Precondition::Absent => actual.is_none(),
                Precondition::Revision(revision) => actual == Some(revision),
            };
            if !holds {
                return Err(CommitError::Precondition {
                    key: change.key.clone(),
                    expected: change.precondition,
                    actual,
                });
            }
        }
        Ok(())
    }

    fn row(&self, run: Uuid) -> Option<RunRow> {
        let Run { summary, events } = self.runs.get(&run)?;
        Some(RunRow {
            run,
            summary: summary.clone(),
            seq: events.len() as u64,
            started_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            archived: false,
        })
    }
}

impl Journal for MemoryJournal {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        Box::pin(async move {
            // An fsync takes a while, and other tasks go on meanwhile.
            tokio::task::yield_now().await;
            match self.take(commit) {
                Some(result) => result,
                None => std::future::pending().await,
            }
        })
    }

    fn events(&self, run: Uuid) -> Result<Vec<Value>, ReadError> {
        Ok(self.disk().runs.get(&run).map(|run| run.events.clone()).unwrap_or_default())
    }

    fn row(&self, run: Uuid) -> Result<Option<RunRow>, ReadError> {
        Ok(self.disk().row(run))
    }

    fn rows(&self, query: &RunQuery) -> Result<Vec<RunRow>, ReadError> {
        let disk = self.disk();
        let rows = disk.runs.keys().filter_map(|run| disk.row(*run));
        let wanted = |row: &RunRow| {
            query.flow.is_none_or(|flow| flow == row.summary.flow)
                && (query.states.is_empty() || query.states.contains(&row.summary.state))
        };
        Ok(rows.filter(wanted).collect())
    }

    fn definition(&self, hash: &str) -> Result<Option<String>, ReadError> {
        Ok(self.disk().definitions.get(hash).cloned())
    }

    fn reader(&self) -> Reader {
        EMPTY.1.reader()
    }
}
