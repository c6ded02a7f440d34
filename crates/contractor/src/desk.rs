//! Answers queries and commands over NATS services, discoverable with `$SRV.INFO`.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bus::{Bus, Call, ServiceSpec};
use jiff::Timestamp;
use messages::{
    catalogue::Family,
    json,
    query::{Answer, Refusal, RefusalKind},
    subject::Subject,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use store::{AuditHead, Commit, CommitError, Deed, RunQuery, RunState, Store};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    agent::{Agent, Asked, Query},
    audit,
    driver::{CommandError, Driver},
    flows::{self, FlowRecord},
    inbound::{answer, answer_text},
    intake::{Intake, Raw, chain},
    trust::Signed,
    views,
};

/// The contractor's desk: whoever asks is answered here.
pub struct Desk {
    /// Whose desk.
    pub agent: Arc<dyn Agent>,
    /// Where questions come from.
    pub bus: Bus,
    /// Takes submitted requests, makes plans.
    pub intake: Arc<Intake>,
    /// Everything the contractor remembers.
    pub store: Store,
    /// Runs playbooks.
    pub driver: Driver,
    /// Version that discovery shows.
    pub version: &'static str,
}

const READS: [&str; 10] = [
    "flows.list",
    "flows.show",
    "runs.list",
    "runs.show",
    "playbooks.list",
    "playbooks.show",
    "plan",
    "store.verify",
    "audit.list",
    "audit.verify",
];
/// Audit records in one answer: about 100 KiB.
const AUDIT_PAGE: u64 = 200;
const COMMANDS: [&str; 8] = [
    "submit",
    "approve",
    "flows.cancel",
    "flows.resume",
    "runs.resume",
    "store.export",
    "store.compact",
    "outbox.retry",
];

