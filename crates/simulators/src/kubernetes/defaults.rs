//! The values that the API server fills in when a client leaves them out.

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::object::{items, set, set_default, text};

/// Fills the defaults of one object of a resource, on creation and on every update.
///
/// `cluster` is there on creation only: what is allocated or looked up is so once (and updates hold the store's lock).
pub(crate) fn apply(cluster: Option<&Cluster>, resource: &str, object: &mut Value) {
    match resource {
        "pods" => pod(object),
        "deployments.apps" => deployment(object),
        "replicasets.apps" => replicas(object),
        "statefulsets.apps" => stateful_set(object),
        "daemonsets.apps" => daemon_set(object),
        "jobs.batch" => job(object),
        "cronjobs.batch" => cron_job(object),
        "services" => service(cluster, object),
        "namespaces" => namespace(object),
        "secrets" => secret(object),
        "persistentvolumeclaims" => claim(cluster, object),
        "persistentvolumes" => volume(object),
        "storageclasses.storage.k8s.io" => storage_class(object),
        "customresourcedefinitions.apiextensions.k8s.io" => definition(object),
        "certificatesigningrequests.certificates.k8s.io" => set_default(object, &["status"], json!({})),
        "poddisruptionbudgets.policy" => set_default(object, &["metadata", "generation"], json!(1)),
        "roles.rbac.authorization.k8s.io" | "clusterroles.rbac.authorization.k8s.io" => {
            set_default(object, &["rules"], json!([]));
        }
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => binding(object),
        _ => {}
    }
    if resource.ends_with(".apps") || resource.ends_with(".batch") || resource.contains('.') && has_generation(resource)
    {
        set_default(object, &["metadata", "generation"], json!(1));
    }
}

/// Custom resources and the built-in kinds whose controllers report `observedGeneration`.
fn has_generation(resource: &str) -> bool {
    !resource.ends_with(".k8s.io")
        || matches!(
            resource,
            "customresourcedefinitions.apiextensions.k8s.io"
                | "ingresses.networking.k8s.io"
                | "networkpolicies.networking.k8s.io"
        )
}

/// The template of a workload, at `spec.template`.
fn template(object: &mut Value) {
    if let Some(spec) = object.pointer_mut("/spec/template/spec") {
        pod_spec(spec);
    }
}

fn pod(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec") {
        pod_spec(spec);
        set_default(spec, &["enableServiceLinks"], json!(true));
        set_default(spec, &["preemptionPolicy"], json!("PreemptLowerPriority"));
        set_default(spec, &["priority"], json!(0));
        set_default(spec, &["serviceAccountName"], json!("default"));
        let account = spec["serviceAccountName"].clone();
        set_default(spec, &["serviceAccount"], account);
        tolerate_node_trouble(spec);
    }
    set_default(object, &["status", "phase"], json!("Pending"));
    let class = quality_of_service(object);
    set_default(object, &["status", "qosClass"], json!(class));
}

/// The admission plugin DefaultTolerationSeconds: five minutes of patience with a node that is gone.
fn tolerate_node_trouble(spec: &mut Value) {
    let mut tolerations = items(spec, "/tolerations").to_vec();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = tolerations.iter().any(|it| {
            matches!(text(it, "/effect"), "" | "NoExecute") && (text(it, "/key") == key || text(it, "/key").is_empty())
        });
        if !covered {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
    spec["tolerations"] = Value::Array(tolerations);
}

fn quality_of_service(pod: &Value) -> &'static str {
    let containers = items(pod, "/spec/containers");
    let has = |container: &Value, kind: &str, what: &str| container["resources"][kind].get(what).is_some();
    let guaranteed = containers.iter().all(|it| {
        ["cpu", "memory"].iter().all(|what| {
            let limit = &it["resources"]["limits"][what];
            !limit.is_null()
                && (it["resources"]["requests"][what].is_null() || it["resources"]["requests"][what] == *limit)
        })
    });
    let any = containers
        .iter()
        .any(|it| ["limits", "requests"].iter().any(|kind| has(it, kind, "cpu") || has(it, kind, "memory")));
    match (guaranteed && !containers.is_empty(), any) {
        (true, _) => "Guaranteed",
        (false, true) => "Burstable",
        (false, false) => "BestEffort",
    }
}

