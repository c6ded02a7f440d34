//! What infrastructure-contractor can do, one action per file.

mod check_request;
mod create_vm;
mod describe_machines;
mod ensure_image;
mod forget_cluster;
mod list_machines;
mod plan_decommission;
mod plan_scale;
mod protect_vm;
mod record_nodes;
mod register_monitoring;
mod release_vm;
mod reserve_cluster;
mod reserve_nodes;
mod start_vm;
mod wait_maintenance;

use std::net::IpAddr;

use contractor::action::{Actions, DomainEvent, StepError};
use messages::name::ClusterName;
use serde::Deserialize;
use serde_json::{Value, json};
use store::{InventoryChange, Reader, Versioned};

use crate::{
    Deps, failure,
    inventory::{Cluster, Machine, MachineRef, Vm, VmState, cluster_key, vm_key},
    reservation,
};

/// All of them.
pub fn actions(deps: &Deps) -> Actions {
    let deps = || deps.clone();
    Actions::default()
        .with(check_request::CheckRequest(deps()))
        .with(reserve_cluster::ReserveCluster(deps()))
        .with(ensure_image::EnsureImage::new(deps()))
        .with(create_vm::CreateVm(deps()))
        .with(start_vm::StartVm(deps()))
        .with(wait_maintenance::WaitMaintenance(deps()))
        .with(describe_machines::DescribeMachines)
        .with(plan_scale::PlanScale)
        .with(reserve_nodes::ReserveNodes(deps()))
        .with(record_nodes::RecordNodes(deps()))
        .with(register_monitoring::RegisterMonitoring(deps()))
        .with(protect_vm::ProtectVm(deps()))
        .with(list_machines::ListMachines)
        .with(release_vm::ReleaseVm(deps()))
        .with(plan_decommission::PlanDecommission)
        .with(forget_cluster::ForgetCluster(deps()))
}

/// The cluster's record.
fn cluster(reader: &Reader, name: &ClusterName) -> Result<Option<Versioned<Cluster>>, StepError> {
    reader.get(&cluster_key(name)).map_err(failure::read)
}

/// The cluster's record, where it must be known, and be the incarnation that is meant.
fn known_cluster(
    reader: &Reader,
    name: &ClusterName,
    uid: Option<uuid::Uuid>,
) -> Result<Versioned<Cluster>, StepError> {
    let found = cluster(reader, name)?.ok_or_else(|| StepError::fail(format!("no cluster {name} is known here")))?;
    match uid {
        Some(uid) if uid != found.value.uid => {
            let own = found.value.uid;
            Err(StepError::fail(format!("cluster {name} is {own} now, the message means {uid}"))
                .with_hint("the message is about an earlier cluster of that name; nothing was done"))
        }
        _ => Ok(found),
    }
}

/// The cluster that word of talos-contractor means, if it is still there: a broker may bring it after the cluster's end, and
/// nobody is to wait for an operator then.
fn still_there(
    reader: &Reader,
    name: &ClusterName,
    uid: Option<uuid::Uuid>,
) -> Result<Option<Versioned<Cluster>>, StepError> {
    let found = cluster(reader, name)?.filter(|found| uid.is_none_or(|uid| uid == found.value.uid));
    if found.is_none() {
        tracing::warn!(cluster = %name, "word comes of a cluster that is gone; nothing is done");
    }
    Ok(found)
}

/// Whose a machine is: the part of [`Vm`] that tells.
#[derive(Deserialize)]
struct VmOf {
    machine: MachineOf,
}

#[derive(Deserialize)]
struct MachineOf {
    cluster: ClusterName,
}

/// The machines of a cluster, sorted by name.
fn machines(reader: &Reader, cluster: &ClusterName) -> Result<Vec<Vm>, StepError> {
    let rows = reader.scan_where("vm/", |vm: &VmOf| vm.machine.cluster == *cluster).map_err(failure::read)?;
    let mut own: Vec<Vm> = rows.into_iter().map(|row| row.value).collect();
    own.sort_by(|a, b| a.machine.hostname.cmp(&b.machine.hostname));
    Ok(own)
}

/// The addresses of those that are nodes.
fn node_addresses(machines: &[Vm]) -> Vec<IpAddr> {
    machines.iter().filter(|vm| vm.state == VmState::Joined).map(|vm| vm.machine.ip).collect()
}

/// The machine behind a reference, as the inventory has it now.
fn recall(reader: &Reader, machine: &MachineRef) -> Result<Option<Machine>, StepError> {
    let found = reader.get::<Vm>(&vm_key(machine.node_uid)).map_err(failure::read)?;
    Ok(found.map(|found| found.value.machine))
}

/// The machine behind a reference, where it must be known.
fn recall_known(reader: &Reader, machine: &MachineRef) -> Result<Machine, StepError> {
    let gone = || StepError::fail(format!("{} is not in the inventory any more", machine.hostname));
    recall(reader, machine)?.ok_or_else(gone)
}

/// The machines as steps name them.
fn references<'m>(machines: impl IntoIterator<Item = &'m Machine>) -> Vec<MachineRef> {
    machines.into_iter().map(Machine::reference).collect()
}

/// The change that records where a machine is in its life; keeps what else the record says.
fn record(reader: &Reader, machine: &Machine, state: VmState) -> Result<InventoryChange, StepError> {
    let key = vm_key(machine.node_uid);
    let created = reader.get::<Vm>(&key).map_err(failure::read)?.map(|found| found.value.created);
    let vm = Vm { machine: machine.clone(), state, created: created.unwrap_or_else(jiff::Timestamp::now) };
    Ok(InventoryChange::put(key, reservation::json(&vm)))
}

/// Something happened to a cluster.
fn cluster_event(kind: &'static str, cluster: &ClusterName, facts: Value) -> DomainEvent {
    DomainEvent { kind, cluster: Some(cluster.to_string()), body: json!({ "object": cluster, "facts": facts }) }
}

/// Something happened to a machine.
fn machine_event(kind: &'static str, machine: &Machine) -> DomainEvent {
    let facts = json!({
        "node_uid": machine.node_uid, "vm_id": machine.vmid.to_string(), "host": machine.host, "ip": machine.ip,
        "pool": machine.pool,
    });
    let body = json!({ "object": machine.hostname, "facts": facts });
    DomainEvent { kind, cluster: Some(machine.cluster.to_string()), body }
}
