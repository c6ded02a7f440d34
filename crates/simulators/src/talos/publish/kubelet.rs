//! The kubelet as Talos configures it: `KubeletConfig` from the machine configuration, `KubeletSpec` from that (talos.md 8).

use serde_json::{Map, Value, json};

use super::static_pods::arguments;
use crate::talos::config::Config;
use crate::talos::cosi::kinds;
use crate::talos::node::Boot;
use crate::talos::release::Line;

/// Publishes both resources; a new version of the second restarts the kubelet.
pub(super) fn kubelet(boot: &Boot, config: &Config) {
    let Some(image) = config.image("kubelet") else { return };
    let dns = config.dns_addresses();
    let extra = config.extra_arguments("kubelet");
    let flag = |pointer: &str| config.main().pointer(pointer).and_then(Value::as_bool).unwrap_or_default();
    let mut spec = json!({
        "image": image, "clusterDNS": dns, "clusterDomain": config.dns_domain(),
        "extraArgs": super::kubernetes::extra_arguments(boot, &extra),
        "extraMounts": config.main().pointer("/machine/kubelet/extraMounts"),
        "extraConfig": config.main().pointer("/machine/kubelet/extraConfig"),
        "cloudProviderExternal": flag("/cluster/externalCloudProvider/enabled"),
        "defaultRuntimeSeccompEnabled": flag("/machine/kubelet/defaultRuntimeSeccompProfileEnabled"),
        "skipNodeRegistration": flag("/machine/kubelet/skipNodeRegistration"),
        "disableManifestsDirectory": flag("/machine/kubelet/disableManifestsDirectory"),
        "enableFSQuotaMonitoring": flag("/machine/features/diskQuotaSupport"),
    });
    if boot.release.line < Line::V1_14 {
        spec["allowSchedulingOnControlPlane"] = config.schedulable_control_planes().into();
    }
    boot.cosi.put(kinds::KUBELET_CONFIGS, "kubelet", &spec);
    let mut flags = vec![
        ("bootstrap-kubeconfig", "/etc/kubernetes/bootstrap-kubeconfig".to_owned()),
        ("cert-dir", "/var/lib/kubelet/pki".to_owned()),
        ("config", "/etc/kubernetes/kubelet.yaml".to_owned()),
        ("hostname-override", boot.name()),
        ("kubeconfig", "/etc/kubernetes/kubeconfig-kubelet".to_owned()),
    ];
    if spec["cloudProviderExternal"] == true {
        flags.push(("cloud-provider", "external".to_owned()));
    }
    if let Some(address) = boot.address() {
        flags.push(("node-ip", address.to_string()));
    }
    let expected = (!extra.contains_key("hostname-override")).then(|| boot.name());
    let started = json!({
        "image": image, "args": arguments(flags, &extra), "extraMounts": spec["extraMounts"],
        "expectedNodename": expected, "config": configuration(config, &spec, &dns),
    });
    boot.cosi.put(kinds::KUBELET_SPECS, "kubelet", &started);
}

/// The `KubeletConfiguration` that the kubelet is started with.
fn configuration(config: &Config, spec: &Value, dns: &[String]) -> Value {
    let memory = if config.is_control_plane() { "512Mi" } else { "384Mi" };
    let mut own = match &spec["extraConfig"] {
        Value::Object(given) => given.clone(),
        _ => Map::new(),
    };
    let defaults = json!({
        "address": "0.0.0.0", "oomScoreAdj": -450, "clusterDomain": config.dns_domain(), "clusterDNS": dns,
        "serializeImagePulls": false, "failSwapOn": false, "logging": {"format": "json"},
        "systemReserved": {"cpu": "50m", "ephemeral-storage": "256Mi", "memory": memory, "pid": "100"},
        "shutdownGracePeriod": "30s", "shutdownGracePeriodCriticalPods": "10s",
        "streamingConnectionIdleTimeout": "5m0s", "tlsMinVersion": "VersionTLS13",
    });
    let fixed = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "staticPodPath": "/etc/kubernetes/manifests", "port": 10250, "rotateCertificates": true,
        "protectKernelDefaults": true, "cgroupRoot": "/", "systemCgroups": "/system", "kubeletCgroups": "/podruntime/kubelet",
        "authentication": {
            "x509": {"clientCAFile": "/etc/kubernetes/pki/ca.crt"}, "webhook": {"enabled": true},
            "anonymous": {"enabled": false}},
        "authorization": {"mode": "Webhook"}, "resolvConf": "/system/resolved/resolv.conf",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    });
    if let (Value::Object(defaults), Value::Object(fixed)) = (defaults, fixed) {
        for (key, value) in defaults {
            own.entry(key).or_insert(value);
        }
        own.extend(fixed);
    }
    if config.is_control_plane() && !config.schedulable_control_planes() {
        own.entry("registerWithTaints")
            .or_insert_with(|| json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]));
    }
    if spec["defaultRuntimeSeccompEnabled"] == true {
        own.insert("seccompDefault".to_owned(), true.into());
    }
    own.into()
}
