//! The composition root: configuration in, agent out.

use std::sync::Arc;

use contractor::{
    action::Actions,
    agent::{Agent, Answering, Foreseen, Left, Message, Query, Sense},
    cli::{Daemon, Finding},
    config::Config,
    credentials::Certificate,
};
use engine::plan::Plan;
use messages::{schema::Violation, subject::Party};
use proxmox::targets::AllowedTargets;
use serde_json::Value;
use store::{InventoryChange, ReadError, Reader, Store};

use crate::{Deps, accept, actions, check, config::Sections, deps, foresight, inventory, playbooks, queries};

/// What `main` names.
pub struct App;

impl Daemon for App {
    type Sections = Sections;
    const NAME: &'static str = "infrastructure-contractor";
    const ABOUT: &'static str = "Owns machines: places, creates, fences and destroys virtual machines on Proxmox VE";
    const PARTY: Party = Party::Infrastructure;

    fn playbooks() -> Vec<(String, String)> {
        playbooks::shipped()
    }

    fn agent(config: &Config<Sections>, store: &Store) -> Result<Arc<dyn Agent>, String> {
        let deps = Deps::new(config.own.clone(), &config.common.allowed_targets, store.clone());
        Ok(Arc::new(Infrastructure { deps: deps.map_err(|error| format!("{error:#}"))? }))
    }

    async fn look(config: &Config<Sections>) -> Vec<Finding> {
        let allowed = config.common.allowed_targets.iter().filter_map(|text| text.parse().ok());
        match deps::client(&config.own, AllowedTargets::new(allowed)) {
            Ok(client) => {
                let problems = check::check(&client, &config.own).await;
                problems.into_iter().map(|p| Finding { problem: p.what, mend: Some(p.mend) }).collect()
            }
            Err(error) => vec![Finding { problem: format!("{error:#}"), mend: None }],
        }
    }
}

/// The agent.
pub struct Infrastructure {
    deps: Deps,
}

impl Agent for Infrastructure {
    fn party(&self) -> Party {
        Party::Infrastructure
    }

    fn actions(&self) -> Actions {
        actions(&self.deps)
    }

    fn accept<'a>(&'a self, message: &'a Message, store: &'a Reader) -> Answering<'a, Result<Sense, Vec<Violation>>> {
        Box::pin(async move { accept::accept(&self.deps.sections, message, store) })
    }

    fn foreseen(&self, message: &Message) -> Option<Foreseen> {
        foresight::foreseen(message, &self.deps.sections)
    }

    fn queries(&self) -> Vec<Query> {
        queries::all(&self.deps)
    }

    fn certificates(&self) -> Vec<Certificate> {
        deps::server_certificates(&self.deps.proxmox)
    }

    fn left(&self, what: Left<'_>, store: &Reader) -> Result<Vec<InventoryChange>, ReadError> {
        inventory::left(what, store)
    }

    fn handed_over(&self, plan: &Plan) -> Option<(Party, String, Value)> {
        foresight::handed_over(plan, &self.deps.store.reader())
    }
}
