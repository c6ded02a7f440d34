//! Whether a message that validates also makes sense here, before anything is done.

use contractor::agent::{Message, Sense};
use messages::{
    handoff::{Purpose, VmProvisioned},
    name::ClusterName,
    request::Role,
    schema::Violation,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use store::Reader;
use talos::version::Minor;
use uuid::Uuid;

use crate::{
    actions::{install_addon, register_cluster},
    inventory::{self, Cluster},
    machine_config,
    reach::Deps,
};

/// Everything that is wrong with the message.
pub fn of(message: &Message, store: &Reader, deps: &Deps) -> Result<Sense, Vec<Violation>> {
    match message.name.as_str() {
        "vm_provisioned" => {
            let handoff: VmProvisioned = typed(&message.body)?;
            provisioned(&handoff, store)?;
            if begins(&handoff) { could_become_a_cluster(&handoff, deps) } else { Ok(Sense::default()) }
        }
        // Giving up what is not known is done at once: its making may have failed before it came here.
        "decommission_request" => incarnation(&message.body, named(&message.body, store)?.as_ref()),
        "scale_request" => match named(&message.body, store)? {
            Some(cluster) => incarnation(&message.body, Some(&cluster)),
            None => Err(vec![violation("/cluster_name", "known", "a cluster that exists", "another name")]),
        },
        _ => Ok(Sense::default()),
    }
}

fn provisioned(handoff: &VmProvisioned, store: &Reader) -> Result<Sense, Vec<Violation>> {
    let mut problems = Vec::new();
    let mut refuse = |path: &str, rule: &str, expected: &str, got: &str| {
        problems.push(violation(path, rule, expected, got));
    };
    let planes = handoff.nodes.iter().filter(|node| node.role == Role::ControlPlane).count();
    let creates = begins(handoff);
    let known = record(store, &handoff.cluster_name)?;
    if creates && planes % 2 == 0 {
        refuse("/nodes", "quorum", "an odd number of control planes", &planes.to_string());
    }
    if !handoff.ready {
        refuse("/ready", "ready", "machines whose Talos API has answered", "false");
    }
    match &known {
        Some(cluster) if creates && handoff.cluster_uid != Some(cluster.uid) => {
            refuse("/cluster_name", "unique", "a name that no cluster has, or `purpose: scale`", "a name in use");
        }
        Some(cluster) if handoff.cluster_uid.is_some_and(|uid| uid != cluster.uid) => {
            refuse("/cluster_uid", "incarnation", &cluster.uid.to_string(), "another cluster's");
        }
        None if !creates => refuse("/cluster_name", "known", "a cluster that exists", "another name"),
        _ => {}
    }
    let spec = handoff.spec.clone().unwrap_or_default();
    let version = spec.talos_version.as_deref().unwrap_or_else(|| Minor::V1_13.newest());
    match Minor::of(version) {
        Err(error) => refuse("/spec/talos_version", "supported", "1.12, 1.13 or 1.14", &error.to_string()),
        Ok(minor) => {
            let (first, last) = minor.kubernetes_minors();
            let kubernetes = spec.kubernetes_version.as_deref().filter(|version| !minor.runs_kubernetes(version));
            if let Some(kubernetes) = kubernetes {
                refuse("/spec/kubernetes_version", "compatible", &format!("1.{first} to 1.{last}"), kubernetes);
            }
            if let Err(error) = machine_config::scoped(&spec.patches, minor) {
                refuse("/spec/patches", "patch", "patches that Talos takes and that may be made", &error.to_string());
            }
        }
    }
    if problems.is_empty() { Ok(Sense::default()) } else { Err(problems) }
}

fn begins(handoff: &VmProvisioned) -> bool {
    handoff.purpose.is_none_or(|purpose| purpose == Purpose::Create)
}

/// That the catalogue lacks an add-on, or that a node's configuration would not be valid, is found out here, and not when
/// there are machines.
fn could_become_a_cluster(handoff: &VmProvisioned, deps: &Deps) -> Result<Sense, Vec<Violation>> {
    let storage = handoff.spec.as_ref().and_then(|spec| spec.storage_backend);
    if let Some(addon) =
        install_addon::of_storage(storage).filter(|addon| !deps.addons().manifests.contains_key(*addon))
    {
        let expected = format!(
            "none, or an add-on of the catalogue: name its url, sha256 and version under addons.manifests.{addon} of \
             talos-contractor's configuration"
        );
        return Err(vec![violation("/spec/storage_backend", "available", &expected, addon)]);
    }
    let rehearsed = register_cluster::plan(handoff, Uuid::nil())
        .and_then(|(cluster, nodes)| machine_config::rehearse(&deps.settings().image_factory, &cluster, &nodes));
    match rehearsed {
        Ok(()) => Ok(Sense::default()),
        Err(error) => Err(vec![violation(
            "/spec",
            "configuration",
            "machine configurations that Talos takes",
            &error.to_string(),
        )]),
    }
}

/// The message must mean the cluster of that name that exists now.
fn incarnation(body: &Value, known: Option<&Cluster>) -> Result<Sense, Vec<Violation>> {
    let meant = body.get("cluster_uid").and_then(Value::as_str).and_then(|uid| uid.parse::<Uuid>().ok());
    match (known, meant) {
        (Some(cluster), Some(uid)) if uid != cluster.uid => {
            Err(vec![violation("/cluster_uid", "incarnation", &cluster.uid.to_string(), "another cluster's")])
        }
        _ => Ok(Sense::default()),
    }
}

fn named(body: &Value, store: &Reader) -> Result<Option<Cluster>, Vec<Violation>> {
    let name: ClusterName = typed(body.get("cluster_name").unwrap_or(&Value::Null))?;
    record(store, &name)
}

fn record(store: &Reader, name: &ClusterName) -> Result<Option<Cluster>, Vec<Violation>> {
    let known = inventory::cluster(store, name)
        .map_err(|error| vec![violation("", "store", "a store that can be read", &error.to_string())])?;
    Ok(known.map(|known| known.value))
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<Violation>> {
    T::deserialize(value)
        .map_err(|error| vec![violation("", "shape", "the shape that the schema describes", &error.to_string())])
}

fn violation(path: &str, rule: &str, expected: &str, got: &str) -> Violation {
    Violation { path: path.into(), rule: rule.into(), expected: expected.into(), got: got.into(), did_you_mean: None }
}
