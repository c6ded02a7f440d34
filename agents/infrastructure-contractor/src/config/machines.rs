//! `[machines]`: how virtual machines are made.

use messages::schema::Violation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem;

/// What is alike for all machines.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Machines {
    /// Storage of disks where a pool names none.
    pub storage: String,
    /// First VMID that may be used.
    #[schemars(range(min = 100, max = 999_999_999))]
    pub first_vmid: u32,
    /// Last VMID that may be used.
    #[schemars(range(min = 100, max = 999_999_999))]
    pub last_vmid: u32,
    /// CPU model; Talos needs `x86-64-v2` or better. `host` is faster and forbids live migration between unequal CPUs.
    pub cpu: String,
    /// QEMU machine type.
    pub machine: String,
    /// Firmware.
    pub firmware: Firmware,
    /// `virtio-scsi-pci` or `virtio-scsi-single`.
    pub scsi_controller: String,
    /// Cache mode of disks, for example `writethrough`; default: Proxmox's.
    pub disk_cache: Option<String>,
    /// Whether images hold the QEMU guest agent. Nothing here needs it.
    pub guest_agent: bool,
    /// Whether VMs start with their host.
    pub start_on_boot: bool,
    /// How long the Talos API of a started machine is waited for before its VM is looked at, in seconds.
    #[schemars(range(min = 1, max = 3600))]
    pub patience_seconds: u64,
}

/// Firmware of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// UEFI, as Talos's documentation recommends.
    #[default]
    Ovmf,
    /// Legacy BIOS.
    SeaBios,
}

impl Default for Machines {
    fn default() -> Self {
        Self {
            storage: "local-lvm".into(),
            first_vmid: 100,
            last_vmid: 999_999,
            cpu: "x86-64-v2-AES".into(),
            machine: "q35".into(),
            firmware: Firmware::Ovmf,
            scsi_controller: "virtio-scsi-pci".into(),
            disk_cache: None,
            guest_agent: false,
            start_on_boot: true,
            patience_seconds: 60,
        }
    }
}

impl Machines {
    pub(super) fn problems(&self) -> Vec<Violation> {
        let (first, last) = (self.first_vmid, self.last_vmid);
        let expected = "a first VMID not above the last";
        let wrong = problem("/machines/first_vmid", "range", expected, format!("{first} to {last}"));
        if first > last { vec![wrong] } else { Vec::new() }
    }
}
