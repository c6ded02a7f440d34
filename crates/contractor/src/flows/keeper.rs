//! Keeps flows: ends them when their runs have ended, cancels those whose time is over, archives and forgets what is past.
//!
//! A record or a run that cannot be read is named and holds up no other.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use store::{Commit, CommitError, InventoryChange, Reader, Retention, RunQuery, RunRow, Versioned};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Decision, FlowRecord, PENDING, Pending, State, decide, failure_of, index, key, withdraw};
use crate::{
    agent::{Agent, Left, Workplace},
    cancel,
    driver::CommandError,
    intake::chain,
};

/// Runs that are archived together.
const SOME: usize = 64;

/// Ends flows when their runs have ended, and cancels those whose time is over.
pub struct Keeper {
    /// Store, driver and herald.
    pub at: Workplace,
    /// Whose flows.
    pub agent: Arc<dyn Agent>,
    /// What is forgotten when.
    pub retention: Retention,
    /// Runs without a flow record are archived this long after they ended.
    pub archive_after: Duration,
    /// Which flows cannot be kept and why; for `/healthz`.
    pub trouble: watch::Sender<Option<String>>,
}

/// What is known of the flows between two looks.
#[derive(Default)]
struct Known {
    /// Those that are open, and those whose record cannot be read: nobody knows that they are not.
    open: BTreeSet<Uuid>,
    /// Whether the records could be listed. Before that any flow may be open.
    is_listed: bool,
}

impl Keeper {
    /// Keeps flows until `stop`: each one that may have changed, all that are open every half minute, and what is over
    /// every ten minutes.
    pub async fn run(self, mut changed: mpsc::UnboundedReceiver<Uuid>, stop: CancellationToken) {
        let mut tick = interval(Duration::from_secs(30));
        let mut tidy = interval(Duration::from_secs(10 * 60));
        let mut known = Known::default();
        tokio::select! {
            () = stop.cancelled() => return,
            () = cancel::remind(&self.at) => {}
        }
        if let Err(reason) = self.list(&mut known).await {
            tracing::error!(reason, "the flows cannot be listed; nothing is archived before they can");
        }
        loop {
            let result = tokio::select! {
                () = stop.cancelled() => return,
                flow = changed.recv() => match flow {
                    Some(flow) => self.look_at(flow, &mut known.open).await,
                    None => return,
                },
                _ = tick.tick() => self.look_at_all(&mut known).await,
                _ = tidy.tick() => self.tidy(&known).await,
            };
            if let Err(reason) = result {
                tracing::warn!(reason, "a flow could not be kept; it is looked at again");
            }
        }
    }

    /// Finds the flows that are open. One whose record cannot be read holds up no other.
    async fn list(&self, known: &mut Known) -> Result<(), String> {
        index::make(&self.at.store).await?;
        known.open.extend(index::open(&self.at.store.reader()).map_err(|error| chain(&error))?);
        known.is_listed = true;
        Ok(())
    }

    /// Looks at every flow that is open and every request that waits; says which could not be looked at.
    async fn look_at_all(&self, known: &mut Known) -> Result<(), String> {
        let mut problems = Vec::new();
        if !known.is_listed
            && let Err(reason) = self.list(known).await
        {
            problems.push(format!("the flows cannot be listed: {reason}"));
        }
        for flow in known.open.clone() {
            if let Err(reason) = self.look_closely(flow, &mut known.open).await {
                problems.push(format!("flow {flow} cannot be kept: {reason}"));
            }
        }
        problems.extend(self.withdraw_late().await);
        let told = (!problems.is_empty()).then(|| problems.join("; "));
        self.trouble.send_if_modified(|trouble| {
            let is_news = *trouble != told;
            trouble.clone_from(&told);
            is_news
        });
        told.map_or(Ok(()), Err)
    }

    /// Ends the flow if its runs say so, or if its time is over.
    async fn look_closely(&self, flow: Uuid, open: &mut BTreeSet<Uuid>) -> Result<(), String> {
        self.look_at(flow, open).await?;
        let found = self.at.store.reader().get::<FlowRecord>(&key(flow)).map_err(|error| chain(&error))?;
        let now = Timestamp::now();
        match found.filter(|it| it.value.state == State::Open && it.value.deadline <= now) {
            Some(late) => self.give_up(late).await,
            None => Ok(()),
        }
    }