fn pod_spec(spec: &mut Value) {
    for (key, value) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("securityContext", json!({})),
        ("terminationGracePeriodSeconds", json!(30)),
    ] {
        set_default(spec, &[key], value);
    }
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        set_default(spec, &["serviceAccount"], account);
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            self::container(container);
        }
    }
    let volumes = spec.get_mut("volumes").and_then(Value::as_array_mut);
    for source in volumes.into_iter().flatten() {
        for (kind, mode) in [("configMap", 420), ("secret", 420), ("projected", 420), ("downwardAPI", 420)] {
            if source.get(kind).is_some_and(Value::is_object) {
                set_default(source, &[kind, "defaultMode"], json!(mode));
            }
        }
        if source.get("hostPath").is_some_and(Value::is_object) {
            set_default(source, &["hostPath", "type"], json!(""));
        }
    }
}

fn container(container: &mut Value) {
    let image = text(container, "/image");
    let floating = image.ends_with(":latest") || !image.rsplit('/').next().unwrap_or_default().contains([':', '@']);
    let pull = if floating { "Always" } else { "IfNotPresent" };
    for (key, value) in [
        ("imagePullPolicy", json!(pull)),
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
        ("resources", json!({})),
    ] {
        set_default(container, &[key], value);
    }
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        set_default(port, &["protocol"], json!("TCP"));
    }
    let requests: Vec<(String, Value)> = super::object::map(container, "/resources/limits")
        .into_iter()
        .flatten()
        .filter(|(key, _)| container["resources"]["requests"].get(key.as_str()).is_none())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for (key, value) in requests {
        set(container, &["resources", "requests", &key], value);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container.get(probe).is_some_and(Value::is_object) {
            for (key, value) in
                [("failureThreshold", 3), ("periodSeconds", 10), ("successThreshold", 1), ("timeoutSeconds", 1)]
            {
                set_default(container, &[probe, key], json!(value));
            }
        }
    }
}

fn replicas(object: &mut Value) {
    set_default(object, &["spec", "replicas"], json!(1));
    set_default(object, &["status"], json!({"replicas": 0}));
    template(object);
}

fn deployment(object: &mut Value) {
    set_default(object, &["spec", "replicas"], json!(1));
    set_default(object, &["spec", "revisionHistoryLimit"], json!(10));
    set_default(object, &["spec", "progressDeadlineSeconds"], json!(600));
    set_default(object, &["spec", "strategy", "type"], json!("RollingUpdate"));
    if object["spec"]["strategy"]["type"] == "RollingUpdate" {
        set_default(object, &["spec", "strategy", "rollingUpdate", "maxSurge"], json!("25%"));
        set_default(object, &["spec", "strategy", "rollingUpdate", "maxUnavailable"], json!("25%"));
    }
    set_default(object, &["status"], json!({}));
    template(object);
}

fn stateful_set(object: &mut Value) {
    set_default(object, &["spec", "replicas"], json!(1));
    set_default(object, &["spec", "revisionHistoryLimit"], json!(10));
    set_default(object, &["spec", "podManagementPolicy"], json!("OrderedReady"));
    set_default(object, &["spec", "updateStrategy", "type"], json!("RollingUpdate"));
    if object["spec"]["updateStrategy"]["type"] == "RollingUpdate" {
        set_default(object, &["spec", "updateStrategy", "rollingUpdate", "partition"], json!(0));
    }
    for key in ["whenDeleted", "whenScaled"] {
        set_default(object, &["spec", "persistentVolumeClaimRetentionPolicy", key], json!("Retain"));
    }
    set_default(object, &["status"], json!({"replicas": 0, "availableReplicas": 0}));
    template(object);
}

fn daemon_set(object: &mut Value) {
    set_default(object, &["spec", "revisionHistoryLimit"], json!(10));
    set_default(object, &["spec", "updateStrategy", "type"], json!("RollingUpdate"));
    if object["spec"]["updateStrategy"]["type"] == "RollingUpdate" {
        set_default(object, &["spec", "updateStrategy", "rollingUpdate", "maxSurge"], json!(0));
        set_default(object, &["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"], json!(1));
    }
    let none =
        json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
    set_default(object, &["status"], none);
    template(object);
}

fn job(object: &mut Value) {
    let spec = |key: &'static str| ["spec", key];
    set_default(object, &spec("parallelism"), json!(1));
    set_default(object, &spec("completions"), json!(1));
    set_default(object, &spec("backoffLimit"), json!(6));
    set_default(object, &spec("completionMode"), json!("NonIndexed"));
    set_default(object, &spec("suspend"), json!(false));
    set_default(object, &spec("manualSelector"), json!(false));
    set_default(object, &spec("podReplacementPolicy"), json!("TerminatingOrFailed"));
    set_default(object, &["status"], json!({}));
    template(object);
}

fn cron_job(object: &mut Value) {
    for (key, value) in [
        ("concurrencyPolicy", json!("Allow")),
        ("suspend", json!(false)),
        ("successfulJobsHistoryLimit", json!(3)),
        ("failedJobsHistoryLimit", json!(1)),
    ] {
        set_default(object, &["spec", key], value);
    }
    set_default(object, &["status"], json!({}));
}

