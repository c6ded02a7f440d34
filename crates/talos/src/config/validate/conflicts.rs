//! Settings that may stand in the main document or in one of their own, but not in both.

use crate::config::Document;
use crate::config::yaml::{Mapping, Value};

/// A document kind, the part of the main document it excludes, and what Talos says if both are there.
///
/// The texts are Talos's where they are known from its sources or from reports of its users; those of `proxy`, `ca`,
/// `aggregatorCA`, the encryption secret, the cluster's endpoint and `install` follow the same pattern.
const EXCLUSIONS: &[(&str, &[&str], &str)] = &[
    ("HostnameConfig", &["machine", "network", "hostname"], "static hostname is already set in v1alpha1 config"),
    (
        "ResolverConfig",
        &["machine", "network", "searchDomains"],
        ".machine.network.searchDomains is already set in v1alpha1 config",
    ),
    (
        "ResolverConfig",
        &["machine", "network", "nameservers"],
        ".machine.network.nameservers is already set in v1alpha1 config",
    ),
    ("KubeletConfig", &["machine", "kubelet"], "kubelet config is already set in v1alpha1 config (.machine.kubelet)"),
    (
        "KubeControllerManagerConfig",
        &["cluster", "controllerManager"],
        "kube-controller-manager config is already set in v1alpha1 config (.cluster.controllerManager)",
    ),
    (
        "KubeSchedulerConfig",
        &["cluster", "scheduler"],
        "kube-scheduler config is already set in v1alpha1 config (.cluster.scheduler)",
    ),
    (
        "KubeAPIServerConfig",
        &["cluster", "apiServer"],
        "kube-apiserver config is already set in v1alpha1 config (.cluster.apiServer)",
    ),
    ("KubeProxyConfig", &["cluster", "proxy"], "kube-proxy config is already set in v1alpha1 config (.cluster.proxy)"),
    (
        "KubeServiceAccountConfig",
        &["cluster", "serviceAccount"],
        "service account is already set in v1alpha1 config (.cluster.serviceAccount)",
    ),
    (
        "KubeCoreDNSConfig",
        &["cluster", "coreDNS"],
        "CoreDNS config is already set in v1alpha1 config (.cluster.coreDNS)",
    ),
    (
        "KubePrismConfig",
        &["machine", "features", "kubePrism"],
        "KubePrism config in v1alpha1 config (.machine.features.kubePrism) can't be used with KubePrismConfig document, \
         please remove it to avoid conflicts",
    ),
    (
        "KubeFlannelCNIConfig",
        &["cluster", "network"],
        "cluster network config in v1alpha1 config (.machine.cluster.network) can't be used with KubeFlannelCNIConfig \
         document, please remove it to avoid conflicts",
    ),
    (
        "KubeNetworkConfig",
        &["cluster", "network"],
        "cluster network config is already set in v1alpha1 config (.cluster.network)",
    ),
    (
        "KubeNodeConfig",
        &["cluster", "allowSchedulingOnControlPlanes"],
        ".cluster.allowSchedulingOnControlPlanes is already set in v1alpha1 config",
    ),
    ("KubeAPIServerCAConfig", &["cluster", "ca"], "Kubernetes API CA is already set in v1alpha1 config (.cluster.ca)"),
    (
        "KubeAggregatorCAConfig",
        &["cluster", "aggregatorCA"],
        "aggregator CA is already set in v1alpha1 config (.cluster.aggregatorCA)",
    ),
    (
        "KubeEtcdEncryptionConfig",
        &["cluster", "secretboxEncryptionSecret"],
        "etcd encryption is already set in v1alpha1 config (.cluster.secretboxEncryptionSecret)",
    ),
    (
        "KubeClusterConfig",
        &["cluster", "controlPlane"],
        "cluster endpoint is already set in v1alpha1 config (.cluster.controlPlane)",
    ),
    (
        "DiscoveryServiceConfig",
        &["cluster", "discovery"],
        "discovery service is already configured in .cluster.discovery of the v1alpha1 config",
    ),
    (
        "UnattendedInstallConfig",
        &["machine", "install"],
        "install config is already set in v1alpha1 config (.machine.install)",
    ),
];

/// The conflict of a document with the main one, if there is any.
pub(super) fn check(document: &Document, main: &Mapping) -> Option<String> {
    let kind = document.id().kind.as_str();
    let at = |path: &[&str]| main.get(path[0]).and_then(|value| value.at(&path[1..]));
    let fixed = EXCLUSIONS.iter().find(|(excluding, path, _)| *excluding == kind && at(path).is_some_and(is_set));
    fixed.map(|(_, _, text)| (*text).to_owned()).or_else(|| special(kind, document.root(), at))
}

fn is_set(value: &Value) -> bool {
    value.as_scalar().is_none_or(|scalar| !scalar.is_zero())
}

/// Conflicts that depend on values.
fn special<'a>(kind: &str, root: &Mapping, at: impl Fn(&[&str]) -> Option<&'a Value>) -> Option<String> {
    let is_true = |path: &[&str]| {
        at(path).and_then(Value::as_scalar).and_then(crate::config::yaml::Scalar::boolean) == Some(true)
    };
    let is_filled = |path: &[&str]| at(path).and_then(Value::as_sequence).is_some_and(|items| !items.is_empty());
    match kind {
        "HostnameConfig" if is_true(&["machine", "features", "stableHostname"]) => {
            Some("stable hostname is already set in v1alpha1 config".to_owned())
        }
        "ResolverConfig" if is_true(&["machine", "network", "disableSearchDomain"]) => {
            Some(".machine.network.disableSearchDomain is already set in v1alpha1 config".to_owned())
        }
        "ResolverConfig" if root.get("hostDNS").is_some() && at(&["machine", "features", "hostDNS"]).is_some() => {
            Some(".machine.features.hostDNS is already set in v1alpha1 config".to_owned())
        }
        "TimeSyncConfig" if is_true(&["machine", "time", "disabled"]) => {
            Some("time sync cannot be disabled in both v1alpha1 and new-style configuration".to_owned())
        }
        "TimeSyncConfig" if is_filled(&["machine", "time", "servers"]) => {
            Some("time servers cannot be specified in both v1alpha1 and new-style configuration".to_owned())
        }
        "KubeAdmissionControlConfig" | "KubeAuthorizerConfig"
            if is_filled(&["cluster", "apiServer", "admissionControl"]) =>
        {
            Some("admission control plugin config is already set in v1alpha1 config".to_owned())
        }
        _ => None,
    }
}
