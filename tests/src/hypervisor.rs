//! What an operator does at the hypervisors, with root's rights on their API.

use std::time::Duration;

use anyhow::{Context, anyhow};
use infrastructure_contractor::{
    config::{Images, Method, Template},
    schematic,
};
use proxmox::{
    Client, Upid, VmId,
    new_vm::{DiskContent, Firmware, NewDisk, NewVm},
    options::{Credentials, Options, Timeouts},
    storage::Download,
    targets::AllowedTargets,
    trust::Trust,
};
use uuid::Uuid;

/// The VMID of the template.
pub const TEMPLATE: u32 = 9000;
/// The storage that every host sees, where the template's disk is.
pub const SHARED: &str = "shared";
const PATIENCE: Duration = Duration::from_secs(20);

/// Somebody with root on the hypervisors, by the API.
///
/// # Errors
/// If address or fingerprint are none.
pub fn root(url: &str, fingerprint: &str) -> anyhow::Result<Client> {
    let wrong = |reason: String| anyhow!(reason);
    let options = Options {
        endpoints: vec![url.parse().map_err(wrong)?],
        credentials: Credentials::parse("root@pam:lab").map_err(wrong)?,
        trust: Trust::Fingerprints(vec![fingerprint.parse().map_err(wrong)?]),
        allowed_targets: AllowedTargets::loopback(),
        timeouts: Timeouts::default(),
    };
    Client::new(options).map_err(wrong)
}

/// The smallest VM, in the pool of the contractor's rights.
pub fn smallest(vmid: u32, name: &str) -> NewVm {
    NewVm {
        vmid: VmId(vmid),
        name: name.to_owned(),
        description: String::new(),
        tags: Vec::new(),
        pool: Some("cortex".to_owned()),
        cores: 1,
        cpu: "host".to_owned(),
        memory_mib: 512,
        machine: "q35".to_owned(),
        firmware: Firmware::SeaBios,
        scsi_controller: "virtio-scsi-single".to_owned(),
        smbios_uuid: Uuid::new_v4().to_string(),
        on_boot: false,
        agent: false,
        disks: Vec::new(),
        nics: Vec::new(),
        cloud_init: None,
    }
}

/// Makes a VM with the default Talos image on its disk, and a template of it. The cluster knows of it when this returns.
///
/// # Errors
/// What Proxmox says.
pub async fn make_template(root: &Client, mirror: &str) -> anyhow::Result<()> {
    let Template { talos_version, schematic, .. } = template();
    let image = Download {
        url: format!("{mirror}/image/{schematic}/v{talos_version}/nocloud-amd64.qcow2"),
        file_name: "talos.qcow2".into(),
        content: "import".into(),
        sha256: None,
        verify_certificates: true,
    };
    let disk = NewDisk {
        slot: "scsi0".into(),
        storage: SHARED.into(),
        content: DiskContent::Import { volume: format!("{SHARED}:import/talos.qcow2") },
        ssd: true,
        io_thread: false,
        cache: None,
        serial: None,
    };
    let vm = NewVm { disks: vec![disk], ..smallest(TEMPLATE, "talos") };
    done(root, root.download_url("pve1", SHARED, &image).await?).await?;
    done(root, root.create_vm("pve1", &vm).await?).await?;
    done(root, root.make_template("pve1", VmId(TEMPLATE)).await?).await?;
    // What the cluster says of guests lags behind what was done (proxmox.md 7.2).
    let known = async {
        while !root.locate_vm(VmId(TEMPLATE)).await?.is_some_and(|row| row.template) {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, known).await.context("the cluster does not hear of the template")?
}

/// The contractor's settings to clone that template instead of importing an image.
pub fn clones() -> Images {
    Images { method: Method::Clone, templates: vec![template()], ..Images::default() }
}

fn template() -> Template {
    let talos_version = Images::default().default_talos_version();
    Template { host: None, vmid: TEMPLATE, talos_version, schematic: schematic::id(&[]) }
}

async fn done(root: &Client, task: Upid) -> anyhow::Result<()> {
    root.wait_for_task(&task, PATIENCE).await?;
    Ok(())
}
