//! `infrastructure.reserve_cluster`: takes everything that a new cluster needs, in one commit.

use std::{collections::BTreeMap, net::IpAddr};

use contractor::action::{Action, Change, DomainEvent, Done, Effects, Kept, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use jiff::Timestamp;
use messages::request::{EndpointKind, Pool, ProvisionCluster, Role, TalosSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::InventoryChange;
use uuid::Uuid;

use super::{cluster, machine_event, machines, references};
use crate::{
    Deps,
    claims::Claim,
    config::NodeNetwork,
    failure,
    inventory::{
        Cluster, ClusterState, Endpoint, Image, Lease, Machine, MachineRef, PoolRecord, address_key, cluster_key,
    },
    reservation::{self, Ground, Wanted},
    schematic,
};

pub(super) struct ReserveCluster(pub(super) Deps);

/// For what.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The request.
    request: ProvisionCluster,
}

/// What was taken.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Output {
    /// The cluster's incarnation.
    cluster_uid: Uuid,
    /// The machines; every detail of them is in the inventory.
    machines: Vec<MachineRef>,
    /// The hosts that need the image.
    hosts: Vec<String>,
    /// What the machines boot.
    image: Image,
    /// Where the Kubernetes API will be reached.
    api_endpoint: String,
}

impl Action for ReserveCluster {
    const NAME: &'static str = "infrastructure.reserve_cluster";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let name = &input.request.cluster_name;
        if let Some(found) = cluster(&cx.store, name)? {
            if found.value.flow != cx.flow {
                return Err(StepError::fail(format!("a cluster {name} exists (uid {})", found.value.uid)));
            }
            let own: Vec<Machine> = machines(&cx.store, name)?.into_iter().map(|vm| vm.machine).collect();
            return Ok(Done::new(output(&found.value, &own)));
        }
        let uid = |what: &str| cx.unique_id(what);
        let (record, machines, claim) = self.choose(&cx.store, &input.request, cx.flow, &uid).await?;
        let mut effects = Effects { until_then: Kept::new(claim), ..Effects::default() };
        effects.inventory.push(InventoryChange::create(cluster_key(name), reservation::json(&record)));
        if let Some(address) = record.endpoint.leased {
            let lease = Lease { cluster: name.clone(), node_uid: None, flow: cx.flow };
            effects.inventory.push(InventoryChange::create(address_key(address), reservation::json(&lease)));
        }
        effects.inventory.extend(reservation::claims(&machines));
        effects.events.push(DomainEvent {
            kind: "cluster_registered",
            cluster: Some(name.to_string()),
            body: json!({ "object": name, "facts": { "cluster_uid": record.uid } }),
        });
        effects.events.extend(machines.iter().map(|machine| machine_event("vm_reserved", machine)));
        Ok(Done::with_effects(output(&record, &machines), effects))
    }

    /// Gives everything back that this flow took. Machines still there were taken back before, or their undo failed.
    async fn undo(&self, cx: &StepContext, input: &Input, _output: Option<&Output>) -> Result<Effects, StepError> {
        let name = &input.request.cluster_name;
        let mut effects = Effects::default();
        for vm in machines(&cx.store, name)?.iter().filter(|vm| vm.machine.flow == cx.flow) {
            effects.inventory.extend(reservation::releases(&vm.machine));
        }
        if let Some(found) = cluster(&cx.store, name)?.filter(|found| found.value.flow == cx.flow) {
            // It may have been ready since.
            self.0.monitoring.forget(name)?;
            effects.inventory.push(InventoryChange::delete(cluster_key(name)));
            effects.inventory.extend(found.value.endpoint.leased.map(|ip| InventoryChange::delete(address_key(ip))));
        }
        Ok(effects)
    }

    /// Chooses without committing; what it shows is kept from other plans for ten minutes.
    async fn preview(&self, cx: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        let request = &input.request;
        let known: Option<_> = cx.read::<Cluster>(&cluster_key(&request.cluster_name)).map_err(failure::read)?;
        if let Some(known) = known {
            return Err(StepError::fail(format!(
                "a cluster {} exists (uid {})",
                request.cluster_name, known.value.uid
            )));
        }
        let uid = |what: &str| Uuid::new_v5(&cx.flow, what.as_bytes());
        let (record, machines, _claim) = self.choose(&cx.store, request, cx.flow, &uid).await?;
        let addresses = machines.iter().map(|machine| machine.ip).chain(record.endpoint.leased).collect();
        let vmids = machines.iter().map(|machine| machine.vmid).collect();
        self.0.proposals.hold(&request.cluster_name, vmids, addresses);
        let endpoint = Change {
            verb: "reserve".into(),
            object: format!("endpoint {}", record.endpoint.url()),
            details: BTreeMap::from([
                ("kind".to_owned(), json!(record.endpoint.kind)),
                ("url".to_owned(), json!(record.endpoint.url())),
                ("network".to_owned(), network_facts(&record)),
            ]),
            destroys: false,
        };
        Ok(std::iter::once(endpoint).chain(machines.iter().map(proposal)).collect())
    }
}