impl Desk {
    /// Answers until `stop`. Every question is answered in a task of its own.
    ///
    /// # Errors
    /// If the service cannot be started.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> Result<(), String> {
        let party = self.agent.party();
        let own = self.agent.queries();
        let mut subjects: Vec<String> = READS.iter().map(|name| format!("cortex.query.{party}.{name}")).collect();
        subjects.extend(COMMANDS.iter().map(|name| format!("cortex.cmd.{party}.{name}")));
        subjects.extend(own.iter().map(|query| {
            let family = if query.reads { "query" } else { "cmd" };
            format!("cortex.{family}.{party}.{}", query.name)
        }));
        let accepts: Vec<String> = self
            .intake
            .library
            .iter()
            .filter_map(|definition| views::playbook(definition, party.as_str(), false).trigger)
            .collect();
        let spec = ServiceSpec {
            name: format!("{party}-contractor"),
            version: self.version.to_owned(),
            description: format!("{party}-contractor: requests, handoffs, queries"),
            metadata: BTreeMap::from([("accepts".to_owned(), accepts.join(", "))]),
            subjects,
        };
        let mut service = self.bus.serve(spec).await.map_err(|error| error.to_string())?;
        let own = Arc::new(own);
        loop {
            let call = tokio::select! {
                () = stop.cancelled() => break,
                call = service.next() => call,
            };
            let Some(call) = call else { break };
            let (desk, own) = (Arc::clone(&self), Arc::clone(&own));
            tokio::spawn(async move { desk.serve(call, &own).await });
        }
        service.stop().await.map_err(|error| error.to_string())
    }

    async fn serve(&self, call: Call, own: &[Query]) {
        let answer = match self.answer(&call, own).await {
            Ok(value) => value,
            Err(refusal) => Answer::Error(refusal),
        };
        if let Err(error) = call.answer(answer_text(&answer).into()).await {
            tracing::debug!(%error, "the caller is gone");
        }
    }

    async fn answer(&self, call: &Call, own: &[Query]) -> Result<Answer, Refusal> {
        let party = self.agent.party().as_str();
        let name = call.subject.strip_prefix("cortex.").unwrap_or_default();
        let (family, rest) = name.split_once('.').unwrap_or_default();
        let name = rest.strip_prefix(party).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default();
        if family == "cmd" && name == "submit" {
            return self.submit(call).await;
        }
        let arguments = arguments(call)?;
        let by = match family {
            "cmd" => self.caller(call)?,
            _ => self.caller(call).unwrap_or_else(|_| "/anonymous".to_owned()),
        };
        let asked = Asked { arguments, by };
        let own = own.iter().find(|query| query.name == name);
        let value = match (family, own) {
            ("cmd", own) => self.perform(name, asked, own).await?,
            (_, Some(query)) => (query.answer)(asked).await?,
            (_, None) => self.read(name, &asked).await?,
        };
        Ok(Answer::Ok(value))
    }

    /// Carries a command out; the audit log has it before anything happens.
    async fn perform(&self, name: &str, asked: Asked, own: Option<&Query>) -> Result<Value, Refusal> {
        let of = asked.clone();
        match self.note(audit::command(name, &of, None)).await {
            // On a full disk the commands that make room must work.
            Err(error) if error.is_transient() && name.starts_with("store.") => {
                tracing::warn!(%error, name, by = of.by, "a command is carried out without a record in the audit log");
            }
            noted => noted.map_err(|error| broken(&error))?,
        }
        let done = match own {
            Some(query) => (query.answer)(asked).await,
            None => self.command(name, asked).await,
        };
        if let Err(refusal) = &done
            && let Err(error) = self.note(audit::command(name, &of, Some(refusal))).await
        {
            tracing::warn!(%error, name, "the audit log does not have that a command was refused");
        }
        done
    }

    async fn note(&self, deed: Deed) -> Result<(), CommitError> {
        self.store.commit(Commit { audit: vec![deed], ..Commit::default() }).await.map(drop)
    }

    fn caller(&self, call: &Call) -> Result<String, Refusal> {
        let signed = Signed { subject: &call.subject, headers: &call.headers, body: &call.body };
        self.intake
            .gate
            .trust
            .check_caller(signed, Timestamp::now())
            .map_err(|error| Refusal::new(RefusalKind::Forbidden, format!("commands must be signed: {error}")))
    }

    /// A request whose sender wants to know at once; same body, same checks as on the stream.
    async fn submit(&self, call: &Call) -> Result<Answer, Refusal> {
        let raw = self.raw(call, Family::Request, None)?;
        match self.intake.take(&raw).await {
            Ok(verdict) => Ok(answer(verdict)),
            Err(reason) => Err(Refusal::new(RefusalKind::Unavailable, reason.to_string())),
        }
    }

    fn raw(&self, call: &Call, family: Family, kind: Option<&str>) -> Result<Raw, Refusal> {
        let from_type =
            call.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("ce-type")).and_then(|(_, of)| {
                of.strip_prefix(&format!("cortex.{}.", family.as_str()))?.strip_suffix(".v1").map(str::to_owned)
            });
        let from_body = || {
            let body = json::parse(&call.body).ok()?;
            let named = body.get("request_type").or_else(|| body.get("handoff_type"))?;
            named.as_str().map(str::to_owned)
        };
        let kind = kind.map(str::to_owned).or(from_type).or_else(from_body).ok_or_else(|| {
            Refusal::new(
                RefusalKind::Invalid,
                "which request it is must be said in ce-type or in the body's request_type",
            )
        })?;
        let to = self.agent.party();
        let subject = match family {
            Family::Handoff => Subject::Handoff { to, kind },
            Family::Request | Family::Event => Subject::Request { to, kind },
        };
        Ok(Raw {
            subject: subject.to_string(),
            signed_subject: call.subject.clone(),
            headers: call.headers.clone(),
            body: call.body.clone(),
            stream: String::new(),
            sequence: 0,
            published: Timestamp::now(),
        })
    }

    async fn read(&self, name: &str, asked: &Asked) -> Result<Value, Refusal> {
        let party = self.agent.party().as_str();
        match name {
            "flows.list" => self.flows(),
            "flows.show" => self.flow(argument(asked, "flow")?),
            "runs.list" => self.runs(asked),
            "runs.show" => {
                let run: Uuid = argument(asked, "run")?;
                let report = self.driver.report(run).map_err(|error| broken(&error))?;
                let report = report.ok_or_else(|| missing("run", run))?;
                value(&views::run(&report, party))
            }
            "playbooks.list" => {
                let all: Vec<_> =
                    self.intake.library.iter().map(|found| views::playbook(found, party, false)).collect();
                value(&all)
            }
            "playbooks.show" => {
                let name: String = argument(asked, "playbook")?;
                let found = self.intake.library.get(&name).ok_or_else(|| missing("playbook", &name))?;
                value(&views::playbook(found, party, true))
            }
            "plan" => self.plan(asked).await,
            "store.verify" => {
                let verified = self.store.reader().verify().map_err(|error| broken(&error))?;
                value(&verified)
            }
            "audit.list" => {
                let number = |name: &str| asked.arguments.get(name).and_then(Value::as_u64);
                let limit = number("limit").unwrap_or(AUDIT_PAGE).min(AUDIT_PAGE);
                let records = self.store.reader().audit(number("from").unwrap_or(1), limit as usize);
                value(&records.map_err(|error| broken(&error))?)
            }
            "audit.verify" => {
                let heads: Vec<AuditHead> = argument(asked, "heads")?;
                value(&self.store.reader().verify_audit(&heads).map_err(|error| broken(&error))?)
            }
            _ => Err(Refusal::new(RefusalKind::NotFound, format!("there is no query {name}"))),
        }
    }

    async fn command(&self, name: &str, asked: Asked) -> Result<Value, Refusal> {
        match name {
            "approve" => {
                let flow = argument(&asked, "flow")?;
                let hash: String = argument(&asked, "plan_hash")?;
                value(&self.intake.approve(flow, &hash, &asked.by).await?)
            }
            "flows.cancel" => {
                let flow: Uuid = argument(&asked, "flow")?;
                let runs = self.driver.cancel(flow, &asked.by).await.map_err(|error| no_effect(&error))?;
                Ok(json!({ "flow": flow, "runs": runs }))
            }
            "flows.resume" => self.resume_flow(argument(&asked, "flow")?, &asked.by).await,
            "runs.resume" => {
                let run: Uuid = argument(&asked, "run")?;
                self.driver.resume(run, &asked.by).await.map_err(|error| no_effect(&error))?;
                Ok(json!({ "run": run }))
            }
            "store.export" => {
                let file: String = argument(&asked, "file")?;
                let exported = self.store.export(Path::new(&file)).await.map_err(|error| broken(&error))?;
                Ok(json!({ "file": file, "exported": format!("{exported:?}") }))
            }
            "store.compact" => {
                let compacted = self.store.compact().await.map_err(|error| broken(&error))?;
                Ok(json!({ "compacted": format!("{compacted:?}") }))
            }
            "outbox.retry" => self.retry_parked().await,
            _ => Err(Refusal::new(RefusalKind::NotFound, format!("there is no command {name}"))),
        }
    }

    async fn plan(&self, asked: &Asked) -> Result<Value, Refusal> {
        let family = match asked.arguments.get("family").and_then(Value::as_str) {
            Some("handoff") => Family::Handoff,
            _ => Family::Request,
        };
        let kind: String = argument(asked, "type")?;
        let body = asked.arguments.get("body").cloned().unwrap_or_default();
        let flow = asked.arguments.get("flow").and_then(Value::as_str).and_then(|flow| flow.parse().ok());
        value(&self.intake.plan(family, &kind, body, flow).await?)
    }

    fn flows(&self) -> Result<Value, Refusal> {
        let party = self.agent.party().as_str();
        let reader = self.store.reader();
        let mut views = Vec::new();
        for entry in reader.scan::<FlowRecord>("flow/").map_err(|error| broken(&error))? {
            let mut runs = reader.runs(&RunQuery::flow(entry.value.flow)).map_err(|error| broken(&error))?;
            runs.sort_by_key(|run| run.started_at);
            let runs = runs.iter().map(|run| views::run_row(run, party)).collect();
            views.extend(views::flow(entry.value.flow, Some(&entry.value), runs));
        }
        for entry in reader.scan::<flows::Pending>("pending/").map_err(|error| broken(&error))? {
            if let Some(mut view) = views::flow(entry.value.record.flow, Some(&entry.value.record), Vec::new()) {
                view.state = "waiting".into();
                view.reason = Some(format!("waits for approval of plan {}", entry.value.plan_hash));
                views.push(view);
            }
        }
        views.sort_by_key(|view| std::cmp::Reverse(view.started));
        value(&views)
    }

    fn flow(&self, flow: Uuid) -> Result<Value, Refusal> {
        let party = self.agent.party().as_str();
        let reader = self.store.reader();
        let record = reader.get::<FlowRecord>(&flows::key(flow)).map_err(|error| broken(&error))?;
        let mut rows = reader.runs(&RunQuery::flow(flow)).map_err(|error| broken(&error))?;
        rows.sort_by_key(|row| row.started_at);
        let mut runs = Vec::new();
        for row in &rows {
            let report = self.driver.report(row.run).map_err(|error| broken(&error))?;
            runs.push(report.map_or_else(|| views::run_row(row, party), |report| views::run(&report, party)));
        }
        let view = views::flow(flow, record.as_ref().map(|record| &record.value), runs);
        value(&view.ok_or_else(|| missing("flow", flow))?)
    }

    fn runs(&self, asked: &Asked) -> Result<Value, Refusal> {
        let text = |name: &str| asked.arguments.get(name).and_then(Value::as_str).map(str::to_owned);
        let states = match text("state") {
            None => Vec::new(),
            Some(state) => {
                let found = RunState::ALL.into_iter().find(|of| of.as_str() == state);
                let known: Vec<&str> = RunState::ALL.iter().map(|state| state.as_str()).collect();
                vec![found.ok_or_else(|| {
                    Refusal::new(RefusalKind::Invalid, format!("state must be one of {}", known.join(", ")))
                })?]
            }
        };
        let query = RunQuery {
            flow: text("flow").and_then(|flow| flow.parse().ok()),
            cluster: text("cluster"),
            playbook: text("playbook"),
            states,
            limit: asked.arguments.get("limit").and_then(Value::as_u64).unwrap_or(100) as usize,
        };
        let rows = self.store.reader().runs(&query).map_err(|error| broken(&error))?;
        let party = self.agent.party().as_str();
        value(&rows.iter().map(|row| views::run_row(row, party)).collect::<Vec<_>>())
    }

    async fn resume_flow(&self, flow: Uuid, by: &str) -> Result<Value, Refusal> {
        let rows = self.store.reader().runs(&RunQuery::flow(flow)).map_err(|error| broken(&error))?;
        let halted = rows.iter().filter(|row| matches!(row.summary.state, RunState::Paused | RunState::Stuck));
        let mut resumed = Vec::new();
        for row in halted {
            self.driver.resume(row.run, by).await.map_err(|error| no_effect(&error))?;
            resumed.push(row.run);
        }
        Ok(json!({ "flow": flow, "runs": resumed }))
    }

    async fn retry_parked(&self) -> Result<Value, Refusal> {
        let parked = self.store.reader().parked().map_err(|error| broken(&error))?;
        let mut retried = 0;
        for row in parked {
            let again =
                self.store.retry_parked(row.row.message.lane, row.row.seq).await.map_err(|error| broken(&error))?;
            retried += usize::from(again.is_some());
        }
        Ok(json!({ "retried": retried }))
    }
}

