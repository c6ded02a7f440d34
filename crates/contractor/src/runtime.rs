//! A running contractor: wires store, bus, driver, intake and desk together, and stops them in order.

mod broker;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Bus, Link, identity, streams};
use engine::library::{Library, MessageKind, Unchecked, World};
use jiff::{SignedDuration, Timestamp};
use messages::{
    catalogue::{self, Family},
    event::DomainEvent,
    schema,
    subject::Party,
};
use metrics_exporter_prometheus::PrometheusHandle;
use nkeys::KeyPair;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use store::{Commit, CommitError, Lane, Store};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    agent::{Agent, Background, Workplace},
    audit,
    config::Common,
    credentials::{self, CredentialFile, Watcher},
    damage,
    desk::Desk,
    driver::{Driver, Parts, SystemClock, plan_only},
    flows::Keeper,
    herald::{Context, Herald},
    hooks::AgentHooks,
    http::{self, Health},
    inbound::Receiver,
    intake::{Gate, Intake, chain},
    outbound::Publisher,
    planner::Planner,
    refused::Refused,
    telemetry, triggers,
    trust::Trust,
};

pub use self::broker::check_bus;
use self::broker::reach_bus;

/// How long running attempts get to end when the daemon stops.
const GRACE: Duration = Duration::from_secs(10);

/// What a contractor has on disk, and what it makes of it.
pub struct Opened {
    /// Its store.
    pub store: Store,
    /// The agent that works with it.
    pub agent: Arc<dyn Agent>,
    /// The playbooks that it runs.
    pub library: Library,
}

/// Runs a contractor until `stop`. What `open` opens takes as long as the connection to the bus does: both are made at the
/// same time.
///
/// # Errors
/// One line that says what could not be started, and why.
pub async fn run(
    party: Party,
    common: &Common,
    files: Vec<CredentialFile>,
    metrics: PrometheusHandle,
    open: impl FnOnce() -> Result<Opened, String> + Send + 'static,
    stop: CancellationToken,
) -> Result<(), String> {
    let (health, seen) = watch::channel(Health::default());
    let (address, served) = http::serve(common.http.listen, seen, metrics.clone(), stop.clone())
        .await
        .map_err(|error| format!("http.listen: {error}"))?;
    tracing::info!(%address, "health and metrics");

    let (seed, key) = read_key(&common.bus.seed_file)?;
    let opening = async { tokio::task::spawn_blocking(open).await.map_err(|error| error.to_string())? };
    let (Opened { store, agent, library }, bus) = tokio::try_join!(opening, reach_bus(party, common, seed))?;
    let (changed, flows) = mpsc::unbounded_channel();
    let herald = Herald::new(party, changed);
    let driver = start_driver(&agent, &library, &herald, &store).await?;
    let place = Workplace { store: store.clone(), herald: herald.clone(), driver: driver.clone() };

    let intake = Arc::new(Intake {
        agent: Arc::clone(&agent),
        gate: Gate { party, trust: trust(common) },
        library: library.clone(),
        store: store.clone(),
        driver: driver.clone(),
        herald: herald.clone(),
        planner: Planner { agent: Arc::clone(&agent), driver: driver.clone(), bus: bus.clone() },
        policy: common.policy.clone(),
    });
    let (trouble, kept) = watch::channel(None);
    let keeper = Keeper {
        at: place.clone(),
        agent: Arc::clone(&agent),
        retention: common.store.retention(),
        archive_after: common.store.archive_after.to_std(),
        trouble,
    };
    let desk = Arc::new(Desk::new(&intake, &bus, common.store.keep_inbox.0)).open().await?;

    let mut tasks = Tasks::new(stop.clone());
    tasks.spawn("metrics", telemetry::sum_up(metrics, stop.clone()));
    let mut troubles = spawn_publishers(&mut tasks, &store, &bus, &key)?;
    troubles.extend(spawn_receivers(&mut tasks, &bus, &intake));
    troubles.push(kept);
    tasks.spawn("audit", audit::tell_heads(store.clone(), herald.clone(), party, stop.clone()));
    tasks.spawn("flow keeper", keeper.run(flows, stop.clone()));
    let own = Background { at: place, playbooks: library, bus: bus.clone(), stop: stop.clone() };
    tasks.spawn_fallible("desk", desk.run(stop.clone()));
    let warnings = spawn_watcher(&mut tasks, &own, &agent, files, common.certificates.warn_before.0);
    spawn_own_work(&mut tasks, &*agent, own);
    let told = Told { troubles, warnings };
    let watched = Watched { store: store.clone(), bus: bus.clone(), driver: driver.clone() };
    let watch = watch_health(health.clone(), watched, told, stop.clone());
    tasks.spawn_fallible("store", watch);

    announce(&herald, &store, &*agent).await?;
    health.send_modify(|health| health.ready = true);
    tracing::info!(%party, "ready");

    let ended = tasks.until_stopped().await;
    health.send_modify(|health| health.ready = false);
    stop.cancel();
    driver.shutdown(GRACE).await;
    tasks.join().await;
    bus.close().await;
    if let Err(error) = served.await {
        tracing::debug!(%error, "the http endpoint did not end well");
    }
    store.close().await;
    ended
}

