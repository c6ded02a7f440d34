//! What running `cilium install` in a pod does: the stand-ins of Cilium's agent and operator appear.

use serde_json::{Value, json};

use crate::kubernetes::api::authentication::User;
use crate::kubernetes::api::authorization::{Attributes, is_allowed};
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{items, namespace, text};

/// Runs the installer when this pod is one (an image named `cilium-cli`); returns its exit code, `None` for other pods.
pub(super) fn install(cluster: &Cluster, pod: &Value) -> Option<i64> {
    let container = items(pod, "/spec/containers").iter().find(|it| text(it, "/image").contains("cilium-cli"))?;
    let words: Vec<&str> = items(container, "/command")
        .iter()
        .chain(items(container, "/args"))
        .filter_map(Value::as_str)
        .flat_map(str::split_whitespace)
        .collect();
    let verb = words.iter().find(|word| matches!(**word, "install" | "upgrade"))?;
    let account = format!("system:serviceaccount:{}:{}", namespace(pod), text(pod, "/spec/serviceAccountName"));
    let groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{}", namespace(pod))];
    let installer = User { name: account, uid: String::new(), groups };
    let needed = Attributes {
        verb: "create",
        group: "apps",
        resource: "daemonsets",
        namespace: "kube-system",
        ..Attributes::default()
    };
    if !is_allowed(cluster, &installer, needed) {
        return Some(1);
    }
    if *verb == "install" && cluster.store.get("daemonsets.apps", "kube-system", "cilium").is_some() {
        return Some(1);
    }
    apply(cluster, version(&words));
    Some(0)
}

/// The version asked for, without its `v`.
fn version<'a>(words: &[&'a str]) -> &'a str {
    let given = words.iter().enumerate().find_map(|(at, word)| match word.strip_prefix("--version") {
        Some("") => words.get(at + 1).copied(),
        Some(rest) => rest.strip_prefix('='),
        None => None,
    });
    given.unwrap_or("1.18.2").trim_start_matches('v')
}

fn apply(cluster: &Cluster, version: &str) {
    let labels = json!({"k8s-app": "cilium"});
    let agent = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "cilium", "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": true, "serviceAccountName": "cilium", "priorityClassName": "system-node-critical",
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "cilium-agent", "image": format!("quay.io/cilium/cilium:v{version}"),
                        "command": ["cilium-agent"], "args": ["--config-dir=/tmp/cilium/config-map"],
                        "volumeMounts": [{"name": "etc-cni-netd", "mountPath": "/host/etc/cni/net.d"}]}],
                    "volumes": [{
                        "name": "etc-cni-netd", "hostPath": {"path": "/etc/cni/net.d", "type": "DirectoryOrCreate"}}],
                },
            },
        },
    });
    let operator_labels = json!({"io.cilium/app": "operator", "name": "cilium-operator"});
    let operator = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "cilium-operator", "namespace": "kube-system", "labels": operator_labels},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": operator_labels},
            "template": {
                "metadata": {"labels": operator_labels},
                "spec": {
                    "hostNetwork": true, "serviceAccountName": "cilium-operator",
                    "priorityClassName": "system-cluster-critical", "tolerations": [{"operator": "Exists"}],
                    "containers": [{
                        "name": "cilium-operator", "image": format!("quay.io/cilium/operator-generic:v{version}"),
                        "command": ["cilium-operator-generic"]}],
                },
            },
        },
    });
    let account = |name: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "kube-system"}});
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cilium-config", "namespace": "kube-system"},
        "data": {"cluster-name": cluster.identity.cluster_name, "ipam": "kubernetes", "kube-proxy-replacement": "true"},
    });
    for (resource, object) in [
        ("serviceaccounts", account("cilium")),
        ("serviceaccounts", account("cilium-operator")),
        ("configmaps", config),
    ] {
        cluster.ensure(resource, object);
    }
    for (resource, object) in [("daemonsets.apps", agent), ("deployments.apps", operator)] {
        if !cluster.ensure(resource, object.clone()) {
            let template = object["spec"]["template"].clone();
            cluster.change_named(resource, &object, |it| {
                it["spec"]["template"] = template;
                crate::kubernetes::defaults::apply(None, resource, it);
            });
        }
    }
}
