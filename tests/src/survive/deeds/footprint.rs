//! Everything that a leak would show in: hypervisors, nodes, clusters, inventories, files.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::LazyLock,
};

use regex::Regex;
use serde_json::{Map, Value, json};
use simulators::{lab::Lab, proxmox};

use super::datacenter::compare;

/// Fields of the inventories that go on with every change, whatever it is: times, counters, and what was seen of a
/// cluster's health last.
const UNSTEADY: [&str; 7] = ["generation", "created", "at", "since", "applied", "health", "api_p95_ms"];
/// Kubernetes objects that come and go by themselves.
const FLEETING: [&str; 6] = [
    "events",
    "events.events.k8s.io",
    "leases.coordination.k8s.io",
    "endpoints",
    "endpointslices.discovery.k8s.io",
    "certificatesigningrequests.certificates.k8s.io",
];
/// Metadata of Kubernetes objects that the API server and others keep for themselves.
const HOUSEKEEPING: [&str; 5] = ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"];

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Footprint {
    /// VMs with their disks, addresses, tags and configuration; volumes, pools.
    datacenter: Value,
    /// Shared images by host; one that the host's machines need is kept for others.
    images: BTreeMap<String, BTreeSet<String>>,
    /// Both inventories, values by key, without what is unsteady in them; names of secrets.
    beliefs: BTreeMap<String, Value>,
    /// Talos nodes by VMID: stage, name, whether they are configured and have etcd.
    nodes: BTreeMap<u32, Value>,
    /// Clusters by name: members of etcd, Kubernetes objects.
    clusters: BTreeMap<String, Value>,
    /// What Prometheus reads, by file.
    files: BTreeMap<String, String>,
    /// Hosts that hold VMs.
    hosts: BTreeSet<String>,
}

impl Footprint {
    /// What is in the lab and in the folder that Prometheus reads.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn of(lab: &Lab, monitoring: &Path) -> anyhow::Result<Self> {
        let mut found = Self { files: files(monitoring)?, ..Self::default() };
        found.look_at_hosts(lab.proxmox().snapshot());
        if let Some(nodes) = lab.guests().nodes() {
            let snapshot = nodes.snapshot();
            found.nodes = snapshot.nodes.iter().map(|(vmid, node)| (*vmid, json!(node))).collect();
            let shown = |cluster: &simulators::talos::ClusterSnapshot| {
                let objects = cluster.objects.iter().filter(|(resource, _)| !FLEETING.contains(&resource.as_str()));
                let objects = objects.flat_map(|(resource, objects)| objects.iter().map(|it| object(resource, it)));
                json!({ "members": cluster.members, "objects": gathered(objects) })
            };
            found.clusters = snapshot.clusters.iter().map(|(name, it)| (name.clone(), shown(it))).collect();
        }
        Ok(found)
    }

    fn look_at_hosts(&mut self, mut snapshot: proxmox::Snapshot) {
        self.hosts = snapshot.vms.values().map(|vm| vm.host.clone()).collect();
        let is_image = |volume: &String| volume.contains(":import/");
        for (host, volumes) in &mut snapshot.volumes {
            let images: BTreeSet<_> = volumes.iter().filter(|volume| is_image(volume)).cloned().collect();
            if !images.is_empty() {
                self.images.insert(host.clone(), images);
            }
            volumes.retain(|volume| !is_image(volume));
        }
        snapshot.volumes.retain(|_, volumes| !volumes.is_empty());
        self.datacenter = json!(snapshot);
    }

    /// Adds what a contractor believes. Checksums of images are as shared as these are.
    pub fn believe(&mut self, who: &str, beliefs: BTreeMap<String, Value>) {
        let beliefs = beliefs.into_iter().filter(|(key, _)| !key.starts_with("image/"));
        self.beliefs.extend(beliefs.map(|(key, value)| (format!("{who} {key}"), without(value, &UNSTEADY))));
    }

    /// Whether every node that is on is up: waiting to be configured, or running.
    pub fn is_at_rest(&self) -> bool {
        self.nodes.values().all(|node| node["stage"] == "maintenance" || node["stage"] == "running")
    }

    /// The same with the images of `now`, which those who used `hosts` keep for others.
    ///
    /// # Errors
    /// If an image is gone, or there are others than one more for each of these hosts.
    pub fn with_images_of(self, now: &Self, hosts: &BTreeSet<String>) -> anyhow::Result<Self> {
        let none = BTreeSet::new();
        for host in self.images.keys().chain(now.images.keys()) {
            let (old, new) = (self.images.get(host).unwrap_or(&none), now.images.get(host).unwrap_or(&none));
            anyhow::ensure!(old.is_subset(new), "{host} has lost an image: {old:?} became {new:?}");
            let most = old.len() + usize::from(hosts.contains(host) || host.is_empty());
            anyhow::ensure!(new.len() <= most, "{host} has more images than it needs: {old:?} became {new:?}");
        }
        Ok(Self { images: now.images.clone(), ..self })
    }

    /// Hosts that hold images.
    pub fn images(&self) -> impl Iterator<Item = String> {
        self.images.keys().cloned()
    }

    /// Hosts that hold VMs.
    pub fn hosts(&self) -> &BTreeSet<String> {
        &self.hosts
    }

    /// What differs, for people; none when nothing does.
    pub fn difference(&self, now: &Self) -> Option<String> {
        if self == now { None } else { told(&self.json(), &now.json()) }
    }

    /// The same between what two runs have made: ids, keys and times of each stand for those of the other.
    pub fn difference_but_ids(&self, now: &Self) -> Option<String> {
        told(&nameless(&self.json()), &nameless(&now.json()))
    }

    fn json(&self) -> Value {
        json!({
            "datacenter": self.datacenter, "images": self.images, "beliefs": self.beliefs, "nodes": self.nodes,
            "clusters": self.clusters, "files": self.files,
        })
    }
}

