//! The way of a message from the wire to a durable run: read, believe, validate, make sense of, consent, submit.
//!
//! Only what is needed for the answer happens here; the work itself happens in the run. A message is acknowledged when
//! its inbox row and its run are durable.

mod ahead;
mod consent;
mod flow;
pub mod gate;
mod refuse;

use std::sync::Arc;

use engine::{event, hash, library::Library};
use jiff::Timestamp;
use messages::{
    catalogue::Family,
    query::{Accepted, PlanView, Refusal, RefusalKind},
    request::FailurePolicy,
    service, signature,
    subject::Party,
};
use serde_json::{Value, json};
use store::{Commit, CommitError, InboxKey, InventoryChange, Store};
use uuid::Uuid;

pub use self::gate::{Gate, Raw};
use crate::{
    agent::{Agent, Message},
    config::{Consent, Policy},
    driver::{Approved, Driver, NewRun, SubmitError, Submitted},
    flows::{self, FlowRecord},
    herald::{Context, Herald},
    planner::Planner,
};

/// Takes messages.
pub struct Intake {
    /// The agent whose messages they are.
    pub agent: Arc<dyn Agent>,
    /// Reads, believes and validates.
    pub gate: Gate,
    /// The playbooks that messages start.
    pub library: Library,
    /// Everything the contractor remembers.
    pub store: Store,
    /// Runs playbooks.
    pub driver: Driver,
    /// Makes messages.
    pub herald: Herald,
    /// Shows what a message would do.
    pub planner: Planner,
    /// What needs consent.
    pub policy: Policy,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is durable and on its way, or was before.
    Accepted(Accepted),
    /// It destroys something and waits for consent to its plan.
    AwaitsApproval {
        /// The flow that will begin.
        flow: Uuid,
        /// The plan to approve.
        plan: Box<PlanView>,
    },
    /// It was refused; never to be tried again.
    Refused(Refusal),
}

/// The message could not be taken now; it must come again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotNow(String);

impl Intake {
    /// Takes a message.
    ///
    /// # Errors
    /// [`NotNow`] when the store could not take it; nothing has happened then.
    pub async fn take(&self, raw: &Raw) -> Result<Verdict, NotNow> {
        self.take_as(raw, Known::Refused).await
    }

    /// Takes a message that may have been refused before: an operator has mended what it was refused for.
    ///
    /// # Errors
    /// See [`Intake::take`].
    pub async fn take_again(&self, raw: &Raw) -> Result<Verdict, NotNow> {
        self.take_as(raw, Known::Taken).await
    }

    async fn take_as(&self, raw: &Raw, remembered: Known) -> Result<Verdict, NotNow> {
        let message = match self.gate.pass(raw) {
            Ok(message) => message,
            Err(stopped) => return self.refuse(raw, stopped.believed.as_deref(), stopped.refusal).await,
        };
        if let Some(verdict) = self.known(&message, remembered).await? {
            self.stop_if_cancelled(flow_of(&message)).await?;
            return Ok(verdict);
        }
        match (message.family, message.name.as_str()) {
            (Family::Handoff, "cluster_failed") => return self.other_side_failed(&message).await,
            (Family::Handoff, "cancel_request") => return self.stop_flow(&message).await,
            _ => {}
        }
        let verdict = match self.consider_ahead(&message).await {
            Ok(considered) => self.admit(raw, &message, considered).await?,
            Err(refusal) => return self.refuse(raw, Some(&message), refusal).await,
        };
        self.stop_if_cancelled(flow_of(&message)).await?;
        Ok(verdict)
    }

    /// What a message would do, without doing it. Anyone who may ask may see it: a plan holds no secret.
    ///
    /// # Errors
    /// Why the message would be refused.
    pub async fn plan(&self, family: Family, name: &str, body: Value, flow: Option<Uuid>) -> Result<PlanView, Refusal> {
        let message = self.gate.imagine(family, name, body, flow)?;
        let considered = self.consider_ahead(&message).await?;
        self.planner.plan(&considered.playbook, considered.flow, &considered.input).await
    }

