//! Handoffs about a flow itself: the other contractor could not do its part, or asks that this one stops.

use engine::event::Failure;
use jiff::Timestamp;
use messages::{
    catalogue::Family,
    handoff::{CancelRequest, ClusterFailed, Unknown},
    name::ClusterName,
    query::{Accepted, Refusal},
    request::FailurePolicy,
    subject::Party,
};
use serde::Deserialize;
use serde_json::json;
use store::{Commit, CommitError, InventoryChange, RunQuery};
use uuid::Uuid;

use super::{Intake, NotNow, Verdict, chain, context_of, flow_of, inbox_key};
use crate::{
    agent::{Message, Workplace},
    cancel::{self, Mark, Stopping, mark_key},
    driver::CommandError,
    flows::{self, FlowRecord},
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
        self.note_failing(message, &failed, left).await?;
        self.herald.flow_changed(flow);
        Ok(Verdict::Accepted(Accepted { flow, run, duplicate: false }))
    }

    /// Notes on the flow's record that the other contractor failed; whoever changed the record meanwhile stays heard.
    async fn note_failing(
        &self,
        message: &Message,
        failed: &ClusterFailed,
        left: Option<String>,
    ) -> Result<(), NotNow> {
        let key = flows::key(flow_of(message));
        let step = failed.step.as_deref().map(|step| format!("{step}: ")).unwrap_or_default();
        loop {
            let mut commit = Commit { inbox: Some(inbox_key(message)), ..Commit::default() };
            let found = self.store.reader().get::<FlowRecord>(&key).map_err(|error| NotNow(chain(&error)))?;
            // Told of a flow that is over, it comes too late to say anything of it.
            if let Some(found) = found.filter(|found| found.value.state == flows::State::Open) {
                let record = FlowRecord {
                    failing: Some(failed.failure_policy),
                    reason: Some(format!("{step}{}", failed.reason)),
                    hint: failed.hint.clone().or_else(|| left.clone()),
                    ..found.value
                };
                commit.inventory.push(InventoryChange::update(key.clone(), found.revision, record.to_value()));
                let event = self.flow_event(&record, "flow_failing", &message.envelope.message_id());
                commit.outgoing.push(event.map_err(not_now)?);
            }
            match self.store.commit(commit).await {
                Ok(_) | Err(CommitError::Duplicate { .. }) => return Ok(()),
                Err(CommitError::Precondition { .. }) => {}
                Err(error) => return Err(NotNow(chain(&error))),
            }
        }
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
        // One that told how its part ended has said what there is to say.
        let silent =
            |run: &store::RunRow| run.summary.state.is_terminal() && run.summary.detail.get("handed_over").is_none();
        if begun.iter().all(silent) {
            let reason = match begun.is_empty() {
                true => format!("cancelled by {} before {}-contractor began", asked.by, self.agent.party()),
                false => {
                    format!("cancelled by {} when {}-contractor had nothing left to do", asked.by, self.agent.party())
                }
            };
            commit.outgoing.push(self.nothing_to_stop(message, &asked, reason).map_err(not_now)?);
        }
        self.commit(commit).await?;
        let run = stopped.first().copied().unwrap_or_default();
        Ok(Verdict::Accepted(Accepted { flow, run, duplicate: false }))
    }

    /// A handoff of a flow is refused, and with it the flow goes no further: whoever waits for it hears that now, not when
    /// the deadline is over.
    pub(super) fn tell_flow(&self, message: &Message, refusal: &Refusal, commit: &mut Commit) -> Result<(), NotNow> {
        let (Family::Handoff, Some(flow)) = (message.family, message.envelope.correlation) else { return Ok(()) };
        let reader = self.store.reader();
        let reason = format!("{}-contractor refuses the {}: {}", self.agent.party(), message.name, told(refusal));
        if let Some(found) = reader.get::<FlowRecord>(&flows::key(flow)).map_err(|error| NotNow(chain(&error)))? {
            if found.value.state == flows::State::Open {
                let failing = found.value.failing.or(Some(FailurePolicy::Keep));
                let record = FlowRecord { failing, reason: Some(reason), hint: refusal.hint.clone(), ..found.value };
                let change = InventoryChange::update(flows::key(flow), found.revision, record.to_value());
                commit.inventory.push(change);
            }
            return Ok(());
        }
        let begun = reader.runs(&RunQuery::flow(flow)).map_err(|error| NotNow(chain(&error)))?;
        // With a part of the flow done here, a second handoff that is refused says nothing of the first.
        if self.agent.party() == Party::Talos && begun.is_empty() {
            commit.outgoing.extend(self.refused_at_the_door(message, flow, reason, refusal).map_err(not_now)?);
        }
        Ok(())
    }

    fn refused_at_the_door(
        &self,
        message: &Message,
        flow: Uuid,
        reason: String,
        refusal: &Refusal,
    ) -> Result<Option<store::Outgoing>, Failure> {
        let field = |name: &str| message.body.get(name).cloned().unwrap_or_default();
        let Ok(cluster_name) = ClusterName::deserialize(field("cluster_name")) else { return Ok(None) };
        // Only machines that were made for this handoff are to be taken back.
        let failure_policy = match message.name.as_str() {
            "vm_provisioned" => {
                let policy = message.body.pointer("/spec/failure_policy").cloned().unwrap_or_default();
                FailurePolicy::deserialize(policy).unwrap_or_default()
            }
            _ => FailurePolicy::Keep,
        };
        let body = ClusterFailed {
            handoff_type: "cluster_failed".to_owned(),
            cluster_uid: serde_json::from_value(field("cluster_uid")).unwrap_or_default(),
            step: Some("accept".to_owned()),
            reason,
            hint: refusal.hint.clone(),
            failure_policy,
            unknown: Unknown::new(),
            cluster_name,
        };
        let context = context_of(message);
        let id = Uuid::new_v5(&flow, format!("refused:{}", message.envelope.message_id()).as_bytes());
        self.herald.handoff(id, "cluster_failed", &context, &body).map(Some)
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

    fn nothing_to_stop(
        &self,
        message: &Message,
        asked: &CancelRequest,
        reason: String,
    ) -> Result<store::Outgoing, Failure> {
        let flow = flow_of(message);
        let body = ClusterFailed {
            handoff_type: "cluster_failed".to_owned(),
            cluster_name: asked.cluster_name.clone(),
            cluster_uid: None,
            step: None,
            reason,
            hint: None,
            failure_policy: asked.failure_policy,
            unknown: Unknown::new(),
        };
        let context = context_of(message);
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

/// Every violation in one line, or the one sentence where there is none.
fn told(refusal: &Refusal) -> String {
    let violations: Vec<_> = refusal.violations.iter().map(ToString::to_string).collect();
    if violations.is_empty() { refusal.message.clone() } else { violations.join("; ") }
}

fn not_now(failure: Failure) -> NotNow {
    NotNow(failure.message)
}