/// The nkey of the contractor's identity, to connect and to sign with.
fn read_key(seed_file: &Path) -> Result<(SecretString, KeyPair), String> {
    let seed = identity::read_seed(seed_file).map_err(|error| error.to_string())?;
    let key = KeyPair::from_seed(seed.expose_secret())
        .map_err(|_| format!("{} does not hold an nkey seed", seed_file.display()))?;
    Ok((seed, key))
}

/// The driver, with every run that is not finished going on.
async fn start_driver(
    agent: &Arc<dyn Agent>,
    library: &Library,
    herald: &Herald,
    store: &Store,
) -> Result<Driver, String> {
    let parts = Parts {
        journal: Arc::new(store.clone()),
        actions: agent.actions(),
        playbooks: library.clone(),
        clock: Arc::new(SystemClock),
        hooks: Arc::new(AgentHooks { herald: herald.clone(), agent: Arc::clone(agent), store: store.reader() }),
    };
    Driver::start(parts).await.map_err(|error| damage::reason(&error))
}

/// The watch over all certificates: what it warns of.
fn spawn_watcher(
    tasks: &mut Tasks,
    own: &Background,
    agent: &Arc<dyn Agent>,
    files: Vec<CredentialFile>,
    warn_before: SignedDuration,
) -> watch::Receiver<Vec<String>> {
    let (warnings, warned) = watch::channel(Vec::new());
    let (agent, bus) = (Arc::clone(agent), own.bus.clone());
    let watcher = Watcher {
        kept: Arc::new(move || [agent.certificates(), credentials::shown_by(&bus)].concat()),
        store: own.at.store.clone(),
        herald: own.at.herald.clone(),
        files,
        warn_before,
        warnings,
    };
    tasks.spawn("watch over certificates", watcher.run(own.stop.clone()));
    warned
}

/// What the contractor does without being asked: schedules, and what the agent has besides.
fn spawn_own_work(tasks: &mut Tasks, agent: &dyn Agent, own: Background) {
    for (playbook, schedule) in triggers::by_schedule(&own.playbooks) {
        tasks.spawn("schedule", triggers::follow_schedule(own.at.clone(), playbook, schedule, own.stop.clone()));
    }
    for (name, work) in agent.background(own) {
        tasks.spawn(name, work);
    }
}

/// Why a lane or a consumer stands still; for `/healthz`.
type Trouble = watch::Receiver<Option<String>>;

/// What the parts of the daemon say of themselves.
struct Told {
    troubles: Vec<Trouble>,
    warnings: watch::Receiver<Vec<String>>,
}

/// What is asked how it is.
struct Watched {
    store: Store,
    bus: Bus,
    driver: Driver,
}