    /// What was said of the message when it came before.
    async fn known(&self, message: &Message, remembered: Known) -> Result<Option<Verdict>, NotNow> {
        let row = self.store.reader().inbox(&inbox_key(message)).map_err(|error| NotNow(chain(&error)))?;
        let Some(row) = row else { return Ok(None) };
        // Readers see what is written before it is durable, and whoever is told so never sends the message again.
        self.store.settled().await.map_err(|error| NotNow(chain(&error)))?;
        let flow = flow_of(message);
        if let Some(said) = row.said {
            let refusal = serde_json::from_value(said).map_err(|error| NotNow(format!("its inbox row: {error}")))?;
            return Ok((remembered == Known::Refused).then_some(Verdict::Refused(refusal)));
        }
        let pending = self.store.reader().get::<flows::Pending>(&flows::pending_key(flow));
        let pending = pending.map_err(|error| NotNow(chain(&error)))?.map(|found| found.value);
        if let Some(pending) = pending.filter(|pending| pending.cause == message.envelope.message_id()) {
            let plan = self.planner.plan(&pending.playbook, flow, &pending.input).await;
            let plan = plan.map_err(|refusal| NotNow(refusal.message))?;
            return Ok(Some(Verdict::AwaitsApproval { flow, plan: Box::new(plan) }));
        }
        Ok(Some(Verdict::Accepted(Accepted { flow, run: row.run.unwrap_or_default(), duplicate: true })))
    }

    /// Which playbook, with which input; whether the message makes sense.
    async fn consider(&self, message: &Message) -> Result<Considered, Refusal> {
        let sense = self.agent.accept(message, &self.store.reader()).await.map_err(|violations| {
            let first = violations.first().map(ToString::to_string).unwrap_or_default();
            let text = format!("the {} makes no sense: {first}", message.family.as_str());
            Refusal { violations, ..Refusal::new(RefusalKind::Invalid, text) }
        })?;
        let mut input = message.body.clone();
        if let Value::Object(fields) = &mut input {
            // The approval names the plan's hash, so it cannot be part of what is planned.
            fields.remove("approval");
        }
        let playbook = self.playbook_for(message, &input)?;
        let flow = flow_of(message);
        Ok(Considered { playbook, flow, input, needs_consent: sense.needs_consent })
    }

