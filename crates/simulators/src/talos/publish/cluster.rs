//! Discovery: affiliates, members, endpoints; and the local etcd member.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::talos::config::MachineType;
use crate::talos::cosi::{kinds, named};
use crate::talos::node::Boot;
use crate::talos::world::Affiliate;

/// Publishes the etcd member that runs here.
pub(crate) fn etcd_member(boot: &Boot, member: u64) {
    boot.cosi.put(kinds::ETCD_MEMBERS, "local", &json!({"memberID": format!("{member:016x}")}));
    let addresses: Vec<String> = boot.address().iter().map(ToString::to_string).collect();
    let image = format!("registry.k8s.io/etcd:v{}", boot.release.etcd());
    let spec = json!({
        "name": boot.name(), "advertisedAddresses": addresses, "listenPeerAddresses": ["::"],
        "listenClientAddresses": ["::"], "image": image,
    });
    boot.cosi.put(kinds::ETCD_SPECS, "etcd", &spec);
    boot.cosi.put(kinds::ETCD_CONFIGS, "etcd", &json!({"image": image}));
    boot.cosi.put(kinds::ETCD_PKI_STATUSES, "etcd", &json!({"ready": true, "version": "1"}));
}

/// Republishes the members whenever discovery changes.
pub(crate) async fn follow_discovery(boot: &Arc<Boot>) {
    let mut changes = boot.world.member_changes();
    loop {
        changes.mark_unchanged();
        publish(boot);
        tokio::select! {
            () = boot.world.rest(std::time::Duration::from_secs(30)) => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

fn publish(boot: &Boot) {
    let Some(key) = boot.discovery_key() else { return };
    let own = boot.node_id();
    let known = boot.world.affiliates(&key);
    let mut ids = Vec::new();
    for affiliate in &known {
        let spec = affiliate_spec(affiliate);
        let mut member = spec.clone();
        member["hostname"] = json!(affiliate.hostname);
        boot.cosi.put(kinds::MEMBERS, &affiliate.hostname, &member);
        boot.cosi.put(kinds::AFFILIATES, &affiliate.node_id, &spec);
        if affiliate.node_id != own {
            boot.cosi.put(kinds::AFFILIATES.within("cluster-raw"), &format!("service/{}", affiliate.node_id), &spec);
        }
        ids.push((affiliate.hostname.clone(), affiliate.node_id.clone()));
    }
    let (names, nodes): (Vec<String>, Vec<String>) = ids.into_iter().unzip();
    boot.cosi.retain(kinds::MEMBERS, &names);
    boot.cosi.retain(kinds::AFFILIATES, &nodes);
    let raw: Vec<String> = nodes.iter().map(|id| format!("service/{id}")).collect();
    boot.cosi.retain(kinds::AFFILIATES.within("cluster-raw"), &raw);
    let control_planes = known.iter().filter(|affiliate| affiliate.machine_type == MachineType::ControlPlane);
    let addresses: Vec<String> =
        control_planes.flat_map(|known| known.addresses.iter().map(ToString::to_string)).collect();
    boot.cosi.put(kinds::ENDPOINTS, "discovery", &json!({"addresses": addresses}));
}

fn affiliate_spec(affiliate: &Affiliate) -> Value {
    let mut spec = json!({
        "nodeId": affiliate.node_id,
        "addresses": affiliate.addresses,
        "hostname": affiliate.hostname,
        "nodename": affiliate.hostname,
        "operatingSystem": affiliate.operating_system,
        "machineType": named(affiliate.machine_type.name(), affiliate.machine_type.number()),
    });
    if affiliate.machine_type == MachineType::ControlPlane {
        spec["controlPlane"] = json!({"port": 6443});
    }
    spec
}
