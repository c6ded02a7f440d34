//! Handoffs about a flow itself: the other contractor could not do its part, or asks that this one stops.

use engine::event::Failure;
use jiff::Timestamp;
use messages::{
    handoff::{CancelRequest, ClusterFailed, Unknown},
    query::Accepted,
    request::FailurePolicy,
};
use serde_json::json;
use store::{Commit, InventoryChange, RunQuery};
use uuid::Uuid;

use super::{Intake, NotNow, Verdict, chain, flow_of, inbox_key};
use crate::{
    agent::{Message, Workplace},
    cancel::{self, Mark, Stopping, mark_key},
    driver::CommandError,
    flows::{self, FlowRecord},
    herald::Context,
};

impl Intake {
    /// The other contractor could not do its part: note it and apply the failure policy to what this one did.
    pub(super) async fn other_side_failed(&self, message: &Message) -> Result<Verdict, NotNow> {
        let flow = flow_of(message);
        let failed: ClusterFailed = shaped(message)?;
        let mut run = Uuid::nil();
        let mut left = None;
        if failed.failure_policy == FailurePolicy::Rollback {
            // Durable before the inbox row: a crash between the two repeats a request that changes nothing.
            match self.driver.request_undo(flow, &message.envelope.message_id()).await {
                Ok(runs) => run = runs.first().copied().unwrap_or_default(),
                Err(CommandError::Unknown(_)) => {}
                // Undone already, or past the commit point: either way there is nothing to come back for.
                Err(CommandError::Refused(reason)) => left = Some(reason),
                Err(error) => return Err(NotNow(chain(&error))),
            }
        }
        let mut commit = Commit { inbox: Some(inbox_key(message)), ..Commit::default() };
        let found = self.store.reader().get::<FlowRecord>(&flows::key(flow)).map_err(|error| NotNow(chain(&error)))?;
        if let Some(found) = found {
            let mut record = found.value;
            let step = failed.step.as_deref().map(|step| format!("{step}: ")).unwrap_or_default();
            record.failing = Some(failed.failure_policy);
            record.reason = Some(format!("{step}{}", failed.reason));
            record.hint = failed.hint.clone().or(left);
            commit.inventory.push(InventoryChange::put(flows::key(flow), record.to_value()));
            let event = self.flow_event(&record, "flow_failing", &message.envelope.message_id());
            commit.outgoing.push(event.map_err(not_now)?);
        }
        self.commit(commit).await?;
        self.herald.flow_changed(flow);
        Ok(Verdict::Accepted(Accepted { flow, run, duplicate: false }))
    }

    /// The contractor that keeps the flow wants it to stop. Where nothing of it was ever begun here, that is the answer.
    pub(super) async fn stop_flow(&self, message: &Message) -> Result<Verdict, NotNow> {
        let flow = flow_of(message);
        let asked: CancelRequest = shaped(message)?;
        let begun = self.store.reader().runs(&RunQuery::flow(flow)).map_err(|error| NotNow(chain(&error)))?;
        let stopping = Stopping { flow, by: &asked.by, expired: asked.expired };
        let stopped = match cancel::runs(&self.place(), stopping).await {
            Ok(runs) => runs,
            Err(CommandError::Unknown(_) | CommandError::Refused(_)) => Vec::new(),
            Err(error) => return Err(NotNow(chain(&error))),
        };
        let mark = json!(Mark { by: asked.by.clone(), at: Timestamp::now() });
        let mut commit = Commit {
            inbox: Some(inbox_key(message)),
            inventory: vec![InventoryChange::put(mark_key(flow), mark)],
            ..Commit::default()
        };
        if begun.is_empty() {
            commit.outgoing.push(self.never_begun(message, &asked).map_err(not_now)?);
        }
        self.commit(commit).await?;
        let run = stopped.first().copied().unwrap_or_default();
        Ok(Verdict::Accepted(Accepted { flow, run, duplicate: false }))
    }

    /// A run that begins for a flow that was cancelled stops at once.
    pub(super) async fn stop_if_cancelled(&self, flow: Uuid) -> Result<(), NotNow> {
        let mark = self.store.reader().get::<Mark>(&mark_key(flow)).map_err(|error| NotNow(chain(&error)))?;
        let Some(mark) = mark else { return Ok(()) };
        match self.driver.cancel(flow, &mark.value.by).await {
            Ok(_) | Err(CommandError::Unknown(_) | CommandError::Refused(_)) => Ok(()),
            Err(error) => Err(NotNow(chain(&error))),
        }
    }

    fn never_begun(&self, message: &Message, asked: &CancelRequest) -> Result<store::Outgoing, Failure> {
        let flow = flow_of(message);
        let body = ClusterFailed {
            handoff_type: "cluster_failed".to_owned(),
            cluster_name: asked.cluster_name.clone(),
            cluster_uid: None,
            step: None,
            reason: format!("cancelled by {} before {}-contractor began", asked.by, self.agent.party()),
            hint: None,
            failure_policy: asked.failure_policy,
            unknown: Unknown::new(),
        };
        let context = Context {
            flow: Some(flow),
            cause: Some(message.envelope.message_id()),
            cluster: Some(asked.cluster_name.to_string()),
        };
        self.herald.handoff(Uuid::new_v5(&flow, b"never begun"), "cluster_failed", &context, &body)
    }

    /// Store, driver and herald.
    pub(crate) fn place(&self) -> Workplace {
        Workplace { store: self.store.clone(), herald: self.herald.clone(), driver: self.driver.clone() }
    }
}

fn shaped<T: serde::de::DeserializeOwned>(message: &Message) -> Result<T, NotNow> {
    serde_json::from_value(message.body.clone())
        .map_err(|error| NotNow(format!("a valid {} has another shape: {error}", message.name)))
}

fn not_now(failure: Failure) -> NotNow {
    NotNow(failure.message)
}
