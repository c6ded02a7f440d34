//! What `check` finds on the hosts: storages and their content types, bridges and their VLANs.

use std::collections::BTreeSet;

use super::{
    Problem, problem,
    rights::{bridge_path, template_path},
};
use crate::{
    config::{Method, NodeNetwork, Placement, Sections, Template},
    world::{Host, World},
};

/// What is wrong with the hosts. Where a right is missing (`blind` has its path) nothing is said of what it hides.
pub(super) fn problems(sections: &Sections, world: &World, blind: &BTreeSet<String>) -> Vec<Problem> {
    let hosts = Hosts::of(world, &sections.placement);
    let mut problems = Vec::new();
    for (name, host) in world.hosts.iter().filter(|(_, host)| !host.available) {
        problems.push(problem(format!("host {name} is {}", host.state), "it gets no machine until it is back"));
    }
    let images = (sections.images.method == Method::Import).then_some((&sections.images.storage, "import"));
    let wanted: BTreeSet<_> = [(&sections.machines.storage, "images")].into_iter().chain(images).collect();
    for (storage, content) in wanted {
        if !blind.contains(&format!("/storage/{storage}")) {
            problems.extend(hosts.storage(storage, content));
        }
    }
    for network in sections.network.iter().filter(|network| !blind.contains(&bridge_path(network))) {
        problems.extend(hosts.network(network));
    }
    if sections.images.method == Method::Clone {
        let seen = sections.images.templates.iter().filter(|template| !blind.contains(&template_path(template)));
        problems.extend(seen.filter_map(|template| template_problem(world, template)));
    }
    problems
}

fn template_problem(world: &World, template: &Template) -> Option<Problem> {
    let vmid = template.vmid;
    let Some(guest) = world.guests.get(&vmid) else {
        let mend = format!("make it with Talos {} on scsi0, or correct [[images.templates]]", template.talos_version);
        return Some(problem(format!("there is no template {vmid}"), mend));
    };
    if !guest.template {
        return Some(problem(format!("VM {vmid} on {} is not a template", guest.host), format!("qm template {vmid}")));
    }
    let wrong = template.host.as_ref().filter(|host| **host != guest.host)?;
    let what = format!("template {vmid} is on {}, not on {wrong}", guest.host);
    Some(problem(what, format!("write host = \"{}\" under [[images.templates]]", guest.host)))
}

/// The hosts that may get machines.
struct Hosts<'w>(Vec<(&'w str, &'w Host)>);

impl<'w> Hosts<'w> {
    fn of(world: &'w World, placement: &Placement) -> Self {
        let usable = world.hosts.iter().filter(|(name, host)| host.available && !placement.avoid_hosts.contains(name));
        Self(usable.map(|(name, host)| (name.as_str(), host)).collect())
    }

    /// What keeps a storage from holding `content` on every host. Settings of a storage are those of the cluster, so each
    /// is named once.
    fn storage(&self, storage: &str, content: &str) -> Vec<Problem> {
        let rows = || self.0.iter().filter_map(|(name, host)| Some((*name, host.storages.get(storage)?)));
        let Some((_, first)) = rows().next() else {
            let what = format!("there is no storage {storage} on any host");
            return vec![problem(
                what,
                format!("pvesm add dir {storage} --path /var/lib/{storage} --content {content}"),
            )];
        };
        let mut problems = Vec::new();
        let have: Vec<_> = rows().map(|(name, _)| name).collect();
        let lack: Vec<_> = self.0.iter().map(|(name, _)| *name).filter(|name| !have.contains(name)).collect();
        if !lack.is_empty() {
            let all: Vec<_> = self.0.iter().map(|(name, _)| *name).collect();
            let what = format!("storage {storage} is not available on {}", lack.join(", "));
            problems.push(problem(what, format!("pvesm set {storage} --nodes {}", all.join(","))));
        }
        if !first.takes(content) {
            let what = format!("storage {storage} does not take content type {content}, only {}", first.content);
            problems.push(problem(what, format!("pvesm set {storage} --content {},{content}", first.content)));
        }
        if !first.enabled {
            let what = format!("storage {storage} is disabled");
            problems.push(problem(what, format!("pvesm set {storage} --disable 0")));
        }
        for (name, _) in rows().filter(|(_, row)| row.enabled && !row.active) {
            let what = format!("storage {storage} is not active on host {name}");
            problems.push(problem(what, format!("look at `pvesm status --storage {storage}` on {name}")));
        }
        problems
    }

    fn network(&self, network: &NodeNetwork) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, host) in &self.0 {
            let Some(bridge) = host.bridges.get(&network.bridge) else {
                let what = format!("network {}: host {name} has no bridge {}", network.name, network.bridge);
                let create = format!("pvesh create /nodes/{name}/network --iface {} --type bridge", network.bridge);
                problems.push(problem(what, format!("{create} && pvesh set /nodes/{name}/network")));
                continue;
            };
            if let Some(vlan) = network.vlan.filter(|vlan| !bridge.carries_vlan(*vlan)) {
                let what =
                    format!("network {}: {} of host {name} does not carry VLAN {vlan}", network.name, bridge.iface);
                let mend = format!("add {vlan} to bridge-vids of {} in /etc/network/interfaces", bridge.iface);
                problems.push(problem(what, mend));
            }
        }
        problems
    }
}
