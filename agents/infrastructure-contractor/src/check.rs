//! What `check` finds at the hypervisors, each with the line that mends it.

mod datacenter;
mod rights;

use std::{collections::BTreeSet, fmt};

use proxmox::{Client, VmId, error::Kind};

use crate::{
    config::{Method, Sections},
    world::World,
};

pub(crate) use rights::add_import;

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
    let (mut lacks, failed) = rights::missing(client, sections, version).await;
    for template in sections.images.templates.iter().filter(|_| sections.images.method == Method::Clone) {
        // Rights on a pool say nothing of a template that does not exist.
        if matches!(client.is_free(VmId(template.vmid)).await, Ok(true)) {
            lacks.retain(|lack| lack.path != rights::template_path(template));
        }
    }
    let blind: BTreeSet<String> = lacks.iter().map(|lack| lack.path.clone()).collect();
    problems.extend(lacks.into_iter().map(|lack| lack.problem));
    problems.extend(failed);
    match World::look(client).await {
        Ok(world) => problems.extend(datacenter::problems(sections, &world, &blind)),
        Err(error) => problems.push(problem(error.to_string(), "see that the hypervisors answer")),
    }
    problems.extend(cluster(client, sections, &blind).await);
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

async fn cluster(client: &Client, sections: &Sections, blind: &BTreeSet<String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Ok(status) = client.cluster_status().await
        && !status.quorate
    {
        problems
            .push(problem("the Proxmox cluster has no quorum: nothing can be changed", "bring the other nodes back"));
    }
    if let Some(pool) = sections.proxmox.pool.as_ref().filter(|pool| !blind.contains(&format!("/pool/{pool}")))
        && let Ok(pools) = client.pools().await
        && pools.iter().all(|own| own.poolid != *pool)
    {
        problems.push(problem(format!("there is no resource pool {pool}"), format!("pveum pool add {pool}")));
    }
    problems
}
