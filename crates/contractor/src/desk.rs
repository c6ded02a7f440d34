//! Answers queries and commands over NATS services, discoverable with `$SRV.INFO`.

mod flows;
mod heard;
mod redelivery;
mod turned_away;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use bus::{Bus, Call, ServiceSpec};
use engine::{
    library::{Library, World},
    playbook::Playbook,
};
use jiff::{SignedDuration, Timestamp};
use messages::{
    catalogue::Family,
    envelope::header,
    event::DomainEvent,
    json,
    query::{Answer, Refusal, RefusalKind},
    service::{self, Service},
    subject::Subject,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use store::{AuditHead, Commit, CommitError, Deed, Exported, ReadError, Reader, Store, TransferError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::turned_away::TurnedAway;

use crate::{
    agent::{Agent, Asked, Query},
    audit,
    damage::unavailable,
    driver::{CommandError, Driver},
    herald::Context,
    inbound::{answer, answer_text},
    intake::{Intake, Raw, chain},
    runtime::message_schema,
    trust::{Caller, Distrust, Signed},
    views,
};

/// The contractor's desk: whoever asks is answered here.
pub struct Desk {
    /// Whose desk.
    agent: Arc<dyn Agent>,
    /// Where questions come from.
    bus: Bus,
    /// Takes submitted requests, makes plans.
    intake: Arc<Intake>,
    /// Everything the contractor remembers.
    store: Store,
    /// Runs playbooks.
    driver: Driver,
    /// Commands that nobody had a right to.
    turned_away: TurnedAway,
    /// For how long messages that were taken are recognised; older ones are not taken again.
    remembers: SignedDuration,
    /// Lets one check of the whole store be made at a time.
    checks: Arc<Semaphore>,
}

/// Audit records in one answer: about 100 KiB.
const AUDIT_PAGE: usize = 200;

/// A desk that listens: what is asked waits until it [runs](OpenDesk::run).
pub struct OpenDesk {
    desk: Arc<Desk>,
    service: bus::Service,
    own: Arc<Vec<Query>>,
}

impl OpenDesk {
    /// Answers until `stop`. Every question is answered in a task of its own.
    ///
    /// # Errors
    /// If the service does not stop as it should.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), String> {
        let mut minute = tokio::time::interval(turned_away::MINUTE);
        loop {
            let call = tokio::select! {
                () = stop.cancelled() => break,
                _ = minute.tick() => {
                    let desk = Arc::clone(&self.desk);
                    tokio::spawn(async move { desk.end_minute().await });
                    continue;
                }
                call = self.service.next() => call,
            };
            let Some(call) = call else { break };
            let (desk, own) = (Arc::clone(&self.desk), Arc::clone(&self.own));
            tokio::spawn(async move { desk.serve(call, &own).await });
        }
        self.desk.end_minute().await;
        self.service.stop().await.map_err(|error| error.to_string())
    }
}

impl Desk {
    /// A desk beside the contractor's intake. Messages are recognised for as long as it `remembers` them.
    pub fn new(intake: &Arc<Intake>, bus: &Bus, remembers: SignedDuration) -> Self {
        Self {
            agent: Arc::clone(&intake.agent),
            bus: bus.clone(),
            intake: Arc::clone(intake),
            store: intake.store.clone(),
            driver: intake.driver.clone(),
            turned_away: TurnedAway::default(),
            remembers,
            checks: Arc::new(Semaphore::new(1)),
        }
    }

    /// Begins to listen: from here on nobody who asks is told that nobody answers.
    ///
    /// # Errors
    /// If the service cannot be started.
    pub async fn open(self: Arc<Self>) -> Result<OpenDesk, String> {
        let party = self.agent.party();
        let own = self.agent.queries();
        // What the contract says is answered; what the agent brings is part of it, or the daemon would not start.
        let subjects = service::of(party).map(|service| service.subject(party)).collect();
        if let Some(stranger) = own.iter().find(|query| service::find(party, query.name, query.reads).is_none()) {
            return Err(format!("{} is no query or command of the contract", stranger.name));
        }
        let accepts: Vec<String> = self
            .intake
            .library
            .iter()
            .filter_map(|definition| views::playbook(definition, party.as_str(), false).trigger)
            .collect();
        let spec = ServiceSpec {
            name: format!("{party}-contractor"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: format!("{party}-contractor: requests, handoffs, queries"),
            metadata: BTreeMap::from([("accepts".to_owned(), accepts.join(", "))]),
            subjects,
        };
        let service = self.bus.serve(spec).await.map_err(|error| format!("questions cannot be answered: {error}"))?;
        Ok(OpenDesk { desk: self, service, own: Arc::new(own) })
    }

    async fn serve(&self, call: Call, own: &[Query]) {
        let answer = match self.answer(&call, own).await {
            Ok(value) => value,
            Err(refusal) => Answer::Error(refusal),
        };
        let mut text = answer_text(&answer);
        let (bytes, most) = (text.len(), self.bus.max_payload());
        if bytes > most {
            let said = format!(
                "the answer has {bytes} bytes and the bus carries {most}: ask for less by a smaller limit, or of one cluster"
            );
            text = answer_text(&Answer::Error(Refusal::new(RefusalKind::Unavailable, said)));
        }
        if let Err(error) = call.answer(text.into()).await {
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
        let service = service::find(self.agent.party(), name, family != "cmd");
        let service = service.ok_or_else(|| missing(if family == "cmd" { "command" } else { "query" }, name))?;
        let caller = match service.reads {
            true => self.caller(call, service).ok(),
            false => Some(self.caller_once(call, service).await?),
        };
        let (by, key) = caller.map_or_else(|| ("/anonymous".to_owned(), None), |of| (of.source, Some(of.key)));
        let asked = Asked { arguments: arguments(call, service)?, by, key };
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
            noted => noted.map_err(|error| unavailable(&error))?,
        }
        let done = match own {
            Some(query) => self.answer_own(query, asked).await,
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

    /// The agent's own answer; what it says of itself is durable before it leaves.
    async fn answer_own(&self, query: &Query, asked: Asked) -> Result<Value, Refusal> {
        let Some(name) = query.told_as else { return (query.answer)(asked).await };
        let cluster = asked.arguments.get("cluster").and_then(Value::as_str).map(str::to_owned);
        let shown = |field: &str| asked.arguments.get(field).cloned().map(|value| (field.to_owned(), value));
        let mut facts: BTreeMap<String, Value> =
            ["role", "ttl", "recipient", "what"].into_iter().filter_map(shown).collect();
        facts.entry("what".to_owned()).or_insert_with(|| query.name.into());
        facts.insert("by".to_owned(), asked.by.clone().into());
        let body = DomainEvent {
            event_type: name.to_owned(),
            object: cluster.clone().unwrap_or_default(),
            flow: None,
            message: Some(format!("{} for {}", query.name, asked.by)),
            facts,
        };
        let answer = (query.answer)(asked).await?;
        let context = Context { cluster, ..Context::default() };
        let event = self.intake.herald.event(Uuid::now_v7(), name, &context, &body);
        let event = event.map_err(|failure| Refusal::new(RefusalKind::Unavailable, failure.message))?;
        let commit = Commit { outgoing: vec![event], ..Commit::default() };
        self.store.commit(commit).await.map_err(|error| unavailable(&error))?;
        Ok(answer)
    }

    /// Reads playbooks as the daemon would at its start, together with those that it has.
    fn check_playbooks(&self, asked: &Asked) -> Result<Value, Refusal> {
        let files: BTreeMap<String, String> = argument(asked, "files")?;
        // A file takes the place of the loaded playbook that it names.
        let parsed = files.iter().filter_map(|(name, text)| Playbook::parse(name, text).ok());
        let replaced: BTreeSet<String> = parsed.map(|playbook| playbook.name.value).collect();
        let loaded = self.intake.library.iter().map(|definition| &definition.playbook);
        let kept = loaded.filter(|playbook| !replaced.contains(&playbook.name.value));
        let kept = kept.map(|playbook| (format!("loaded {}", playbook.name.value), playbook.text.clone()));
        let texts: Vec<(String, String)> = kept.chain(files.clone()).collect();
        let actions = self.agent.actions();
        let world = World { catalog: &actions, messages: &message_schema, conditions: self.agent.conditions() };
        let problems = Library::load(&texts, &world).err().map_or_else(Vec::new, |problems| problems.0);
        let ours = problems.iter().map(ToString::to_string).filter(|text| files.keys().any(|name| text.contains(name)));
        Ok(json!({ "problems": ours.collect::<Vec<_>>() }))
    }

    /// Who gives a command, for the first time. Whoever may not leaves a line in the audit log.
    async fn caller_once(&self, call: &Call, service: &Service) -> Result<Caller, Refusal> {
        let believed = match self.caller(call, service) {
            Ok(caller) => heard::first(&self.store, &caller, &call.headers, service.name).await.map(|()| caller),
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = &believed
            && refusal.kind != RefusalKind::Unavailable
        {
            self.turn_away(call, service, refusal).await;
        }
        believed
    }

    fn caller(&self, call: &Call, service: &Service) -> Result<Caller, Refusal> {
        let signed = Signed { subject: &call.subject, headers: &call.headers, body: &call.body };
        self.intake.gate.trust.check_caller(signed, service, Timestamp::now()).map_err(|error| {
            let text = match error {
                Distrust::NotEntitled { .. } => error.to_string(),
                unproven => format!("commands must be signed: {unproven}"),
            };
            Refusal::new(RefusalKind::Forbidden, text)
        })
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
        let from_type = header(&call.headers, "ce-type").and_then(|of| {
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
            stream_created: Timestamp::UNIX_EPOCH,
            sequence: 0,
            published: Timestamp::now(),
            judged_at: Timestamp::now(),
        })
    }

    async fn read(&self, name: &str, asked: &Asked) -> Result<Value, Refusal> {
        let party = self.agent.party().as_str();
        match name {
            "flows.list" => self.flows(asked).await,
            "flows.show" => self.flow(argument(asked, "flow")?).await,
            "runs.list" => self.runs(asked).await,
            "runs.show" => value(&self.look().show_run(argument(asked, "run")?)?),
            "playbooks.list" => {
                let all: Vec<_> =
                    self.intake.library.iter().map(|found| views::playbook(found, party, false)).collect();
                value(&all)
            }
            "playbooks.check" => self.check_playbooks(asked),
            "playbooks.show" => {
                let name: String = argument(asked, "playbook")?;
                let found = self.intake.library.get(&name).ok_or_else(|| missing("playbook", &name))?;
                value(&views::playbook(found, party, true))
            }
            "consider" => {
                let (family, kind, body) = imagined(asked)?;
                self.intake.judge(family, &kind, body).await?;
                Ok(json!({}))
            }
            "plan" => {
                let (family, kind, body) = imagined(asked)?;
                value(&self.intake.plan(family, &kind, body, optional(asked, "flow")?).await?)
            }
            "store.verify" => value(&self.check(Reader::verify).await?),
            "audit.list" => {
                let limit = optional(asked, "limit")?.unwrap_or(AUDIT_PAGE).min(AUDIT_PAGE);
                let records = self.store.reader().audit(optional(asked, "from")?.unwrap_or(1), limit);
                value(&records.map_err(|error| unavailable(&error))?)
            }
            "audit.verify" => {
                let heads: Vec<AuditHead> = argument(asked, "heads")?;
                value(&self.check(move |reader| reader.verify_audit(&heads)).await?)
            }
            _ => Err(Refusal::new(RefusalKind::NotFound, format!("there is no query {name}"))),
        }
    }

    /// Looks through everything that is kept, apart from the threads that others work on; one at a time, as anyone may ask.
    async fn check<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Reader) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let refused = |text: String| Refusal::new(RefusalKind::Unavailable, text);
        let alone = Arc::clone(&self.checks).try_acquire_owned();
        let alone = alone.map_err(|_| refused("another check is under way; ask again when it is done".to_owned()))?;
        let reader = self.store.reader();
        let looked = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            look(&reader)
        });
        looked.await.map_err(|error| refused(error.to_string()))?.map_err(|error| unavailable(&error))
    }

    async fn command(&self, name: &str, asked: Asked) -> Result<Value, Refusal> {
        match name {
            "approve" => {
                let flow = argument(&asked, "flow")?;
                let hash: String = argument(&asked, "plan_hash")?;
                value(&self.intake.approve(flow, &hash, &asked).await?)
            }
            "flows.cancel" => self.cancel_flow(argument(&asked, "flow")?, &asked.by).await,
            "flows.resume" => self.resume_flow(argument(&asked, "flow")?, &asked.by).await,
            "runs.resume" => {
                let run: Uuid = argument(&asked, "run")?;
                self.driver.resume(run, &asked.by).await.map_err(|error| no_effect(&error))?;
                Ok(json!({ "run": run }))
            }
            "store.export" => {
                let file: String = argument(&asked, "file")?;
                value(&self.export(&file).await?)
            }
            "store.compact" => {
                let compacted = self.store.compact().await.map_err(|error| unavailable(&error))?;
                value(&compacted)
            }
            "outbox.retry" => self.retry_parked().await,
            "redeliver" => self.redeliver(&asked).await,
            _ => Err(Refusal::new(RefusalKind::NotFound, format!("there is no command {name}"))),
        }
    }

    /// Where a relative path would lead, whoever asks cannot know.
    async fn export(&self, file: &str) -> Result<Exported, Refusal> {
        let refused = |text: String| Refusal::new(RefusalKind::Invalid, text);
        if !Path::new(file).is_absolute() {
            return Err(refused(format!(
                "argument `file`: a whole path on the daemon's machine is wanted, not {file}"
            )));
        }
        self.store.export(Path::new(file)).await.map_err(|error| match error {
            TransferError::Target { .. } => refused(chain(&error)),
            other => unavailable(&other),
        })
    }

    async fn retry_parked(&self) -> Result<Value, Refusal> {
        let parked = self.store.reader().parked().map_err(|error| unavailable(&error))?;
        let mut retried = 0;
        for row in parked {
            let again = self
                .store
                .retry_parked(row.row.message.lane, row.row.seq)
                .await
                .map_err(|error| unavailable(&error))?;
            retried += usize::from(again.is_some());
        }
        Ok(json!({ "retried": retried }))
    }
}

fn arguments(call: &Call, service: &Service) -> Result<Value, Refusal> {
    let invalid = |text: String| Refusal::new(RefusalKind::Invalid, text);
    let arguments = match call.body.is_empty() {
        true => json!({}),
        false => json::parse(&call.body).map_err(|error| invalid(format!("the arguments: {error}")))?,
    };
    service.fits(&arguments).map_err(invalid)?;
    Ok(arguments)
}

/// The message that is asked about.
fn imagined(asked: &Asked) -> Result<(Family, String, Value), Refusal> {
    let family = match asked.arguments.get("family").and_then(Value::as_str) {
        Some("handoff") => Family::Handoff,
        _ => Family::Request,
    };
    Ok((family, argument(asked, "type")?, asked.arguments.get("body").cloned().unwrap_or_default()))
}

fn argument<T: DeserializeOwned>(asked: &Asked, name: &str) -> Result<T, Refusal> {
    let found = asked.arguments.get(name).cloned();
    let found = found.ok_or_else(|| Refusal::new(RefusalKind::Invalid, format!("argument `{name}` is missing")))?;
    serde_json::from_value(found)
        .map_err(|error| Refusal::new(RefusalKind::Invalid, format!("argument `{name}`: {error}")))
}

/// The same for one that may be left out.
fn optional<T: DeserializeOwned>(asked: &Asked, name: &str) -> Result<Option<T>, Refusal> {
    match asked.arguments.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => argument(asked, name).map(Some),
    }
}

fn value<T: Serialize>(view: &T) -> Result<Value, Refusal> {
    serde_json::to_value(view).map_err(|error| Refusal::new(RefusalKind::Unavailable, error.to_string()))
}

fn missing(what: &str, name: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::NotFound, format!("there is no {what} {name}"))
}

fn no_effect(error: &CommandError) -> Refusal {
    let kind = match error {
        CommandError::Unknown(_) => RefusalKind::NotFound,
        CommandError::Refused(_) => RefusalKind::Conflict,
        CommandError::Stopping | CommandError::Commit(_) | CommandError::Read(_) => RefusalKind::Unavailable,
    };
    Refusal::new(kind, chain(error))
}
