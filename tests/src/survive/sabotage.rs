//! Bugs that the harness must find: a contractor is broken on purpose, and every bug must make a case fail.
//!
//! Nothing in the product knows of them: they are in the harness's own fakes, and in an adapter between driver and disk.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::ensure;
use contractor::driver::Journal;
use futures::future::BoxFuture;
use serde_json::Value;
use store::{Commit, CommitError, Committed, ReadError, Reader, RunQuery, RunRow};
use uuid::Uuid;

use super::{
    Subject, deeds, fencing,
    journal::MemoryJournal,
    machine::{self, lock},
    rounds, trial,
};

/// As many random stories as CI plays.
const STORIES: u32 = 100;
/// A flow that nobody remembers does not end; several times as long as one that goes well.
const SOON: Duration = Duration::from_secs(20);
/// As many histories of strangers.
const HISTORIES: u64 = 40;

/// What is wrong with a contractor, or with the disk below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An action that acts again without looking whether it has acted.
    NeverLooks,
    /// An undo that says it is done and does nothing.
    UndoesNothing,
    /// An undo that fails where there is nothing to undo.
    UndoesOnce,
    /// A driver that acts before its `started` is on the disk.
    SkipsStarted,
    /// A driver that keeps no checkpoints.
    SkipsCheckpoints,
    /// A driver that does not write down what was done, so that the step is done again after a restart.
    ForgetsDone,
    /// An outbox that loses what a run hands over.
    LosesMessages,
    /// An outbox that sends everything twice.
    SendsTwice,
    /// Inventory changes that do not commit with their step.
    LosesInventory,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::NeverLooks,
        Self::UndoesNothing,
        Self::UndoesOnce,
        Self::SkipsStarted,
        Self::SkipsCheckpoints,
        Self::ForgetsDone,
        Self::LosesMessages,
        Self::SendsTwice,
        Self::LosesInventory,
    ];
}

/// Those that the state machine can see: its actions take no checkpoints and keep no inventory.
const IN_ORDER: [Bug; 4] = [Bug::SkipsStarted, Bug::ForgetsDone, Bug::LosesMessages, Bug::SendsTwice];

/// A part of the harness, each with bugs of its own kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Every playbook through every failure, with fakes.
    Trials,
    /// Whatever happens in whatever order.
    StateMachine,
    /// The real actions against the lab.
    Deeds,
    /// Strangers.
    Fencing,
    /// Real daemons that are killed.
    Rounds,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Trials, Self::StateMachine, Self::Deeds, Self::Fencing, Self::Rounds];

    /// What this part of the harness says about each bug that it must find: the first complaint, if there is one.
    ///
    /// # Errors
    /// If it cannot be played.
    pub fn findings(self) -> anyhow::Result<Vec<(String, Option<String>)>> {
        match self {
            Self::Trials => Bug::ALL.iter().map(|bug| Ok((format!("{bug:?}"), in_trials(*bug)?))).collect(),
            Self::StateMachine => {
                let found = |bug: &Bug| (format!("{bug:?}"), machine::play_all(1, STORIES, Some(*bug)).err());
                Ok(IN_ORDER.iter().map(found).collect())
            }
            Self::Deeds => {
                let bugs = [deeds::Bug::UndoesNothing, deeds::Bug::UndoesOnce, deeds::Bug::LosesInventory];
                bugs.iter().map(|bug| Ok((format!("{bug:?}"), deeds::found(bug)?.into_iter().next()))).collect()
            }
            Self::Fencing => {
                let told = fencing::play_carelessly(0..HISTORIES)?.failure;
                let told = told.map(|failing| format!("{} ({})", failing.complaints.join("; "), failing.story));
                Ok(vec![("DestroysByNumber".to_owned(), told)])
            }
            Self::Rounds => {
                let options = rounds::Options { seed: 1, rounds: 1, starts: 0, patience: SOON, forgets: true };
                let told = match rounds::play(options, &mut |_| {}) {
                    Ok(()) => None,
                    Err(error) => {
                        let told = format!("{error:#}");
                        // A world that does not even start has found nothing.
                        ensure!(told.contains("acknowledged as flow"), "the harness itself fails: {told}");
                        Some(told)
                    }
                };
                Ok(vec![("ForgetsItsStore".to_owned(), told)])
            }
        }
    }
}