    fn playbook_for(&self, message: &Message, input: &Value) -> Result<String, Refusal> {
        let mut fitting = Vec::new();
        for definition in self.library.iter() {
            let Some(trigger) = &definition.playbook.trigger else { continue };
            let named = match message.family {
                Family::Request => trigger.request.as_deref(),
                Family::Handoff => trigger.handoff.as_deref(),
                Family::Event => None,
            };
            if named != Some(message.name.as_str()) {
                continue;
            }
            match trigger.accepts(input) {
                Ok(true) => fitting.push(definition.playbook.name.value.clone()),
                Ok(false) => {}
                Err(error) => {
                    let text =
                        format!("playbook {}: its trigger's condition failed: {error}", definition.playbook.name.value);
                    return Err(Refusal::new(RefusalKind::Invalid, text));
                }
            }
        }
        match fitting.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Refusal::new(RefusalKind::Invalid, format!("no playbook takes this {}", message.name))),
            several => Err(Refusal::new(
                RefusalKind::Conflict,
                format!("several playbooks take this {}: {}", message.name, several.join(", ")),
            )),
        }
    }

    async fn admit(&self, raw: &Raw, message: &Message, considered: Considered) -> Result<Verdict, NotNow> {
        let shown = message.body.pointer("/approval/plan_hash").and_then(Value::as_str);
        let shown = shown.filter(|_| message.family == Family::Request);
        let waits = considered.needs_consent
            && self.policy.destroy == Consent::Required
            && message.family == Family::Request
            // Whoever asks for a destruction is no second principal: only an operator consents in the same breath.
            && !(shown.is_some() && self.may_approve(&message.envelope.source));
        let mut approved = None;
        if waits || shown.is_some() {
            let plan = match self.planner.plan(&considered.playbook, considered.flow, &considered.input).await {
                Ok(plan) => plan,
                Err(refusal) => return self.refuse(raw, Some(message), refusal).await,
            };
            // What was shown must be what is done, whether or not it needs consent.
            if let Err(refusal) = shown.map_or(Ok(()), |hash| same_plan(&plan, hash)) {
                return self.refuse(raw, Some(message), refusal).await;
            }
            if waits {
                return self.await_approval(raw, message, considered, plan).await;
            }
            match self.approved(&plan, &considered.playbook, considered.flow, &considered.input).await {
                Ok(plan) => approved = Some(plan),
                Err(refusal) => return self.refuse(raw, Some(message), refusal).await,
            }
        }
        let mut with = Commit { inbox: Some(inbox_key(message)), ..Commit::default() };
        if self.begins_flow(message, considered.flow)? {
            let record = self.record(message, &considered);
            with.inventory.extend(flows::begun(&record));
            let event = self.flow_event(&record, "flow_started", &message.envelope.message_id());
            with.outgoing.push(event.map_err(|failure| NotNow(failure.message))?);
        }
        let new = NewRun {
            run: event::run_id(&message.envelope.source, &message.envelope.id, &considered.playbook),
            flow: considered.flow,
            key: signature::key_end(&raw.headers),
            cause: message.envelope.message_id(),
            playbook: considered.playbook,
            subject: cluster_of(message),
            input: considered.input,
            plan: approved,
            trace: message.envelope.trace().map(str::to_owned),
            with,
        };
        match self.driver.submit(new).await {
            Ok(Submitted::New(run)) => Ok(Verdict::Accepted(Accepted { flow: considered.flow, run, duplicate: false })),
            Ok(Submitted::Known(run)) => {
                Ok(Verdict::Accepted(Accepted { flow: considered.flow, run, duplicate: true }))
            }
            Err(SubmitError::Commit(CommitError::Duplicate { first, .. })) => Ok(Verdict::Accepted(Accepted {
                flow: considered.flow,
                run: first.run.unwrap_or_default(),
                duplicate: true,
            })),
            Err(SubmitError::Commit(CommitError::Precondition { .. })) => {
                self.refuse(raw, Some(message), flow_in_use(considered.flow)).await
            }
            Err(error @ SubmitError::Commit(CommitError::TooLarge { .. } | CommitError::Invalid(_))) => {
                self.refuse(raw, Some(message), Refusal::new(RefusalKind::Invalid, chain(&error))).await
            }
            Err(error @ (SubmitError::NoPlaybook(_) | SubmitError::Input { .. })) => {
                self.refuse(raw, Some(message), Refusal::new(RefusalKind::Invalid, chain(&error))).await
            }
            Err(error) => Err(NotNow(chain(&error))),
        }
    }

    /// Whether a source may consent to what it asks for.
    fn may_approve(&self, source: &str) -> bool {
        service::find(self.agent.party(), "approve", false).is_some_and(|approve| approve.may_come_from(source))
    }

    /// What was consented to, with this contractor's part of it, which the run makes again before its first step.
    async fn approved(&self, shown: &PlanView, playbook: &str, flow: Uuid, input: &Value) -> Result<Approved, Refusal> {
        let own = self.driver.plan(playbook, flow, input).await;
        let own = own.map_err(|error| Refusal::new(RefusalKind::Conflict, chain(&error)))?.hash();
        let parts: Vec<&str> = shown.then.iter().map(|then| then.plan_hash.as_str()).collect();
        // The other contractor's part is hashed over this one's, where there is one.
        if own == shown.plan_hash || hash::of(&json!([own, parts])) == shown.plan_hash {
            return Ok(Approved { shown: shown.plan_hash.clone(), own: Some(own) });
        }
        Err(Refusal::new(RefusalKind::Conflict, "the world changed while the approval was looked at; ask again"))
    }

    /// A request begins a flow; so does a handoff that belongs to none, such as talos asking for more workers by itself.
    fn begins_flow(&self, message: &Message, flow: Uuid) -> Result<bool, NotNow> {
        if message.family == Family::Request {
            return Ok(true);
        }
        if message.name != "scale_request" || self.agent.party() != Party::Infrastructure {
            return Ok(false);
        }
        let found = self.store.reader().get::<FlowRecord>(&flows::key(flow)).map_err(|error| NotNow(chain(&error)))?;
        Ok(found.is_none())
    }

    async fn await_approval(
        &self,
        raw: &Raw,
        message: &Message,
        considered: Considered,
        plan: PlanView,
    ) -> Result<Verdict, NotNow> {
        let known = self.store.reader().get::<FlowRecord>(&flows::key(considered.flow));
        if known.map_err(|error| NotNow(chain(&error)))?.is_some() {
            return self.refuse(raw, Some(message), flow_in_use(considered.flow)).await;
        }
        let record = self.record(message, &considered);
        let pending = flows::Pending {
            run: event::run_id(&message.envelope.source, &message.envelope.id, &considered.playbook),
            playbook: considered.playbook,
            input: considered.input,
            cause: message.envelope.message_id(),
            plan_hash: plan.plan_hash.clone(),
            expires: Timestamp::now().checked_add(self.policy.consent_within.0).unwrap_or(Timestamp::MAX),
            record,
        };
        let event = self.flow_event(&pending.record, "flow_awaits_approval", &pending.cause);
        let deed = store::Deed {
            who: message.envelope.source.clone(),
            key: signature::key_end(&raw.headers),
            did: "approval_awaited".to_owned(),
            object: Some(message.name.clone()),
            cluster: pending.record.cluster.clone(),
            flow: Some(considered.flow),
            run: Some(pending.run),
            plan: Some(plan.plan_hash.clone()),
            outcome: None,
        };
        let commit = Commit {
            audit: vec![deed],
            inbox: Some(inbox_key(message)),
            inventory: vec![InventoryChange::create(flows::pending_key(considered.flow), pending.to_value())],
            outgoing: vec![event.map_err(|failure| NotNow(failure.message))?],
            ..Commit::default()
        };
        match self.store.commit(commit).await {
            Ok(_) | Err(CommitError::Duplicate { .. }) => {
                Ok(Verdict::AwaitsApproval { flow: considered.flow, plan: Box::new(plan) })
            }
            Err(CommitError::Precondition { .. }) => {
                self.refuse(raw, Some(message), flow_in_use(considered.flow)).await
            }
            Err(error @ (CommitError::TooLarge { .. } | CommitError::Invalid(_))) => {
                self.refuse(raw, Some(message), Refusal::new(RefusalKind::Invalid, chain(&error))).await
            }
            Err(error) => Err(NotNow(chain(&error))),
        }
    }

    async fn commit(&self, commit: Commit) -> Result<(), NotNow> {
        match self.store.commit(commit).await {
            Ok(_) | Err(CommitError::Duplicate { .. }) => Ok(()),
            Err(error) => Err(NotNow(chain(&error))),
        }
    }

    fn record(&self, message: &Message, considered: &Considered) -> FlowRecord {
        let asked = message.body.get("deadline").cloned().and_then(|period| serde_json::from_value(period).ok());
        let period: messages::name::Period = asked.unwrap_or(self.policy.flow_deadline);
        let policy: Option<FailurePolicy> =
            message.body.get("failure_policy").and_then(|policy| serde_json::from_value(policy.clone()).ok());
        let now = Timestamp::now();
        FlowRecord {
            flow: considered.flow,
            kind: message.name.clone(),
            cluster: cluster_of(message),
            trace: message.envelope.trace().map(str::to_owned),
            source: message.envelope.source.clone(),
            started: now,
            deadline: now.checked_add(period.0).unwrap_or(Timestamp::MAX),
            state: flows::State::Open,
            ended: None,
            failing: None,
            failure_policy: policy.unwrap_or_default(),
            cancelled: None,
            reason: None,
            hint: None,
        }
    }

    fn flow_event(&self, record: &FlowRecord, name: &str, cause: &str) -> Result<store::Outgoing, event::Failure> {
        record.event(&self.herald, name, Some(cause))
    }
}

