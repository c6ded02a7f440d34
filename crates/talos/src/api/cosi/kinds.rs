//! The resources that flows read, with their types, namespaces and well-known ids (talos.md 4.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Kind;
use crate::proto::{
    common::{NetIp, NetIpPrefix},
    talos::resource::definitions::{block, cluster, etcd, extensions, hardware, k8s, network, runtime, v1alpha1},
};

/// Declares marker types for kinds of resources.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $spec:ty, $type:literal in $namespace:literal;)+) => {
        $($(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}

        impl Kind for $name {
            const TYPE: &'static str = $type;
            const NAMESPACE: &'static str = $namespace;
            type Spec = $spec;
        })+
    };
}

kinds! {
    /// What SMBIOS says about the machine; id [`SYSTEM_INFORMATION`].
    SystemInformation = hardware::SystemInformationSpec, "SystemInformations.hardware.talos.dev" in "hardware";
    /// Stage and readiness; id [`MACHINE`]. `ready` means something in the stages booting and running only.
    MachineStatus = runtime::MachineStatusSpec, "MachineStatuses.runtime.talos.dev" in "runtime";
    /// Warnings that `talosctl health` shows.
    Diagnostic = runtime::DiagnosticSpec, "Diagnostics.runtime.talos.dev" in "runtime";
    /// Installed system extensions; the schematic's id is one named `schematic`.
    ExtensionStatus = extensions::Layer, "ExtensionStatuses.runtime.talos.dev" in "runtime";
    /// Disks by device name.
    Disk = block::DiskSpec, "Disks.block.talos.dev" in "runtime";
    /// The disk that Talos runs from; id [`SYSTEM_DISK`].
    SystemDisk = block::SystemDiskSpec, "SystemDisks.block.talos.dev" in "runtime";
    /// Volumes; ids `STATE`, `EPHEMERAL`, `META`, …
    VolumeStatus = block::VolumeStatusSpec, "VolumeStatuses.block.talos.dev" in "runtime";
    /// Network links by name.
    LinkStatus = network::LinkStatusSpec, "LinkStatuses.net.talos.dev" in "network";
    /// Addresses by link and prefix.
    AddressStatus = network::AddressStatusSpec, "AddressStatuses.net.talos.dev" in "network";
    /// Host name; id `hostname`.
    HostnameStatus = network::HostnameStatusSpec, "HostnameStatuses.net.talos.dev" in "network";
    /// Members of the cluster as discovery knows them.
    Member = cluster::MemberSpec, "Members.cluster.talos.dev" in "cluster";
    /// The local etcd member; id [`LOCAL_MEMBER`].
    EtcdLocalMember = etcd::MemberSpec, "EtcdMembers.etcd.talos.dev" in "etcd";
    /// The name of the Kubernetes node; id [`NODENAME`].
    Nodename = k8s::NodenameSpec, "Nodenames.kubernetes.talos.dev" in "k8s";
    /// What Kubernetes says about this node.
    NodeStatus = k8s::NodeStatusSpec, "NodeStatuses.kubernetes.talos.dev" in "k8s";
    /// Static pods by `namespace/pod`.
    StaticPodStatus = k8s::StaticPodStatusSpec, "StaticPodStatuses.kubernetes.talos.dev" in "k8s";
    /// Services of Talos by id.
    ServiceStatus = v1alpha1::ServiceSpec, "Services.v1alpha1.talos.dev" in "runtime";
}

/// Id of the only [`SystemInformation`].
pub const SYSTEM_INFORMATION: &str = "systeminformation";
/// Id of the only [`MachineStatus`].
pub const MACHINE: &str = "machine";
/// Id of the only [`SystemDisk`].
pub const SYSTEM_DISK: &str = "system-disk";
/// Id of the only [`EtcdLocalMember`].
pub const LOCAL_MEMBER: &str = "local";
/// Id of the only [`Nodename`].
pub const NODENAME: &str = "nodename";

impl NetIp {
    /// The address; `None` unless it has 4 or 16 bytes.
    pub fn to_address(&self) -> Option<IpAddr> {
        address(&self.ip)
    }
}

impl NetIpPrefix {
    /// The address without its prefix length; `None` unless it has 4 or 16 bytes.
    pub fn to_address(&self) -> Option<IpAddr> {
        address(&self.ip)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into())
}
