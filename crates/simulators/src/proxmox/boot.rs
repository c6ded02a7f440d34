//! From a VM's configuration to the machine that its guest finds, cloud-init drive included (proxmox.md 3.5).

use std::net::IpAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use uuid::Uuid;

use super::{
    disks,
    drive::Drive,
    params::{percent_decode, split_list},
    validate,
    vm::Vm,
    world::World,
};
use crate::machine::{Addressing, Disk, DiskContent, ImageRef, Lease, Machine, Nic, NocloudInterface, NocloudNetwork};

/// The machine a VM is at this moment; the cloud-init drive is written anew at each start.
pub(crate) fn machine(world: &World, vmid: u32, vm: &Vm) -> Machine {
    let config = &vm.config;
    let smbios = smbios(config.get("smbios1").unwrap_or_default());
    let drives = in_boot_order(vm);
    let nics: Vec<Nic> = config.nets().values().map(nic).collect();
    Machine {
        vmid,
        name: vm.name(vmid),
        host: vm.host.clone(),
        smbios_uuid: smbios.0,
        smbios_serial: smbios.1,
        cpus: u32::try_from(config.cpus()).unwrap_or(1),
        memory_mib: config.memory(),
        disks: drives.iter().filter(|drive| is_disk(drive)).filter_map(|drive| disk(world, vm, drive)).collect(),
        cdrom: drives.iter().filter(|drive| drive.is_cdrom()).find_map(|drive| iso(world, vm, drive)),
        nics,
        network: drives.iter().any(Drive::is_cloudinit).then(|| network(vmid, vm)),
        guest_agent: has_agent(vm),
        secure_boot: config.get("bios") == Some("ovmf")
            && config.drive("efidisk0").is_some_and(|drive| drive.flag("pre-enrolled-keys")),
    }
}

/// Whether the configuration switches the guest agent's device on.
pub(crate) fn has_agent(vm: &Vm) -> bool {
    let agent = vm.config.get("agent").unwrap_or_default();
    agent.split(',').any(|part| matches!(part, "1" | "enabled=1"))
}

fn is_disk(drive: &Drive) -> bool {
    !drive.is_cdrom() && !matches!(drive.slot.as_str(), "efidisk0" | "tpmstate0")
}

fn in_boot_order(vm: &Vm) -> Vec<Drive> {
    let order = vm.boot_order();
    let mut drives = vm.config.drives();
    let place = |slot: &str| order.iter().position(|device| device == slot).unwrap_or(usize::MAX);
    drives.sort_by_key(|drive| place(&drive.slot));
    drives
}

fn disk(world: &World, vm: &Vm, drive: &Drive) -> Option<Disk> {
    let volume = disks::find(world, &vm.host, &drive.file)?;
    Some(Disk {
        slot: drive.slot.clone(),
        size_bytes: volume.size,
        serial: drive.options.get("serial").map(|serial| percent_decode(serial)),
        rotational: !drive.flag("ssd"),
        read_only: drive.flag("ro"),
        content: DiskContent::clone(&volume.content),
    })
}

fn iso(world: &World, vm: &Vm, drive: &Drive) -> Option<ImageRef> {
    disks::find(world, &vm.host, &drive.file)?.file.as_ref()?.image.clone()
}

fn nic(net: &super::drive::Net) -> Nic {
    Nic {
        mac: net.mac.clone().unwrap_or_default(),
        bridge: net.bridge().unwrap_or_default().to_owned(),
        vlan: net.tag(),
        mtu: net.options.get("mtu").and_then(|mtu| mtu.parse().ok()).filter(|mtu| *mtu > 1),
        connected: net.options.get("link_down").is_none_or(|down| down != "1"),
        dhcp: None,
    }
}

/// UUID and serial; with `base64=1` all text values are encoded.
fn smbios(text: &str) -> (Uuid, String) {
    let part = |key: &str| text.split(',').find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
    let uuid = part("uuid").and_then(|uuid| uuid.parse().ok()).unwrap_or_default();
    let serial = part("serial").unwrap_or_default();
    let encoded = part("base64").is_some_and(|flag| flag == "1");
    let decoded =
        encoded.then(|| STANDARD.decode(serial).ok().and_then(|bytes| String::from_utf8(bytes).ok())).flatten();
    (uuid, decoded.unwrap_or_else(|| serial.to_owned()))
}

