//! The task of one run: it alone appends to the run's journal, and it performs what the engine decides.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use engine::{
    event::{Event, Failure},
    report::{Emission, EmissionKind, Report, Status},
    run::{Attempt, AttemptEnd, Command, Effect, Entry, How, RunState},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Commit, CommitError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info_span, warn};

use super::{
    CommandError, Shared,
    attempt::{Performance, Sink},
    limits::{Permits, Places},
    ports::Happened,
    row,
    stop::Stop,
};
use crate::{
    action::{Effects, StepContext, StepError},
    audit,
};

/// After a full disk the same commit is tried again so much later.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// What a run's task is told.
pub(super) enum Message {
    /// Somebody wants something of the run.
    Order { command: Command, by: String, reply: oneshot::Sender<Result<(), CommandError>> },
    /// An attempt (or undo) ended.
    Ended { step: String, undo: bool, end: AttemptEnd, effects: Effects },
    /// A running attempt wants a value to be durable.
    Checkpoint { step: String, value: Value, reply: oneshot::Sender<Result<(), StepError>> },
}

/// One run at work.
pub(super) struct RunTask {
    pub(super) shared: Arc<Shared>,
    pub(super) state: RunState,
    pub(super) inbox: mpsc::UnboundedReceiver<Message>,
    pub(super) myself: mpsc::UnboundedSender<Message>,
    pub(super) published: watch::Sender<Arc<Report>>,
    /// Attempts on their way, by step instance.
    pub(super) in_hand: BTreeMap<String, InHand>,
    /// Whether it holds its locks.
    pub(super) holds_locks: bool,
    /// Why it does not go on although the engine would: locks, limits, a full disk.
    pub(super) held_up: Option<String>,
    /// Where it waits for limits.
    pub(super) places: Places,
    /// Whether the world was found to be what the approved plan was made from.
    pub(super) plan_holds: bool,
    pub(super) wake: Option<Timestamp>,
}

/// An attempt on its way.
pub(super) struct InHand {
    pub(super) undo: bool,
    pub(super) cancel: CancellationToken,
}

/// Why a commit did not happen.
enum Refused {
    /// The inventory changed.
    Conflict,
    /// It can never happen.
    Never(Failure),
    Stop(Stop),
}

impl From<Stop> for Refused {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl RunTask {
    /// Works until the run has ended, or the daemon does.
    pub(super) async fn work(mut self) {
        let run = self.state.opened().run;
        let stop = loop {
            match self.turn().await {
                Ok(true) => {}
                Ok(false) => break None,
                Err(stop) => break Some(stop),
            }
        };
        match stop {
            Some(Stop::Shutdown) => self.drain().await,
            Some(Stop::Journal(reason)) => return self.set_aside(reason).await,
            None => {}
        }
        self.shared.locks.release(run);
        self.shared.forget(run);
    }

    /// Performs what is due, then waits for news; false when the run has ended.
    async fn turn(&mut self) -> Result<bool, Stop> {
        let mut locks = self.shared.locks.changes();
        self.places.begin();
        self.advance().await?;
        self.places.end();
        self.publish();
        let status = self.state.status();
        if status.is_terminal() {
            // An ended run is woken to be undone: the order is there before its task.
            let Ok(message) = self.inbox.try_recv() else { return Ok(false) };
            self.hear(message).await?;
            return Ok(true);
        }
        self.shared.set_busy(self.state.opened().run, !status.needs_operator() || !self.in_hand.is_empty());
        let clock = self.shared.parts.clock.clone();
        let wake = async {
            match self.wake {
                Some(wake) => clock.sleep_until(wake).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            message = self.inbox.recv() => {
                if let Some(message) = message {
                    self.hear(message).await?;
                }
            }
            () = self.shared.stop.cancelled() => return Err(Stop::Shutdown),
            () = wake => {}
            _ = locks.changed(), if self.held_up.is_some() => {}
            () = self.places.called() => {}
        }
        Ok(true)
    }

    /// Does everything that the engine says should be going on and is not.
    async fn advance(&mut self) -> Result<(), Stop> {
        'again: loop {
            let now = self.now();
            let next = self.state.next(now);
            self.wake = next.wake;
            self.held_up = None;
            let (mut entries, mut starts) = (Vec::new(), Vec::new());
            for effect in next.effects {
                match effect {
                    Effect::Finish { outcome, emissions, unsent } => {
                        for failure in unsent {
                            error!(%failure, "a message about the run's end could not be made");
                        }
                        self.finish(Event::Finished { outcome, at: now }, &emissions).await?;
                        if self.state.status().is_terminal() {
                            return Ok(());
                        }
                        // What it had to tell was refused, so it ends otherwise.
                        continue 'again;
                    }
                    _ if !self.has_locks() => {}
                    Effect::Record(events) => entries.extend(events),
                    Effect::Run(attempt) => self.prepare(attempt, false, &mut starts),
                    Effect::Undo(attempt) => self.prepare(attempt, true, &mut starts),
                }
            }
            if entries.is_empty() && starts.is_empty() {
                return Ok(());
            }
            if let Some(error) = self.void_approval().await {
                self.record(vec![Event::Halted { error, at: self.now() }]).await?;
                continue;
            }
            let fresh = starts.iter().filter(|start| start.attempt.how == How::Fresh);
            entries.extend(fresh.map(|start| start.event(now)));
            self.record(entries).await?;
            for start in starts {
                self.start(start, now)?;
            }
        }
    }

