//! The driver performs what the engine decides: it appends, acts, appends the result, and decides again.
//!
//! Each unfinished run has one task that owns its [`RunState`](engine::run::RunState); attempts are tasks of their own
//! that report back to it. The journal is whatever implements [`Journal`]: the store, or a fake in tests.

mod ports;

use std::sync::Arc;

use engine::{plan::Plan, report::Report};
pub use ports::{Clock, Happened, Hooks, Journal, SystemClock};
use serde_json::Value;
use store::{Commit, CommitError, ReadError};
use tokio::sync::watch;
use uuid::Uuid;

use crate::action::Actions;

/// What a driver works with; named by the composition root.
pub struct Parts {
    /// Where runs are recorded, together with what they change.
    pub journal: Arc<dyn Journal>,
    /// What steps can do.
    pub actions: Actions,
    /// The playbooks that new runs may name.
    pub playbooks: engine::library::Library,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Who turns what happens into messages.
    pub hooks: Arc<dyn Hooks>,
}

/// A run to start.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// [`engine::event::run_id`] of source, message id and playbook.
    pub run: Uuid,
    /// The flow (correlation id) that it belongs to.
    pub flow: Uuid,
    /// The message that caused it, `ce-source/ce-id`.
    pub cause: String,
    /// The playbook's name.
    pub playbook: String,
    /// What it is about: the cluster's name, mostly.
    pub subject: Option<String>,
    /// The message's body, or what a trigger gives.
    pub input: Value,
    /// Hash of the approved plan, if it had to be approved; [`Driver::plan`] again before submitting.
    pub plan: Option<String>,
    /// What commits together with the run's first entry: inbox row, replies. Its `run` and `definitions` are set here.
    pub with: Commit,
}

/// What became of a submitted run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// It is durable and on its way.
    New(Uuid),
    /// It was there: the message was redelivered.
    Known(Uuid),
}

/// Why a run was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// There is no such playbook.
    #[error("there is no playbook `{0}`")]
    NoPlaybook(String),
    /// The input does not fit the playbook.
    #[error("the input does not fit playbook `{playbook}`: {reason}")]
    Input {
        /// The playbook.
        playbook: String,
        /// What does not fit; no values.
        reason: String,
    },
    /// The store did not take it.
    #[error("the run could not be recorded")]
    Commit(#[source] CommitError),
    /// The store could not be read.
    #[error("the store could not be read")]
    Read(#[source] ReadError),
}

/// Why an operator's command had no effect.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such run or flow here.
    #[error("nothing known under {0}")]
    Unknown(Uuid),
    /// The run is not in a state for it.
    #[error("{0}")]
    Refused(String),
    /// The store did not take it.
    #[error("it could not be recorded")]
    Commit(#[source] CommitError),
    /// The store could not be read.
    #[error("the store could not be read")]
    Read(#[source] ReadError),
}

/// Runs playbooks; a cheap clone.
#[derive(Clone)]
pub struct Driver {}

impl Driver {
    /// Starts it, and with it every unfinished run, of which there may be none.
    pub async fn start(_parts: Parts) -> Result<Self, ReadError> {
        todo!()
    }

    /// Makes a run durable (with its inbox row and whatever else `with` holds) and sets it going.
    pub async fn submit(&self, _new: NewRun) -> Result<Submitted, SubmitError> {
        todo!()
    }

    /// What a run would do. Previews only look; they may reserve, with expiry, for `flow`.
    pub async fn plan(&self, _playbook: &str, _flow: Uuid, _input: &Value) -> Result<Plan, PlanError> {
        todo!()
    }

    /// Cancels every unfinished run of a flow; returns them once that is durable.
    pub async fn cancel(&self, _flow: Uuid, _by: &str) -> Result<Vec<Uuid>, CommandError> {
        todo!()
    }

    /// Lets a paused or stuck run go on.
    pub async fn resume(&self, _run: Uuid, _by: &str) -> Result<(), CommandError> {
        todo!()
    }

    /// Takes back every run of a flow here, succeeded ones too; returns them once that is durable.
    pub async fn request_undo(&self, _flow: Uuid, _by: &str) -> Result<Vec<Uuid>, CommandError> {
        todo!()
    }

    /// How a run looks now, whether it is at work or long finished.
    pub fn report(&self, _run: Uuid) -> Result<Option<Report>, ReadError> {
        todo!()
    }

    /// Follows a run that is at work; the channel closes when it ends.
    pub fn watch(&self, _run: Uuid) -> Option<watch::Receiver<Arc<Report>>> {
        todo!()
    }

    /// Resolves when no run is at work: all are finished, paused or stuck.
    pub async fn idle(&self) {
        todo!()
    }

    /// Stops: running attempts are told, and get `grace` to end; the rest is resumed at the next start.
    pub async fn shutdown(&self, _grace: std::time::Duration) {
        todo!()
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// There is no such playbook.
    #[error("there is no playbook `{0}`")]
    NoPlaybook(String),
    /// The input does not fit the playbook.
    #[error("step `{step}`: {reason}")]
    Step {
        /// The step.
        step: String,
        /// What does not fit, or what its preview said.
        reason: String,
    },
}