/// One publisher for each lane of the outbox.
fn spawn_publishers(tasks: &mut Tasks, store: &Store, bus: &Bus, key: &KeyPair) -> Result<Vec<Trouble>, String> {
    let mut troubles = Vec::new();
    for lane in Lane::ALL {
        let (trouble, told) = watch::channel(None);
        troubles.push(told);
        let key = Arc::new(clone_key(key)?);
        let publisher = Publisher { store: store.clone(), bus: bus.clone(), key, lane, trouble };
        let stop = tasks.stop.clone();
        tasks.spawn("publisher", publisher.run(stop));
    }
    Ok(troubles)
}

/// One receiver for each of the contractor's consumers.
fn spawn_receivers(tasks: &mut Tasks, bus: &Bus, intake: &Arc<Intake>) -> Vec<Trouble> {
    let party = intake.agent.party();
    let consumers =
        [(streams::REQUESTS, streams::requests_of(party)), (streams::HANDOFFS, streams::handoffs_of(party))];
    let mut troubles = Vec::new();
    for (stream, durable) in consumers {
        let (trouble, told) = watch::channel(None);
        troubles.push(told);
        let (bus, intake) = (bus.clone(), Arc::clone(intake));
        let receiver = Receiver { bus, intake, stream: stream.to_owned(), durable, trouble };
        let stop = tasks.stop.clone();
        tasks.spawn("receiver", receiver.run(stop));
    }
    troubles
}

/// Built-in playbooks, replaced or joined by those of the configured folder; not checked yet.
///
/// # Errors
/// Which file or folder cannot be read.
pub fn read_playbooks(built_in: Vec<(String, String)>, common: &Common) -> Result<Unchecked, String> {
    let mut files: BTreeMap<String, String> = built_in.into_iter().collect();
    if let Some(folder) = &common.playbooks.folder {
        let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for entry in entries {
            let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
            if path.extension().is_some_and(|ending| ending == "yaml") {
                let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                files.insert(name, text);
            }
        }
    }
    let files: Vec<(String, String)> = files.into_iter().collect();
    Ok(Unchecked::read(&files))
}

/// Checks playbooks against what the agent can do.
///
/// # Errors
/// Every problem of every file.
pub fn check_playbooks(agent: &dyn Agent, read: Unchecked) -> Result<Library, String> {
    let actions = agent.actions();
    let world = World { catalog: &actions, messages: &message_schema, conditions: agent.conditions() };
    Library::check(read, &world).map_err(|problems| problems.to_string())
}

/// The schema that a playbook's references into its message are checked against.
pub fn message_schema(kind: MessageKind, name: &str) -> Option<Value> {
    let family = match kind {
        MessageKind::Request => Family::Request,
        MessageKind::Handoff => Family::Handoff,
        MessageKind::Event => Family::Event,
    };
    catalogue::find(family, name).map(schema::document)
}

fn trust(common: &Common) -> Trust {
    Trust {
        pinned: common.bus.pinned_keys.clone(),
        stale_after: common.bus.stale_after.0,
        anonymous: common.policy.anonymous.clone(),
    }
}

fn clone_key(key: &KeyPair) -> Result<KeyPair, String> {
    key.seed().and_then(|seed| KeyPair::from_seed(&seed)).map_err(|error| error.to_string())
}

/// What a playbook would do with an input, for a daemon that does not run.
///
/// # Errors
/// Why there is no plan.
pub async fn plan_offline(
    agent: &dyn Agent,
    playbooks: Unchecked,
    store: &Store,
    playbook: &str,
    input: &Value,
) -> Result<engine::plan::Plan, String> {
    let (flows, _) = mpsc::unbounded_channel();
    let parts = Parts {
        journal: Arc::new(store.clone()),
        actions: agent.actions(),
        playbooks: check_playbooks(agent, playbooks)?,
        clock: Arc::new(SystemClock),
        hooks: Arc::new(Herald::new(agent.party(), flows)),
    };
    plan_only(&parts, playbook, input).await.map_err(|error| chain(&error))
}