    /// Ends the requests that waited too long for consent; what could not be ended.
    async fn withdraw_late(&self) -> Vec<String> {
        let pending = match self.at.store.reader().scan_each::<Pending>(PENDING) {
            Ok(pending) => pending,
            Err(error) => return vec![chain(&error)],
        };
        let mut problems = Vec::new();
        for (key, found) in pending {
            let withdrawn = match found {
                Ok(pending) if pending.value.expires > Timestamp::now() => Ok(()),
                Ok(pending) => {
                    let reason = "nobody approved its plan in time".to_owned();
                    withdraw(&self.at.store, &self.at.herald, pending, reason).await
                }
                Err(error) => Err(chain(&error)),
            };
            problems.extend(withdrawn.err().map(|reason| format!("{key}: {reason}")));
        }
        problems
    }

    /// Ends the flow if its runs say so.
    async fn look_at(&self, flow: Uuid, open: &mut BTreeSet<Uuid>) -> Result<(), String> {
        let reader = self.at.store.reader();
        let found = reader.get::<FlowRecord>(&key(flow)).map_err(|error| chain(&error))?;
        let Some(found) = found.filter(|found| found.value.state == State::Open) else {
            open.remove(&flow);
            return Ok(());
        };
        open.insert(flow);
        let runs = reader.runs(&RunQuery::flow(flow)).map_err(|error| chain(&error))?;
        let Decision::Over(state) = decide(&found.value, &runs) else {
            return Ok(());
        };
        let mut record = found.value;
        let now = Timestamp::now();
        record.state = state;
        record.ended = Some(now);
        if state == State::Succeeded {
            // Whoever asked to stop it, or its time being over, came to nothing.
            (record.reason, record.hint) = (None, None);
        } else if record.reason.is_none() {
            let failed = runs.iter().find_map(failure_of);
            record.reason = failed.as_ref().map(|failure| failure.message.clone());
            record.hint = failed.and_then(|failure| failure.hint);
        }
        let name = match state {
            State::Succeeded => "flow_succeeded",
            State::Cancelled => "flow_cancelled",
            State::Failed | State::Open => "flow_failed",
        };
        let event = record.event(&self.at.herald, name, None).map_err(|failure| failure.message)?;
        let mut inventory = vec![InventoryChange::update(key(flow), found.revision, record.to_value())];
        inventory.extend(index::ended(flow, now));
        if state != State::Succeeded {
            match self.agent.left(Left::ByFlow(&record), &reader) {
                Ok(left) => inventory.extend(left),
                Err(error) => {
                    tracing::error!(%flow, error = chain(&error), "what the flow left could not be read");
                }
            }
        }
        let archive: Vec<Uuid> = runs.iter().filter(|run| !run.archived).map(|run| run.run).collect();
        let end = Commit { inventory, outgoing: vec![event], ..Commit::default() };
        match self.at.store.commit(Commit { archive: archive.clone(), ..end.clone() }).await {
            // Somebody changed the record meanwhile and will say so.
            Ok(_) | Err(CommitError::Precondition { .. }) => Ok(()),
            // A run whose journal is damaged does not keep its flow from ending.
            Err(error) if is_for_good(&error) && !archive.is_empty() => {
                self.at.store.commit(end).await.map_err(|error| chain(&error))?;
                self.archive(&archive).await
            }
            Err(error) => Err(chain(&error)),
        }
    }

    async fn give_up(&self, late: Versioned<FlowRecord>) -> Result<(), String> {
        let mut record = late.value;
        let runs = self.at.store.reader().runs(&RunQuery::flow(record.flow)).map_err(|error| chain(&error))?;
        let waits = runs.iter().find_map(|run| run.summary.detail.get("waits_for")?.as_str().map(str::to_owned));
        let by = format!("deadline {}", record.deadline);
        let stopping = cancel::Stopping { flow: record.flow, by: &by, expired: true };
        match cancel::flow(&self.at, stopping).await {
            Ok(stopped) if !stopped.is_empty() => {
                tracing::warn!(flow = %record.flow, "the flow's time is over; cancelling");
                if record.reason.is_none() {
                    let waits = waits.map(|reason| format!(" while it waited: {reason}")).unwrap_or_default();
                    record.reason = Some(format!("its deadline {} passed{waits}", record.deadline));
                    let inventory = vec![InventoryChange::update(key(record.flow), late.revision, record.to_value())];
                    match self.at.store.commit(Commit { inventory, ..Commit::default() }).await {
                        // Somebody changed the record meanwhile, and it says why.
                        Ok(_) | Err(CommitError::Precondition { .. }) => {}
                        Err(error) => return Err(chain(&error)),
                    }
                }
            }
            Ok(_) | Err(CommandError::Unknown(_) | CommandError::Refused(_)) => {}
            Err(error) => return Err(chain(&error)),
        }
        Ok(())
    }

