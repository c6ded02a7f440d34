//! One attempt of one step instance: look, act, report back, within its timeout.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use engine::{
    event::Failure,
    run::{Attempt, AttemptEnd, How},
};
use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::{
    limits::Permits,
    ports::{Clock, Hooks},
    run::Message,
};
use crate::action::{AnyAction, Effects, StepContext, StepError, StepSink};

/// Everything that an attempt needs, so that it can be a task of its own.
pub(super) struct Performance {
    pub(super) attempt: Attempt,
    pub(super) undo: bool,
    pub(super) action: Option<Arc<dyn AnyAction>>,
    pub(super) context: StepContext,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) permits: Permits,
    pub(super) report: mpsc::UnboundedSender<Message>,
}

impl Performance {
    pub(super) async fn perform(self) {
        let timeout = self.clock.now().saturating_add(span(self.attempt.timeout)).unwrap_or(jiff::Timestamp::MAX);
        let (end, effects) = tokio::select! {
            done = AssertUnwindSafe(self.work()).catch_unwind() => done.unwrap_or_else(|_| {
                (AttemptEnd::Retry(Failure::new(format!("action {} panicked", self.attempt.action))), Effects::default())
            }),
            () = self.clock.sleep_until(timeout) => (AttemptEnd::TimedOut, Effects::default()),
        };
        drop(self.permits);
        // Without a receiver the run's task is gone, and so is the process soon.
        let _ = self.report.send(Message::Ended { step: self.attempt.step, undo: self.undo, end, effects });
    }

    async fn work(&self) -> (AttemptEnd, Effects) {
        let Some(action) = &self.action else {
            let error = Failure {
                message: format!("this contractor has no action {}", self.attempt.action),
                hint: Some("run the version that started this run".to_owned()),
            };
            return (AttemptEnd::Fail(error), Effects::default());
        };
        let result = if self.undo { self.take_back(action).await } else { self.advance(action).await };
        result.unwrap_or_else(|error| (end(error), Effects::default()))
    }

    async fn advance(&self, action: &Arc<dyn AnyAction>) -> Result<(AttemptEnd, Effects), StepError> {
        let (cx, input) = (&self.context, &self.attempt.input);
        if self.attempt.how != How::Fresh
            && let Some(done) = action.find(cx, input).await?
        {
            return Ok((AttemptEnd::Done(done.output), done.effects));
        }
        if self.attempt.how == How::Lost {
            return Ok((AttemptEnd::Lost, Effects::default()));
        }
        let done = action.run(cx, input).await?;
        Ok((AttemptEnd::Done(done.output), done.effects))
    }

    async fn take_back(&self, action: &Arc<dyn AnyAction>) -> Result<(AttemptEnd, Effects), StepError> {
        let output = self.attempt.output.as_deref();
        let effects = action.undo(&self.context, &self.attempt.input, output).await?;
        Ok((AttemptEnd::Done(Value::Null), effects))
    }
}

fn end(error: StepError) -> AttemptEnd {
    match error {
        StepError::Wait { reason, after } => AttemptEnd::Wait { reason, after, yields: false },
        StepError::NoCapacity { reason, after } => AttemptEnd::Wait { reason, after, yields: true },
        StepError::Retry(failure) => AttemptEnd::Retry(failure),
        StepError::Fail(failure) => AttemptEnd::Fail(failure),
    }
}

fn span(duration: Duration) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX)
}

/// How a running attempt reaches its run.
pub(super) struct Sink {
    pub(super) run: uuid::Uuid,
    pub(super) step: String,
    pub(super) report: mpsc::UnboundedSender<Message>,
    pub(super) hooks: Arc<dyn Hooks>,
}

impl StepSink for Sink {
    fn checkpoint(&self, value: Value) -> BoxFuture<'_, Result<(), StepError>> {
        Box::pin(async move {
            let (reply, durable) = oneshot::channel();
            let gone = || StepError::retry("the run stopped before the checkpoint was durable");
            let message = Message::Checkpoint { step: self.step.clone(), value, reply };
            self.report.send(message).map_err(|_| gone())?;
            durable.await.map_err(|_| gone())?
        })
    }

    fn progress(&self, text: String) {
        self.hooks.progress(self.run, &self.step, &text);
    }
}