/// A machine as a plan shows it: no uids, which are made when the plan is carried out.
pub(super) fn proposal(machine: &Machine) -> Change {
    let details = [
        ("hostname", json!(machine.hostname)),
        ("vm_id", json!(machine.vmid.to_string())),
        ("host", json!(machine.host)),
        ("pool", json!(machine.pool)),
        ("ip", json!(machine.ip)),
        ("role", json!(machine.role)),
        ("cpus", json!(machine.shape.cpus)),
        ("memory_mib", json!(machine.shape.memory_mib)),
        ("disk_gib", json!(machine.shape.disk_gib)),
        ("storage", json!(machine.storage)),
        ("bridge", json!(machine.network.bridge)),
        ("talos", json!(machine.image.talos_version)),
    ];
    Change {
        verb: "create".into(),
        object: machine.title(),
        details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        destroys: false,
    }
}

/// The network as a handoff names it.
fn network_facts(record: &Cluster) -> Value {
    let network = &record.network;
    json!({ "gateway": network.gateway, "dns_servers": network.dns_servers, "prefix": network.prefix })
}

fn output(record: &Cluster, machines: &[Machine]) -> Output {
    Output {
        cluster_uid: record.uid,
        hosts: hosts(machines),
        machines: references(machines),
        image: record.image.clone(),
        api_endpoint: record.endpoint.url(),
    }
}

