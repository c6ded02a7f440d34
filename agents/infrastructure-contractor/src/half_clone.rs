//! Half clones: what Proxmox has made of a template because a step asked for it, before it has its machine's hardware.
//!
//! A clone is given a name and a description and nothing else that would prove it: MACs and SMBIOS UUID are random, tags are
//! the template's (proxmox.md 3.4). Until they are set, together with the machine's own description, a nonce in the
//! description is the proof. It is drawn for one clone and kept with the step before the call, so that a clone whose answer
//! was lost is known by it, and a VM that carries a machine's description by whatever other way is not taken for one.

use proxmox::config::VmConfig;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    fence::Ours,
    inventory::Machine,
    look_alike::LookAlike,
    ownership::{self, Difference},
};

const NONCE: &str = "cortex-clone:";

/// What only the clone that was asked for with it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Nonce(Uuid);

impl Nonce {
    /// One that nobody has seen yet.
    pub(crate) fn draw() -> Self {
        Self(Uuid::new_v4())
    }
}

/// The description that the clone is asked for with; the machine's own takes its place together with the hardware.
pub(crate) fn description(machine: &Machine, nonce: Nonce) -> String {
    format!("{}\n{NONCE} {}", ownership::description(machine), nonce.0)
}

/// Whether it is the clone that was asked for with `nonce`, its hardware still what Proxmox gave it by itself.
pub(crate) fn is_asked_for(machine: &Machine, config: &VmConfig, nonce: Nonce) -> bool {
    let traces = ownership::traces(machine, config);
    ownership::noted(config, NONCE) == Some(nonce.0.to_string().as_str())
        && ownership::block_differences(machine, config).is_empty()
        && !["SMBIOS UUID", "MAC", "tag of the node"].iter().any(|part| traces.contains(part))
}

/// A half clone that runs is none: we start nothing before it is proven in every part, so somebody else uses it.
pub(crate) fn that_runs(machine: &Machine, half: &Ours) -> LookAlike {
    let power = Difference { what: "power", expected: "off".to_owned(), found: "on".to_owned() };
    let mut differences = vec![power];
    differences.extend(ownership::differences(machine, proxmox::VmId(machine.vmid), &half.config));
    let carries = ownership::traces(machine, &half.config);
    LookAlike { vmid: machine.vmid, host: half.host.clone(), carries, differences }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::sample;

    fn is_ours(config: &Value, nonce: Nonce) -> bool {
        is_asked_for(&sample::machine(), &serde_json::from_value(config.clone()).unwrap(), nonce)
    }

    #[test]
    fn only_the_very_nonce_proves_a_half_clone() {
        let (machine, nonce) = (sample::machine(), Nonce::draw());
        // Proxmox ends what it reads with a new line.
        let half = json!({
            "name": "prod-k8s-cp-1", "description": format!("{}\n", description(&machine, nonce)), "tags": "template",
            "net0": "virtio=BC:24:11:FF:FF:FF,bridge=vmbr0", "smbios1": "uuid=00000000-0000-4000-8000-000000000000",
        });
        assert!(is_ours(&half, nonce));
        assert!(!is_ours(&half, Nonce::draw()), "another request's");
        let mut copied = half.clone();
        copied["description"] = json!(ownership::description(&machine));
        assert!(!is_ours(&copied, nonce), "a copy of the description that the machine gets");
        let mut elsewhere = machine.clone();
        elsewhere.vmid += 1;
        copied["description"] = json!(description(&elsewhere, nonce));
        assert!(!is_ours(&copied, nonce), "made for another id");
    }

    #[test]
    fn what_has_hardware_of_the_machine_is_no_half_clone() {
        let (machine, nonce) = (sample::machine(), Nonce::draw());
        for (key, value) in [
            ("smbios1", format!("uuid={}", machine.smbios_uuid)),
            ("net0", format!("virtio={},bridge=vmbr0", machine.mac().unwrap())),
            ("tags", ownership::own_tag(&machine)),
        ] {
            let mut config = json!({ "description": description(&machine, nonce) });
            assert!(is_ours(&config, nonce));
            config[key] = json!(value);
            assert!(!is_ours(&config, nonce), "{key}");
        }
    }
}
