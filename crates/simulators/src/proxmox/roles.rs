//! The privileges and built-in roles of each release (proxmox.md 8 and 9).

use std::{collections::BTreeMap, sync::LazyLock};

use super::version::Version;

const VM_CONFIG: &[&str] = &[
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Cloudinit",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
];
const VM_ADMIN: &[&str] = &[
    "VM.Allocate",
    "VM.Audit",
    "VM.Backup",
    "VM.Clone",
    "VM.Console",
    "VM.Migrate",
    "VM.PowerMgmt",
    "VM.Snapshot",
    "VM.Snapshot.Rollback",
];
const AGENT_9: &[&str] = &[
    "VM.GuestAgent.Audit",
    "VM.GuestAgent.FileRead",
    "VM.GuestAgent.FileSystemMgmt",
    "VM.GuestAgent.FileWrite",
    "VM.GuestAgent.Unrestricted",
];
const DATASTORE: &[&str] =
    &["Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate", "Datastore.Audit"];
const SYS: &[&str] =
    &["Sys.AccessNetwork", "Sys.Audit", "Sys.Console", "Sys.Incoming", "Sys.Modify", "Sys.PowerMgmt", "Sys.Syslog"];
const REST: &[&str] = &[
    "Group.Allocate",
    "Mapping.Audit",
    "Mapping.Modify",
    "Mapping.Use",
    "Permissions.Modify",
    "Pool.Allocate",
    "Pool.Audit",
    "Realm.Allocate",
    "Realm.AllocateUser",
    "SDN.Allocate",
    "SDN.Audit",
    "SDN.Use",
    "User.Modify",
];

type Roles = BTreeMap<&'static str, Vec<&'static str>>;

static ROLES_8: LazyLock<Roles> = LazyLock::new(|| table(Version::V8));
static ROLES_9: LazyLock<Roles> = LazyLock::new(|| table(Version::V9));

/// Every built-in role with its privileges.
pub(crate) fn built_ins(version: Version) -> &'static Roles {
    if version.is_8() { &ROLES_8 } else { &ROLES_9 }
}

pub(crate) fn built_in(name: &str, version: Version) -> Option<&'static [&'static str]> {
    built_ins(version).get(name).map(Vec::as_slice)
}

/// Every privilege there is.
pub(crate) fn all(version: Version) -> &'static [&'static str] {
    built_in("Administrator", version).unwrap_or_default()
}

fn table(version: Version) -> Roles {
    let agent: &[&str] = if version.is_8() { &["VM.Monitor"] } else { AGENT_9 };
    let replicate: &[&str] = if version.is_8() { &[] } else { &["VM.Replicate"] };
    let join = |parts: &[&[&'static str]]| parts.concat();
    let vm_admin = join(&[VM_ADMIN, VM_CONFIG, agent, replicate]);
    let everything = join(&[&vm_admin, DATASTORE, SYS, REST]);
    let not_for_admin = ["Permissions.Modify", "Realm.Allocate", "Sys.Incoming", "Sys.Modify", "Sys.PowerMgmt"];
    let pve_admin = everything.iter().copied().filter(|privilege| !not_for_admin.contains(privilege)).collect();
    let agent_audit = if version.is_8() { "VM.Monitor" } else { "VM.GuestAgent.Audit" };
    let mut auditor = vec!["Datastore.Audit", "Mapping.Audit", "Pool.Audit", "SDN.Audit", "Sys.Audit", "VM.Audit"];
    if !version.is_8() {
        auditor.push(agent_audit);
    }
    Roles::from([
        ("Administrator", everything),
        ("NoAccess", vec![]),
        ("PVEAdmin", pve_admin),
        ("PVEAuditor", auditor),
        ("PVEDatastoreAdmin", DATASTORE.to_vec()),
        ("PVEDatastoreUser", vec!["Datastore.AllocateSpace", "Datastore.Audit"]),
        ("PVEMappingAdmin", vec!["Mapping.Audit", "Mapping.Modify", "Mapping.Use"]),
        ("PVEMappingAudit", vec!["Mapping.Audit"]),
        ("PVEMappingUser", vec!["Mapping.Audit", "Mapping.Use"]),
        ("PVEPoolAdmin", vec!["Pool.Allocate", "Pool.Audit"]),
        ("PVEPoolUser", vec!["Pool.Audit"]),
        ("PVESDNAdmin", vec!["SDN.Allocate", "SDN.Audit", "SDN.Use"]),
        ("PVESDNUser", vec!["SDN.Audit", "SDN.Use"]),
        ("PVESysAdmin", vec!["Permissions.Modify", "Sys.Audit", "Sys.Console", "Sys.Syslog"]),
        ("PVETemplateUser", vec!["VM.Audit", "VM.Clone"]),
        ("PVEUserAdmin", vec!["Group.Allocate", "Realm.AllocateUser", "User.Modify"]),
        ("PVEVMAdmin", vm_admin),
        (
            "PVEVMUser",
            vec![
                "VM.Audit",
                "VM.Backup",
                "VM.Config.CDROM",
                "VM.Config.Cloudinit",
                "VM.Console",
                agent_audit,
                "VM.PowerMgmt",
            ],
        ),
    ])
}