fn service(cluster: Option<&Cluster>, object: &mut Value) {
    for (key, value) in [
        ("type", json!("ClusterIP")),
        ("sessionAffinity", json!("None")),
        ("internalTrafficPolicy", json!("Cluster")),
        ("ipFamilies", json!(["IPv4"])),
        ("ipFamilyPolicy", json!("SingleStack")),
    ] {
        set_default(object, &["spec", key], value);
    }
    let kind = text(object, "/spec/type").to_owned();
    if kind != "ExternalName" {
        if let Some(cluster) = cluster.filter(|_| text(object, "/spec/clusterIP").is_empty()) {
            set(object, &["spec", "clusterIP"], json!(cluster.free_service_address()));
        }
        let address = object["spec"]["clusterIP"].clone();
        set_default(object, &["spec", "clusterIPs"], json!([address]));
    }
    let needs_node_port = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    for port in object.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
        set_default(port, &["protocol"], json!("TCP"));
        let number = port["port"].clone();
        set_default(port, &["targetPort"], number);
        if needs_node_port {
            set_default(port, &["nodePort"], json!(rand::random_range(30_000..32_767)));
        }
    }
    if needs_node_port {
        set_default(object, &["spec", "externalTrafficPolicy"], json!("Cluster"));
    }
    set_default(object, &["status"], json!({"loadBalancer": {}}));
}

fn namespace(object: &mut Value) {
    let name = super::object::name(object).to_owned();
    set(object, &["metadata", "labels", "kubernetes.io/metadata.name"], json!(name));
    if !super::object::is_terminating(object) {
        set_default(object, &["spec", "finalizers"], json!(["kubernetes"]));
    }
    set_default(object, &["status", "phase"], json!("Active"));
}

fn secret(object: &mut Value) {
    use base64::Engine as _;
    if let Some(Value::Object(plain)) = super::object::remove(object, &["stringData"]) {
        for (key, value) in plain {
            let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            set(object, &["data", &key], json!(encoded));
        }
    }
    set_default(object, &["type"], json!("Opaque"));
}

fn claim(cluster: Option<&Cluster>, object: &mut Value) {
    set_default(object, &["spec", "volumeMode"], json!("Filesystem"));
    if let Some(cluster) = cluster
        && object.pointer("/spec/storageClassName").is_none()
        && text(object, "/spec/volumeName").is_empty()
        && let Some(class) = cluster
            .store
            .list("storageclasses.storage.k8s.io", None)
            .iter()
            .find(|it| super::object::annotation(it, "storageclass.kubernetes.io/is-default-class") == Some("true"))
    {
        set(object, &["spec", "storageClassName"], json!(super::object::name(class)));
    }
    set_default(object, &["status", "phase"], json!("Pending"));
    protect(object, "kubernetes.io/pvc-protection");
}

fn volume(object: &mut Value) {
    set_default(object, &["spec", "volumeMode"], json!("Filesystem"));
    set_default(object, &["spec", "persistentVolumeReclaimPolicy"], json!("Retain"));
    set_default(object, &["status", "phase"], json!("Available"));
    protect(object, "kubernetes.io/pv-protection");
}

/// Adds a protection finalizer to a new object; an existing one keeps what it has.
fn protect(object: &mut Value, finalizer: &str) {
    if object.pointer("/metadata/uid").is_none() {
        let mut finalizers = items(object, "/metadata/finalizers").to_vec();
        if !finalizers.iter().any(|it| it == finalizer) {
            finalizers.push(json!(finalizer));
            set(object, &["metadata", "finalizers"], Value::Array(finalizers));
        }
    }
}

fn storage_class(object: &mut Value) {
    set_default(object, &["reclaimPolicy"], json!("Delete"));
    set_default(object, &["volumeBindingMode"], json!("Immediate"));
}

fn definition(object: &mut Value) {
    let kind = text(object, "/spec/names/kind").to_owned();
    set_default(object, &["spec", "names", "singular"], json!(kind.to_lowercase()));
    set_default(object, &["spec", "names", "listKind"], json!(format!("{kind}List")));
    set_default(object, &["spec", "conversion", "strategy"], json!("None"));
}

fn binding(object: &mut Value) {
    set_default(object, &["roleRef", "apiGroup"], json!("rbac.authorization.k8s.io"));
    for subject in object.pointer_mut("/subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        if matches!(text(subject, "/kind"), "User" | "Group") {
            set_default(subject, &["apiGroup"], json!("rbac.authorization.k8s.io"));
        }
    }
}
