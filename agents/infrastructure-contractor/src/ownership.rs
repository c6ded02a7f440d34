//! The ownership proof: what a VM of ours carries, and what differs on one that is not (design invariant 5).

use std::fmt;

use proxmox::{VmId, config::VmConfig};
use uuid::Uuid;

use crate::inventory::Machine;

/// The tag that every VM of ours carries.
pub const TAG: &str = "cortex";

/// The tags of a machine: for people, and with both uids for the proof.
pub fn tags(machine: &Machine) -> Vec<String> {
    vec![
        TAG.to_owned(),
        format!("cluster-{}", machine.cluster),
        cluster_tag(machine.cluster_uid),
        node_tag(machine.node_uid),
    ]
}

fn cluster_tag(uid: Uuid) -> String {
    format!("cluster-uid-{}", uid.simple())
}

fn node_tag(uid: Uuid) -> String {
    format!("node-uid-{}", uid.simple())
}

/// The description of a machine: one sentence for people, then the block that the proof reads.
pub fn description(machine: &Machine) -> String {
    let role = match machine.role {
        messages::request::Role::ControlPlane => "control plane",
        messages::request::Role::Worker => "worker",
    };
    format!(
        "{} ({role}) of the Kubernetes cluster {}, managed by infrastructure-contractor. Leave the lines below as they \
         are.\n\n{}",
        machine.hostname,
        machine.cluster,
        block(machine)
    )
}

fn block(machine: &Machine) -> String {
    format!(
        "cortex-cluster-uid: {}\ncortex-node-uid: {}\ncortex-vmid: {}",
        machine.cluster_uid, machine.node_uid, machine.vmid
    )
}

/// One thing that is not as the inventory says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `SMBIOS UUID`, `MAC of net0`, …
    pub what: &'static str,
    /// What the inventory says.
    pub expected: String,
    /// What the VM has.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, not {}", self.what, self.found, self.expected)
    }
}

/// Everything in which the VM `vmid` with `config` differs from `machine`. Empty is the proof.
pub fn differences(machine: &Machine, vmid: VmId, config: &VmConfig) -> Vec<Difference> {
    let mut differences = block_differences(machine, config);
    let mut compare = |what, expected: String, found: Option<String>| {
        if found.as_ref() != Some(&expected) {
            differences.push(Difference { what, expected, found: found.unwrap_or_else(|| "absent".to_owned()) });
        }
    };
    compare("VMID", machine.vmid.to_string(), Some(vmid.to_string()));
    let uuid = config.smbios_uuid().map(|text| text.parse::<Uuid>().map_or(text, |uuid| uuid.to_string()));
    compare("SMBIOS UUID", machine.smbios_uuid.to_string(), uuid);
    let mac = machine.mac().map(|mac| mac.to_string()).unwrap_or_default();
    compare("MAC of net0", mac, config.macs().get("net0").map(ToString::to_string));
    let carried = config.tags();
    for (what, tag) in
        [("tag of the cluster", cluster_tag(machine.cluster_uid)), ("tag of the node", node_tag(machine.node_uid))]
    {
        let found = carried.iter().any(|own| own.eq_ignore_ascii_case(&tag)).then(|| tag.clone());
        compare(what, tag, found);
    }
    differences
}

/// What differs in the description alone.
pub fn block_differences(machine: &Machine, config: &VmConfig) -> Vec<Difference> {
    [
        ("cluster uid in the description", "cortex-cluster-uid:", machine.cluster_uid.to_string()),
        ("node uid in the description", "cortex-node-uid:", machine.node_uid.to_string()),
        ("VMID in the description", "cortex-vmid:", machine.vmid.to_string()),
    ]
    .into_iter()
    .filter_map(|(what, key, expected)| {
        let found = noted(config, key);
        (found != Some(expected.as_str())).then(|| Difference {
            what,
            expected,
            found: found.unwrap_or("absent").to_owned(),
        })
    })
    .collect()
}

/// What the description says behind `key`, on a line of its own.
pub(crate) fn noted<'c>(config: &'c VmConfig, key: &str) -> Option<&'c str> {
    let mut lines = config.get("description").unwrap_or_default().lines();
    lines.find_map(|line| Some(line.trim().strip_prefix(key)?.trim()))
}