    /// Whether it may act: it holds its locks, or takes them now.
    fn has_locks(&mut self) -> bool {
        let opened = self.state.opened();
        if !self.holds_locks && self.held_up.is_none() {
            match self.shared.locks.take(opened.run, &opened.locks, self.state.definition().playbook.preempts) {
                Ok(preempted) => {
                    self.holds_locks = true;
                    let by = format!("run {} of playbook {}", opened.run, opened.playbook);
                    preempted.into_iter().for_each(|run| self.shared.preempt(run, &by));
                }
                Err(reason) => self.held_up = Some(reason),
            }
        }
        self.holds_locks
    }

    /// An attempt that is not on its way yet is to start, if its limits allow.
    fn prepare(&mut self, attempt: Attempt, undo: bool, starts: &mut Vec<Start>) {
        if self.in_hand.contains_key(&attempt.step) {
            return;
        }
        let action = self.shared.parts.actions.get(&attempt.action);
        let limits = action.map(|action| action.limits(&attempt.input)).unwrap_or_default();
        match self.places.take(&limits) {
            Ok(permits) => starts.push(Start { attempt, undo, permits }),
            Err(reason) => self.held_up = Some(reason),
        }
    }

    fn start(&mut self, start: Start, now: Timestamp) -> Result<(), Stop> {
        if start.attempt.how == How::Again {
            self.state.note(&start.event(now)).map_err(|error| Stop::Journal(error.to_string()))?;
        }
        let Start { attempt, undo, permits } = start;
        let opened = self.state.opened();
        let cancel = self.shared.stop.child_token();
        if self.state.interrupts() && !undo {
            cancel.cancel();
        }
        let span = info_span!("step", step = %attempt.step, action = %attempt.action, attempt = attempt.attempt, undo);
        let context = StepContext {
            run: opened.run,
            flow: opened.flow,
            step: attempt.step.clone(),
            attempt: attempt.attempt,
            cancelled: cancel.clone(),
            store: self.shared.parts.journal.reader(),
            last_checkpoint: attempt.checkpoint.as_deref().cloned(),
            sink: Arc::new(Sink {
                run: opened.run,
                step: attempt.step.clone(),
                report: self.myself.clone(),
                hooks: self.shared.parts.hooks.clone(),
            }),
        };
        self.in_hand.insert(attempt.step.clone(), InHand { undo, cancel });
        let performance = Performance {
            action: self.shared.parts.actions.get(&attempt.action).cloned(),
            attempt,
            undo,
            context,
            clock: self.shared.parts.clock.clone(),
            permits,
            report: self.myself.clone(),
        };
        self.shared.tasks.spawn(performance.perform().instrument(span));
        Ok(())
    }

