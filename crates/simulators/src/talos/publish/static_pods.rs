//! The control plane's static pods as Talos renders them: arguments, volumes, identities (talos.md 4.3 and 8).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::talos::config::{Config, tag_of};
use crate::talos::join;

const SECRETS: &str = "/system/secrets/kubernetes";
const CONFIGS: &str = "/system/config/kubernetes";
const AUDIT: &str = "/var/log/audit/kube";
const CIPHERS: &str = "TLS_AES_128_GCM_SHA256,TLS_AES_256_GCM_SHA384,TLS_CHACHA20_POLY1305_SHA256,\
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,\
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,\
    TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,\
    TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256";
/// Flags whose values are added up with what the operator gives; other flags are replaced.
const ADDITIVE: [&str; 6] = [
    "authorization-mode",
    "controllers",
    "enable-admission-plugins",
    "feature-gates",
    "service-cluster-ip-range",
    "tls-cipher-suites",
];

/// What the three components differ in.
struct Component {
    resources: (&'static str, &'static str),
    user: u32,
    /// Name, path, writable.
    volumes: Vec<(&'static str, String, bool)>,
    health_port: Option<u16>,
}

impl Component {
    fn of(name: &str) -> Self {
        let secrets = ("secrets", format!("{SECRETS}/{name}"), false);
        let config = ("config", format!("{CONFIGS}/{name}"), false);
        match name {
            "kube-apiserver" => Self {
                resources: ("200m", "512Mi"),
                user: 65534,
                volumes: vec![secrets, config, ("audit", AUDIT.to_owned(), true)],
                health_port: None,
            },
            "kube-controller-manager" => {
                Self { resources: ("50m", "256Mi"), user: 65535, volumes: vec![secrets], health_port: Some(10257) }
            }
            _ => Self {
                resources: ("10m", "64Mi"),
                user: 65536,
                volumes: vec![secrets, config],
                health_port: Some(10259),
            },
        }
    }
}

/// The pod of a component; `version` is that of the resource it is made from.
pub(super) fn pod(config: &Config, name: &str, version: &str) -> Value {
    let image = config.image(name);
    let tag = image.as_deref().and_then(tag_of).unwrap_or_default();
    let part = Component::of(name);
    let (cpu, memory) = part.resources;
    let mounts: Vec<Value> = part
        .volumes
        .iter()
        .map(|(name, path, writable)| json!({"name": name, "mountPath": path, "readOnly": !writable}))
        .collect();
    let volumes: Vec<Value> =
        part.volumes.iter().map(|(name, path, _)| json!({"name": name, "hostPath": {"path": path}})).collect();
    let mut container = json!({
        "name": name, "image": image, "command": command(config, name),
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "volumeMounts": mounts, "resources": {"requests": {"cpu": cpu, "memory": memory}},
        "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"}},
    });
    if let Some(port) = part.health_port {
        let get = json!({"path": "/healthz", "host": "localhost", "port": port, "scheme": "HTTPS"});
        container["livenessProbe"] = json!({"httpGet": get, "timeoutSeconds": 15});
        container["startupProbe"] = json!({"httpGet": get, "periodSeconds": 5, "failureThreshold": 12});
    } else {
        container["securityContext"]["capabilities"]["add"] = json!(["NET_BIND_SERVICE"]);
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "kube-system",
            "annotations": {
                "talos.dev/secrets-version": "1", "talos.dev/config-file-version": "1", "talos.dev/config-version": version},
            "labels": {
                "tier": "control-plane", "k8s-app": name, "component": name, "app.kubernetes.io/name": name,
                "app.kubernetes.io/version": tag.trim_start_matches('v'),
                "app.kubernetes.io/component": "control-plane", "app.kubernetes.io/managed-by": "Talos"},
        },
        "spec": {
            "priority": 2_000_000_000, "priorityClassName": "system-cluster-critical", "hostNetwork": true,
            "securityContext": {"runAsNonRoot": true, "runAsUser": part.user, "runAsGroup": part.user},
            "containers": [container], "volumes": volumes,
        },
    })
}

/// The program of a component with its arguments, sorted as Talos writes them.
pub(crate) fn command(config: &Config, name: &str) -> Vec<String> {
    let mut command = vec![format!("/usr/local/bin/{name}")];
    let flags = match name {
        "kube-apiserver" => api_server(config),
        "kube-controller-manager" => {
            command.push("--use-service-account-credentials".to_owned());
            controller_manager(config)
        }
        _ => scheduler(),
    };
    command.extend(arguments(flags, &config.extra_arguments(name)));
    command
}

