//! Pod Security admission as Talos configures it: `baseline` is enforced but in `kube-system`; namespace labels override.

use serde_json::Value;

use super::cluster::Cluster;
use super::object::{items, label, map, text};

/// Capabilities that `baseline` lets a container add.
const BASELINE_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Volume types that `restricted` allows.
const RESTRICTED_VOLUMES: &[&str] =
    &["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

/// Why a pod may not be made in its namespace, in the words of the admission plugin; `None` when it may.
pub(super) fn violation(cluster: &Cluster, namespace: &str, pod: &Value) -> Option<String> {
    if namespace == "kube-system" {
        return None;
    }
    let found = cluster.store.get("namespaces", "", namespace)?;
    let level = label(&found, "pod-security.kubernetes.io/enforce").unwrap_or("baseline");
    let mut problems = Vec::new();
    if matches!(level, "baseline" | "restricted") {
        problems.extend(baseline(pod));
    }
    if level == "restricted" {
        problems.extend(restricted(pod));
    }
    (!problems.is_empty()).then(|| format!("violates PodSecurity \"{level}:latest\": {}", problems.join(", ")))
}

fn containers(pod: &Value) -> Vec<&Value> {
    ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"]
        .iter()
        .flat_map(|it| items(pod, it))
        .collect()
}

/// `container "a"` or `containers "a", "b"` of those that the check finds guilty.
fn guilty(pod: &Value, check: impl Fn(&Value) -> bool) -> Option<String> {
    let names: Vec<String> =
        containers(pod).into_iter().filter(|it| check(it)).map(|it| format!("{:?}", text(it, "/name"))).collect();
    match names.len() {
        0 => None,
        1 => Some(format!("container {}", names[0])),
        _ => Some(format!("containers {}", names.join(", "))),
    }
}

fn baseline(pod: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let host: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|key| pod["spec"][**key] == true)
        .map(|key| format!("{key}=true"))
        .collect();
    if !host.is_empty() {
        problems.push(format!("host namespaces ({})", host.join(", ")));
    }
    let paths: Vec<String> = items(pod, "/spec/volumes")
        .iter()
        .filter(|it| it.get("hostPath").is_some_and(Value::is_object))
        .map(|it| format!("{:?}", text(it, "/name")))
        .collect();
    if !paths.is_empty() {
        let noun = if paths.len() == 1 { "volume" } else { "volumes" };
        problems.push(format!("hostPath volumes ({noun} {})", paths.join(", ")));
    }
    if let Some(who) = guilty(pod, |it| it["securityContext"]["privileged"] == true) {
        problems.push(format!("privileged ({who} must not set securityContext.privileged=true)"));
    }
    let adds = |container: &Value| {
        items(container, "/securityContext/capabilities/add")
            .iter()
            .any(|it| !BASELINE_CAPABILITIES.contains(&it.as_str().unwrap_or_default()))
    };
    if let Some(who) = guilty(pod, adds) {
        problems.push(format!("non-default capabilities ({who} must not include capabilities beyond the baseline in securityContext.capabilities.add)"));
    }
    if let Some(who) =
        guilty(pod, |it| items(it, "/ports").iter().any(|port| port["hostPort"].as_i64().unwrap_or(0) > 0))
    {
        problems.push(format!("hostPort ({who} uses hostPorts)"));
    }
    problems
}

fn restricted(pod: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(who) = guilty(pod, |it| it["securityContext"]["allowPrivilegeEscalation"] != false) {
        problems.push(format!(
            "allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
        ));
    }
    let keeps = |it: &Value| !items(it, "/securityContext/capabilities/drop").iter().any(|it| it == "ALL");
    if let Some(who) = guilty(pod, keeps) {
        problems
            .push(format!("unrestricted capabilities ({who} must set securityContext.capabilities.drop=[\"ALL\"])"));
    }
    let forbidden = |volume: &Value| {
        map(volume, "")
            .into_iter()
            .flatten()
            .any(|(key, _)| key != "name" && !RESTRICTED_VOLUMES.contains(&key.as_str()))
    };
    if items(pod, "/spec/volumes").iter().any(forbidden) {
        problems.push("restricted volume types".into());
    }
    let of_pod = &pod["spec"]["securityContext"];
    let root = |it: &Value| it["securityContext"]["runAsNonRoot"] != true && of_pod["runAsNonRoot"] != true;
    if let Some(who) = guilty(pod, root) {
        problems.push(format!("runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"));
    }
    let profiled = |context: &Value| matches!(text(context, "/seccompProfile/type"), "RuntimeDefault" | "Localhost");
    if let Some(who) = guilty(pod, |it| !profiled(&it["securityContext"]) && !profiled(of_pod)) {
        problems.push(format!(
            "seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        ));
    }
    problems
}
