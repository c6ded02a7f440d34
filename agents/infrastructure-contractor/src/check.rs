//! What `check` finds at the hypervisors, each with the line that mends it.

mod rights;

use std::{collections::BTreeSet, fmt};

use proxmox::{Client, error::Kind};

use crate::{
    config::{Method, Sections},
    world::World,
};

pub(crate) use rights::{add_import, grant};

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// The command that mends it, as root on a hypervisor, or the setting to change.
    pub mend: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n    mend: {}", self.what, self.mend)
    }
}

fn problem(what: impl Into<String>, mend: impl Into<String>) -> Problem {
    Problem { what: what.into(), mend: mend.into() }
}

/// Everything that would stop a cluster from being made here. Reads only.
pub async fn check(client: &Client, sections: &Sections) -> Vec<Problem> {
    let version = match client.version().await {
        Ok(version) => version,
        Err(error) => return vec![unreachable(sections, &error)],
    };
    let mut problems = Vec::new();
    if sections.images.method == Method::Import && !version.imports_images() {
        let what = format!("Proxmox VE {version} cannot import a downloaded image over its API");
        problems.push(problem(what, "upgrade to 8.4, or set images.method = \"clone\" with a template"));
    }
    match World::look(client).await {
        Ok(world) => {
            problems.extend(datacenter(sections, &world));
            problems.extend(rights::missing(client, sections, &world, version).await);
        }
        Err(error) => problems.push(problem(error.to_string(), "see the rights below")),
    }
    problems.extend(cluster(client, sections).await);
    problems
}

fn unreachable(sections: &Sections, error: &proxmox::Error) -> Problem {
    let mend = match error.kind {
        Kind::Authentication => {
            "make a token with `pveum user token add USER@pve NAME` and write USER@pve!NAME=SECRET to credential_file"
        }
        Kind::Untrusted => {
            "compare with `openssl x509 -noout -fingerprint -sha256 -in /etc/pve/local/pve-ssl.pem` and pin it"
        }
        Kind::TargetRefused => "add the hypervisors' network to allowed_targets",
        _ => "check proxmox.endpoints, and that port 8006 is open from here",
    };
    problem(format!("Proxmox cannot be used at {}: {error}", sections.proxmox.endpoints.join(", ")), mend)
}

fn datacenter(sections: &Sections, world: &World) -> Vec<Problem> {
    let mut problems = Vec::new();
    let avoid = &sections.placement.avoid_hosts;
    let hosts: Vec<_> = world.hosts.iter().filter(|(name, host)| host.available && !avoid.contains(name)).collect();
    for (name, host) in world.hosts.iter().filter(|(_, host)| !host.available) {
        problems.push(problem(format!("host {name} is {}", host.state), "it gets no machine until it is back"));
    }
    let images = (sections.images.method == Method::Import).then_some((&sections.images.storage, "import"));
    let wanted: BTreeSet<_> = [(&sections.machines.storage, "images")].into_iter().chain(images).collect();
    for (storage, content) in wanted {
        for (name, host) in &hosts {
            match host.storages.get(storage) {
                None => problems.push(problem(
                    format!("storage {storage} is not visible on host {name}"),
                    format!("pvesm set {storage} --nodes …,{name}   # or add it, or grant Datastore.Audit on it"),
                )),
                Some(row) if !row.enabled || !row.active => problems.push(problem(
                    format!("storage {storage} is not active on host {name}"),
                    format!("pvesm set {storage} --disable 0"),
                )),
                Some(row) if !row.takes(content) => problems.push(problem(
                    format!("storage {storage} on host {name} does not take content type {content} ({})", row.content),
                    format!("pvesm set {storage} --content {},{content}", row.content),
                )),
                Some(_) => {}
            }
        }
    }
    for network in &sections.network {
        for (name, host) in &hosts {
            let Some(bridge) = host.bridges.get(&network.bridge) else {
                let what = format!("network {}: host {name} has no bridge {}", network.name, network.bridge);
                let mend = format!("pvesh create /nodes/{name}/network --iface {} --type bridge", network.bridge);
                problems.push(problem(what, mend));
                continue;
            };
            if let Some(vlan) = network.vlan.filter(|vlan| !bridge.carries_vlan(*vlan)) {
                let what =
                    format!("network {}: {} of host {name} does not carry VLAN {vlan}", network.name, bridge.iface);
                problems.push(problem(
                    what,
                    format!("add {vlan} to bridge-vids of {} in /etc/network/interfaces", bridge.iface),
                ));
            }
        }
    }
    problems
}

async fn cluster(client: &Client, sections: &Sections) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Ok(status) = client.cluster_status().await
        && !status.quorate
    {
        problems
            .push(problem("the Proxmox cluster has no quorum: nothing can be changed", "bring the other nodes back"));
    }
    if let Some(pool) = &sections.proxmox.pool
        && let Ok(pools) = client.pools().await
        && pools.iter().all(|own| own.poolid != *pool)
    {
        problems.push(problem(
            format!("there is no resource pool {pool}, or we may not see it"),
            format!("pveum pool add {pool}"),
        ));
    }
    problems
}