fn told(before: &Value, now: &Value) -> Option<String> {
    let mut found = Vec::new();
    compare("", before, now, &mut found);
    (!found.is_empty()).then(|| found.join("; "))
}

fn files(folder: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    if folder.exists() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            found.insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read_to_string(entry.path())?);
        }
    }
    Ok(found)
}

/// The name of a Kubernetes object, and what of it is wanted; pods by who made them, as they have names by chance.
fn object(resource: &str, object: &Value) -> (String, Value) {
    let metadata = &object["metadata"];
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    if resource == "pods" && metadata["ownerReferences"].is_array() {
        let owner = &metadata["ownerReferences"][0];
        let name = format!("{} {}", owner["kind"].as_str().unwrap_or("?"), owner["name"].as_str().unwrap_or("?"));
        return (format!("pods {namespace}/{name}"), Value::Null);
    }
    let mut wanted = without(object.clone(), &["status"]);
    if let Some(metadata) = wanted["metadata"].as_object_mut() {
        metadata.retain(|field, _| !HOUSEKEEPING.contains(&field.as_str()));
    }
    (format!("{resource} {namespace}/{}", metadata["name"].as_str().unwrap_or("?")), wanted)
}

/// By name, with a list of all that have the same.
fn gathered(objects: impl Iterator<Item = (String, Value)>) -> BTreeMap<String, Vec<Value>> {
    let mut found = BTreeMap::new();
    for (name, object) in objects {
        found.entry(name).or_insert_with(Vec::new).push(object);
    }
    found
}

/// A value without these fields, wherever they are.
fn without(value: Value, fields: &[&str]) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(field, _)| !fields.contains(&field.as_str()));
            kept.map(|(field, value)| (field, without(value, fields))).collect::<Map<_, _>>().into()
        }
        Value::Array(values) => values.into_iter().map(|value| without(value, fields)).collect(),
        other => other,
    }
}

/// Ids, MAC addresses, hashes, keys, times and networks of pods, each by what it is.
static NAMES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let names = [
        (r"-----BEGIN [A-Z ]+-----[^-]+-----END [A-Z ]+-----", "<pem>"),
        (r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}", "<uuid>"),
        (r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", "<mac>"),
        (r"\b[0-9a-f]{64}\b", "<hash>"),
        (r"\b[0-9a-f]{32}\b", "<uuid>"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", "<time>"),
        (r"ctime=\d+", "ctime=<time>"),
        // Nodes get theirs in the order in which they come.
        (r"^10\.244\.\d+\.0/24$", "<pods of the node>"),
        (r"bootstrap-token-[a-z0-9]{6}", "bootstrap-token-<id>"),
        (r"[A-Za-z0-9+/]{40,}={0,2}", "<bytes>"),
    ];
    names.into_iter().map(|(pattern, name)| (Regex::new(pattern).expect("the pattern is right"), name)).collect()
});

/// A value in which ids, keys and times are called by what they are. Where that makes the names of fields equal, or other
/// than they were, a list of pairs takes the place of the object.
fn nameless(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(nameless_text(text)),
        Value::Array(values) => values.iter().map(nameless).collect(),
        Value::Object(map) if map.get("kind") == Some(&json!("Secret")) => {
            let mut shown = map.clone();
            let fields =
                shown.remove("data").and_then(|data| Some(data.as_object()?.keys().cloned().collect::<Vec<_>>()));
            shown.insert("kind".to_owned(), json!({ "Secret": fields }));
            nameless(&shown.into())
        }
        Value::Object(map) if map.keys().any(|field| nameless_text(field) != *field) => {
            map.iter().map(|(field, value)| json!([nameless_text(field), nameless(value)])).collect()
        }
        Value::Object(map) => {
            map.iter().map(|(field, value)| (field.clone(), nameless(value))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

fn nameless_text(text: &str) -> String {
    let named = |text: String, (pattern, name): &(Regex, &str)| pattern.replace_all(&text, *name).into_owned();
    NAMES.iter().fold(text.to_owned(), named)
}

#[test]
fn two_worlds_are_the_same_but_for_their_ids() {
    let world = |uid: &str, state: &str| Footprint {
        beliefs: [(format!("vm/{uid}"), json!({ "uid": uid, "state": state }))].into(),
        ..Footprint::default()
    };
    let (one, other) = ("0c2cbd7f-2f3c-4a5e-8a93-8bb4df16ba17", "60a80b2b-3f29-4be9-9b1c-19b2a9d7f0a2");
    assert_eq!(world(one, "a").difference_but_ids(&world(other, "a")), None);
    assert!(world(one, "a").difference(&world(other, "a")).is_some());
    assert!(world(one, "a").difference_but_ids(&world(other, "b")).is_some());
}