fn arguments(call: &Call) -> Result<Value, Refusal> {
    if call.body.is_empty() {
        return Ok(json!({}));
    }
    json::parse(&call.body).map_err(|error| Refusal::new(RefusalKind::Invalid, format!("the arguments: {error}")))
}

fn argument<T: DeserializeOwned>(asked: &Asked, name: &str) -> Result<T, Refusal> {
    let found = asked.arguments.get(name).cloned();
    let found = found.ok_or_else(|| Refusal::new(RefusalKind::Invalid, format!("argument `{name}` is missing")))?;
    serde_json::from_value(found)
        .map_err(|error| Refusal::new(RefusalKind::Invalid, format!("argument `{name}`: {error}")))
}

fn value<T: Serialize>(view: &T) -> Result<Value, Refusal> {
    serde_json::to_value(view).map_err(|error| Refusal::new(RefusalKind::Unavailable, error.to_string()))
}

fn missing(what: &str, name: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::NotFound, format!("there is no {what} {name}"))
}

fn broken(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, chain(error))
}

fn no_effect(error: &CommandError) -> Refusal {
    let kind = match error {
        CommandError::Unknown(_) => RefusalKind::NotFound,
        CommandError::Refused(_) => RefusalKind::Conflict,
        CommandError::Commit(_) | CommandError::Read(_) => RefusalKind::Unavailable,
    };
    Refusal::new(kind, chain(error))
}
