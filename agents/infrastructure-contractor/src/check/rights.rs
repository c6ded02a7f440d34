//! The rights that the contractor needs (proxmox.md 8), which of them are missing, and the `pveum` line that gives them.

use proxmox::{Client, access::Permissions, version::Version};

use super::{Problem, problem};
use crate::{
    config::{Method, Sections},
    world::World,
};

const VM: [&str; 12] = [
    "VM.Allocate",
    "VM.Audit",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Cloudinit",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.PowerMgmt",
];

/// The line that gives `privileges` at `path` to a user, or to a token and its user: a token has the rights that both have.
pub(crate) fn grant(identity: &str, path: &str, privileges: &[impl AsRef<str>]) -> String {
    let privileges: Vec<&str> = privileges.iter().map(AsRef::as_ref).collect();
    let role = format!("Cortex{}", path.split('/').filter(|part| !part.is_empty()).map(capital).collect::<String>());
    let whom = match identity.split_once('!') {
        Some((user, _)) => format!("--users {user} --tokens '{identity}'"),
        None => format!("--users {identity}"),
    };
    format!("pveum role add {role} --privs '{}' && pveum acl modify {path} {whom} --roles {role}", privileges.join(" "))
}

fn capital(word: &str) -> String {
    let word: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

/// The line that lets a storage take images to import, beside what directories take by default.
pub(crate) fn add_import(storage: &str) -> String {
    format!("pvesm set {storage} --content iso,vztmpl,backup,import")
}

pub(super) async fn missing(client: &Client, sections: &Sections, world: &World, version: Version) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, wanted) in wanted(sections, world, version) {
        match client.permissions(Some(&path)).await {
            Ok(permissions) => problems.extend(lacking(client.identity(), &permissions, &path, &wanted)),
            Err(error) => problems.push(problem(error.to_string(), "check the token")),
        }
    }
    problems
}

fn lacking(identity: &str, permissions: &Permissions, path: &str, wanted: &[&str]) -> Option<Problem> {
    let missing: Vec<&str> = permissions.missing(path, wanted).into_iter().collect();
    if missing.is_empty() {
        return None;
    }
    // A role replaces what is inherited, so it must hold everything that is wanted there.
    let what = format!("{identity} lacks {} on {path}", missing.join(", "));
    Some(problem(what, grant(identity, path, wanted)))
}

/// Path by path, what is needed there.
fn wanted(sections: &Sections, world: &World, version: Version) -> Vec<(String, Vec<&'static str>)> {
    let vms = sections.proxmox.pool.as_ref().map_or_else(|| "/vms".to_owned(), |pool| format!("/pool/{pool}"));
    let mut vm: Vec<_> = VM.to_vec();
    vm.push(if version.has_guest_agent_privileges() { "VM.GuestAgent.Audit" } else { "VM.Monitor" });
    if sections.proxmox.pool.is_some() {
        vm.push("Pool.Audit");
    }
    let mut wanted = vec![("/".to_owned(), vec!["Sys.Audit"]), (vms, vm)];
    let disks = &sections.machines.storage;
    if sections.images.method == Method::Import {
        let images = &sections.images.storage;
        let mut privileges = vec!["Datastore.AllocateTemplate", "Datastore.AllocateSpace", "Datastore.Audit"];
        privileges.sort_unstable();
        wanted.push((format!("/storage/{images}"), privileges));
        for host in world.hosts.keys() {
            wanted.push((format!("/nodes/{host}"), vec!["Sys.AccessNetwork", "Sys.Audit"]));
        }
    }
    if !wanted.iter().any(|(path, _)| *path == format!("/storage/{disks}")) {
        wanted.push((format!("/storage/{disks}"), vec!["Datastore.AllocateSpace", "Datastore.Audit"]));
    }
    for network in &sections.network {
        let tag = network.vlan.map(|vlan| format!("/{vlan}")).unwrap_or_default();
        wanted.push((format!("/sdn/zones/localnetwork/{}{tag}", network.bridge), vec!["SDN.Use"]));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_comes_with_its_line() {
        let permissions: Permissions =
            serde_json::from_value(serde_json::json!({ "/storage/local": { "Datastore.Audit": 1 } })).unwrap();
        let found = lacking(
            "cortex@pve!infra",
            &permissions,
            "/storage/local",
            &["Datastore.AllocateTemplate", "Datastore.Audit"],
        );
        assert_eq!(
            found.unwrap().to_string(),
            "cortex@pve!infra lacks Datastore.AllocateTemplate on /storage/local\n    mend: pveum role add \
             CortexStorageLocal --privs 'Datastore.AllocateTemplate Datastore.Audit' && pveum acl modify \
             /storage/local --users cortex@pve --tokens 'cortex@pve!infra' --roles CortexStorageLocal"
        );
    }
}