/// The parts of the proof that only the VM of `machine` can have been given, and that this one carries: its name, and
/// what is unique to the node. What the machines of a cluster share, and the id under which it stands, say nothing.
pub fn traces(machine: &Machine, config: &VmConfig) -> Vec<&'static str> {
    let missing: Vec<_> = differences(machine, VmId(machine.vmid), config).into_iter().map(|d| d.what).collect();
    let own = ["node uid in the description", "SMBIOS UUID", "tag of the node"];
    let mut traces: Vec<_> = own.into_iter().filter(|part| !missing.contains(part)).collect();
    if config.macs().values().any(|mac| machine.nics.iter().any(|nic| nic.mac == *mac)) {
        traces.push("MAC");
    }
    if config.get("name") == Some(machine.hostname.as_str()) {
        traces.push("name");
    }
    traces
}

/// The tag that names a machine's own uid.
pub fn own_tag(machine: &Machine) -> String {
    node_tag(machine.node_uid)
}

/// All of them in one line.
pub fn in_words(differences: &[Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::sample;

    fn config_of(machine: &Machine) -> Value {
        json!({
            "description": description(machine),
            "tags": tags(machine).join(";"),
            "smbios1": format!("uuid={}", machine.smbios_uuid),
            "net0": format!("virtio={},bridge=vmbr0", machine.mac().unwrap()),
        })
    }

    fn check(config: &Value, vmid: u32) -> Vec<&'static str> {
        let config: VmConfig = serde_json::from_value(config.clone()).unwrap();
        differences(&sample::machine(), VmId(vmid), &config).into_iter().map(|difference| difference.what).collect()
    }

    #[test]
    fn what_we_made_is_proven() {
        let machine = sample::machine();
        assert_eq!(check(&config_of(&machine), machine.vmid), Vec::<&str>::new());
    }

    #[test]
    fn a_hand_made_clone_is_not_ours_although_it_carries_our_tags() {
        let machine = sample::machine();
        let mut clone = config_of(&machine);
        clone["smbios1"] = json!("uuid=00000000-0000-4000-8000-000000000000");
        clone["net0"] = json!("virtio=BC:24:11:FF:FF:FF,bridge=vmbr0");
        clone["description"] = Value::Null;
        assert_eq!(
            check(&clone, 999),
            [
                "cluster uid in the description",
                "node uid in the description",
                "VMID in the description",
                "VMID",
                "SMBIOS UUID",
                "MAC of net0",
            ]
        );
    }

    #[test]
    fn what_siblings_share_is_no_trace_of_a_machine_and_what_is_its_own_is() {
        let machine = sample::machine();
        let sibling = json!({
            "name": "prod-k8s-cp-2", "tags": format!("cortex;{}", cluster_tag(machine.cluster_uid)),
            "description": format!("cortex-cluster-uid: {}", machine.cluster_uid),
            "net0": "virtio=BC:24:11:00:00:99,bridge=vmbr0",
        });
        let of = |config: &Value| traces(&machine, &serde_json::from_value(config.clone()).unwrap());
        assert_eq!(of(&sibling), Vec::<&str>::new());
        let mut stripped = config_of(&machine);
        stripped["name"] = json!("prod-k8s-cp-1");
        assert_eq!(of(&stripped), ["node uid in the description", "SMBIOS UUID", "tag of the node", "MAC", "name"]);
        stripped["tags"] = Value::Null;
        stripped["description"] = Value::Null;
        stripped["smbios1"] = json!("uuid=00000000-0000-4000-8000-000000000000");
        stripped["net1"] = stripped["net0"].take();
        assert_eq!(of(&stripped), ["MAC", "name"], "a MAC counts on whatever NIC");
    }

    #[test]
    fn each_part_alone_breaks_the_proof() {
        let machine = sample::machine();
        for (key, value, what) in [
            ("smbios1", "uuid=00000000-0000-4000-8000-000000000000", "SMBIOS UUID"),
            ("net0", "virtio=BC:24:11:FF:FF:FF,bridge=vmbr0", "MAC of net0"),
        ] {
            let mut config = config_of(&machine);
            config[key] = json!(value);
            assert_eq!(check(&config, machine.vmid), [what]);
        }
        let mut untagged = config_of(&machine);
        untagged["tags"] = json!("cortex");
        assert_eq!(check(&untagged, machine.vmid), ["tag of the cluster", "tag of the node"]);
    }
}
