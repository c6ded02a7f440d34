//! talos-contractor with one task more, which opens every secret that there is and panics with all of it in its hands.

use std::{process::ExitCode, sync::Arc, time::Duration};

use contractor::{
    action::Actions,
    agent::{Agent, Answering, Background, Left, Message, Query, Sense},
    cli::{Daemon, Finding},
    config::Config,
    credentials::Certificate,
};
use engine::plan::Plan;
use messages::{schema::Violation, subject::Party};
use secrecy::ExposeSecret;
use serde_json::Value;
use store::{InventoryChange, ReadError, Reader, Store};
use talos::{secrets::Bundle, talosconfig::TalosConfig};
use talos_contractor::{app::TalosContractor, settings::Sections};

fn main() -> ExitCode {
    contractor::cli::main::<Panicking>()
}

struct Panicking;

impl Daemon for Panicking {
    type Sections = Sections;
    const NAME: &'static str = "panicking";
    const ABOUT: &'static str = "For a test: what a panic shows of the secrets that are open";
    const PARTY: Party = Party::Talos;

    fn playbooks() -> Vec<(String, String)> {
        TalosContractor::playbooks()
    }

    fn agent(config: &Config<Sections>, store: &Store) -> Result<Arc<dyn Agent>, String> {
        Ok(Arc::new(Doomed { inner: TalosContractor::agent(config, store)?, config: config.clone() }))
    }

    async fn look(_: &Config<Sections>) -> Vec<Finding> {
        Vec::new()
    }
}

struct Doomed {
    inner: Arc<dyn Agent>,
    config: Config<Sections>,
}

/// Opens everything, and shows all of it as a careless line of code would.
async fn doom(store: Store, config: Config<Sections>) {
    let reader = store.reader();
    let seed = bus::identity::read_seed(&config.common.bus.seed_file).expect("the seed can be read");
    let mut opened = Vec::new();
    for (name, _) in reader.secret_names("").expect("the names can be read") {
        let secret = reader.secret(&name).expect("it opens").expect("it is there");
        let text = String::from_utf8_lossy(secret.plain.expose_secret()).into_owned();
        let read = format!("{:?} {:?} {:?}", Bundle::from_yaml(&text), TalosConfig::from_yaml(&text), secret.plain);
        opened.push((name, read));
    }
    // It must have got as far as that for the test to mean anything.
    assert!(opened.len() < 3, "panics with {} secrets open: {opened:?} {seed:?} {config:?}", opened.len());
    tokio::time::sleep(Duration::from_secs(3600)).await;
}

impl Agent for Doomed {
    fn party(&self) -> Party {
        self.inner.party()
    }

    fn actions(&self) -> Actions {
        self.inner.actions()
    }

    fn accept<'a>(&'a self, message: &'a Message, store: &'a Reader) -> Answering<'a, Result<Sense, Vec<Violation>>> {
        self.inner.accept(message, store)
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
        let doom = doom(place.at.store.clone(), self.config.clone());
        let mut work = self.inner.background(place);
        work.push(("doom", Box::pin(doom)));
        work
    }

    fn handed_over(&self, plan: &Plan) -> Option<(Party, String, Value)> {
        self.inner.handed_over(plan)
    }
}
