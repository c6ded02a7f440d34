//! What Talos installs besides: Flannel, kube-proxy and CoreDNS, in the shapes that health checks look for (talos.md 7).

use serde_json::{Value, json};

use super::manifests::{Placed, bind_account, config, role};
use crate::kubernetes::settings::ClusterIdentity;

const DAEMON_SETS: &str = "daemonsets.apps";
const FLANNEL: &str = "ghcr.io/siderolabs/flannel:0.28.8";

fn account(metadata: Value) -> Placed {
    ("serviceaccounts", json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}))
}

/// Runs on every node whatever its taints.
fn everywhere() -> Value {
    json!([{"effect": "NoSchedule", "operator": "Exists"}, {"effect": "NoExecute", "operator": "Exists"}])
}

fn one_at_a_time() -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}})
}

/// Flannel, which writes the CNI configuration that makes nodes ready.
pub(super) fn flannel(identity: &ClusterIdentity) -> Vec<Placed> {
    let own = json!({"k8s-app": "flannel"});
    let labels = json!({"tier": "node", "k8s-app": "flannel"});
    let network = json!({"Network": identity.pod_subnet, "Backend": {"Type": "vxlan", "Port": 4789}}).to_string();
    let plugins = json!([
        {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]);
    let cni = json!({"name": "cbr0", "cniVersion": "1.0.0", "plugins": plugins}).to_string();
    let mut files = config("kube-flannel-cfg", json!({"net-conf.json": network, "cni-conf.json": cni}));
    files.1["metadata"]["labels"] = labels.clone();
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods", "nodes", "namespaces"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]}]);
    vec![
        role("flannel", own.clone(), rules),
        bind_account(json!({"name": "flannel", "labels": own}), "flannel", "flannel"),
        account(json!({"name": "flannel", "namespace": "kube-system", "labels": own})),
        files,
        (DAEMON_SETS, flannel_daemon_set(&labels)),
    ]
}

fn flannel_daemon_set(labels: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "kube-flannel", "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels}, "updateStrategy": one_at_a_time(),
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": true, "serviceAccountName": "flannel", "priorityClassName": "system-node-critical",
                    "tolerations": everywhere(),
                    "initContainers": [{
                        "name": "install-config", "image": FLANNEL, "command": ["cp"],
                        "args": ["-f", "/etc/kube-flannel/cni-conf.json", "/etc/cni/net.d/10-flannel.conflist"],
                        "volumeMounts": [
                            {"name": "cni", "mountPath": "/etc/cni/net.d"},
                            {"name": "flannel-cfg", "mountPath": "/etc/kube-flannel/"}]}],
                    "containers": [{
                        "name": "kube-flannel", "image": FLANNEL,
                        "command": ["/opt/bin/flanneld"], "args": ["--ip-masq", "--kube-subnet-mgr"],
                        "resources": {"requests": {"cpu": "100m", "memory": "50Mi"}},
                        "volumeMounts": [{"name": "flannel-cfg", "mountPath": "/etc/kube-flannel/"}]}],
                    "volumes": [
                        {"name": "cni", "hostPath": {"path": "/etc/cni/net.d"}},
                        {"name": "flannel-cfg", "configMap": {"name": "kube-flannel-cfg"}}],
                },
            },
        },
    })
}

/// kube-proxy on every node.
pub(super) fn kube_proxy(identity: &ClusterIdentity, image: &str) -> Vec<Placed> {
    let labels = json!({"tier": "node", "k8s-app": "kube-proxy"});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let command = [
        "/usr/local/bin/kube-proxy".to_owned(),
        format!("--cluster-cidr={}", identity.pod_subnet),
        "--conntrack-max-per-core=0".to_owned(),
        "--hostname-override=$(NODE_NAME)".to_owned(),
        "--kubeconfig=/etc/kubernetes/kubeconfig".to_owned(),
        "--proxy-mode=nftables".to_owned(),
    ];
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path, "readOnly": true});
    let daemon_set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels}, "updateStrategy": one_at_a_time(),
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": true, "serviceAccountName": "kube-proxy",
                    "priorityClassName": "system-cluster-critical", "tolerations": everywhere(),
                    "containers": [{
                        "name": "kube-proxy", "image": image, "command": command,
                        "env": [field("NODE_NAME", "spec.nodeName"), field("POD_IP", "status.podIP")],
                        "securityContext": {"privileged": true},
                        "volumeMounts": [
                            mount("lib-modules", "/lib/modules"), mount("ssl-certs-host", "/etc/ssl/certs"),
                            mount("kubeconfig", "/etc/kubernetes")]}],
                    "volumes": [
                        {"name": "lib-modules", "hostPath": {"path": "/usr/lib/modules"}},
                        {"name": "ssl-certs-host", "hostPath": {"path": "/etc/ssl/certs"}},
                        {"name": "kubeconfig", "configMap": {"name": "kubeconfig-in-cluster"}}],
                },
            },
        },
    });
    vec![
        (DAEMON_SETS, daemon_set),
        account(json!({"name": "kube-proxy", "namespace": "kube-system"})),
        bind_account(json!({"name": "kube-proxy"}), "system:node-proxier", "kube-proxy"),
    ]
}

/// CoreDNS without its service.
pub(super) fn core_dns(identity: &ClusterIdentity, image: &str) -> Vec<Placed> {
    let defaults = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    let binding = json!({
        "name": "system:coredns", "labels": defaults,
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}});
    let rules = json!([
        {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}]);
    let corefile = format!(
        ".:53 {{\n    errors\n    health\n    ready\n    kubernetes {} in-addr.arpa ip6.arpa\n    forward . /etc/resolv.conf\n    cache 30\n}}\n",
        identity.dns_domain
    );
    vec![
        account(json!({"name": "coredns", "namespace": "kube-system"})),
        role("system:coredns", defaults, rules),
        bind_account(binding, "system:coredns", "coredns"),
        config("coredns", json!({"Corefile": corefile})),
        ("deployments.apps", dns_deployment(image)),
    ]
}

fn dns_deployment(image: &str) -> Value {
    let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"});
    let selector = json!({"k8s-app": "kube-dns"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "coredns", "namespace": "kube-system", "labels": labels},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": selector}, "strategy": one_at_a_time(),
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
    })
}

/// CoreDNS at the tenth service address.
pub(super) fn dns_service(address: &str) -> Placed {
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}},
        "spec": {
            "selector": {"k8s-app": "kube-dns"}, "clusterIP": address,
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                {"name": "metrics", "port": 9153, "protocol": "TCP"}]},
    });
    ("services", object)
}
