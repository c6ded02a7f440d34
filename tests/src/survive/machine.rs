//! A state machine: several messages at once, whose attempts end when and as they are told, in any order.
//!
//! The model knows which messages came and what their attempts were told. After every act the driver must agree with the
//! fold of its journals, and there is one run per message, however often it was delivered; two runs with the same
//! exclusive lock are never at work together. In the end nothing is held any more, and every run ends as it may.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use contractor::driver::{Driver, Journal, NewRun, Parts, Submitted};
use engine::{
    event::{Event, run_id},
    report::Status,
    run::RunState,
};
use jiff::Timestamp;
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::Value;
use store::{Commit, InboxKey};
use tokio::time::{Duration, sleep, timeout};
use uuid::Uuid;

use super::{
    Subject,
    gate::{Gate, Verdict},
    journal::MemoryJournal,
    play::{Messages, PausedClock},
    sabotage::{self, Bug},
    trial,
};

/// Playbooks of the messages; the first two want the same exclusive lock.
const PLAYBOOKS: [&str; 4] = ["diamond", "diamond", "roll", "node"];
/// Longer than any retry, wait or timeout.
const EVER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Act {
    /// The message comes, perhaps again.
    Deliver(usize),
    /// The message comes twice at the same time.
    Duplicate(usize),
    /// One of the attempts at work is told how to end.
    Tell(usize, Verdict),
    /// The process dies and starts again.
    Crash,
    /// Somebody cancels the flow of the message.
    Cancel(usize),
    /// So many seconds pass.
    Tick(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let message = 0..PLAYBOOKS.len();
    prop_oneof![
        3 => message.clone().prop_map(Act::Deliver),
        1 => message.clone().prop_map(Act::Duplicate),
        10 => (0_usize..8).prop_map(|at| Act::Tell(at, Verdict::Ok)),
        2 => (0_usize..8).prop_map(|at| Act::Tell(at, Verdict::LoseReply)),
        1 => (0_usize..8).prop_map(|at| Act::Tell(at, Verdict::Fail)),
        2 => Just(Act::Crash),
        1 => message.prop_map(Act::Cancel),
        2 => (1_u64..900).prop_map(Act::Tick),
    ]
}

/// Plays so many random stories, with a contractor that has the bug if there is one.
///
/// # Errors
/// The shortest story that does not end as it may, and why.
pub fn play_all(seed: u64, stories: u32, bug: Option<Bug>) -> Result<(), String> {
    let scene = Scene::new(bug)?;
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: stories, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let told = runner.run(&prop::collection::vec(act(), 0..60), |acts| scene.play(&acts).map_err(TestCaseError::fail));
    told.map_err(|error| error.to_string())
}

/// What every story starts from.
struct Scene {
    bug: Option<Bug>,
    subjects: Vec<Subject>,
    /// What is in the world after the success of each message's run.
    wanted: Vec<BTreeSet<String>>,
    /// How many messages such a run sends.
    sent: Vec<usize>,
}

impl Scene {
    fn new(bug: Option<Bug>) -> Result<Self, String> {
        let all = Subject::mean().map_err(|problems| problems.to_string())?;
        let find = |name: &&str| all.iter().find(|it| it.playbook == **name).cloned().ok_or(format!("no {name}"));
        let subjects = PLAYBOOKS.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let untroubled = subjects.iter().map(trial::untroubled).collect::<Result<Vec<_>, String>>()?;
        let (wanted, sent) = untroubled.into_iter().map(|ending| (ending.objects, ending.sent.len())).unzip();
        Ok(Self { bug, wanted, sent, subjects })
    }

    fn play(&self, acts: &[Act]) -> Result<(), String> {
        let journal = MemoryJournal::new(&[]);
        let gate = Gate::new(journal.clone());
        let now = Arc::new(Mutex::new(Timestamp::UNIX_EPOCH));
        let mut model = Model { scene: self, journal, gate, now, delivered: BTreeSet::new() };
        let mut acts = acts.iter();
        loop {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            // Dropping the runtime is the death of the process.
            if runtime.map_err(|error| error.to_string())?.block_on(model.live(&mut acts))? {
                return model.judge();
            }
        }
    }

    fn run(&self, message: usize) -> Uuid {
        run_id("/test", &message.to_string(), &self.subjects[message].playbook)
    }
}

struct Model<'s> {
    scene: &'s Scene,
    journal: MemoryJournal,
    gate: Gate,
    now: Arc<Mutex<Timestamp>>,
    delivered: BTreeSet<usize>,
}

