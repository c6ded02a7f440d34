//! The rights that the contractor needs (proxmox.md 8), which of them are missing, and the `pveum` line that gives them.

use std::collections::BTreeSet;

use proxmox::{Client, access::Permissions, version::Version};

use super::{Problem, problem};
use crate::config::{Method, NodeNetwork, Sections, Template};

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

/// What cannot be done, and where.
pub(super) struct Lack {
    /// Path of the access control list.
    pub(super) path: String,
    /// The rights that are missing there, and the line that gives them.
    pub(super) problem: Problem,
}

/// The roles that exist, which decides between `role add` and `role modify`.
pub(super) type Roles = BTreeSet<String>;

/// The line that gives `privileges` at `path` to a user, or to a token and its user: a token has the rights that both have.
fn grant(identity: &str, path: &str, privileges: &[&str], roles: &Roles) -> String {
    let role = format!("Cortex{}", path.split('/').filter(|part| !part.is_empty()).map(capital).collect::<String>());
    let whom = match identity.split_once('!') {
        Some((user, _)) => format!("--users {user} --tokens '{identity}'"),
        None => format!("--users {identity}"),
    };
    let verb = if roles.contains(&role) { "modify" } else { "add" };
    format!(
        "pveum role {verb} {role} --privs '{}' && pveum acl modify {path} {whom} --roles {role}",
        privileges.join(" ")
    )
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

/// Every right that is missing. It asks about each path by itself, so that one answer that fails hides no other.
pub(super) async fn missing(client: &Client, sections: &Sections, version: Version) -> (Vec<Lack>, Vec<Problem>) {
    let (mut lacks, mut problems) = (Vec::new(), Vec::new());
    let mut failed = |error: proxmox::Error| problems.push(problem(error.to_string(), "check the token"));
    let hosts = client.nodes().await.unwrap_or_else(|error| {
        failed(error);
        Vec::new()
    });
    let roles = client.roles().await.unwrap_or_else(|error| {
        failed(error);
        Vec::new()
    });
    let roles: Roles = roles.into_iter().map(|role| role.roleid).collect();
    let hosts: Vec<_> = hosts.into_iter().map(|host| host.node).collect();
    for (path, wanted) in wanted(sections, &hosts, version) {
        match client.permissions(Some(&path)).await {
            Ok(permissions) => lacks.extend(lacking(client.identity(), &permissions, &path, &wanted, &roles)),
            Err(error) => failed(error),
        }
    }
    (lacks, problems)
}

fn lacking(identity: &str, permissions: &Permissions, path: &str, wanted: &[&str], roles: &Roles) -> Option<Lack> {
    let missing: Vec<&str> = permissions.missing(path, wanted).into_iter().collect();
    if missing.is_empty() {
        return None;
    }
    // A role replaces what is inherited, so it must hold everything that is wanted there.
    let what = format!("{identity} lacks {} on {path}", missing.join(", "));
    Some(Lack { path: path.to_owned(), problem: problem(what, grant(identity, path, wanted, roles)) })
}

/// Path by path, what is needed there.
fn wanted(sections: &Sections, hosts: &[String], version: Version) -> Vec<(String, Vec<&'static str>)> {
    let vms = sections.proxmox.pool.as_ref().map_or_else(|| "/vms".to_owned(), |pool| format!("/pool/{pool}"));
    let mut vm: Vec<_> = VM.to_vec();
    vm.push(if version.has_guest_agent_privileges() { "VM.GuestAgent.Audit" } else { "VM.Monitor" });
    if sections.proxmox.pool.is_some() {
        vm.push("Pool.Audit");
    }
    let mut wanted = vec![("/".to_owned(), vec!["Sys.Audit"]), (vms, vm)];
    let disks = &sections.machines.storage;
    let mut on_disks = vec!["Datastore.AllocateSpace", "Datastore.Audit"];
    if sections.images.method == Method::Import {
        let images = &sections.images.storage;
        on_disks = if images == disks { Vec::new() } else { on_disks };
        let privileges = vec!["Datastore.AllocateSpace", "Datastore.AllocateTemplate", "Datastore.Audit"];
        wanted.push((format!("/storage/{images}"), privileges));
        for host in hosts {
            wanted.push((format!("/nodes/{host}"), vec!["Sys.AccessNetwork", "Sys.Audit"]));
        }
    }
    if sections.images.method == Method::Clone {
        let templates = sections.images.templates.iter();
        wanted.extend(templates.map(|template| (template_path(template), vec!["VM.Audit", "VM.Clone"])));
    }
    if !on_disks.is_empty() {
        wanted.push((format!("/storage/{disks}"), on_disks));
    }
    wanted.extend(sections.network.iter().map(|network| (bridge_path(network), vec!["SDN.Use"])));
    wanted
}

/// Where the right to clone a template is given.
pub(super) fn template_path(template: &Template) -> String {
    format!("/vms/{}", template.vmid)
}

/// Where the right to use a network's bridge is given.
pub(super) fn bridge_path(network: &NodeNetwork) -> String {
    let tag = network.vlan.map(|vlan| format!("/{vlan}")).unwrap_or_default();
    format!("/sdn/zones/{}/{}{tag}", network.zone, network.bridge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_comes_with_its_line_whether_or_not_the_role_is_there() {
        let permissions: Permissions =
            serde_json::from_value(serde_json::json!({ "/storage/local": { "Datastore.Audit": 1 } })).unwrap();
        let wanted = ["Datastore.AllocateTemplate", "Datastore.Audit"];
        let found = |roles: &[&str]| {
            let roles = roles.iter().map(|role| (*role).to_owned()).collect();
            let lack = lacking("cortex@pve!infra", &permissions, "/storage/local", &wanted, &roles).unwrap();
            (lack.path, lack.problem.to_string())
        };
        let (path, text) = found(&[]);
        assert_eq!(path, "/storage/local");
        assert_eq!(
            text,
            "cortex@pve!infra lacks Datastore.AllocateTemplate on /storage/local\n    mend: pveum role add \
             CortexStorageLocal --privs 'Datastore.AllocateTemplate Datastore.Audit' && pveum acl modify \
             /storage/local --users cortex@pve --tokens 'cortex@pve!infra' --roles CortexStorageLocal"
        );
        let network = |more: &str| {
            let common = "name = 'n'\ncidr = '10.0.0.0/24'\ngateway = '10.0.0.1'\nranges = ['10.0.0.2-10.0.0.9']";
            let text = format!("{common}\nbridge = 'v1'\n{more}");
            bridge_path(&toml::from_str(&text).unwrap())
        };
        assert_eq!(network("vlan = 7"), "/sdn/zones/localnetwork/v1/7");
        assert_eq!(network("zone = 'tenants'"), "/sdn/zones/tenants/v1");
        assert!(found(&["CortexStorageLocal"]).1.contains("mend: pveum role modify CortexStorageLocal --privs"));
    }
}
