//! Sense checks against the hypervisors as they are: known hosts, storages, bridges, and machines that could ever fit.

use std::collections::BTreeSet;

use messages::{request::Pool, schema::Violation};

use super::Found;
use crate::{
    config::{Method, Sections},
    inventory::ClusterNetwork,
    world::{Host, World},
};

/// What no waiting would mend. What waiting may mend (a full or offline host) is placement's business.
pub fn against(pools: &[Pool], network: &ClusterNetwork, sections: &Sections, world: &World) -> Vec<Violation> {
    let mut found = Found::default();
    let avoid = &sections.placement.avoid_hosts;
    for (index, pool) in pools.iter().enumerate().filter(|(_, pool)| pool.count > 0) {
        for (number, host) in pool.hosts.iter().enumerate().filter(|(_, host)| !world.hosts.contains_key(*host)) {
            let known: Vec<_> = world.hosts.keys().map(String::as_str).collect();
            let expected = format!("a hypervisor of the cluster: {}", known.join(", "));
            found.add(format!("/pools/{index}/hosts/{number}"), "known", expected, host.clone());
        }
        let admitted = |name: &str| {
            if pool.hosts.is_empty() {
                !avoid.iter().any(|own| own == name)
            } else {
                pool.hosts.iter().any(|own| own == name)
            }
        };
        let hosts: Vec<(&str, &Host)> = world
            .hosts
            .iter()
            .filter(|(name, host)| admitted(name) && host.available)
            .map(|(name, host)| (name.as_str(), host))
            .collect();
        if !hosts.is_empty() {
            check_pool(&format!("/pools/{index}"), pool, network, sections, &hosts, &mut found);
        }
    }
    found.0
}

fn check_pool(
    path: &str,
    pool: &Pool,
    network: &ClusterNetwork,
    sections: &Sections,
    hosts: &[(&str, &Host)],
    found: &mut Found,
) {
    let names = || hosts.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let system = pool.storage.clone().unwrap_or_else(|| sections.machines.storage.clone());
    let mut storages = BTreeSet::from([system.clone()]);
    storages.extend(pool.extra_disks.iter().map(|disk| disk.storage.clone().unwrap_or_else(|| system.clone())));
    for storage in &storages {
        let takes = |host: &Host| host.storages.get(storage).is_some_and(|row| row.takes("images"));
        if !hosts.iter().any(|(_, host)| takes(host)) {
            let expected = format!("a storage of {} with content type images", names());
            found.add(format!("{path}/storage"), "known", expected, storage.clone());
        }
    }
    if sections.images.method == Method::Import {
        let storage = &sections.images.storage;
        let takes = |host: &Host| host.storages.get(storage).is_some_and(|row| row.takes("import"));
        if !hosts.iter().any(|(_, host)| takes(host)) {
            let expected =
                format!("content type import on storage {storage} (`{}`)", crate::check::add_import(storage));
            found.add("/images/storage", "content", expected, "no import");
        }
    }
    let nics = pool.extra_nics.iter().map(|nic| (nic.bridge.as_str(), nic.vlan));
    for (bridge, vlan) in std::iter::once((network.bridge.as_str(), network.vlan)).chain(nics) {
        let carries = |host: &Host| {
            host.bridges.get(bridge).is_some_and(|bridge| vlan.is_none_or(|vlan| bridge.carries_vlan(vlan)))
        };
        if !hosts.iter().any(|(_, host)| carries(host)) {
            let tag = vlan.map(|vlan| format!(" that carries VLAN {vlan}")).unwrap_or_default();
            let expected = format!("a bridge of {}{tag}", names());
            found.add(format!("{path}/bridge"), "known", expected, bridge.to_owned());
        }
    }
    let memory = u64::from(pool.effective_shape().memory_mib) << 20;
    let largest = hosts.iter().map(|(_, host)| host.memory).max().unwrap_or_default();
    if memory > largest {
        let expected = format!("at most {} MiB, the memory of the largest host", largest >> 20);
        found.add(format!("{path}/shape/memory_mib"), "maximum", expected, (memory >> 20).to_string());
    }
}
