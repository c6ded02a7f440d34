//! The composition root: configuration to adapters to agent.

use std::{net::IpAddr, sync::Arc};

use contractor::{
    action::Actions,
    agent::{Agent, Answering, Background, Left, Message, Query, Sense},
    cli::{Daemon, Finding},
    config::{Common, Config},
    counterpart::Counterpart,
    credentials::Certificate,
    triggers::by_condition,
};
use ipnet::IpNet;
use messages::{schema::Violation, subject::Party};
use store::{InventoryChange, ReadError, Reader, Store};
use talos::api::AllowedTargets;

use crate::{
    actions::actions, background, inventory, kept, playbooks::playbooks, pressure::Pressure, queries::queries,
    reach::Deps, sense, settings::Sections,
};

/// The daemon, as its `main` names it.
pub struct TalosContractor;

impl Daemon for TalosContractor {
    type Sections = Sections;
    const NAME: &'static str = "talos-contractor";
    const ABOUT: &'static str =
        "Owns clusters: makes them of machines in Talos maintenance mode, and gives them up again";
    const PARTY: Party = Party::Talos;

    fn playbooks() -> Vec<(String, String)> {
        playbooks()
    }

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

    fn accept<'a>(&'a self, message: &'a Message, store: &'a Reader) -> Answering<'a, Result<Sense, Vec<Violation>>> {
        Box::pin(async move { sense::of(message, store, &self.deps) })
    }

    fn queries(&self) -> Vec<Query> {
        queries(&self.deps, &self.store)
    }

    fn certificates(&self) -> Vec<Certificate> {
        kept::certificates(&self.store)
    }

    fn left(&self, what: Left<'_>, store: &Reader) -> Result<Vec<InventoryChange>, ReadError> {
        inventory::left(what, store)
    }

    fn conditions(&self) -> &'static [&'static str] {
        background::CONDITIONS
    }

    fn background(&self, place: Background) -> Vec<(&'static str, Answering<'static, ()>)> {
        let Background { at, playbooks, bus, stop } = place;
        let keys = background::keep_keys(at.clone(), self.deps.settings().service_account_keys, stop.clone());
        let mut work: Vec<(&'static str, Answering<'static, ()>)> = vec![("key pool", Box::pin(keys))];
        for (playbook, hold, cool_down) in by_condition(&playbooks, background::UNSCHEDULABLE_PODS) {
            let infrastructure = Counterpart::new(bus.clone(), Party::Infrastructure);
            let pressure = Pressure::new(playbook, hold, cool_down, infrastructure);
            let follow = background::follow_pressure(at.clone(), self.deps.clone(), pressure, stop.clone());
            work.push(("pressure", Box::pin(follow)));
        }
        work
    }
}