/// What trials say about a contractor with this bug: the first case that fails, if one does.
fn in_trials(bug: Bug) -> anyhow::Result<Option<String>> {
    let mut subjects = Subject::mean().map_err(|problems| anyhow::anyhow!("{problems}"))?;
    subjects.extend(Subject::shipped()?);
    for mut subject in subjects {
        subject.bug = Some(bug);
        let failure = match trial::of(&subject, 0..3) {
            // Not even a run in which nothing else goes wrong succeeds.
            Err(reason) => Some(reason),
            Ok(tried) => {
                tried.failures.into_iter().next().map(|it| format!("{}: {} ({})", tried.title, it.reason, it.story))
            }
        };
        if failure.is_some() {
            return Ok(failure);
        }
    }
    Ok(None)
}

/// The disk as a driver with this bug uses it.
pub(super) fn journal(bug: Option<Bug>, disk: MemoryJournal) -> Arc<dyn Journal> {
    match bug {
        Some(bug) => Arc::new(Broken { disk, bug, missing: Mutex::default() }),
        None => Arc::new(disk),
    }
}

struct Broken {
    disk: MemoryJournal,
    bug: Bug,
    /// Events that this life believes to be on the disk and that are not, by run.
    missing: Mutex<BTreeMap<Uuid, u64>>,
}

impl Broken {
    /// Whether the event gets lost on its way to the disk.
    fn loses(&self, event: &Value) -> bool {
        let kind = event["event"].as_str().unwrap_or_default();
        match self.bug {
            Bug::SkipsStarted => kind == "started",
            Bug::SkipsCheckpoints => kind == "checkpointed",
            Bug::ForgetsDone => kind == "succeeded",
            _ => false,
        }
    }

    fn spoil(&self, commit: &mut Commit) {
        match self.bug {
            Bug::LosesMessages => commit.outgoing.clear(),
            Bug::SendsTwice => commit.outgoing.extend(commit.outgoing.clone()),
            Bug::LosesInventory => commit.inventory.clear(),
            _ => {}
        }
        let Some(append) = &mut commit.run else { return };
        let mut missing = lock(&self.missing);
        let lost = missing.entry(append.run).or_default();
        append.expected_seq = append.expected_seq.saturating_sub(*lost);
        let before = append.events.len();
        append.events.retain(|event| !self.loses(event));
        *lost += (before - append.events.len()) as u64;
    }
}

impl Journal for Broken {
    fn commit(&self, mut commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        self.spoil(&mut commit);
        let run = commit.run.as_ref().map(|append| append.run);
        Box::pin(async move {
            let mut committed = self.disk.commit(commit).await?;
            let lost = run.and_then(|run| lock(&self.missing).get(&run).copied()).unwrap_or_default();
            committed.run_seq = committed.run_seq.map(|seq| seq + lost);
            Ok(committed)
        })
    }

    fn events(&self, run: Uuid) -> Result<Vec<Value>, ReadError> {
        self.disk.events(run)
    }

    fn row(&self, run: Uuid) -> Result<Option<RunRow>, ReadError> {
        Journal::row(&self.disk, run)
    }

    fn rows(&self, query: &RunQuery) -> Result<Vec<RunRow>, ReadError> {
        self.disk.rows(query)
    }

    fn definition(&self, hash: &str) -> Result<Option<String>, ReadError> {
        self.disk.definition(hash)
    }

    fn reader(&self) -> Reader {
        self.disk.reader()
    }
}
