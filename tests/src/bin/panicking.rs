//! A contractor with one task more, which opens every secret that there is and panics with all of it in its hands:
//! `PANICKING` says which of the two it is.

use std::{env, fmt::Debug, marker::PhantomData, process::ExitCode, sync::Arc};

use contractor::{
    action::Actions,
    agent::{Agent, Answering, Background, Foreseen, Left, Message, Query, Sense},
    cli::{self, Daemon, Finding},
    config::Config,
    credentials::Certificate,
};
use engine::plan::Plan;
use infrastructure_contractor::app::App;
use messages::{schema::Violation, subject::Party};
use secrecy::ExposeSecret;
use serde_json::Value;
use store::{InventoryChange, ReadError, Reader, Store};
use talos::{secrets::Bundle, talosconfig::TalosConfig};
use talos_contractor::app::TalosContractor;

fn main() -> ExitCode {
    match env::var("PANICKING").as_deref() {
        Ok("infrastructure") => cli::main::<Panicking<App>>(),
        Ok("talos") => cli::main::<Panicking<TalosContractor>>(),
        _ => ExitCode::from(2),
    }
}

/// A contractor that opens the secrets which only it has.
trait Opens: Daemon<Sections: Clone + Debug> {
    /// All of its own configuration's secrets, as a careless line of code would show them.
    fn opened(config: &Config<Self::Sections>) -> String;
}

impl Opens for App {
    fn opened(config: &Config<Self::Sections>) -> String {
        let text = std::fs::read_to_string(&config.own.proxmox.credential_file).expect("the credential can be read");
        format!("{:?}", proxmox::options::Credentials::parse(&text).expect("it is one"))
    }
}

impl Opens for TalosContractor {
    fn opened(_: &Config<Self::Sections>) -> String {
        "it keeps them in its store".to_owned()
    }
}

struct Panicking<D>(PhantomData<D>);

impl<D: Opens + Send + Sync> Daemon for Panicking<D> {
    type Sections = D::Sections;
    const NAME: &'static str = "panicking";
    const ABOUT: &'static str = "For a test: what a panic shows of the secrets that are open";
    const PARTY: Party = D::PARTY;

    fn playbooks() -> Vec<(String, String)> {
        D::playbooks()
    }

    fn agent(config: &Config<D::Sections>, store: &Store) -> Result<Arc<dyn Agent>, String> {
        let inner = D::agent(config, store)?;
        Ok(Arc::new(Doomed::<D> { inner, config: config.clone() }))
    }

    async fn look(_: &Config<D::Sections>) -> Vec<Finding> {
        Vec::new()
    }
}

struct Doomed<D: Opens> {
    inner: Arc<dyn Agent>,
    config: Config<D::Sections>,
}

/// Opens everything, and shows all of it as a careless line of code would.
async fn doom<D: Opens>(store: Store, config: Config<D::Sections>) {
    let reader = store.reader();
    let seed = bus::identity::read_seed(&config.common.bus.seed_file).expect("the seed can be read");
    let mut opened = Vec::new();
    for (name, _) in reader.secret_names("").expect("the names can be read") {
        let secret = reader.secret(&name).expect("it opens").expect("it is there");
        let text = String::from_utf8_lossy(secret.plain.expose_secret()).into_owned();
        let read = format!("{:?} {:?} {:?}", Bundle::from_yaml(&text), TalosConfig::from_yaml(&text), secret.plain);
        opened.push((name, read));
    }
    let own = D::opened(&config);
    panic!("with {} secrets open: {opened:?} {own} {seed:?} {config:?}", opened.len());
}

impl<D: Opens + Send + Sync> Agent for Doomed<D> {
    fn party(&self) -> Party {
        self.inner.party()
    }

    fn actions(&self) -> Actions {
        self.inner.actions()
    }

    fn accept<'a>(&'a self, message: &'a Message, store: &'a Reader) -> Answering<'a, Result<Sense, Vec<Violation>>> {
        self.inner.accept(message, store)
    }

    fn foreseen(&self, message: &Message) -> Option<Foreseen> {
        self.inner.foreseen(message)
    }

    fn queries(&self) -> Vec<Query> {
        self.inner.queries()
    }

    fn left(&self, what: Left<'_>, store: &Reader) -> Result<Vec<InventoryChange>, ReadError> {
        self.inner.left(what, store)
    }

    fn conditions(&self) -> &'static [&'static str] {
        self.inner.conditions()
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.inner.certificates()
    }

    fn background(&self, place: Background) -> Vec<(&'static str, Answering<'static, ()>)> {
        let doom = doom::<D>(place.at.store.clone(), self.config.clone());
        let mut work = self.inner.background(place);
        work.push(("doom", Box::pin(doom)));
        work
    }

    fn handed_over(&self, plan: &Plan) -> Option<(Party, String, Value)> {
        self.inner.handed_over(plan)
    }
}