    /// Archives runs whose flow is kept elsewhere, and forgets what is past its age.
    async fn tidy(&self, known: &Known) -> Result<(), String> {
        let archived = self.archive_strangers(known).await;
        let forgot = self.forget_flows().await;
        let pruned = self.at.store.prune(self.retention.clone()).await.map_err(|error| chain(&error))?;
        if pruned != store::Pruned::default() {
            tracing::info!(runs = pruned.runs, inbox = pruned.inbox, "forgot what is past its age");
        }
        archived.and(forgot)
    }

    /// Runs whose flow is kept elsewhere are archived by age; those of an open flow may have to be undone.
    async fn archive_strangers(&self, known: &Known) -> Result<(), String> {
        if !known.is_listed {
            return Err("no run is archived, as it is not known which flows are open".to_owned());
        }
        let (reader, open, after) = (self.at.store.reader(), known.open.clone(), self.archive_after);
        let strangers = tokio::task::spawn_blocking(move || strangers(&reader, &open, after)).await;
        let strangers = strangers.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
        for some in strangers.chunks(SOME) {
            self.archive(some).await?;
        }
        Ok(())
    }

    /// Archives runs together; each by itself where one of them cannot be, which is named.
    async fn archive(&self, runs: &[Uuid]) -> Result<(), String> {
        let commit = |runs: &[Uuid]| Commit { archive: runs.to_vec(), ..Commit::default() };
        match self.at.store.commit(commit(runs)).await {
            Err(error) if is_for_good(&error) => {}
            result => return result.map(drop).map_err(|error| chain(&error)),
        }
        for run in runs {
            match self.at.store.commit(commit(&[*run])).await {
                Ok(_) => {}
                Err(error) if is_for_good(&error) => {
                    tracing::error!(%run, error = chain(&error), "a run cannot be archived and stays as it is");
                }
                Err(error) => return Err(chain(&error)),
            }
        }
        Ok(())
    }

    /// Flows that ended go with their runs; so does the memory of those that were cancelled elsewhere. What cannot be read
    /// stays.
    async fn forget_flows(&self) -> Result<(), String> {
        let now = Timestamp::now();
        let reader = self.at.store.reader();
        let mut gone = Vec::new();
        for over in index::ended_before(&reader, before(now, self.retention.runs)).map_err(|error| chain(&error))? {
            match reader.get::<FlowRecord>(&key(over.flow)) {
                // The record goes first: a row without one is found again, a record without a row is not.
                Ok(record) => {
                    gone.extend(record.map(|it| InventoryChange::delete_at(key(over.flow), it.revision)));
                    gone.push(InventoryChange::delete(over.row));
                }
                Err(error) => tracing::error!(flow = %over.flow, error = chain(&error), "a flow cannot be forgotten"),
            }
        }
        let marks = reader.each::<cancel::Mark>(cancel::MARKS, |(key, found)| {
            let over = found.ok().filter(|it| age(it.value.at, now) > self.retention.inbox);
            gone.extend(over.map(|it| InventoryChange::delete_at(key, it.revision)));
        });
        marks.map_err(|error| chain(&error))?;
        for some in gone.chunks(200) {
            let commit = Commit { inventory: some.to_vec(), ..Commit::default() };
            match self.at.store.commit(commit).await {
                Ok(_) | Err(CommitError::Precondition { .. }) => {}
                Err(error) => return Err(chain(&error)),
            }
        }
        Ok(())
    }
}

/// Runs that ended long ago and whose flow is not open here.
fn strangers(reader: &Reader, open: &BTreeSet<Uuid>, after: Duration) -> Result<Vec<Uuid>, store::ReadError> {
    let now = Timestamp::now();
    let mut found = Vec::new();
    reader.each_unarchived(|run, row| match row {
        Ok(RunRow { summary, updated_at, .. }) => {
            if summary.state.is_terminal() && !open.contains(&summary.flow) && age(updated_at, now) > after {
                found.push(run);
            }
        }
        Err(error) => tracing::error!(%run, error = chain(&error), "a run cannot be read and is not archived"),
    })?;
    Ok(found)
}

/// Whether the same commit never succeeds.
fn is_for_good(error: &CommitError) -> bool {
    matches!(error, CommitError::Damaged(_) | CommitError::Invalid(_) | CommitError::TooLarge { .. })
}

/// The moment that long before `now`.
fn before(now: Timestamp, period: Duration) -> Timestamp {
    now.checked_sub(period).unwrap_or(Timestamp::MIN)
}

fn age(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}