type Flags = Vec<(&'static str, String)>;

/// `--flag=value`, sorted; what the operator gave is added or wins.
pub(super) fn arguments(flags: Flags, extra: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut all: BTreeMap<String, Vec<String>> =
        flags.into_iter().map(|(flag, value)| (flag.to_owned(), vec![value])).collect();
    for (flag, values) in extra {
        match all.get_mut(flag).filter(|_| ADDITIVE.contains(&flag.as_str())) {
            Some(own) => *own = vec![own.iter().chain(values).cloned().collect::<Vec<_>>().join(",")],
            None => drop(all.insert(flag.clone(), values.clone())),
        }
    }
    all.into_iter()
        .flat_map(|(flag, values)| values.into_iter().map(move |value| format!("--{flag}={value}")))
        .collect()
}

fn api_server(config: &Config) -> Flags {
    let secret = |file: &str| format!("{SECRETS}/kube-apiserver/{file}");
    let own = |file: &str| format!("{CONFIGS}/kube-apiserver/{file}");
    let mut flags = vec![
        ("admission-control-config-file", own("admission-control-config.yaml")),
        ("advertise-address", "$(POD_IP)".to_owned()),
        ("api-audiences", config.endpoint()),
        ("audit-log-path", format!("{AUDIT}/kube-apiserver.log")),
        ("audit-policy-file", own("auditpolicy.yaml")),
        ("client-ca-file", secret("ca.crt")),
        ("encryption-provider-config", secret("encryptionconfig.yaml")),
        ("etcd-cafile", secret("etcd-client-ca.crt")),
        ("etcd-certfile", secret("etcd-client.crt")),
        ("etcd-keyfile", secret("etcd-client.key")),
        ("kubelet-client-certificate", secret("apiserver-kubelet-client.crt")),
        ("kubelet-client-key", secret("apiserver-kubelet-client.key")),
        ("proxy-client-cert-file", secret("front-proxy-client.crt")),
        ("proxy-client-key-file", secret("front-proxy-client.key")),
        ("requestheader-client-ca-file", secret("aggregator-ca.crt")),
        ("secure-port", join::API_PORT.to_string()),
        ("service-account-issuer", config.endpoint()),
        ("service-account-key-file", secret("service-account.pub")),
        ("service-account-signing-key-file", secret("service-account.key")),
        ("service-cluster-ip-range", config.service_subnets().join(",")),
        ("tls-cert-file", secret("apiserver.crt")),
        ("tls-private-key-file", secret("apiserver.key")),
    ];
    let extra = config.extra_arguments("kube-apiserver");
    if extra.keys().any(|flag| flag == "authorization-mode" || flag.starts_with("authorization-webhook-")) {
        flags.push(("authorization-mode", "Node,RBAC".to_owned()));
    } else {
        flags.push(("authorization-config", own("authorization-config.yaml")));
    }
    let fixed = [
        ("allow-privileged", "true"),
        ("anonymous-auth", "false"),
        ("audit-log-maxage", "30"),
        ("audit-log-maxbackup", "10"),
        ("audit-log-maxsize", "100"),
        ("bind-address", "0.0.0.0"),
        ("enable-admission-plugins", "NodeRestriction"),
        ("enable-bootstrap-token-auth", "true"),
        ("etcd-servers", "https://127.0.0.1:2379"),
        ("kubelet-preferred-address-types", "InternalIP,ExternalIP,Hostname"),
        ("profiling", "false"),
        ("requestheader-allowed-names", "front-proxy-client"),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        ("requestheader-group-headers", "X-Remote-Group"),
        ("requestheader-username-headers", "X-Remote-User"),
        ("tls-cipher-suites", CIPHERS),
        ("tls-min-version", "VersionTLS12"),
    ];
    flags.extend(fixed.map(|(flag, value)| (flag, value.to_owned())));
    flags
}

fn controller_manager(config: &Config) -> Flags {
    let secret = |file: &str| format!("{SECRETS}/kube-controller-manager/{file}");
    let mut flags = vec![
        ("authentication-kubeconfig", secret("kubeconfig")),
        ("authorization-kubeconfig", secret("kubeconfig")),
        ("cluster-cidr", config.pod_subnets().join(",")),
        ("cluster-signing-cert-file", secret("ca.crt")),
        ("cluster-signing-key-file", secret("ca.key")),
        ("kubeconfig", secret("kubeconfig")),
        ("root-ca-file", secret("ca.crt")),
        ("service-account-private-key-file", secret("service-account.key")),
        ("service-cluster-ip-range", config.service_subnets().join(",")),
    ];
    let fixed = [
        ("allocate-node-cidrs", "true"),
        ("bind-address", "127.0.0.1"),
        ("configure-cloud-routes", "false"),
        ("controllers", "*,tokencleaner"),
        ("leader-elect", "true"),
        ("profiling", "false"),
        ("tls-min-version", "VersionTLS13"),
    ];
    flags.extend(fixed.map(|(flag, value)| (flag, value.to_owned())));
    flags
}

fn scheduler() -> Flags {
    let secret = |file: &str| format!("{SECRETS}/kube-scheduler/{file}");
    vec![
        ("authentication-kubeconfig", secret("kubeconfig")),
        ("authentication-tolerate-lookup-failure", "false".to_owned()),
        ("authorization-kubeconfig", secret("kubeconfig")),
        ("bind-address", "127.0.0.1".to_owned()),
        ("config", format!("{CONFIGS}/kube-scheduler/scheduler-config.yaml")),
        ("leader-elect", "true".to_owned()),
        ("profiling", "false".to_owned()),
        ("tls-min-version", "VersionTLS13".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_arguments_replace_a_flag_or_are_added_to_it() {
        let config = Config::parse(
            "version: v1alpha1\nmachine: {type: controlplane}\ncluster:\n  apiServer:\n    image: registry.k8s.io/kube-apiserver:v1.36.2\n    \
             extraArgs:\n      enable-admission-plugins: PodNodeSelector\n      profiling: true\n      v: [\"2\", \"3\"]\n",
        )
        .unwrap();
        let pod = pod(&config, "kube-apiserver", "7");
        assert_eq!(pod["metadata"]["annotations"]["talos.dev/config-version"], "7");
        assert_eq!(pod["metadata"]["labels"]["app.kubernetes.io/version"], "1.36.2");
        let command = command(&config, "kube-apiserver");
        assert_eq!(command[0], "/usr/local/bin/kube-apiserver");
        assert!(command.contains(&"--enable-admission-plugins=NodeRestriction,PodNodeSelector".to_owned()));
        assert!(command.contains(&"--profiling=true".to_owned()) && !command.contains(&"--profiling=false".to_owned()));
        assert_eq!(command.iter().filter(|argument| argument.starts_with("--v=")).count(), 2);
        assert!(command[1..].is_sorted());
    }
}
