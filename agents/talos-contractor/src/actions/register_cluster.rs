//! `talos.register_cluster`: takes a `vm_provisioned` that begins a cluster, and writes down what is to be made of it.

use contractor::action::{Action, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use jiff::Timestamp;
use messages::{
    handoff::{Purpose, VmProvisioned},
    name::{ClusterName, NodeName},
    request::{Cni, FailurePolicy, Role, Storage, TalosSpec},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{InventoryChange, SecretPut};
use talos::version::Minor;
use uuid::Uuid;

use super::{install_addon, nodes_of};
use crate::{
    failure::read,
    inventory::{self, Cluster, ClusterState, Node, json as record},
    reach::Deps,
    told,
};

/// Writes down a new cluster and its nodes.
pub struct RegisterCluster(pub Deps);

/// The handoff.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The whole `vm_provisioned`.
    pub handoff: VmProvisioned,
}

/// What later steps decide by.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub cluster: ClusterName,
    pub cluster_uid: Uuid,
    pub endpoint: String,
    pub talos_version: String,
    pub kubernetes_version: String,
    /// `cilium`, `flannel` or `none`.
    pub cni: Cni,
    /// `longhorn`, `local-path` or `none`.
    pub storage: Storage,
    pub failure_policy: FailurePolicy,
    pub nodes: Vec<NodeName>,
    pub control_planes: Vec<NodeName>,
    pub workers: Vec<NodeName>,
    pub metrics_endpoints: Vec<String>,
}

impl Action for RegisterCluster {
    const NAME: &'static str = "talos.register_cluster";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let handoff = &input.handoff;
        let known = inventory::cluster(&cx.store, &handoff.cluster_name).map_err(read)?;
        if let Some(known) = known {
            return match is_ours(&known.value, cx, handoff) {
                true => Ok(Done::new(output(&known.value, &nodes_of(&cx.store, &known.value.name)?))),
                false => Err(already_known(&known.value)),
            };
        }
        let (cluster, nodes) = plan(handoff, cx.unique_id("cluster"))?;
        self.check_storage(&cluster.spec)?;
        let mut effects = Effects::default();
        effects.inventory.push(InventoryChange::create(inventory::cluster_key(&cluster.name), record(&cluster)));
        for node in &nodes {
            let key = inventory::node_key(&cluster.name, &node.hostname);
            effects.inventory.push(InventoryChange::create(key, record(node)));
        }
        let facts = json!({ "nodes": nodes.len(), "endpoint": cluster.endpoint, "talos": cluster.talos_version });
        effects.events.push(told::event("cluster_registered", &cluster.name, cluster.name.as_str(), facts));
        Ok(Done::with_effects(output(&cluster, &nodes), effects))
    }

    async fn undo(&self, cx: &StepContext, input: &Input, _: Option<&Output>) -> Result<Effects, StepError> {
        let name = &input.handoff.cluster_name;
        let mut effects = Effects::default();
        let Some(known) = inventory::cluster(&cx.store, name).map_err(read)? else { return Ok(effects) };
        if !is_ours(&known.value, cx, &input.handoff) {
            return Ok(effects);
        }
        effects.inventory.push(InventoryChange::delete(inventory::cluster_key(name)));
        for node in inventory::nodes(&cx.store, name).map_err(read)? {
            let hostname = &node.value.hostname;
            effects.inventory.push(InventoryChange::delete(inventory::node_key(name, hostname)));
            effects.inventory.push(InventoryChange::delete(inventory::config_key(name, hostname)));
            effects.secrets.push(SecretPut { name: inventory::machine_config_name(name, hostname), plain: None });
        }
        effects.events.push(told::event("cluster_forgotten", name, name.as_str(), json!({})));
        Ok(effects)
    }

    async fn preview(&self, cx: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        let name = &input.handoff.cluster_name;
        if let Some(known) = cx.read::<Cluster>(&inventory::cluster_key(name)).map_err(read)? {
            return Err(already_known(&known.value));
        }
        let (cluster, nodes) = plan(&input.handoff, cx.flow)?;
        self.check_storage(&cluster.spec)?;
        let details = [
            ("talos", json!(cluster.talos_version)),
            ("kubernetes", json!(cluster.kubernetes_version)),
            ("endpoint", json!(cluster.endpoint)),
            ("nodes", json!(nodes.len())),
        ];
        let details = details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let object = format!("cluster {name}");
        Ok(vec![Change { verb: "register".to_owned(), object, details, destroys: false }])
    }

    async fn foresee(&self, cx: &PreviewContext, input: &Input) -> Result<Option<Value>, StepError> {
        let (cluster, nodes) = plan(&input.handoff, cx.flow)?;
        let mut output = record(&output(&cluster, &nodes));
        if let (Some(fields), None) = (output.as_object_mut(), input.handoff.cluster_uid) {
            // It is made when the machines are.
            fields.remove("cluster_uid");
        }
        Ok(Some(output))
    }
}

