//! Template clones as the alternative to importing an image.

use std::time::Duration;

use infrastructure_contractor::{
    check,
    config::{Method, Sections},
    schematic,
};
use proxmox::{
    VmId,
    config::Mac,
    form::Params,
    new_vm::{DiskContent, Firmware, NewDisk, NewNic, NewVm},
    storage::Download,
};
use uuid::Uuid;

use crate::{
    life::assert_succeeded,
    world::{World, mirror_url},
};

pub(crate) const TEMPLATE: u32 = 9000;

/// What an operator does once: a VM with the image on its disk, made a template on shared storage.
async fn make_template(world: &World, net: u8) {
    let (root, patience) = (world.root(), Duration::from_secs(20));
    let image = Download {
        url: format!("{}/image/{}/v1.13.9/nocloud-amd64.qcow2", mirror_url(world), schematic::id(&[])),
        file_name: "talos.qcow2".into(),
        content: "import".into(),
        sha256: None,
        verify_certificates: true,
    };
    let upid = root.download_url("pve1", "shared", &image).await.unwrap();
    root.wait_for_task(&upid, patience).await.unwrap();
    let vm = NewVm {
        vmid: VmId(TEMPLATE),
        name: format!("talos-{net}"),
        description: "Talos 1.13.9".into(),
        tags: vec!["template".into()],
        pool: Some("cortex".into()),
        cores: 1,
        cpu: "x86-64-v2-AES".into(),
        memory_mib: 2048,
        machine: "q35".into(),
        firmware: Firmware::SeaBios,
        scsi_controller: "virtio-scsi-pci".into(),
        smbios_uuid: Uuid::new_v4().to_string(),
        on_boot: false,
        agent: false,
        disks: vec![NewDisk {
            slot: "scsi0".into(),
            storage: "shared".into(),
            content: DiskContent::Import { volume: "shared:import/talos.qcow2".into() },
            ssd: true,
            io_thread: false,
            cache: None,
            serial: None,
        }],
        nics: [1, 2].map(template_nic).into(),
        cloud_init: None,
    };
    let upid = root.create_vm("pve1", &vm).await.unwrap();
    root.wait_for_task(&upid, patience).await.unwrap();
    // Clones take the protection over.
    let more = Params::default().with("ide2", "none,media=cdrom").with_flag("protection", true);
    root.set_vm_config("pve1", VmId(TEMPLATE), &more, None).await.unwrap();
    let problems = check::check(&world.deps.proxmox, &world.deps.sections).await;
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert_eq!(problems[0].to_string(), "VM 9000 on pve1 is not a template\n    mend: qm template 9000");
    let upid = root.make_template("pve1", VmId(TEMPLATE)).await.unwrap();
    root.wait_for_task(&upid, patience).await.unwrap();
}

fn template_nic(at: u8) -> NewNic {
    NewNic { mac: Mac::proxmox([9, 9, at]), bridge: "vmbr0".into(), vlan: None, mtu: None, firewall: false }
}

/// A world whose machines are cloned from a template that is not made yet.
pub(crate) async fn without_template(net: u8) -> World {
    let clones = |sections: &mut Sections| {
        sections.images.method = Method::Clone;
        sections.machines.storage = "shared".into();
        let template = format!("vmid = {TEMPLATE}\ntalos_version = \"1.13.9\"\nschematic = \"{}\"", schematic::id(&[]));
        sections.images.templates = vec![toml::from_str(&template).unwrap()];
    };
    World::start_with(net, |_| {}, clones).await
}

/// Makes it, and waits until the cluster knows of it.
pub(crate) async fn with_template(net: u8) -> World {
    let world = without_template(net).await;
    make_template(&world, net).await;
    world.until_async(async || check::check(&world.deps.proxmox, &world.deps.sections).await.is_empty()).await;
    world
}

#[tokio::test]
async fn machines_are_cloned_from_a_template_on_whatever_host_they_go() {
    let net = 239;
    let world = without_template(net).await;
    let found = check::check(&world.deps.proxmox, &world.deps.sections).await;
    assert_eq!(found.iter().map(|problem| problem.what.as_str()).collect::<Vec<_>>(), ["there is no template 9000"]);
    make_template(&world, net).await;
    world.until_async(async || check::check(&world.deps.proxmox, &world.deps.sections).await.is_empty()).await;
    let request = serde_json::json!({
        "request_type": "provision_cluster", "cluster_name": "prod", "pattern": "ha", "worker_nodes": 0,
        "node_size": "small", "storage_backend": "local-path",
    });
    assert_succeeded(&world.run("provision-vms", Uuid::new_v4(), request).await);
    let handoff = world.handoffs("vm_provisioned").pop().unwrap();
    for node in handoff["nodes"].as_array().unwrap() {
        let machine = world.machines.machine(node["vm_id"].as_str().unwrap().parse().unwrap()).unwrap();
        assert_eq!(machine.smbios_uuid.to_string(), node["smbios_uuid"]);
        assert_eq!(machine.host, node["host"].as_str().unwrap());
        assert_eq!((machine.cpus, machine.disks[0].size_bytes), (2, 20 << 30));
        let vmid = node["vm_id"].as_str().unwrap().parse().unwrap();
        let config = &world.proxmox.snapshot().vms[&vmid].config;
        assert!(config["ide2"].contains("cloudinit"), "the template's empty drive made room: {}", config["ide2"]);
        assert!(!config.contains_key("net1"), "the template's second NIC is nobody's");
        assert!(!config["description"].contains("cortex-clone"), "it is proven by more: {}", config["description"]);
    }
    let removed = serde_json::json!({ "handoff_type": "cluster_removed", "cluster_name": "prod" });
    assert_succeeded(&world.run("destroy-cluster", Uuid::new_v4(), removed).await);
    assert_eq!(world.proxmox.snapshot().vms.keys().copied().collect::<Vec<_>>(), [TEMPLATE]);
}
