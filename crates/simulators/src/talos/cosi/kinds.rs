//! The resource types that the simulated nodes fill (talos.md 4.3).

/// A resource type with the namespace, spec struct and controller it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) namespace: &'static str,
    pub(crate) structure: &'static str,
    pub(crate) owner: &'static str,
}

impl Kind {
    const fn new(name: &'static str, namespace: &'static str, structure: &'static str, owner: &'static str) -> Self {
        Self { name, namespace, structure, owner }
    }

    /// The same type in another namespace.
    pub(crate) const fn within(self, namespace: &'static str) -> Self {
        Self { namespace, ..self }
    }
}

macro_rules! kinds {
    ($($constant:ident = $name:literal, $namespace:literal, $structure:literal, $owner:literal;)*) => {
        $(pub(crate) const $constant: Kind = Kind::new($name, $namespace, $structure, $owner);)*
    };
}

kinds! {
    NAMESPACES = "Namespaces.meta.cosi.dev", "meta", "meta.NamespaceSpec", "";
    DEFINITIONS = "ResourceDefinitions.meta.cosi.dev", "meta", "meta.ResourceDefinitionSpec", "";

    SYSTEM_INFORMATION = "SystemInformations.hardware.talos.dev", "hardware", "hardware.SystemInformationSpec", "hardware.SystemInfoController";
    PROCESSORS = "Processors.hardware.talos.dev", "hardware", "hardware.ProcessorSpec", "hardware.SystemInfoController";
    MEMORY_MODULES = "MemoryModules.hardware.talos.dev", "hardware", "hardware.MemoryModuleSpec", "hardware.SystemInfoController";

    DISKS = "Disks.block.talos.dev", "runtime", "block.DiskSpec", "block.DisksController";
    SYSTEM_DISKS = "SystemDisks.block.talos.dev", "runtime", "block.SystemDiskSpec", "block.SystemDiskController";
    DISCOVERED_VOLUMES = "DiscoveredVolumes.block.talos.dev", "runtime", "block.DiscoveredVolumeSpec", "block.DiscoveryController";
    VOLUME_STATUSES = "VolumeStatuses.block.talos.dev", "runtime", "block.VolumeStatusSpec", "block.VolumeManagerController";

    LINK_STATUSES = "LinkStatuses.net.talos.dev", "network", "network.LinkStatusSpec", "network.LinkStatusController";
    ADDRESS_STATUSES = "AddressStatuses.net.talos.dev", "network", "network.AddressStatusSpec", "network.AddressStatusController";
    ROUTE_STATUSES = "RouteStatuses.net.talos.dev", "network", "network.RouteStatusSpec", "network.RouteStatusController";
    NODE_ADDRESSES = "NodeAddresses.net.talos.dev", "network", "network.NodeAddressSpec", "network.NodeAddressController";
    HOSTNAME_STATUSES = "HostnameStatuses.net.talos.dev", "network", "network.HostnameStatusSpec", "network.HostnameSpecController";
    RESOLVER_STATUSES = "ResolverStatuses.net.talos.dev", "network", "network.ResolverStatusSpec", "network.ResolverSpecController";
    TIME_SERVER_STATUSES = "TimeServerStatuses.net.talos.dev", "network", "network.TimeServerStatusSpec", "network.TimeServerSpecController";
    NETWORK_STATUSES = "NetworkStatuses.net.talos.dev", "network", "network.StatusSpec", "network.StatusController";
    HARDWARE_ADDRESSES = "HardwareAddresses.net.talos.dev", "network", "network.HardwareAddrSpec", "network.HardwareAddrController";

    MACHINE_CONFIGS = "MachineConfigs.config.talos.dev", "config", "", "config.AcquireController";
    MACHINE_TYPES = "MachineTypes.config.talos.dev", "config", "", "config.MachineTypeController";

    MACHINE_STATUSES = "MachineStatuses.runtime.talos.dev", "runtime", "runtime.MachineStatusSpec", "runtime.MachineStatusController";
    SECURITY_STATES = "SecurityStates.talos.dev", "runtime", "runtime.SecurityStateSpec", "runtime.SecurityStateController";
    PLATFORM_METADATAS = "PlatformMetadatas.talos.dev", "runtime", "runtime.PlatformMetadataSpec", "network.PlatformConfigApplyController";
    KERNEL_CMDLINES = "KernelCmdlines.runtime.talos.dev", "runtime", "runtime.KernelCmdlineSpec", "runtime.KernelCmdlineController";
    META_KEYS = "MetaKeys.runtime.talos.dev", "runtime", "runtime.MetaKeySpec", "";
    VERSIONS = "Versions.runtime.talos.dev", "runtime", "runtime.VersionSpec", "runtime.VersionController";
    BOOT_IDS = "BootIDs.runtime.talos.dev", "runtime", "runtime.BootIDSpec", "runtime.BootIDController";
    BOOTED_ENTRIES = "BootedEntries.talos.dev", "runtime", "runtime.BootedEntrySpec", "runtime.BootedEntryController";
    EXTENSION_STATUSES = "ExtensionStatuses.runtime.talos.dev", "runtime", "extensions.Layer", "runtime.ExtensionStatusController";
    UNATTENDED_INSTALLS = "UnattendedInstallStatuses.runtime.talos.dev", "runtime", "runtime.UnattendedInstallStatusSpec", "runtime.UnattendedInstallController";
    TIME_STATUSES = "TimeStatuses.v1alpha1.talos.dev", "runtime", "time.StatusSpec", "time.SyncController";
    SERVICES = "Services.v1alpha1.talos.dev", "runtime", "v1alpha1.ServiceSpec", "v1alpha1.ServiceController";

    IDENTITIES = "Identities.cluster.talos.dev", "cluster", "cluster.IdentitySpec", "cluster.NodeIdentityController";
    INFOS = "Infos.cluster.talos.dev", "cluster", "cluster.InfoSpec", "cluster.InfoController";
    AFFILIATES = "Affiliates.cluster.talos.dev", "cluster", "cluster.AffiliateSpec", "cluster.AffiliateMergeController";
    MEMBERS = "Members.cluster.talos.dev", "cluster", "cluster.MemberSpec", "cluster.MemberController";

    NODENAMES = "Nodenames.kubernetes.talos.dev", "k8s", "k8s.NodenameSpec", "k8s.NodenameController";
    NODE_IPS = "NodeIPs.kubernetes.talos.dev", "k8s", "k8s.NodeIPSpec", "k8s.NodeIPController";
    NODE_STATUSES = "NodeStatuses.kubernetes.talos.dev", "k8s", "k8s.NodeStatusSpec", "k8s.NodeStatusController";
    STATIC_PODS = "StaticPods.kubernetes.talos.dev", "k8s", "k8s.StaticPodSpec", "k8s.ControlPlaneStaticPodController";
    STATIC_POD_STATUSES = "StaticPodStatuses.kubernetes.talos.dev", "k8s", "k8s.StaticPodStatusSpec", "k8s.KubeletStaticPodController";
    KUBE_PRISM_CONFIGS = "KubePrismConfigs.kubernetes.talos.dev", "k8s", "k8s.KubePrismConfigSpec", "k8s.KubePrismConfigController";
    KUBE_PRISM_STATUSES = "KubePrismStatuses.kubernetes.talos.dev", "k8s", "k8s.KubePrismStatusesSpec", "k8s.KubePrismController";
    KUBE_PRISM_ENDPOINTS = "KubePrismEndpoints.kubernetes.talos.dev", "k8s", "k8s.KubePrismEndpointsSpec", "k8s.KubePrismEndpointsController";
    ENDPOINTS = "Endpoints.kubernetes.talos.dev", "controlplane", "k8s.EndpointSpec", "k8s.EndpointController";
    API_SERVER_CONFIGS = "APIServerConfigs.kubernetes.talos.dev", "controlplane", "k8s.APIServerConfigSpec", "k8s.ControlPlaneAPIServerController";
    CONTROLLER_MANAGER_CONFIGS = "ControllerManagerConfigs.kubernetes.talos.dev", "controlplane", "k8s.ControllerManagerConfigSpec", "k8s.ControlPlaneControllerManagerController";
    SCHEDULER_CONFIGS = "SchedulerConfigs.kubernetes.talos.dev", "controlplane", "k8s.SchedulerConfigSpec", "k8s.ControlPlaneSchedulerController";
    BOOTSTRAP_MANIFESTS_CONFIGS = "BootstrapManifestsConfigs.kubernetes.talos.dev", "controlplane", "k8s.BootstrapManifestsConfigSpec", "k8s.ControlPlaneBootstrapManifestsController";

    KUBELET_CONFIGS = "KubeletConfigs.kubernetes.talos.dev", "k8s", "k8s.KubeletConfigSpec", "k8s.KubeletConfigController";
    KUBELET_SPECS = "KubeletSpecs.kubernetes.talos.dev", "k8s", "k8s.KubeletSpecSpec", "k8s.KubeletSpecController";
    MANIFESTS = "Manifests.kubernetes.talos.dev", "controlplane", "k8s.ManifestSpec", "k8s.ManifestController";
    MANIFEST_STATUSES = "ManifestStatuses.kubernetes.talos.dev", "controlplane", "k8s.ManifestStatusSpec", "k8s.ManifestApplyController";

    ETCD_MEMBERS = "EtcdMembers.etcd.talos.dev", "etcd", "etcd.MemberSpec", "etcd.MemberController";
    ETCD_SPECS = "EtcdSpecs.etcd.talos.dev", "etcd", "etcd.SpecSpec", "etcd.SpecController";
    ETCD_CONFIGS = "EtcdConfigs.etcd.talos.dev", "etcd", "etcd.ConfigSpec", "etcd.ConfigController";
    ETCD_PKI_STATUSES = "PKIStatuses.etcd.talos.dev", "etcd", "etcd.PKIStatusSpec", "etcd.PKIController";

    KUBERNETES_ROOTS = "KubernetesRootSecrets.secrets.talos.dev", "secrets", "secrets.KubernetesRootSpec", "secrets.RootKubernetesController";
    OS_ROOTS = "OSRootSecrets.secrets.talos.dev", "secrets", "secrets.OSRootSpec", "secrets.RootOSController";
    ETCD_ROOTS = "EtcdRootSecrets.secrets.talos.dev", "secrets", "secrets.EtcdRootSpec", "secrets.RootEtcdController";
    API_CERTIFICATES = "ApiCertificates.secrets.talos.dev", "secrets", "secrets.APICertsSpec", "secrets.APIController";
    CERT_SANS = "CertSANs.secrets.talos.dev", "secrets", "secrets.CertSANSpec", "secrets.APICertSANsController";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talos::cosi::schema;
    use crate::talos::release::Line;

    #[test]
    fn every_kind_has_a_definition_and_a_shape() {
        for kind in [
            NAMESPACES,
            SYSTEM_INFORMATION,
            DISKS,
            MEMBERS,
            UNATTENDED_INSTALLS,
            ETCD_ROOTS,
            CERT_SANS,
            EXTENSION_STATUSES,
            VERSIONS,
            STATIC_PODS,
            KUBELET_CONFIGS,
            KUBELET_SPECS,
            MANIFESTS,
            MANIFEST_STATUSES,
        ] {
            assert!(schema::definition(kind.name, Line::V1_14).is_some(), "{}", kind.name);
            assert!(schema::fields(kind.structure, Line::V1_14).count() > 0, "{}", kind.structure);
        }
    }
}
