//! Claims and volumes: provisioning by the stand-ins of local-path and Longhorn, binding, release.

use std::sync::Arc;

use serde_json::{Value, json};

use super::templates::delete;
use crate::kubernetes::cluster::{Cluster, Event};
use crate::kubernetes::object::{annotation, is_terminating, items, label, name, namespace, remove, set, text, uid};
use crate::kubernetes::quantity::bytes_of;

const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";
const CLASSES: &str = "storageclasses.storage.k8s.io";
const SELECTED: &str = "volume.kubernetes.io/selected-node";

pub(super) fn sync(cluster: &Cluster) {
    let pods = cluster.store.list("pods", None);
    for claim in cluster.store.list(CLAIMS, None) {
        if is_terminating(&claim) {
            let used = pods
                .iter()
                .any(|pod| claims_of(pod).any(|it| it == name(&claim)) && namespace(pod) == namespace(&claim));
            if !used {
                cluster.change(CLAIMS, &claim, |it| drop_finalizer(it, "kubernetes.io/pvc-protection"));
            }
        } else if text(&claim, "/status/phase") != "Bound" {
            bind(cluster, &claim);
        }
    }
    for volume in cluster.store.list(VOLUMES, None) {
        release(cluster, &volume);
    }
}

/// The claims that a pod mounts.
fn claims_of(pod: &Value) -> impl Iterator<Item = &str> {
    items(pod, "/spec/volumes")
        .iter()
        .map(|it| text(it, "/persistentVolumeClaim/claimName"))
        .filter(|it| !it.is_empty())
}

fn drop_finalizer(object: &mut Value, finalizer: &str) {
    let left: Vec<Value> =
        items(object, "/metadata/finalizers").iter().filter(|it| **it != finalizer).cloned().collect();
    if left.is_empty() {
        remove(object, &["metadata", "finalizers"]);
    } else {
        set(object, &["metadata", "finalizers"], Value::Array(left));
    }
}

fn class_of(cluster: &Cluster, claim: &Value) -> Option<Arc<Value>> {
    cluster.store.get(CLASSES, "", text(claim, "/spec/storageClassName"))
}

fn waits_for_consumer(cluster: &Cluster, claim: &Value) -> bool {
    class_of(cluster, claim).is_some_and(|class| text(&class, "/volumeBindingMode") == "WaitForFirstConsumer")
}

/// True when a provisioner of this name runs: a ready pod that says so in its environment, arguments, image or name.
///
/// Stand-ins run as ordinary workloads, so a storage class alone provisions nothing.
fn provisioner_runs(cluster: &Cluster, provisioner: &str) -> bool {
    let short = provisioner.rsplit('/').next().unwrap_or(provisioner);
    let words: Vec<&str> = match provisioner {
        "driver.longhorn.io" => vec!["longhorn-manager", "longhorn-csi", "driver.longhorn.io"],
        "rancher.io/local-path" => vec!["local-path-provisioner"],
        _ => vec![short],
    };
    cluster.store.list("pods", None).iter().any(|pod| {
        let spec = pod["spec"]["containers"].to_string();
        super::templates::is_ready(pod) && words.iter().any(|word| spec.contains(word) || name(pod).contains(word))
    })
}

fn bind(cluster: &Cluster, claim: &Value) {
    if let Some(volume) = matching_volume(cluster, claim) {
        return join(cluster, claim, &volume);
    }
    let Some(class) = class_of(cluster, claim) else { return };
    if waits_for_consumer(cluster, claim) && annotation(claim, SELECTED).is_none() {
        const MESSAGE: &str = "waiting for first consumer to be created before binding";
        return say(cluster, claim, "WaitForFirstConsumer", MESSAGE);
    }
    let provisioner = text(&class, "/provisioner");
    if provisioner == "kubernetes.io/no-provisioner" {
        return;
    }
    if !provisioner_runs(cluster, provisioner) {
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
             administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        return say(cluster, claim, "ExternalProvisioning", &message);
    }
    let volume = provision(claim, &class);
    let volume_name = name(&volume).to_owned();
    cluster.ensure(VOLUMES, volume);
    if let Some(volume) = cluster.store.get(VOLUMES, "", &volume_name) {
        say(cluster, claim, "ProvisioningSucceeded", &format!("Successfully provisioned volume {volume_name}"));
        join(cluster, claim, &volume);
    }
}

fn say(cluster: &Cluster, claim: &Value, reason: &str, message: &str) {
    let known = cluster
        .store
        .list("events", Some(namespace(claim)))
        .iter()
        .any(|it| text(it, "/involvedObject/uid") == uid(claim) && text(it, "/reason") == reason);
    if !known {
        cluster.event(claim, &Event { kind: "Normal", reason, message, component: "persistentvolume-controller" });
    }
}

/// An existing volume that the claim names or that is large enough, of its class and free.
fn matching_volume(cluster: &Cluster, claim: &Value) -> Option<Arc<Value>> {
    let named = text(claim, "/spec/volumeName");
    let wanted = bytes_of(&claim["spec"]["resources"]["requests"]["storage"]);
    cluster.store.list(VOLUMES, None).into_iter().find(|volume| {
        let reference = &volume["spec"]["claimRef"];
        let reserved = reference.is_object();
        let ours =
            reserved && text(reference, "/namespace") == namespace(claim) && text(reference, "/name") == name(claim);
        if !named.is_empty() {
            return name(volume) == named && (!reserved || ours);
        }
        let modes =
            items(claim, "/spec/accessModes").iter().all(|mode| items(volume, "/spec/accessModes").contains(mode));
        (ours || !reserved)
            && !is_terminating(volume)
            && text(volume, "/spec/storageClassName") == text(claim, "/spec/storageClassName")
            && bytes_of(&volume["spec"]["capacity"]["storage"]) >= wanted
            && modes
    })
}