async fn announce(herald: &Herald, store: &Store, agent: &dyn Agent) -> Result<(), String> {
    let body = DomainEvent {
        event_type: String::new(),
        object: format!("{}-contractor", agent.party()),
        flow: None,
        message: None,
        facts: BTreeMap::from([("version".to_owned(), env!("CARGO_PKG_VERSION").into())]),
    };
    let event = herald
        .event(Uuid::now_v7(), "contractor_started", &Context::default(), &body)
        .map_err(|failure| failure.message)?;
    let commit = Commit { outgoing: vec![event], ..Commit::default() };
    match store.commit(commit).await {
        // A full disk makes work wait; it does not keep a contractor from starting.
        Err(error) if error.is_transient() => tracing::warn!(%error, "the start is not told"),
        committed => drop(committed.map_err(|error| damage::reason(&error))?),
    }
    Ok(())
}

/// Keeps `/healthz` true: the link, refused subjects, the store's writer, runs that do not go on, messages that wait. A store that failed takes
/// no more writes until it is opened again, so the daemon ends, to be started again by whoever watches over it.
async fn watch_health(
    health: watch::Sender<Health>,
    of: Watched,
    told: Told,
    stop: CancellationToken,
) -> Result<(), String> {
    let Watched { store, bus, driver } = of;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut refused = Refused::of(&bus);
    let started = Timestamp::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        if let Some(reason) = store.failure() {
            return Err(format!("{reason}; when there is room and the disk is sound, start the daemon again"));
        }
        let mut troubles: Vec<String> = told.troubles.iter().filter_map(|trouble| trouble.borrow().clone()).collect();
        match &*bus.link().borrow() {
            Link::Up => {}
            Link::Down => troubles.push("the bus is not connected".into()),
            Link::Refused(text) => troubles.push(format!("the bus refuses this identity: {text}")),
        }
        if let Some(violation) = refused.look(Instant::now()) {
            troubles.push(format!("the bus refuses to {} {}: {}", violation.verb, violation.subject, violation.text));
        }
        if let Some(CommitError::DiskFull { free, reserve }) = store.short_of_room() {
            troubles.push(format!(
                "the store's disk is full, work waits: {} MiB are free, store.reserve_mib wants {}; make room on the file \
                 system of store.path",
                free >> 20,
                reserve >> 20
            ));
        }
        if let Some(stalled) = store.stalled_for().filter(|stalled| *stalled > Duration::from_secs(5)) {
            troubles.push(format!("the store has not finished a write for {} s", stalled.as_secs()));
        }
        for (run, reason) in driver.unreadable() {
            troubles.push(format!("run {run} does not go on, and keeps its locks: {reason}"));
        }
        if refused.wants_another(Instant::now()) {
            bus.renew().await;
        }
        metrics::gauge!("contractor_uptime_seconds").set(Timestamp::now().duration_since(started).as_secs_f64());
        let warnings = told.warnings.borrow().clone();
        health.send_if_modified(|health| {
            let changed = health.troubles != troubles || health.warnings != warnings;
            (health.troubles, health.warnings) = (troubles, warnings);
            changed
        });
    }
}

/// Named tasks that must all live; one that ends before the stop ends the daemon.
struct Tasks {
    set: JoinSet<(&'static str, Result<(), String>)>,
    stop: CancellationToken,
}

impl Tasks {
    fn new(stop: CancellationToken) -> Self {
        Self { set: JoinSet::new(), stop }
    }

    fn spawn(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.spawn_fallible(name, async move {
            work.await;
            Ok(())
        });
    }

    fn spawn_fallible(&mut self, name: &'static str, work: impl Future<Output = Result<(), String>> + Send + 'static) {
        self.set.spawn(async move { (name, work.await) });
    }

    /// Waits for the stop, or for the first task that ends without it.
    async fn until_stopped(&mut self) -> Result<(), String> {
        tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            ended = self.set.join_next() => match ended {
                Some(Ok((_, Ok(())))) if self.stop.is_cancelled() => Ok(()),
                Some(Ok((name, Ok(())))) => Err(format!("the {name} ended by itself")),
                Some(Ok((name, Err(reason)))) => Err(format!("the {name} failed: {reason}")),
                Some(Err(error)) => Err(format!("a task died: {error}")),
                None => Ok(()),
            },
        }
    }

    async fn join(&mut self) {
        while self.set.join_next().await.is_some() {}
    }
}
