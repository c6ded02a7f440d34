//! The command line that every contractor has: `run`, `check`, `plan`, `schema`.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use jiff::Timestamp;
use messages::subject::Party;
use metrics_exporter_prometheus::PrometheusHandle;
use store::{OpenError, Options, Store};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    config::{self, Common, Config, Sections},
    credentials::{self, CredentialFile},
    intake::chain,
    runtime::{self, Opened},
    telemetry,
};

/// One problem that `check` found, with what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub problem: String,
    /// The command or setting that mends it.
    pub mend: Option<String>,
}

/// What a daemon's `main` names.
pub trait Daemon: 'static {
    /// Its own sections of the configuration.
    type Sections: Sections + Send + Sync;
    /// Its binary's name.
    const NAME: &'static str;
    /// One sentence for `--help`.
    const ABOUT: &'static str;
    /// Who it is on the bus.
    const PARTY: Party;

    /// Its built-in playbooks as file name and text.
    fn playbooks() -> Vec<(String, String)>;

    /// Builds the agent: the composition root. The only place that names concrete adapters.
    ///
    /// # Errors
    /// One line that says what could not be made.
    fn agent(config: &Config<Self::Sections>, store: &Store) -> Result<Arc<dyn Agent>, String>;

    /// Looks at the world that the configuration names, for `check`: reachability and rights.
    fn look(config: &Config<Self::Sections>) -> impl Future<Output = Vec<Finding>> + Send;
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args, Clone)]
struct Shared {
    /// The configuration file.
    #[arg(long, short, global = true, env = "CONTRACTOR_CONFIG", default_value = "contractor.toml")]
    config: PathBuf,
    /// One setting over file and environment; may be given several times: `--set http.listen=127.0.0.1:9100`.
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (keys, value) = text.split_once('=').ok_or("a setting is written section.key=value")?;
    Ok((keys.to_owned(), value.to_owned()))
}

#[derive(Subcommand, Clone)]
enum Command {
    /// Run the daemon (the default).
    Run,
    /// Check configuration, playbooks, bus and world; print every problem with what mends it.
    Check,
    /// Show what a playbook would do with an input, without doing it; for a daemon that is stopped.
    Plan {
        /// The playbook.
        playbook: String,
        /// File with the message's body as JSON.
        #[arg(long)]
        input: PathBuf,
    },
    /// Print the JSON Schema of the configuration.
    Schema,
}

/// Runs the daemon's command line; what `main` calls.
pub fn main<D: Daemon>() -> ExitCode {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was installed before");
    }
    let matches = Line::command().name(D::NAME).about(D::ABOUT).version(env!("CARGO_PKG_VERSION")).get_matches();
    let line = match Line::from_arg_matches(&matches) {
        Ok(line) => line,
        Err(error) => error.exit(),
    };
    match run_line::<D>(line) {
        Ok(code) => code,
        Err(reason) => {
            say(&format!("{}: {reason}", D::NAME));
            ExitCode::FAILURE
        }
    }
}