impl RegisterCluster {
    /// That the catalogue lacks what the cluster is to store on is found out here, and not when the cluster stands.
    fn check_storage(&self, spec: &TalosSpec) -> Result<(), StepError> {
        install_addon::of_storage(spec.storage_backend)
            .map_or(Ok(()), |addon| install_addon::pinned(&self.0, addon).map(drop))
    }
}

fn is_ours(known: &Cluster, cx: &StepContext, handoff: &VmProvisioned) -> bool {
    known.state == ClusterState::Bootstrapping
        && known.uid == handoff.cluster_uid.unwrap_or_else(|| cx.unique_id("cluster"))
}

fn already_known(known: &Cluster) -> StepError {
    StepError::fail(format!("cluster {} is known already, as {} ({:?})", known.name, known.uid, known.state))
        .with_hint("a handoff for nodes of a cluster that stands says `purpose: scale`")
}

/// The records to write; refuses what cannot become a cluster.
pub(crate) fn plan(handoff: &VmProvisioned, own_uid: Uuid) -> Result<(Cluster, Vec<Node>), StepError> {
    let refuse = |reason: String| Err(StepError::fail(reason));
    if !handoff.ready {
        return refuse("the machines are not ready".to_owned());
    }
    if !matches!(handoff.purpose, None | Some(Purpose::Create)) {
        return refuse("only `purpose: create` begins a cluster".to_owned());
    }
    let planes = handoff.nodes.iter().filter(|node| node.role == Role::ControlPlane).count();
    if planes == 0 || planes % 2 == 0 {
        return refuse(format!("{planes} control planes cannot hold a quorum safely; an odd number can"));
    }
    let spec = defaults(handoff.spec.clone().unwrap_or_default(), handoff.nodes.len() == planes);
    let talos_version = spec.talos_version.clone().unwrap_or_default();
    let minor = Minor::of(&talos_version).map_err(|error| StepError::fail(error.to_string()))?;
    let kubernetes_version = spec.kubernetes_version.clone().unwrap_or_default();
    if !minor.runs_kubernetes(&kubernetes_version) {
        let (first, last) = minor.kubernetes_minors();
        return refuse(format!(
            "Talos {talos_version} runs Kubernetes 1.{first} to 1.{last}, not {kubernetes_version}"
        ));
    }
    let first = handoff.nodes.iter().find(|node| node.role == Role::ControlPlane).map(|node| node.ip);
    let endpoint = handoff
        .api_endpoint
        .clone()
        .or_else(|| first.map(|ip| format!("https://{}", std::net::SocketAddr::new(ip, crate::kubernetes::PORT))));
    let cluster = Cluster {
        name: handoff.cluster_name.clone(),
        uid: handoff.cluster_uid.unwrap_or(own_uid),
        state: ClusterState::Bootstrapping,
        talos_version,
        kubernetes_version,
        endpoint: endpoint.unwrap_or_default(),
        schematic: handoff.schematic.clone(),
        network: handoff.network.clone(),
        spec,
        created: Timestamp::now(),
        health: None,
    };
    let nodes = super::register_nodes::records(&handoff.cluster_name, &handoff.nodes)?;
    Ok((cluster, nodes))
}

/// What the request left out.
fn defaults(spec: TalosSpec, no_workers: bool) -> TalosSpec {
    let talos = spec.talos_version.unwrap_or_else(|| Minor::V1_13.newest().trim_start_matches('v').to_owned());
    let kubernetes = spec
        .kubernetes_version
        .unwrap_or_else(|| Minor::of(&talos).map(Minor::default_kubernetes).unwrap_or_default().to_owned());
    TalosSpec {
        talos_version: Some(talos),
        kubernetes_version: Some(kubernetes),
        network_cni: Some(spec.network_cni.unwrap_or(Cni::Flannel)),
        storage_backend: Some(match spec.storage_backend.unwrap_or(Storage::None) {
            Storage::LocalStorage => Storage::LocalPath,
            other => other,
        }),
        allow_workloads_on_control_plane: Some(spec.allow_workloads_on_control_plane.unwrap_or(no_workers)),
        ..spec
    }
}

fn output(cluster: &Cluster, nodes: &[Node]) -> Output {
    let names = |wanted: &dyn Fn(&Node) -> bool| {
        nodes.iter().filter(|node| wanted(node)).map(|node| node.hostname.clone()).collect()
    };
    Output {
        cluster: cluster.name.clone(),
        cluster_uid: cluster.uid,
        endpoint: cluster.endpoint.clone(),
        talos_version: cluster.talos_version.clone(),
        kubernetes_version: cluster.kubernetes_version.clone(),
        cni: cluster.spec.network_cni.unwrap_or(Cni::None),
        storage: cluster.spec.storage_backend.unwrap_or(Storage::None),
        failure_policy: cluster.spec.failure_policy.unwrap_or_default(),
        nodes: names(&|_| true),
        control_planes: names(&Node::is_control_plane),
        workers: names(&|node| !node.is_control_plane()),
        metrics_endpoints: nodes
            .iter()
            .map(|node| format!("https://{}", std::net::SocketAddr::new(node.ip, 10250)))
            .collect(),
    }
}
