//! A driver over a real store with the shipped playbooks, and a mirror that serves the lab's stand-ins of add-ons.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, routing::get};
use contractor::{
    driver::{Driver, Happened, Hooks, NewRun, Parts, SystemClock},
    runtime::message_schema,
};
use engine::{
    event::Failure,
    library::{Library, World as Checked},
    report::{Report, Status},
};
use messages::catalogue::Family;
use serde_json::Value;
use sha2::{Digest, Sha256};
use store::{Commit, Outgoing, Store};
use talos::api::AllowedTargets;
use talos_contractor::{
    actions::actions,
    background::CONDITIONS,
    inventory, kubernetes,
    playbooks::playbooks,
    reach::Deps,
    settings::{AddonSettings, Manifest, TalosSettings},
};
use tokio::{net::TcpListener, task::JoinHandle};
use uuid::Uuid;

/// The only cluster of a test.
pub(crate) const CLUSTER: &str = "prod";

pub(crate) struct Bench {
    pub(crate) driver: Driver,
    pub(crate) deps: Deps,
    pub(crate) store: Store,
    emitted: Arc<Mutex<Vec<(String, Value)>>>,
    progress: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
    _mirror: JoinHandle<()>,
}

impl Bench {
    /// Its mirror answers at 127.`net`.0.2; `more` playbooks are beside the shipped ones.
    pub(crate) async fn start(net: u8, more: &[(&str, &str)]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let key_file = folder.path().join("age.key");
        store::create_key_file(&key_file).unwrap();
        let options = store::Options { key_file: Some(key_file), ..store::Options::default() };
        let store = Store::open(&folder.path().join("store"), options).unwrap();
        let (addons, mirror) = mirror(net).await;
        let deps = Deps::new(TalosSettings::default(), addons, AllowedTargets::loopback());
        let hooks = Recorder::default();
        let (emitted, progress) = (hooks.emitted.clone(), hooks.progress.clone());
        let driver = driver(&store, &deps, hooks, more).await;
        Self { driver, deps, store, emitted, progress, _folder: folder, _mirror: mirror }
    }

    /// Runs the playbook until it comes to rest.
    pub(crate) async fn run(&self, playbook: &str, input: Value) -> Report {
        let run = self.begin(playbook, input).await;
        self.rest(run).await
    }