    pub(super) async fn hear(&mut self, message: Message) -> Result<(), Stop> {
        match message {
            Message::Order { command, by, reply } => {
                let answer = self.order(command, &by).await?;
                // Who does not wait for the answer does not want it.
                let _ = reply.send(answer);
            }
            Message::Ended { step, undo, end, effects } => {
                if self.in_hand.get(&step).is_some_and(|in_hand| in_hand.undo == undo) {
                    self.in_hand.remove(&step);
                    self.settle(&step, end, effects).await?;
                }
            }
            Message::Checkpoint { step, .. } if !self.in_hand.contains_key(&step) => {}
            Message::Checkpoint { step, value, reply } => {
                let attempt = self.state.attempt_of(&step);
                let event = Event::Checkpointed { step, attempt, value, at: self.now() };
                let answer = match self.commit(vec![event], Effects::default(), &[]).await {
                    Ok(()) => Ok(()),
                    Err(Refused::Never(failure)) => Err(StepError::Fail(failure)),
                    Err(Refused::Conflict) => Err(StepError::retry("the checkpoint was refused")),
                    Err(Refused::Stop(stop)) => return Err(stop),
                };
                let _ = reply.send(answer);
            }
        }
        Ok(())
    }

    async fn order(&mut self, command: Command, by: &str) -> Result<Result<(), CommandError>, Stop> {
        if let Err(refusal) = self.state.accepts(command) {
            return Ok(Err(CommandError::Refused(refusal.to_string())));
        }
        self.record(vec![command.event(by, self.now())]).await?;
        // Whoever has the answer may wait for the run to be idle again.
        self.shared.set_busy(self.state.opened().run, true);
        if self.state.interrupts() {
            self.in_hand.values().filter(|in_hand| !in_hand.undo).for_each(|in_hand| in_hand.cancel.cancel());
        }
        if command == Command::Resume {
            // It kept its locks, but shared ones may have entered meanwhile.
            self.holds_locks = false;
        }
        Ok(Ok(()))
    }

    /// The end of an attempt becomes an entry, durable together with what the attempt changed.
    async fn settle(&mut self, step: &str, end: AttemptEnd, effects: Effects) -> Result<(), Stop> {
        let Some(entry) = self.state.settle(step, end, self.now()) else { return Ok(()) };
        let event = match entry {
            Entry::Note(event) => return self.note(&event),
            Entry::Append(event) => event,
        };
        let is_done = matches!(event, Event::Succeeded { .. } | Event::UndoSucceeded { .. });
        let effects = if is_done { effects } else { Effects::default() };
        let again = match self.commit(vec![event], effects, &[]).await {
            Ok(()) => return Ok(()),
            Err(Refused::Stop(stop)) => return Err(stop),
            Err(Refused::Conflict) => AttemptEnd::Conflict,
            Err(Refused::Never(failure)) => AttemptEnd::Fail(failure),
        };
        match self.state.settle(step, again, self.now()) {
            Some(Entry::Append(event)) => self.record(vec![event]).await,
            Some(Entry::Note(event)) => self.note(&event),
            None => Ok(()),
        }
    }

    fn note(&mut self, event: &Event) -> Result<(), Stop> {
        self.state.note(event).map_err(|error| Stop::Journal(error.to_string()))?;
        self.mind_locks(self.state.status());
        Ok(())
    }

    /// The last entry, together with the messages of the run's end.
    async fn finish(&mut self, event: Event, emissions: &[Emission]) -> Result<(), Stop> {
        match self.commit(vec![event.clone()], Effects::default(), emissions).await {
            Ok(()) => Ok(()),
            Err(Refused::Stop(stop)) => Err(stop),
            Err(Refused::Conflict | Refused::Never(_)) if self.state.is_stopping() => {
                error!("the messages about the run's end were refused and are left out");
                self.record(vec![event]).await
            }
            Err(Refused::Conflict) => Ok(()),
            // A success that cannot be told is none.
            Err(Refused::Never(error)) => self.record(vec![Event::Halted { error, at: self.now() }]).await,
        }
    }

    /// Entries that change nothing but the journal.
    async fn record(&mut self, events: Vec<Event>) -> Result<(), Stop> {
        if events.is_empty() {
            return Ok(());
        }
        match self.commit(events, Effects::default(), &[]).await {
            Ok(()) => Ok(()),
            Err(Refused::Stop(stop)) => Err(stop),
            Err(Refused::Conflict) => Err(Stop::Journal("a commit without conditions was refused".to_owned())),
            Err(Refused::Never(failure)) => Err(Stop::Journal(failure.message)),
        }
    }

