//! What runs are asked to do: cancel, resume, undo. An order counts when its entry in the journal is durable.

use engine::run::Command;
use store::RunQuery;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    CommandError, Driver, Shared,
    recover::{self, Unreadable},
    run::Message,
};

/// A run that ends while it is asked for something is asked again, so often.
const ATTEMPTS: usize = 3;

impl Driver {
    /// Cancels every unfinished run of a flow; returns them once that is durable.
    pub async fn cancel(&self, flow: Uuid, by: &str) -> Result<Vec<Uuid>, CommandError> {
        let of_flow = self.shared.active_of(flow);
        self.order_all(flow, of_flow, Command::Cancel, by).await
    }

    /// Cancels the runs of a flow that are at work, and lets those be that wait for an operator.
    pub async fn expire(&self, flow: Uuid, by: &str) -> Result<Vec<Uuid>, CommandError> {
        let needs_operator = |run: &Uuid| {
            self.shared.runs().get(run).is_some_and(|handle| handle.report.borrow().status.needs_operator())
        };
        let mut working = self.shared.active_of(flow);
        working.retain(|run| !needs_operator(run));
        self.order_all(flow, working, Command::Cancel, by).await
    }

    /// Cancels one unfinished run.
    pub async fn cancel_run(&self, run: Uuid, by: &str) -> Result<(), CommandError> {
        self.order(run, Command::Cancel, by).await
    }

    /// Lets a paused or stuck run go on.
    pub async fn resume(&self, run: Uuid, by: &str) -> Result<(), CommandError> {
        self.order(run, Command::Resume, by).await
    }

    /// Takes back every run of a flow here, succeeded ones too; returns them once that is durable.
    pub async fn request_undo(&self, flow: Uuid, by: &str) -> Result<Vec<Uuid>, CommandError> {
        let rows = self.shared.parts.journal.rows(&RunQuery::flow(flow)).map_err(CommandError::Read)?;
        let rows: Vec<Uuid> = rows.into_iter().filter(|row| !row.archived).map(|row| row.run).collect();
        self.order_all(flow, rows, Command::Undo, by).await
    }

    async fn order_all(
        &self,
        flow: Uuid,
        runs: Vec<Uuid>,
        command: Command,
        by: &str,
    ) -> Result<Vec<Uuid>, CommandError> {
        let (mut done, mut refused) = (Vec::new(), None);
        for run in runs {
            match self.order(run, command, by).await {
                Ok(()) => done.push(run),
                // It ended while it was asked.
                Err(CommandError::Unknown(_)) => {}
                Err(CommandError::Refused(reason)) => refused = Some(reason),
                Err(error) => return Err(error),
            }
        }
        match (done.is_empty(), refused) {
            (false, _) => Ok(done),
            (true, Some(reason)) => Err(CommandError::Refused(reason)),
            (true, None) => Err(self.unknown(flow)),
        }
    }

    async fn order(&self, run: Uuid, command: Command, by: &str) -> Result<(), CommandError> {
        for _ in 0..ATTEMPTS {
            if self.shared.stop.is_cancelled() {
                return Err(CommandError::Stopping);
            }
            let (reply, answer) = oneshot::channel();
            let message = Message::Order { command, by: by.to_owned(), reply };
            let orders = self.shared.runs().get(&run).map(|handle| handle.orders.clone());
            match orders {
                // Where that fails the run's task has just ended, and the answer never comes.
                Some(orders) => drop(orders.send(message)),
                // Only undoing wakes a run that has ended.
                None if command == Command::Undo && !self.shared.is_set_aside(run) => self.wake(run, message)?,
                None => return Err(self.unknown(run)),
            }
            if let Ok(answer) = answer.await {
                return answer;
            }
        }
        Err(self.unknown(run))
    }

    /// Why there is no task to ask: nothing is known under `id`, or it does not go on. While the contractor stops, tasks end
    /// before their runs do.
    fn unknown(&self, id: Uuid) -> CommandError {
        if self.shared.stop.is_cancelled() {
            return CommandError::Stopping;
        }
        let unreadable = self.unreadable().remove(&id);
        unreadable.map_or(CommandError::Unknown(id), |reason| CommandError::Refused(does_not_go_on(&reason)))
    }

    /// Sets a run going again that has ended, with an order for it.
    fn wake(&self, run: Uuid, order: Message) -> Result<(), CommandError> {
        let state = recover::load(&self.shared, run).map_err(|error| match error {
            Unreadable::Store(error) => CommandError::Read(error),
            Unreadable::Journal(reason) => CommandError::Refused(reason),
        })?;
        self.shared.set_going(state.ok_or(CommandError::Unknown(run))?, Some(order));
        Ok(())
    }
}

impl Shared {
    /// A paused run whose locks another took ends as it is; a stuck one stays for an operator to see.
    pub(super) fn preempt(&self, run: Uuid, by: &str) {
        let (reply, _) = oneshot::channel();
        let message = Message::Order { command: Command::Cancel, by: by.to_owned(), reply };
        tracing::warn!(%run, by, "a paused run is pre-empted");
        if let Some(handle) = self.runs().get(&run)
            && handle.orders.send(message).is_err()
        {
            tracing::debug!(%run, "it has ended by itself");
        }
    }
}

/// What whoever asks such a run for something is told.
pub(crate) fn does_not_go_on(reason: &str) -> String {
    format!("the run does not go on, as its journal cannot be read or written: {reason}")
}
