//! The workloads that Talos applies at bootstrap, in the shapes that health checks look for (talos.md section 7).

use serde_json::{Value, json};

use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::settings::ClusterIdentity;

type Manifest = (&'static str, Value);

const DAEMON_SETS: &str = "daemonsets.apps";

fn account(name: &str) -> Manifest {
    (
        "serviceaccounts",
        json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "kube-system"}}),
    )
}

fn config(name: &str, data: Value) -> Manifest {
    (
        "configmaps",
        json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "kube-system"}, "data": data}),
    )
}

/// The bindings that let kubelets join.
pub(super) fn rbac() -> Vec<Manifest> {
    let bind = |name: &str, role: &str, group: &str| {
        (
            "clusterrolebindings.rbac.authorization.k8s.io",
            json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "Group", "name": group, "apiGroup": "rbac.authorization.k8s.io"}]}),
        )
    };
    vec![
        bind("system-bootstrap-node-bootstrapper", "system:node-bootstrapper", "system:bootstrappers:nodes"),
        bind(
            "system-bootstrap-approve-node-client-csr",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            "system:bootstrappers:nodes",
        ),
    ]
}

/// Flannel, which writes the CNI configuration that makes nodes ready.
pub(super) fn flannel(identity: &ClusterIdentity) -> Vec<Manifest> {
    let labels = json!({"tier": "node", "k8s-app": "flannel"});
    let network = json!({"Network": identity.pod_subnet, "Backend": {"Type": "vxlan", "Port": 4789}}).to_string();
    let daemon_set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "kube-flannel", "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": true, "serviceAccountName": "flannel", "priorityClassName": "system-node-critical",
                    "tolerations": [{"effect": "NoSchedule", "operator": "Exists"}, {"effect": "NoExecute", "operator": "Exists"}],
                    "initContainers": [{
                        "name": "install-config", "image": "ghcr.io/siderolabs/flannel:0.28.8", "command": ["cp"],
                        "args": ["-f", "/etc/kube-flannel/cni-conf.json", "/etc/cni/net.d/10-flannel.conflist"],
                        "volumeMounts": [{"name": "cni", "mountPath": "/etc/cni/net.d"}]}],
                    "containers": [{
                        "name": "kube-flannel", "image": "ghcr.io/siderolabs/flannel:0.28.8",
                        "command": ["/opt/bin/flanneld"], "args": ["--ip-masq", "--kube-subnet-mgr"],
                        "resources": {"requests": {"cpu": "100m", "memory": "50Mi"}},
                        "volumeMounts": [{"name": "flannel-cfg", "mountPath": "/etc/kube-flannel/"}]}],
                    "volumes": [
                        {"name": "cni", "hostPath": {"path": "/etc/cni/net.d"}},
                        {"name": "flannel-cfg", "configMap": {"name": "kube-flannel-cfg"}}],
                },
            },
        },
    });
    vec![account("flannel"), config("kube-flannel-cfg", json!({"net-conf.json": network})), (DAEMON_SETS, daemon_set)]
}

/// kube-proxy on every node.
pub(super) fn kube_proxy(identity: &ClusterIdentity, image: &str) -> Vec<Manifest> {
    let labels = json!({"tier": "node", "k8s-app": "kube-proxy"});
    let selector = json!({"k8s-app": "kube-proxy"});
    let daemon_set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": true, "serviceAccountName": "kube-proxy", "priorityClassName": "system-node-critical",
                    "tolerations": [{"effect": "NoSchedule", "operator": "Exists"}, {"effect": "NoExecute", "operator": "Exists"}],
                    "containers": [{
                        "name": "kube-proxy", "image": image, "command": ["/usr/local/bin/kube-proxy"],
                        "args": [format!("--cluster-cidr={}", identity.pod_subnet), "--hostname-override=$(NODE_NAME)",
                            "--proxy-mode=nftables"]}],
                },
            },
        },
    });
    vec![account("kube-proxy"), (DAEMON_SETS, daemon_set)]
}

/// CoreDNS with its service at the tenth service address.
pub(super) fn core_dns(cluster: &Cluster, image: &str) -> Vec<Manifest> {
    let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"});
    let selector = json!({"k8s-app": "kube-dns"});
    let corefile = format!(
        ".:53 {{\n    errors\n    health\n    ready\n    kubernetes {} in-addr.arpa ip6.arpa\n    forward . /etc/resolv.conf\n    cache 30\n}}\n",
        cluster.identity.dns_domain
    );
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "coredns", "namespace": "kube-system", "labels": labels},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": selector},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": selector},
                "spec": {
                    "serviceAccountName": "coredns", "priorityClassName": "system-cluster-critical", "dnsPolicy": "Default",
                    "tolerations": [
                        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"},
                        {"key": "node.cloudprovider.kubernetes.io/uninitialized", "operator": "Exists", "effect": "NoSchedule"}],
                    "containers": [{
                        "name": "coredns", "image": image, "args": ["-conf", "/etc/coredns/Corefile"],
                        "resources": {"limits": {"memory": "170Mi"}, "requests": {"cpu": "100m", "memory": "70Mi"}},
                        "ports": [
                            {"name": "dns", "protocol": "UDP", "containerPort": 53},
                            {"name": "dns-tcp", "protocol": "TCP", "containerPort": 53}],
                        "volumeMounts": [{"name": "config-volume", "mountPath": "/etc/coredns", "readOnly": true}]}],
                    "volumes": [{"name": "config-volume", "configMap": {"name": "coredns"}}],
                },
            },
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}},
        "spec": {
            "selector": selector, "clusterIP": cluster.service_address(10),
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                {"name": "metrics", "port": 9153, "protocol": "TCP"}]},
    });
    vec![
        account("coredns"),
        config("coredns", json!({"Corefile": corefile})),
        ("deployments.apps", deployment),
        ("services", service),
    ]
}
