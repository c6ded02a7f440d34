//! The lab in this process, and both contractors' real actions on it.

use std::path::Path;

use anyhow::Context;
use engine::report::Status;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use simulators::{
    lab::{Lab, LabOptions},
    proxmox::Snapshot,
};
use talos::api::AllowedTargets;
use talos_contractor::{
    inventory::{self, ClusterState},
    kubernetes,
    reach::Deps,
    settings::{AddonSettings, Manifest, TalosSettings},
};

use super::side::{self, Side};

/// How many times as fast as real hardware.
const SPEED: f64 = 200.0;

/// A datacenter with its contractors.
pub struct Datacenter {
    /// infrastructure-contractor.
    pub infrastructure: Side,
    /// talos-contractor.
    pub talos: Side,
    deps: Deps,
    lab: Lab,
    _runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

/// Everything that a leak would show in.
#[derive(Clone, Debug, PartialEq)]
pub struct Footprint {
    /// VMs with their disks, addresses, tags and configuration; volumes, pools.
    datacenter: Snapshot,
    /// Keys of both inventories, names of secrets.
    beliefs: Vec<String>,
    /// Kubernetes nodes with their labels and whether they take pods.
    nodes: Vec<String>,
}

impl Datacenter {
    /// Starts it.
    ///
    /// # Errors
    /// If something in it does not start.
    pub fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let lab = runtime.block_on(Lab::start(LabOptions { speed: SPEED, ..LabOptions::default() }))?;
        let store = side::store(folder.path(), "infrastructure")?;
        let own = sections(&lab, folder.path())?;
        let own = infrastructure_contractor::Deps::new(own, &["127.0.0.0/8".to_owned()], store.clone())?;
        let playbooks = infrastructure_contractor::playbooks::shipped();
        let infrastructure = Side::start(store, &infrastructure_contractor::actions(&own), &playbooks)?;
        let deps = Deps::new(TalosSettings::default(), addons(&lab), AllowedTargets::loopback());
        let actions = talos_contractor::actions::actions(&deps);
        let store = side::store(folder.path(), "talos")?;
        let talos = Side::start(store, &actions, &talos_contractor::playbooks::playbooks())?;
        Ok(Self { infrastructure, talos, deps, lab, _runtime: runtime, _folder: folder })
    }

    /// What there is now, shared images left out.
    ///
    /// # Errors
    /// If a store or a Kubernetes API does not answer.
    pub fn footprint(&self) -> anyhow::Result<Footprint> {
        let mut datacenter = self.lab.proxmox().snapshot();
        for volumes in datacenter.volumes.values_mut() {
            volumes.retain(|volume| !volume.contains(":import/"));
        }
        datacenter.volumes.retain(|_, volumes| !volumes.is_empty());
        let mut beliefs = self.infrastructure.beliefs()?;
        beliefs.extend(self.talos.beliefs()?);
        Ok(Footprint { datacenter, beliefs, nodes: self.nodes()? })
    }

    /// Names of the VMs that exist.
    pub fn machines(&self) -> Vec<String> {
        self.lab.proxmox().snapshot().vms.into_values().filter_map(|vm| vm.name).collect()
    }

    fn nodes(&self) -> anyhow::Result<Vec<String>> {
        let reader = self.talos.store.reader();
        let cluster = inventory::cluster(&reader, &"prod".parse()?)?;
        let Some(cluster) = cluster.filter(|cluster| cluster.value.state == ClusterState::Active) else {
            return Ok(Vec::new());
        };
        self.talos.block_on(async {
            let client = kubernetes::connect(&self.deps, &reader, &cluster.value).await?;
            let nodes = Api::<Node>::all(client).list(&ListParams::default()).await?;
            let told = |node: Node| {
                let takes_pods = node.spec.and_then(|spec| spec.unschedulable) != Some(true);
                json!([node.metadata.name, node.metadata.labels, takes_pods]).to_string()
            };
            Ok(nodes.items.into_iter().map(told).collect())
        })?
    }
}

impl Footprint {
    /// What differs, for people; none when nothing does.
    pub fn difference(&self, now: &Self) -> Option<String> {
        let json = |it: &Self| json!({ "datacenter": it.datacenter, "beliefs": it.beliefs, "nodes": it.nodes });
        let mut found = Vec::new();
        compare("", &json(self), &json(now), &mut found);
        (!found.is_empty()).then(|| found.join("; "))
    }
}

/// What differs between two values, by path.
pub(in crate::survive) fn compare(path: &str, before: &Value, now: &Value, found: &mut Vec<String>) {
    match (before, now) {
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
                let at = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&format!("{path}/{key}"), &at(old), &at(new), found);
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            found.extend(old.iter().filter(|it| !new.contains(it)).map(|it| format!("{path} lost {it}")));
            found.extend(new.iter().filter(|it| !old.contains(it)).map(|it| format!("{path} has also {it}")));
        }
        (old, new) if old != new => found.push(format!("{path} was {old} and is {new}")),
        _ => {}
    }
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