    /// Waits until a step of the run waits for something of which it says `part`.
    pub(crate) async fn says(&self, run: Uuid, part: &str) {
        let said = async {
            loop {
                let report = self.driver.report(run).unwrap().unwrap();
                if report.steps.iter().any(|step| step.reason.as_ref().is_some_and(|reason| reason.contains(part))) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let said = tokio::time::timeout(Duration::from_secs(60), said).await;
        assert!(said.is_ok(), "it does not say {part:?}: {:#?}", self.driver.report(run).unwrap());
    }

    /// Waits until a step tells of progress with `part`; the run must not come to rest before.
    pub(crate) async fn progresses(&self, run: Uuid, part: &str) {
        let told = async {
            while !self.progress.lock().unwrap().iter().any(|text| text.contains(part)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = told => {}
            report = self.rest(run) => panic!("it ends before it tells {part:?}: {report:#?}"),
        }
    }

    /// Begins a run; its flow has the same id.
    pub(crate) async fn begin(&self, playbook: &str, input: Value) -> Uuid {
        let run = Uuid::new_v4();
        let new = NewRun {
            run,
            flow: run,
            key: None,
            cause: format!("/test/{run}"),
            playbook: playbook.to_owned(),
            subject: Some(CLUSTER.to_owned()),
            input,
            plan: None,
            trace: None,
            with: Commit::default(),
        };
        self.driver.submit(new).await.unwrap();
        run
    }

    /// How the run is when it has come to rest.
    pub(crate) async fn rest(&self, run: Uuid) -> Report {
        let looked = async {
            loop {
                let report = self.driver.report(run).unwrap().unwrap();
                if !matches!(report.status, Status::Pending | Status::Running | Status::Waiting | Status::Undoing) {
                    return report;
                }
                match self.driver.watch(run) {
                    Some(mut watched) => {
                        let _ = tokio::time::timeout(Duration::from_millis(200), watched.changed()).await;
                    }
                    None => tokio::task::yield_now().await,
                }
            }
        };
        match tokio::time::timeout(Duration::from_secs(120), looked).await {
            Ok(report) => report,
            Err(_) => panic!("still: {:#?}", self.driver.report(run).unwrap()),
        }
    }

    /// The bodies that playbooks emitted under this name; each fits its schema.
    pub(crate) fn handoffs(&self, name: &str) -> Vec<Value> {
        let emitted = self.emitted.lock().unwrap();
        let bodies: Vec<_> = emitted.iter().filter(|(own, _)| own == name).map(|(_, body)| body.clone()).collect();
        for body in &bodies {
            messages::schema::validate(Family::Handoff, name, body).unwrap();
        }
        bodies
    }

    /// A client of the cluster, as the contractor itself has it.
    pub(crate) async fn client(&self) -> kube::Client {
        let cluster = inventory::cluster(&self.store.reader(), &CLUSTER.parse().unwrap()).unwrap().unwrap();
        kubernetes::connect(&self.deps, &self.store.reader(), &cluster.value).await.unwrap()
    }
}

async fn driver(store: &Store, deps: &Deps, hooks: Recorder, more: &[(&str, &str)]) -> Driver {
    let actions = actions(deps);
    let checked = Checked { catalog: &actions, messages: &message_schema, conditions: CONDITIONS };
    let mut files = playbooks();
    files.extend(more.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())));
    let library = Library::load(&files, &checked).unwrap_or_else(|problems| panic!("{problems}"));
    let (journal, clock, hooks) = (Arc::new(store.clone()), Arc::new(SystemClock), Arc::new(hooks));
    Driver::start(Parts { journal, actions, playbooks: library, clock, hooks }).await.unwrap()
}

/// Serves the lab's stand-ins; the catalogue pins them.
async fn mirror(net: u8) -> (AddonSettings, JoinHandle<()>) {
    const LOCAL_PATH: &str = include_str!("../../../../crates/simulators/src/lab/addons/local-path.yaml");
    const LONGHORN: &str = include_str!("../../../../crates/simulators/src/lab/addons/longhorn.yaml");
    let router = Router::new()
        .route("/local-path.yaml", get(|| async { LOCAL_PATH }))
        .route("/longhorn.yaml", get(|| async { LONGHORN }));
    let listener = TcpListener::bind((IpAddr::from([127, net, 0, 2]), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let pinned = |name: &str, text: &str| Manifest {
        url: format!("http://{address}/{name}.yaml"),
        sha256: Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect(),
        version: "stand-in".into(),
    };
    let manifests = [("local-path", LOCAL_PATH), ("longhorn", LONGHORN)];
    let manifests = manifests.map(|(name, text)| (name.to_owned(), pinned(name, text))).into();
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (AddonSettings { manifests, ..AddonSettings::default() }, serving)
}

/// Keeps what playbooks emit and steps tell; makes no messages.
#[derive(Default)]
struct Recorder {
    emitted: Arc<Mutex<Vec<(String, Value)>>>,
    progress: Arc<Mutex<Vec<String>>>,
}

impl Hooks for Recorder {
    fn outgoing(&self, _: &Happened<'_>) -> Result<Vec<Outgoing>, Failure> {
        Ok(Vec::new())
    }

    fn progress(&self, _run: Uuid, _step: &str, text: &str) {
        self.progress.lock().unwrap().push(text.to_owned());
    }

    fn committed(&self, happened: &Happened<'_>) {
        let emissions = happened.emissions.iter().map(|emission| (emission.name.clone(), emission.body.clone()));
        self.emitted.lock().unwrap().extend(emissions);
    }
}