fn run_line<D: Daemon>(line: Line) -> Result<ExitCode, String> {
    let command = line.command.unwrap_or(Command::Run);
    if matches!(command, Command::Schema) {
        let schema = config::schema_of::<D::Sections>();
        print(&serde_json::to_string_pretty(&schema).map_err(|error| error.to_string())?);
        return Ok(ExitCode::SUCCESS);
    }
    // Metrics begin with a measurement of the processor's clock, which may take as long as the configuration does.
    let metrics = matches!(command, Command::Run).then(|| std::thread::spawn(telemetry::init_metrics));
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let config: Config<D::Sections> =
        config::load(&line.shared.config, &environment, &line.shared.set).map_err(|error| chain(&error))?;
    telemetry::init_logs(&config.common.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the async runtime: {error}"))?;
    runtime.block_on(async {
        match command {
            Command::Run | Command::Schema => {
                let metrics = metrics.map_or_else(telemetry::init_metrics, joined)?;
                daemon::<D>(config, metrics).await.map(|()| ExitCode::SUCCESS)
            }
            Command::Check => check::<D>(&config).await,
            Command::Plan { playbook, input } => plan::<D>(&config, &playbook, &input).await,
        }
    })
}

/// What a thread made.
fn joined<T>(thread: std::thread::JoinHandle<Result<T, String>>) -> Result<T, String> {
    thread.join().map_err(|_| "a thread of the start panicked".to_owned())?
}

async fn daemon<D: Daemon>(config: Config<D::Sections>, metrics: PrometheusHandle) -> Result<(), String> {
    // A core file would hold every key that this process has open.
    if let Err(error) = rlimit::setrlimit(rlimit::Resource::CORE, 0, 0) {
        tracing::warn!(%error, "core files of this process cannot be forbidden");
    }
    let files = usable_files(&config)?;
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    let common = config.common.clone();
    // A store waits for its disk while it is opened; the playbooks are read meanwhile.
    let open = move || {
        let own = config.common.clone();
        let read = std::thread::spawn(move || runtime::read_playbooks(D::playbooks(), &own));
        let store = open_store(&config.common)?;
        let agent = D::agent(&config, &store)?;
        let library = runtime::check_playbooks(&*agent, joined(read)?)?;
        Ok(Opened { store, agent, library })
    };
    runtime::run(D::PARTY, &common, files, metrics, open, stop).await
}

/// The files with keys and certificates; a daemon begins with none that is open to others or out of date.
fn usable_files<S: Sections>(config: &Config<S>) -> Result<Vec<CredentialFile>, String> {
    let files = credentials::files(config);
    match credentials::refusal(&credentials::problems(&files, Timestamp::now())) {
        Some(reason) => Err(reason),
        None => Ok(files),
    }
}

/// Opens the store and makes the key file at the first start.
///
/// # Errors
/// Why it cannot be opened.
pub fn open_store(common: &Common) -> Result<Store, String> {
    let section = &common.store;
    if !section.key_file.exists() {
        if section.path.join("format.json").exists() {
            return Err(format!(
                "key file {} is missing, and store {} holds secrets that were sealed for it: bring it back from a \
                 backup, or put the recovery key in its place",
                section.key_file.display(),
                section.path.display()
            ));
        }
        store::create_key_file(&section.key_file).map_err(|error| chain(&error))?;
    }
    Store::open(&section.path, options(common)).map_err(|error| chain(&error))
}

fn options(common: &Common) -> Options {
    let section = &common.store;
    Options {
        key_file: Some(section.key_file.clone()),
        recovery_recipient: section.recovery_recipient.clone(),
        cache_bytes: u64::from(section.cache_mib) << 20,
        min_free_bytes: u64::from(section.reserve_mib) << 20,
        ..Options::default()
    }
}

async fn check<D: Daemon>(config: &Config<D::Sections>) -> Result<ExitCode, String> {
    let mut findings = check_store(&config.common).await;
    findings.extend(check_schemas());
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let key_file = folder.path().join("key");
    store::create_key_file(&key_file).map_err(|error| chain(&error))?;
    let options = Options { key_file: Some(key_file), ..Options::default() };
    let store = Store::open(&folder.path().join("store"), options).map_err(|error| chain(&error))?;
    match D::agent(config, &store) {
        Ok(agent) => {
            let read = runtime::read_playbooks(D::playbooks(), &config.common);
            if let Err(problem) = read.and_then(|read| runtime::check_playbooks(&*agent, read)) {
                findings.push(Finding { problem, mend: None });
            }
            findings.extend(runtime::check_bus(&*agent, &config.common).await);
        }
        Err(problem) => findings.push(Finding { problem, mend: None }),
    }
    findings.extend(D::look(config).await);
    store.close().await;
    let findings = with_files(&credentials::files(config), findings);
    if findings.is_empty() {
        print("all is well");
        return Ok(ExitCode::SUCCESS);
    }
    for finding in &findings {
        print(&format!("- {}", finding.problem));
        if let Some(mend) = &finding.mend {
            print(&format!("    {mend}"));
        }
    }
    Ok(ExitCode::FAILURE)
}

/// What is wrong with the files that hold keys and certificates, before all that fails because of them.
fn with_files(files: &[CredentialFile], mut others: Vec<Finding>) -> Vec<Finding> {
    let now = Timestamp::now();
    let bad = files.iter().map(|file| (file.path.display().to_string(), file.problems(now)));
    let (paths, mut findings): (Vec<String>, Vec<Vec<Finding>>) = bad.filter(|(_, found)| !found.is_empty()).unzip();
    others.retain(|finding| !paths.iter().any(|path| finding.problem.contains(path)));
    findings.push(others);
    findings.concat()
}

/// What `run` would say of the store and its key; a daemon that has it open is no problem.
async fn check_store(common: &Common) -> Vec<Finding> {
    let section = &common.store;
    let problem = |problem: String, mend: Option<String>| vec![Finding { problem, mend }];
    if section.path.join("format.json").exists() {
        if !section.key_file.exists() {
            return open_store(common).err().map_or_else(Vec::new, |text| problem(text, None));
        }
        return match Store::open(&section.path, options(common)) {
            Ok(store) => {
                let doubt = store.doubt().map_or_else(Vec::new, |doubt| problem(doubt.to_owned(), None));
                store.close().await;
                doubt
            }
            Err(OpenError::InUse { .. }) => Vec::new(),
            Err(error) => problem(chain(&error), None),
        };
    }
    let place = section.path.ancestors().find(|folder| folder.exists());
    let is_read_only = |folder: &Path| folder.metadata().is_ok_and(|facts| facts.permissions().readonly());
    match place {
        Some(folder) if folder.is_dir() && !is_read_only(folder) => Vec::new(),
        _ => {
            let text = format!("store.path {} cannot be made", section.path.display());
            problem(text, Some(format!("install -d -m 0700 {}", section.path.display())))
        }
    }
}

/// Whether every message's schema takes its own examples, as this program was built.
fn check_schemas() -> Vec<Finding> {
    let mut findings = Vec::new();
    for kind in messages::catalogue::all() {
        let document = messages::schema::document(kind);
        for example in document["examples"].as_array().into_iter().flatten() {
            if let Err(violations) = messages::schema::validate(kind.family, kind.name, example) {
                let first = violations.first().map(ToString::to_string).unwrap_or_default();
                let problem = format!("schema of {} {}: {first}", kind.family.as_str(), kind.name);
                findings.push(Finding { problem, mend: None });
            }
        }
    }
    findings
}

async fn plan<D: Daemon>(config: &Config<D::Sections>, playbook: &str, input: &Path) -> Result<ExitCode, String> {
    usable_files(config)?;
    let text = std::fs::read(input).map_err(|error| format!("{}: {error}", input.display()))?;
    let body = messages::json::parse(&text).map_err(|error| format!("{}: {error}", input.display()))?;
    let store = open_store(&config.common)?;
    let agent = D::agent(config, &store)?;
    let read = runtime::read_playbooks(D::playbooks(), &config.common)?;
    let plan = runtime::plan_offline(&*agent, read, &store, playbook, &body).await;
    store.close().await;
    let text = serde_json::to_string_pretty(&plan?).map_err(|error| error.to_string())?;
    print(&text);
    Ok(ExitCode::SUCCESS)
}

async fn stop_on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    stop.cancel();
}

fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