/// What of a message that comes again is answered from memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// That it was taken.
    Taken,
    /// That it was taken or refused.
    Refused,
}

struct Considered {
    playbook: String,
    flow: Uuid,
    input: Value,
    needs_consent: bool,
}

/// The flow that a message belongs to, or begins.
pub fn flow_of(message: &Message) -> Uuid {
    message.envelope.correlation.unwrap_or_else(|| {
        Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("flow:{}", message.envelope.message_id()).as_bytes())
    })
}

fn cluster_of(message: &Message) -> Option<String> {
    let named = message.body.get("cluster_name").and_then(Value::as_str).map(str::to_owned);
    named.or_else(|| message.envelope.cluster.as_ref().map(ToString::to_string))
}

/// What messages because of it say that they are about.
fn context_of(message: &Message) -> Context {
    Context {
        flow: Some(flow_of(message)),
        cause: Some(message.envelope.message_id()),
        cluster: cluster_of(message),
        trace: message.envelope.trace().map(str::to_owned),
    }
}

fn inbox_key(message: &Message) -> InboxKey {
    InboxKey { source: message.envelope.source.clone(), id: message.envelope.id.clone() }
}

fn flow_in_use(flow: Uuid) -> Refusal {
    Refusal::new(RefusalKind::Conflict, format!("flow {flow} belongs to another request"))
        .with_hint("every request begins a flow of its own: leave cortex-correlation-id out, or choose a new one")
}

fn same_plan(plan: &PlanView, approved: &str) -> Result<(), Refusal> {
    if plan.plan_hash == approved {
        return Ok(());
    }
    let text = "the world is not what the approved plan was made from; the approval is void";
    Err(Refusal::new(RefusalKind::Changed, text)
        .with_hint(format!("look at the new plan and approve its hash {}", plan.plan_hash)))
}

fn internal(failure: event::Failure) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, failure.message)
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
