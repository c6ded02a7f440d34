//! `/nodes/N/qemu`: the life of a VM.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Client, Result, Upid, config::VmConfig, form, form::Params, lenient, new_vm::NewVm};

/// A VM's number, unique in its cluster: 100 to 999,999,999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VmId(pub u32);

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `GET …/status/current`.
#[derive(Clone, Debug, Deserialize)]
pub struct VmStatus {
    /// `running` or `stopped`.
    pub status: String,
    /// QEMU's own state, for example `paused` or `io-error`.
    #[serde(default)]
    pub qmpstatus: Option<String>,
    /// Set while an operation holds the VM.
    #[serde(default)]
    pub lock: Option<String>,
    /// Seconds since it was started.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    pub uptime: Option<u64>,
    /// Whether and how the HA manager has it.
    #[serde(default)]
    pub ha: Option<HaStatus>,
}

impl VmStatus {
    /// Whether a QEMU process exists.
    pub fn is_running(&self) -> bool {
        self.status == "running"
    }

    /// Whether the HA manager starts and stops it: then power tasks end before anything happened (proxmox.md 7.4).
    pub fn is_ha_managed(&self) -> bool {
        self.ha.as_ref().is_some_and(|ha| ha.managed)
    }
}

/// The `ha` part of a VM's status.
#[derive(Clone, Debug, Deserialize)]
pub struct HaStatus {
    /// Whether it is an HA resource.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub managed: bool,
    /// `started`, `fence`, …
    #[serde(default)]
    pub state: Option<String>,
}

/// How to clone.
#[derive(Clone, Debug)]
pub struct NewClone {
    /// The new VM.
    pub new_id: VmId,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: Option<String>,
    /// Its pool.
    pub pool: Option<String>,
    /// Another node; needs shared storage.
    pub target: Option<String>,
    /// A copy on this storage instead of a linked clone.
    pub full_on: Option<String>,
}

impl Client {
    /// Reserves the id at once and starts the rest as a task (proxmox.md 3.1).
    pub async fn create_vm(&self, node: &str, vm: &NewVm) -> Result<Upid> {
        self.post(&form::path(&["nodes", node, "qemu"]), &vm.params()).await
    }

    /// Clones `source`. The new id is taken only when the task has started (proxmox.md 5): verify afterwards.
    pub async fn clone_vm(&self, node: &str, source: VmId, clone: &NewClone) -> Result<Upid> {
        let params = Params::default()
            .with("newid", clone.new_id)
            .with("name", &clone.name)
            .with_some("description", clone.description.as_ref())
            .with_some("pool", clone.pool.as_ref())
            .with_some("target", clone.target.as_ref())
            .with_flag("full", clone.full_on.is_some())
            .with_some("storage", clone.full_on.as_ref());
        self.post(&vm_path(node, source, &["clone"]), &params).await
    }

    /// Makes a stopped VM a template.
    pub async fn make_template(&self, node: &str, vmid: VmId) -> Result<Upid> {
        self.post(&vm_path(node, vmid, &["template"]), &Params::default()).await
    }

    /// The configuration, pending changes merged in.
    pub async fn vm_config(&self, node: &str, vmid: VmId) -> Result<VmConfig> {
        self.get(&vm_path(node, vmid, &["config"]), &Params::default()).await
    }

    /// Changes the configuration, synchronously. Give `digest` to notice somebody else's change.
    pub async fn set_vm_config(&self, node: &str, vmid: VmId, params: &Params, digest: Option<&str>) -> Result<()> {
        let params = params.clone().with_some("digest", digest);
        self.put::<serde_json::Value>(&vm_path(node, vmid, &["config"]), &params).await.map(drop)
    }

    /// Grows a disk to `gib`; the same size is a success, a smaller one an error. With `digest` as in
    /// [`set_vm_config`](Self::set_vm_config).
    pub async fn resize_disk(
        &self,
        node: &str,
        vmid: VmId,
        (slot, gib): (&str, u64),
        digest: Option<&str>,
    ) -> Result<Option<Upid>> {
        let params = Params::default().with("disk", slot).with("size", format!("{gib}G")).with_some("digest", digest);
        self.put(&vm_path(node, vmid, &["resize"]), &params).await
    }

    /// Whether it runs.
    pub async fn vm_status(&self, node: &str, vmid: VmId) -> Result<VmStatus> {
        self.get(&vm_path(node, vmid, &["status", "current"]), &Params::default()).await
    }

    /// Starts it. A running VM fails in the task with `already running`.
    pub async fn start_vm(&self, node: &str, vmid: VmId) -> Result<Upid> {
        self.post(&vm_path(node, vmid, &["status", "start"]), &Params::default()).await
    }

    /// Pulls the plug. A stopped VM is a success.
    pub async fn stop_vm(&self, node: &str, vmid: VmId) -> Result<Upid> {
        self.post(&vm_path(node, vmid, &["status", "stop"]), &Params::default()).await
    }

    /// Asks the guest to power down within `seconds`, then pulls the plug if `force`.
    pub async fn shutdown_vm(&self, node: &str, vmid: VmId, seconds: u32, force: bool) -> Result<Upid> {
        let params = Params::default().with("timeout", seconds).with_flag("forceStop", force);
        self.post(&vm_path(node, vmid, &["status", "shutdown"]), &params).await
    }

    /// Destroys a stopped VM with the disks in its configuration, and purges it from jobs, pools, ACLs and HA.
    ///
    /// Disks that only have its id in their names stay: another VM may use them.
    pub async fn destroy_vm(&self, node: &str, vmid: VmId) -> Result<Upid> {
        let params = Params::default().with_flag("purge", true);
        self.delete(&vm_path(node, vmid, &[]), &params).await
    }
}

fn vm_path(node: &str, vmid: VmId, rest: &[&str]) -> String {
    let id = vmid.to_string();
    form::path(&[&["nodes", node, "qemu", &id], rest].concat())
}
