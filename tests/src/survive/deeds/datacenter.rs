//! The lab in this process, and both contractors' real actions on it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use engine::report::Status;
use kube::Client;
use serde_json::Value;
use simulators::lab::{Lab, LabOptions};
use talos::api::AllowedTargets;
use talos_contractor::{
    inventory, kubernetes,
    reach::Deps,
    settings::{AddonSettings, Manifest, TalosSettings},
};

use super::{
    Bug,
    footprint::Footprint,
    side::{self, Side},
    trouble::Trouble,
};

/// How many times as fast as real hardware.
const SPEED: f64 = 200.0;
/// Nodes that are reset and controllers of clusters come to rest within this time.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often they are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// A datacenter with its contractors.
pub struct Datacenter {
    /// infrastructure-contractor.
    pub infrastructure: Side,
    /// talos-contractor.
    pub talos: Side,
    deps: Deps,
    lab: Lab,
    _runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Datacenter {
    /// Starts it; infrastructure-contractor's actions have the bug, if there is one.
    ///
    /// # Errors
    /// If something in it does not start.
    pub fn start(bug: Option<Bug>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let lab = runtime.block_on(Lab::start(LabOptions { speed: SPEED, ..LabOptions::default() }))?;
        let store = side::store(folder.path(), "infrastructure")?;
        let own = sections(&lab, folder.path())?;
        let own = infrastructure_contractor::Deps::new(own, &["127.0.0.0/8".to_owned()], store.clone())?;
        let playbooks = infrastructure_contractor::playbooks::shipped();
        let actions = infrastructure_contractor::actions(&own);
        let infrastructure = Side::start(Trouble::of(bug), store, &actions, &playbooks)?;
        let deps = Deps::new(TalosSettings::default(), addons(&lab), AllowedTargets::loopback());
        let actions = talos_contractor::actions::actions(&deps);
        let store = side::store(folder.path(), "talos")?;
        let talos = Side::start(Trouble::default(), store, &actions, &talos_contractor::playbooks::playbooks())?;
        Ok(Self { infrastructure, talos, deps, lab, _runtime: runtime, folder })
    }

    /// What there is now.
    ///
    /// # Errors
    /// If a store or a file cannot be read.
    pub fn footprint(&self) -> anyhow::Result<Footprint> {
        let mut found = Footprint::of(&self.lab, &self.folder.path().join("prometheus"))?;
        found.believe("infrastructure", self.infrastructure.beliefs()?);
        found.believe("talos", self.talos.beliefs()?);
        Ok(found)
    }

    /// The same once nothing moves any more: nodes are up, and controllers have done what they do.
    ///
    /// # Errors
    /// See [`footprint`](Self::footprint); or if something moves on and on.
    pub fn calm(&self) -> anyhow::Result<Footprint> {
        let began = Instant::now();
        let mut last = self.footprint()?;
        loop {
            std::thread::sleep(LOOK * 2);
            let now = self.footprint()?;
            match last.difference(&now) {
                None if now.is_at_rest() => return Ok(now),
                moves => anyhow::ensure!(began.elapsed() < PATIENCE, "it does not come to rest: {moves:?}"),
            }
            last = now;
        }
    }

    /// What `differs` says of what there is, unless it comes to say nothing soon.
    ///
    /// # Errors
    /// See [`footprint`](Self::footprint).
    pub fn differs(&self, differs: &dyn Fn(&Footprint) -> Option<String>) -> anyhow::Result<Option<String>> {
        let began = Instant::now();
        loop {
            let found = differs(&self.footprint()?);
            if found.is_none() || began.elapsed() > PATIENCE {
                return Ok(found);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// A client of the cluster's Kubernetes API, as talos-contractor itself has it.
    ///
    /// # Errors
    /// If there is no such cluster, or it does not answer.
    pub fn client(&self, cluster: &str) -> anyhow::Result<Client> {
        let reader = self.talos.store.reader();
        let cluster = inventory::cluster(&reader, &cluster.parse()?)?.context("the cluster is known")?;
        Ok(self.talos.block_on(kubernetes::connect(&self.deps, &reader, &cluster.value))??)
    }
}

/// What differs between two values, by path. The order of lists does not count.
pub(in crate::survive) fn compare(path: &str, before: &Value, now: &Value, found: &mut Vec<String>) {
    match (before, now) {
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
                let at = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&format!("{path}/{key}"), &at(old), &at(new), found);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            found.extend(surplus(old, new).map(|it| format!("{path} lost {it}")));
            found.extend(surplus(new, old).map(|it| format!("{path} has also {it}")));
        }
        (old, new) if old != new => found.push(format!("{path} was {old} and is {new}")),
        _ => {}
    }
}

/// What is in `some` more often than in `others`.
fn surplus<'v>(some: &'v [Value], others: &[Value]) -> impl Iterator<Item = &'v Value> {
    let mut left: Vec<&Value> = others.iter().collect();
    let is_surplus = |value: &&Value| match left.iter().position(|other| *other == *value) {
        Some(at) => {
            left.swap_remove(at);
            false
        }
        None => true,
    };
    some.iter().filter(is_surplus).collect::<Vec<_>>().into_iter()
}

/// Whether the run ended as it should.
///
/// # Errors
/// If not, with what failed in it.
pub fn expect(report: &engine::report::Report, status: Status) -> anyhow::Result<()> {
    let why = report.failure.as_ref().map(|failure| failure.error.message.clone()).unwrap_or_default();
    let stuck = report.steps.iter().filter_map(|step| Some(format!("{}: {}", step.step, step.reason.as_ref()?)));
    let stuck = stuck.collect::<Vec<_>>().join("; ");
    anyhow::ensure!(report.status == status, "ends {:?} instead of {status:?}: {why} ({stuck})", report.status);
    Ok(())
}

/// infrastructure-contractor's part of a configuration for the lab.
///
/// # Errors
/// If it is wrong.
pub fn sections(lab: &Lab, folder: &Path) -> anyhow::Result<infrastructure_contractor::config::Sections> {
    let token = folder.join("token");
    std::fs::write(&token, lab.api_token())?;
    let at = |third, fourth| lab.subnet().address(third, fourth);
    let text = format!(
        r#"
        [proxmox]
        endpoints = ["{url}"]
        credential_file = "{token}"
        fingerprints = ["{fingerprint}"]
        pool = "cortex"

        [[network]]
        name = "lab"
        cidr = "{network}"
        gateway = "{gateway}"
        dns_servers = ["{gateway}"]
        ranges = ["{first}-{last}"]
        bridge = "vmbr0"

        [images]
        factory = "{mirror}"

        [monitoring]
        folder = "{folder}/prometheus"
        "#,
        url = lab.proxmox().url(),
        token = token.display(),
        fingerprint = lab.proxmox().fingerprint(),
        network = lab.subnet().network(),
        gateway = at(0, 1),
        first = at(1, 1),
        last = at(1, 60),
        mirror = lab.mirror().url(),
        folder = folder.display(),
    );
    toml::from_str(&text).context("the configuration is wrong")
}

fn addons(lab: &Lab) -> AddonSettings {
    let pinned = |addon: simulators::lab::Addon| {
        (addon.name, Manifest { url: addon.url, sha256: addon.sha256, version: addon.version })
    };
    AddonSettings { manifests: lab.mirror().addons().into_iter().map(pinned).collect(), ..AddonSettings::default() }
}