fn provision(claim: &Value, class: &Value) -> Value {
    let provisioner = text(class, "/provisioner");
    let volume_name = format!("pvc-{}", uid(claim));
    let node = annotation(claim, SELECTED);
    let mut volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": volume_name, "annotations": {"pv.kubernetes.io/provisioned-by": provisioner}},
        "spec": {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"], "storageClassName": name(class),
            "persistentVolumeReclaimPolicy": text(class, "/reclaimPolicy"), "volumeMode": claim["spec"]["volumeMode"]},
    });
    if provisioner == "rancher.io/local-path" {
        let path = format!("/opt/local-path-provisioner/{volume_name}_{}_{}", namespace(claim), name(claim));
        volume["spec"]["hostPath"] = json!({"path": path, "type": "DirectoryOrCreate"});
        if let Some(node) = node {
            volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{
                "key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}});
        }
    } else {
        volume["spec"]["csi"] = json!({"driver": provisioner, "volumeHandle": volume_name, "fsType": "ext4"});
    }
    volume
}

fn join(cluster: &Cluster, claim: &Value, volume: &Value) {
    let reference = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": name(claim), "namespace": namespace(claim),
        "uid": uid(claim), "resourceVersion": text(claim, "/metadata/resourceVersion")});
    cluster.change(VOLUMES, volume, |it| {
        if it["spec"]["claimRef"]["uid"] != reference["uid"] {
            set(it, &["spec", "claimRef"], reference);
        }
        set(it, &["status", "phase"], json!("Bound"));
    });
    cluster.change(CLAIMS, claim, |it| {
        set(it, &["spec", "volumeName"], json!(name(volume)));
        for key in ["pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller"] {
            set(it, &["metadata", "annotations", key], json!("yes"));
        }
        let status = json!({
            "phase": "Bound", "capacity": volume["spec"]["capacity"], "accessModes": volume["spec"]["accessModes"]});
        set(it, &["status"], status);
    });
}

/// What becomes of a volume whose claim is gone: deleted or kept as its policy says.
fn release(cluster: &Cluster, volume: &Value) {
    let reference = &volume["spec"]["claimRef"];
    let claimed = reference.is_object()
        && cluster
            .store
            .get(CLAIMS, text(reference, "/namespace"), text(reference, "/name"))
            .is_some_and(|claim| reference["uid"].is_null() || uid(&claim) == text(reference, "/uid"));
    if is_terminating(volume) && !claimed {
        cluster.change(VOLUMES, volume, |it| drop_finalizer(it, "kubernetes.io/pv-protection"));
    } else if text(volume, "/status/phase") == "Bound" && !claimed {
        if text(volume, "/spec/persistentVolumeReclaimPolicy") == "Delete" {
            delete(cluster, VOLUMES, volume);
        } else {
            cluster.change(VOLUMES, volume, |it| set(it, &["status", "phase"], json!("Released")));
        }
    }
}

/// Why no node can take a pod because of its claims.
pub(super) fn unschedulable(cluster: &Cluster, pod: &Value) -> Option<String> {
    for wanted in claims_of(pod) {
        match cluster.store.get(CLAIMS, namespace(pod), wanted) {
            None => return Some(format!("persistentvolumeclaim {wanted:?} not found")),
            Some(claim) if is_terminating(&claim) => {
                return Some(format!("persistentvolumeclaim {wanted:?} is being deleted"));
            }
            Some(claim) if text(&claim, "/status/phase") != "Bound" && !waits_for_consumer(cluster, &claim) => {
                return Some("pod has unbound immediate PersistentVolumeClaims".into());
            }
            Some(_) => {}
        }
    }
    None
}

/// Why this node cannot take a pod because of the volumes that its claims are bound to.
pub(super) fn misfit(cluster: &Cluster, pod: &Value, node: &Value) -> Option<String> {
    for wanted in claims_of(pod) {
        let Some(claim) = cluster.store.get(CLAIMS, namespace(pod), wanted) else { continue };
        let Some(volume) = cluster.store.get(VOLUMES, "", text(&claim, "/spec/volumeName")) else { continue };
        let values = volume.pointer("/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0/values");
        if values.and_then(Value::as_array).is_some_and(|list| {
            !list.iter().any(|it| Some(it.as_str().unwrap_or_default()) == label(node, "kubernetes.io/hostname"))
        }) {
            return Some("node(s) didn't match PersistentVolume's node affinity".into());
        }
    }
    None
}

/// Tells the provisioners of claims that waited for their first consumer which node it goes to.
pub(super) fn choose_node(cluster: &Cluster, pod: &Value, node: &str) {
    for wanted in claims_of(pod) {
        if let Some(claim) = cluster.store.get(CLAIMS, namespace(pod), wanted)
            && text(&claim, "/status/phase") != "Bound"
        {
            cluster.change(CLAIMS, &claim, |it| set(it, &["metadata", "annotations", SELECTED], json!(node)));
        }
    }
}