/// The content of the cloud-init drive.
pub(crate) fn network(vmid: u32, vm: &Vm) -> NocloudNetwork {
    let config = &vm.config;
    let interfaces = config.nets().into_iter().filter_map(|(index, net)| {
        let addressing = addressing(config.get(&format!("ipconfig{index}"))?)?;
        Some(NocloudInterface { mac: net.mac.unwrap_or_default(), addressing })
    });
    let addresses = |key: &str| split_list(config.get(key).unwrap_or_default());
    NocloudNetwork {
        hostname: Some(
            config
                .get("name")
                .map_or_else(|| format!("VM{vmid}"), |name| name.split('.').next().unwrap_or(name).to_owned()),
        ),
        interfaces: interfaces.collect(),
        nameservers: addresses("nameserver").iter().filter_map(|text| text.parse().ok()).collect(),
        search_domains: addresses("searchdomain"),
        user_data: None,
    }
}

fn addressing(ipconfig: &str) -> Option<Addressing> {
    let parts = validate::loose_property_string(ipconfig, &["gw", "gw6", "ip", "ip6"], None).ok()?;
    let ip = parts.get("ip").or_else(|| parts.get("ip6"))?;
    if ip == "dhcp" || ip == "auto" {
        return Some(Addressing::Dhcp);
    }
    let (address, prefix) = ip.split_once('/')?;
    let gateway = parts.get("gw").or_else(|| parts.get("gw6")).and_then(|gateway| gateway.parse::<IpAddr>().ok());
    Some(Addressing::Static(Lease { address: address.parse().ok()?, prefix: prefix.parse().ok()?, gateway }))
}

/// The three files of the cloud-init drive, as `cloudinit/dump` shows them.
pub(crate) fn network_v1(vmid: u32, vm: &Vm) -> String {
    let mut text = "version: 1\nconfig:\n".to_owned();
    for (at, interface) in network(vmid, vm).interfaces.iter().enumerate() {
        let mac = interface.mac.to_lowercase();
        text.push_str(&format!(
            "    - type: physical\n      name: eth{at}\n      mac_address: '{mac}'\n      subnets:\n"
        ));
        match &interface.addressing {
            Addressing::Dhcp => text.push_str("      - type: dhcp4\n"),
            Addressing::Static(lease) => {
                let mask = ipnet::IpNet::new(lease.address, lease.prefix)
                    .map(|net| net.netmask().to_string())
                    .unwrap_or_default();
                text.push_str(&format!(
                    "      - type: static\n        address: '{}'\n        netmask: '{mask}'\n",
                    lease.address
                ));
                if let Some(gateway) = lease.gateway {
                    text.push_str(&format!("        gateway: '{gateway}'\n"));
                }
            }
        }
    }
    let config = &vm.config;
    let list = |key: &str| split_list(config.get(key).unwrap_or_default());
    text.push_str("    - type: nameserver\n      address:\n");
    list("nameserver").iter().for_each(|server| text.push_str(&format!("      - '{server}'\n")));
    text.push_str("      search:\n");
    list("searchdomain").iter().for_each(|domain| text.push_str(&format!("      - '{domain}'\n")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxmox::config::Config;

    #[test]
    fn ipconfig_and_smbios_reach_the_guest() {
        let mut config = Config::default();
        config.set("name", "cp-01");
        config.set("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0");
        config.set("ipconfig0", "ip=127.20.1.1/16,gw=127.20.0.1");
        config.set("nameserver", "127.20.0.53 127.20.0.54");
        let vm = Vm::new("pve1", config);
        let network = network(100, &vm);
        let lease = Lease { address: "127.20.1.1".parse().unwrap(), prefix: 16, gateway: "127.20.0.1".parse().ok() };
        assert_eq!(network.interfaces[0].addressing, Addressing::Static(lease));
        assert_eq!((network.hostname.as_deref(), network.nameservers.len()), (Some("cp-01"), 2));
        assert!(network_v1(100, &vm).contains("netmask: '255.255.0.0'"));
        let (uuid, serial) = smbios("uuid=11111111-2222-4333-8444-555555555555,serial=aD1ub2RlLTE=,base64=1");
        assert_eq!((uuid.to_string().as_str(), serial.as_str()), ("11111111-2222-4333-8444-555555555555", "h=node-1"));
    }
}