impl Model<'_> {
    /// One life of the process; true when nothing is left to happen.
    async fn live(&mut self, acts: &mut std::slice::Iter<'_, Act>) -> Result<bool, String> {
        self.gate.forget();
        let driver = Driver::start(self.parts()).await.map_err(|error| error.to_string())?;
        for act in acts {
            if matches!(act, Act::Crash) {
                return Ok(false);
            }
            self.perform(&driver, act).await?;
            // Time stands still while anybody has something to do.
            sleep(Duration::from_millis(1)).await;
            self.check(&driver)?;
        }
        self.gate.open();
        // A run that wants the lock of a stuck one waits for ever; any other that does is found when it is judged.
        let _ = timeout(EVER, driver.idle()).await;
        self.check(&driver)?;
        Ok(true)
    }

    async fn perform(&mut self, driver: &Driver, act: &Act) -> Result<(), String> {
        match act {
            Act::Deliver(message) => {
                let taken = driver.submit(self.new_run(*message)).await.map_err(|error| error.to_string())?;
                let is_new = self.delivered.insert(*message);
                self.expect_taken(*message, &[taken], is_new)
            }
            Act::Duplicate(message) => {
                let both = tokio::join!(driver.submit(self.new_run(*message)), driver.submit(self.new_run(*message)));
                let taken = [both.0, both.1].into_iter().collect::<Result<Vec<_>, _>>();
                let is_new = self.delivered.insert(*message);
                self.expect_taken(*message, &taken.map_err(|error| error.to_string())?, is_new)
            }
            Act::Tell(at, verdict) => {
                self.gate.tell(*at, *verdict);
                Ok(())
            }
            Act::Cancel(message) => {
                // A refusal is an answer.
                let _ = driver.cancel(flow(*message), "test").await;
                Ok(())
            }
            Act::Tick(seconds) => {
                sleep(Duration::from_secs(*seconds)).await;
                Ok(())
            }
            Act::Crash => Ok(()),
        }
    }

    /// Of all deliveries of a message, only the first makes a run.
    fn expect_taken(&self, message: usize, taken: &[Submitted], is_new: bool) -> Result<(), String> {
        let run = self.scene.run(message);
        let new = taken.iter().filter(|taken| **taken == Submitted::New(run)).count();
        let known = taken.iter().filter(|taken| **taken == Submitted::Known(run)).count();
        if (new, known) == (usize::from(is_new), taken.len() - usize::from(is_new)) {
            Ok(())
        } else {
            Err(format!("message {message} is taken as {taken:?}"))
        }
    }

    /// Whether driver, journals and world agree.
    fn check(&self, driver: &Driver) -> Result<(), String> {
        if let Some(broken) = self.gate.broken().first() {
            return Err(broken.clone());
        }
        if let Some((run, reason)) = driver.unreadable().into_iter().next() {
            return Err(format!("run {run} cannot go on: {reason}"));
        }
        let runs = self.journal.runs();
        if runs != self.delivered.len() {
            return Err(format!("{runs} runs of {} messages", self.delivered.len()));
        }
        let at_work = self.gate.runs_at_work();
        if [0, 1].iter().all(|message| at_work.contains(&self.scene.run(*message))) {
            return Err("two runs with the same exclusive lock are at work".to_owned());
        }
        self.delivered.iter().try_for_each(|message| {
            let report = driver.report(self.scene.run(*message)).map_err(|error| error.to_string())?;
            let shown = report.ok_or("the run is gone")?.status;
            let folded = self.fold(*message)?;
            // What a run waits for, and whether it does, is in no journal.
            let is_rest = |status: Status| status.is_terminal() || status.needs_operator();
            if shown != folded && (is_rest(shown) || is_rest(folded)) {
                return Err(format!("message {message}: the driver says {shown:?}, the journal {folded:?}"));
            }
            Ok(())
        })
    }

    /// What the journal of a message's run adds up to.
    fn fold(&self, message: usize) -> Result<Status, String> {
        let rows = self.journal.events(self.scene.run(message)).map_err(|error| error.to_string())?;
        let events = rows.into_iter().map(serde_json::from_value).collect::<Result<Vec<Event>, _>>();
        let definition = self.scene.subjects[message].definition().clone();
        let state = RunState::replay(definition, &events.map_err(|error| error.to_string())?);
        Ok(state.map_err(|error| error.to_string())?.status())
    }

    /// Whether every run ended as it may.
    fn judge(&self) -> Result<(), String> {
        let mut ends = BTreeMap::new();
        for message in &self.delivered {
            ends.insert(*message, self.fold(*message)?);
        }
        let sent: Vec<_> = self.journal.outgoing().into_iter().map(|message| message.id).collect();
        if sent.iter().collect::<BTreeSet<_>>().len() != sent.len() {
            return Err("a message was sent twice".to_owned());
        }
        let succeeded = ends.iter().filter(|(_, status)| **status == Status::Succeeded);
        let due: usize = succeeded.map(|(message, _)| self.scene.sent[*message]).sum();
        if sent.len() < due {
            return Err(format!("{due} messages were to be sent by the runs that succeeded, and {} were", sent.len()));
        }
        for (message, status) in &ends {
            let run = self.scene.run(*message);
            let left = self.gate.objects(run);
            let wanted = &self.scene.wanted[*message];
            let shares_a_lock = |other: usize| PLAYBOOKS[other] == PLAYBOOKS[*message] && other != *message;
            let is_well = match status {
                Status::Succeeded => left == *wanted,
                Status::Undone | Status::Cancelled => left.is_empty(),
                Status::Stuck => self.gate.has_failed_undo(run),
                Status::Pending => ends.iter().any(|(other, end)| shares_a_lock(*other) && *end == Status::Stuck),
                _ => false,
            };
            if !is_well {
                return Err(format!("message {message} ends {status:?} and leaves {left:?}"));
            }
        }
        Ok(())
    }

    fn parts(&self) -> Parts {
        let subject = &self.scene.subjects[0];
        Parts {
            journal: sabotage::journal(self.scene.bug, self.journal.clone()),
            actions: self.gate.actions(&self.scene.subjects),
            playbooks: subject.library.clone(),
            clock: Arc::new(PausedClock::new(self.now.clone())),
            hooks: Arc::new(Messages::default()),
        }
    }

    fn new_run(&self, message: usize) -> NewRun {
        let subject = &self.scene.subjects[message];
        let inbox = Some(InboxKey { source: "/test".to_owned(), id: message.to_string() });
        NewRun {
            run: self.scene.run(message),
            flow: flow(message),
            key: None,
            cause: format!("/test/{message}"),
            playbook: subject.playbook.clone(),
            subject: None,
            input: subject.input.clone(),
            plan: None,
            trace: None,
            with: Commit { inbox, ..Commit::default() },
        }
    }
}

fn flow(message: usize) -> Uuid {
    Uuid::from_u128(100 + message as u128)
}

/// Locks a mutex; what a panicking case left behind is looked at by nobody.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Made-up JSON that differs by step.
pub(super) fn output(schema: &Value, step: &str) -> Value {
    super::example::of(schema, step)
}