    /// Makes entries durable together with what belongs to them; only then are they true.
    async fn commit(&mut self, events: Vec<Event>, effects: Effects, emissions: &[Emission]) -> Result<(), Refused> {
        let mut after = self.state.clone();
        for event in &events {
            after.apply(event).map_err(|error| Stop::Journal(error.to_string()))?;
        }
        let report = after.report();
        let before = self.published.borrow().clone();
        let happened = Happened {
            run: after.opened(),
            before: Some(&before),
            after: &report,
            events: &events,
            emissions,
            domain: &effects.events,
        };
        let outgoing = match self.shared.parts.hooks.outgoing(&happened) {
            Ok(outgoing) => outgoing,
            // Telling about the journal itself is never worth stopping for.
            Err(failure) if effects.events.is_empty() && emissions.is_empty() => {
                error!(%failure, "an event about the run could not be made");
                Vec::new()
            }
            Err(failure) => return Err(Refused::Never(failure)),
        };
        let mut inventory = effects.inventory;
        inventory.extend(self.shared.parts.hooks.inventory(&happened));
        let mut run = row::append(after.opened(), self.state.events(), &events, &report);
        let handed_over: Vec<&str> =
            emissions.iter().filter(|of| of.kind == EmissionKind::Handoff).map(|of| of.name.as_str()).collect();
        if let Some(summary) = run.summary.as_mut().filter(|_| !handed_over.is_empty()) {
            summary.detail["handed_over"] = json!(handed_over);
        }
        let commit = Commit {
            run: Some(run),
            inventory,
            secrets: effects.secrets,
            outgoing,
            audit: audit::of_run(after.opened(), &events),
            ..Commit::default()
        };
        self.commit_patiently(commit).await?;
        self.state = after;
        let report = Arc::new(report);
        let happened = Happened {
            run: self.state.opened(),
            before: Some(&before),
            after: &report,
            events: &events,
            emissions,
            domain: &effects.events,
        };
        self.shared.parts.hooks.committed(&happened);
        self.mind_locks(report.status);
        self.published.send_replace(report);
        Ok(())
    }

    /// A full disk is a state, not a failure.
    async fn commit_patiently(&mut self, commit: Commit) -> Result<(), Refused> {
        loop {
            match self.shared.parts.journal.commit(commit.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_transient() => {
                    warn!(%error, "waiting to record what happened");
                    self.held_up = Some(error.to_string());
                    self.publish();
                    let again = self.now().saturating_add(DISK_PAUSE).unwrap_or(Timestamp::MAX);
                    tokio::select! {
                        () = self.shared.parts.clock.sleep_until(again) => {}
                        () = self.shared.stop.cancelled() => return Err(Stop::Shutdown.into()),
                    }
                }
                Err(CommitError::Precondition { .. }) => return Err(Refused::Conflict),
                Err(error @ (CommitError::TooLarge { .. } | CommitError::Invalid(_))) => {
                    return Err(Refused::Never(Failure::new(error.to_string())));
                }
                Err(CommitError::Closed) => return Err(Stop::Shutdown.into()),
                Err(error) => return Err(Stop::Journal(error.to_string()).into()),
            }
        }
    }

    /// Paused and stuck runs keep their locks, with the door open for shared ones; a run without room gives them up.
    fn mind_locks(&mut self, status: Status) {
        let run = self.state.opened().run;
        if status.needs_operator() {
            self.shared.locks.park(run);
        } else if self.holds_locks && self.state.yields() {
            self.shared.locks.release(run);
            self.holds_locks = false;
        }
    }

    /// Shows how the run looks, where that is not what was committed last.
    fn publish(&self) {
        let mut report = self.state.report();
        if self.held_up.is_some() && !report.status.is_terminal() {
            report.waits_for.clone_from(&self.held_up);
        }
        self.published.send_if_modified(|known| {
            let is_news = **known != report;
            if is_news {
                *known = Arc::new(report);
            }
            is_news
        });
    }

    fn now(&self) -> Timestamp {
        self.shared.parts.clock.now()
    }
}

/// An attempt about to start.
struct Start {
    attempt: Attempt,
    undo: bool,
    permits: Permits,
}

impl Start {
    fn event(&self, at: Timestamp) -> Event {
        if self.undo { self.attempt.undo_started(at) } else { self.attempt.started(at) }
    }
}
