//! The composition root: configuration to adapters to agent.

use std::{net::IpAddr, sync::Arc};

use contractor::{
    action::Actions,
    agent::{Agent, Answering, Message, Query, Sense, Workplace},
    cli::{Daemon, Finding},
    config::{Common, Config},
};
use engine::library::{Library, World};
use ipnet::IpNet;
use messages::{schema::Violation, subject::Party};
use store::{Reader, Store};
use talos::api::AllowedTargets;
use tokio_util::sync::CancellationToken;

use crate::{
    actions::actions,
    background::{self, By, firings},
    playbooks::playbooks,
    pressure::Pressure,
    queries::queries,
    reach::Deps,
    sense,
    settings::Sections,
};

/// The daemon, as its `main` names it.
pub struct TalosContractor;

impl Daemon for TalosContractor {
    type Sections = Sections;
    const NAME: &'static str = "talos-contractor";
    const ABOUT: &'static str =
        "Owns clusters: makes them of machines in Talos maintenance mode, and gives them up again";

    fn agent(config: &Config<Sections>, store: &Store) -> Result<Arc<dyn Agent>, String> {
        let deps = deps(config)?;
        Ok(Arc::new(Talos { deps, store: store.reader() }))
    }

    async fn look(config: &Config<Sections>) -> Vec<Finding> {
        let known = config.own.addons.manifests.iter();
        let outside = known.filter_map(|(name, manifest)| {
            let address: IpAddr = crate::kubernetes::address_of(&manifest.url)?;
            let allowed = deps(config).ok()?.allowed().allows(address);
            (!allowed).then(|| Finding {
                problem: format!("add-on {name}: {address} is outside the allowed targets"),
                mend: Some(format!("allowed_targets = [\"{address}/32\", …]")),
            })
        });
        outside.collect()
    }
}

impl contractor::config::Sections for Sections {
    const ENV_PREFIX: &'static str = "TALOS_CONTRACTOR";

    fn problems(&self, _: &Common) -> Vec<Violation> {
        Vec::new()
    }
}

fn deps(config: &Config<Sections>) -> Result<Deps, String> {
    let networks = config.common.allowed_targets.iter().map(|text| text.parse::<IpNet>());
    let networks = networks.collect::<Result<Vec<_>, _>>().map_err(|error| format!("allowed_targets: {error}"))?;
    Ok(Deps::new(config.own.talos.clone(), config.own.addons.clone(), AllowedTargets::new(networks)))
}

struct Talos {
    deps: Deps,
    store: Reader,
}

impl Agent for Talos {
    fn party(&self) -> Party {
        Party::Talos
    }

    fn actions(&self) -> Actions {
        actions(&self.deps)
    }

    fn playbooks(&self) -> Vec<(String, String)> {
        playbooks()
    }

    fn accept<'a>(&'a self, message: &'a Message, store: &'a Reader) -> Answering<'a, Result<Sense, Vec<Violation>>> {
        Box::pin(async move { sense::of(message, store) })
    }

    fn queries(&self) -> Vec<Query> {
        queries(&self.deps, &self.store)
    }

    fn background(&self, at: Workplace, stop: CancellationToken) -> Vec<(&'static str, Answering<'static, ()>)> {
        let keys = background::keep_keys(at.clone(), self.deps.settings().service_account_keys, stop.clone());
        let mut work: Vec<(&'static str, Answering<'static, ()>)> = vec![("key pool", Box::pin(keys))];
        for firing in self.firings() {
            let (at, stop) = (at.clone(), stop.clone());
            work.push(match firing.by {
                By::Schedule(cron) => {
                    ("schedule", Box::pin(background::follow_schedule(at, firing.playbook, cron, stop)))
                }
                By::Pressure { hold, cool_down } => {
                    let pressure = Pressure::new(firing.playbook, hold, cool_down);
                    ("pressure", Box::pin(background::follow_pressure(at, self.deps.clone(), pressure, stop)))
                }
            });
        }
        work
    }
}

impl Talos {
    /// What the shipped playbooks start by besides messages.
    fn firings(&self) -> Vec<background::Firing> {
        let actions = self.actions();
        let world = World { catalog: &actions, messages: &contractor::runtime::message_schema };
        match Library::load(&playbooks(), &world) {
            Ok(library) => firings(library.iter().map(|definition| &definition.playbook)),
            Err(problems) => {
                tracing::error!(%problems, "the shipped playbooks do not load");
                Vec::new()
            }
        }
    }
}