/// The hosts of `machines`, each once, sorted.
pub(super) fn hosts(machines: &[Machine]) -> Vec<String> {
    let mut hosts: Vec<_> = machines.iter().map(|machine| machine.host.clone()).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

impl ReserveCluster {
    async fn choose(
        &self,
        reader: &store::Reader,
        request: &ProvisionCluster,
        flow: Uuid,
        uid: &(dyn Fn(&str) -> Uuid + Sync),
    ) -> Result<(Cluster, Vec<Machine>, Option<Claim>), StepError> {
        let deps = &self.0;
        let network = reservation::cluster_network(deps, request)?;
        let node_network = reservation::node_network(deps, &network.name)?;
        let pools = request.effective_pools();
        let mut spec = request.talos_spec();
        let image = image(deps, &mut spec);
        let mut ground = Ground::survey(deps, reader, &request.cluster_name).await?;
        let vip = pick_vip(deps, &mut ground, request, node_network)?;
        let cluster_uid = uid("cluster");
        let wanted = Wanted {
            cluster: &request.cluster_name,
            cluster_uid,
            network: &network,
            image: &image,
            flow,
            pools: pools.iter().map(|pool| (pool, (1..=pool.count).collect())).collect(),
        };
        let machines = ground.choose(deps, node_network, &wanted, uid).await?;
        let vip = match vip {
            Some(Vip::Asked(address)) => {
                ground.confirm_this_address(node_network, address).await?;
                Some(address)
            }
            Some(Vip::Any(address)) => ground.confirm_addresses(deps, node_network, vec![address]).await?.pop(),
            None => None,
        };
        let endpoint = endpoint(request, vip, &machines)?;
        spec.endpoint_is_vip = Some(endpoint.kind == EndpointKind::Vip);
        let record = Cluster {
            uid: cluster_uid,
            name: request.cluster_name.clone(),
            state: ClusterState::Provisioning,
            flow,
            created: Timestamp::now(),
            pools: pools.into_iter().map(record_of).collect(),
            network,
            endpoint,
            spec,
            image,
            failure_policy: request.failure_policy.unwrap_or_default(),
            ready: None,
        };
        Ok((record, machines, ground.into_claim()))
    }
}

fn record_of(pool: Pool) -> (messages::name::PoolName, PoolRecord) {
    (pool.name.clone(), PoolRecord { spec: pool, generation: 1 })
}

/// The image that the spec asks for; fills in the Talos version, so that both contractors mean the same.
fn image(deps: &Deps, spec: &mut TalosSpec) -> Image {
    let version = spec.talos_version.clone().unwrap_or_else(|| deps.sections.images.default_talos_version());
    let version = version.trim_start_matches('v').to_owned();
    spec.talos_version = Some(version.clone());
    let guest_agent = deps.sections.machines.guest_agent;
    let extensions = schematic::extensions(&spec.extensions, spec.storage_backend, guest_agent);
    Image { talos_version: version, schematic: schematic::id(&extensions), extensions }
}

/// A virtual IP that was picked.
enum Vip {
    /// The request names it.
    Asked(IpAddr),
    /// Another one would do as well.
    Any(IpAddr),
}

/// A VIP is leased where the request wants one: by default above one control plane.
fn pick_vip(
    deps: &Deps,
    ground: &mut Ground,
    request: &ProvisionCluster,
    network: &NodeNetwork,
) -> Result<Option<Vip>, StepError> {
    let pools = request.effective_pools();
    let control_planes: u32 = pools.iter().filter(|pool| pool.role == Role::ControlPlane).map(|pool| pool.count).sum();
    let default = if control_planes > 1 { EndpointKind::Vip } else { EndpointKind::Node };
    let asked = request.endpoint.as_ref();
    if asked.map_or(default, |endpoint| endpoint.kind) != EndpointKind::Vip {
        return Ok(None);
    }
    match asked.and_then(|endpoint| endpoint.address.as_deref()) {
        Some(text) => {
            let address = text.parse().map_err(|_| StepError::fail(format!("endpoint {text:?} is not an address")))?;
            Ok(Some(Vip::Asked(ground.pick_this_address(address)?)))
        }
        None => Ok(ground.pick_addresses(deps, network, 1)?.pop().map(Vip::Any)),
    }
}

fn endpoint(request: &ProvisionCluster, vip: Option<IpAddr>, machines: &[Machine]) -> Result<Endpoint, StepError> {
    let asked = request.endpoint.as_ref();
    let port = asked.and_then(|endpoint| endpoint.port).unwrap_or(6443);
    if let Some(address) = vip {
        return Ok(Endpoint { kind: EndpointKind::Vip, host: address.to_string(), port, leased: Some(address) });
    }
    if let Some(endpoint) = asked.filter(|endpoint| endpoint.kind == EndpointKind::External) {
        let host = endpoint.address.clone().ok_or_else(|| StepError::fail("an external endpoint needs an address"))?;
        return Ok(Endpoint { kind: EndpointKind::External, host, port, leased: None });
    }
    let first = machines.iter().find(|machine| machine.role == Role::ControlPlane);
    let first = first.ok_or_else(|| StepError::fail("the request has no control plane"))?;
    Ok(Endpoint { kind: EndpointKind::Node, host: first.ip.to_string(), port, leased: None })
}
