//! Nodes and pods: ready only with a network, drained within budgets, storage bound.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DynamicObject, EvictParams, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use simulators::kubernetes::{Cni, ControlPlane};

use crate::harness::{World, eventually};

fn is_true(object: &Value, condition: &str) -> bool {
    object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|it| it["type"] == condition && it["status"] == "True")
}

fn ready_nodes(plane: &ControlPlane) -> usize {
    plane.list("nodes", None).iter().filter(|it| is_true(it, "Ready")).count()
}

fn ready_pods(plane: &ControlPlane, namespace: &str) -> usize {
    plane.list("pods", Some(namespace)).iter().filter(|it| is_true(it, "Ready")).count()
}

async fn apply(world: &World, object: Value) {
    let version = object["apiVersion"].as_str().expect("version");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().expect("kind"));
    let (resource, capabilities) = kube::discovery::pinned_kind(&world.client, &kind).await.expect("served");
    let namespaced = capabilities.scope == kube::discovery::Scope::Namespaced;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
    let api: Api<DynamicObject> = if namespaced {
        Api::namespaced_with(world.client.clone(), &namespace, &resource)
    } else {
        Api::all_with(world.client.clone(), &resource)
    };
    let name = object["metadata"]["name"].as_str().expect("name").to_owned();
    let _: ApiResource = resource;
    api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.expect("applies");
}

fn deployment(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "app", "image": "nginx:1.29"}]}}}})
}

#[tokio::test]
async fn nodes_are_not_ready_until_a_network_runs() {
    let mut world = World::start().await;
    world.bootstrap(Cni::None);
    world.add_node("cp-1", true);
    world.add_node("w-1", false);
    let plane = world.control_plane.clone();
    eventually(&plane, "kube-proxy on both", || {
        plane.list("daemonsets.apps", None).iter().any(|it| it["status"]["numberReady"] == 2)
    })
    .await;
    let node = plane.get("nodes", None, "w-1").expect("registered");
    let ready = node["status"]["conditions"]
        .as_array()
        .expect("conditions")
        .iter()
        .find(|it| it["type"] == "Ready")
        .expect("ready");
    assert!(ready["message"].as_str().expect("message").contains("NetworkPluginNotReady"), "{ready}");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "installer", "namespace": "kube-system"}});
    apply(&world, account).await;
    apply(
        &world,
        json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "installer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "installer", "namespace": "kube-system"}]}),
    )
    .await;
    apply(
        &world,
        json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "cilium-install", "namespace": "kube-system"},
        "spec": {"template": {"spec": {
            "restartPolicy": "OnFailure", "hostNetwork": true, "serviceAccountName": "installer",
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "install", "image": "quay.io/cilium/cilium-cli:v0.18.8",
                "command": ["cilium", "install", "--version", "1.18.3"]}]}}}}),
    )
    .await;
    eventually(&plane, "ready nodes", || ready_nodes(&plane) == 2).await;
    eventually(&plane, "the pods of kube-system", || {
        let pods = plane.list("pods", Some("kube-system"));
        pods.iter().filter(|it| it["status"]["phase"] != "Succeeded").all(|it| is_true(it, "Ready"))
    })
    .await;
    let agent = plane.get("daemonsets.apps", Some("kube-system"), "cilium").expect("installed");
    assert_eq!(agent["spec"]["template"]["spec"]["containers"][0]["image"], "quay.io/cilium/cilium:v1.18.3");
}

#[tokio::test]
async fn an_eviction_waits_for_the_budget_and_a_drain_empties_the_node() {
    let mut world = World::start().await;
    world.bootstrap(Cni::Flannel);
    world.add_node("w-1", false);
    let plane = world.control_plane.clone();
    eventually(&plane, "the node", || ready_nodes(&plane) == 1).await;
    apply(&world, deployment("web", 2)).await;
    apply(
        &world,
        json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}),
    )
    .await;
    eventually(&plane, "the budget", || {
        plane
            .get("poddisruptionbudgets.policy", Some("default"), "web")
            .is_some_and(|it| it["status"]["disruptionsAllowed"] == 1)
    })
    .await;
    let nodes: Api<Node> = Api::all(world.client.clone());
    nodes.cordon("w-1").await.expect("cordons");
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "default");
    let names: Vec<String> =
        pods.list(&ListParams::default()).await.expect("lists").into_iter().filter_map(|it| it.metadata.name).collect();
    pods.evict(&names[0], &EvictParams::default()).await.expect("the first may go");
    let refused = pods.evict(&names[1], &EvictParams::default()).await.expect_err("the second may not");
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    assert_eq!((status.code, status.reason.as_str()), (429, "TooManyRequests"));
    world.add_node("w-2", false);
    assert!(plane.drain_node("w-1").await, "the drain ends once pods run elsewhere");
    eventually(&plane, "two pods on the other node", || {
        let web = plane.list("pods", Some("default"));
        web.len() == 2 && web.iter().all(|it| it["spec"]["nodeName"] == "w-2" && is_true(it, "Ready"))
    })
    .await;
}

#[tokio::test]
async fn a_claim_binds_once_its_provisioner_runs_and_a_pod_needs_it() {
    let mut world = World::start().await;
    world.bootstrap(Cni::Flannel);
    world.add_node("w-1", false);
    let plane = world.control_plane.clone();
    apply(
        &world,
        json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {
            "name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "rancher.io/local-path", "volumeBindingMode": "WaitForFirstConsumer"}),
    )
    .await;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    apply(&world, claim).await;
    apply(&world, json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user"},
        "spec": {
            "containers": [{"name": "app", "image": "busybox", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}}))
    .await;
    eventually(&plane, "the pod to be placed", || {
        plane.get("pods", Some("default"), "user").is_some_and(|it| it["spec"]["nodeName"] == "w-1")
    })
    .await;
    let bound = || {
        plane.get("persistentvolumeclaims", Some("default"), "data").is_some_and(|it| it["status"]["phase"] == "Bound")
    };
    assert!(!bound(), "a class alone provisions nothing");
    let mut provisioner = deployment("local-path-provisioner", 1);
    provisioner["metadata"]["namespace"] = json!("kube-system");
    apply(&world, provisioner).await;
    eventually(&plane, "the claim to bind", bound).await;
    eventually(&plane, "the pod", || {
        plane.get("pods", Some("default"), "user").is_some_and(|it| is_true(&it, "Ready"))
    })
    .await;
}

#[tokio::test]
async fn a_deployment_rolls_and_a_dead_node_gives_up_its_pods() {
    let mut world = World::start().await;
    world.bootstrap(Cni::Flannel);
    world.add_node("w-1", false);
    world.add_node("w-2", false);
    let plane = world.control_plane.clone();
    eventually(&plane, "ready nodes", || ready_nodes(&plane) == 2).await;
    apply(&world, deployment("web", 4)).await;
    eventually(&plane, "four pods", || ready_pods(&plane, "default") == 4).await;
    let mut changed = deployment("web", 4);
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = json!("nginx:1.30");
    apply(&world, changed).await;
    eventually(&plane, "the rollout", || {
        let pods = plane.list("pods", Some("default"));
        pods.len() == 4
            && pods.iter().all(|it| it["spec"]["containers"][0]["image"] == "nginx:1.30" && is_true(it, "Ready"))
    })
    .await;
    eventually(&plane, "the deployment to say so", || {
        plane.get("deployments.apps", Some("default"), "web").is_some_and(|it| it["status"]["availableReplicas"] == 4)
    })
    .await;
    world.kubelets.pop();
    eventually(&plane, "the dead node to be unknown", || ready_nodes(&plane) == 1).await;
    eventually(&plane, "the pods to move", || {
        let moved = plane.list("pods", Some("default"));
        moved.iter().filter(|it| it["spec"]["nodeName"] == "w-1" && is_true(it, "Ready")).count() == 4
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_fits_nowhere_says_why() {
    let mut world = World::start().await;
    world.bootstrap(Cni::Flannel);
    world.add_node("w-1", false);
    let plane = world.control_plane.clone();
    eventually(&plane, "the node", || ready_nodes(&plane) == 1).await;
    apply(
        &world,
        json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "huge"},
        "spec": {"containers": [{"name": "a", "image": "b", "resources": {"requests": {"cpu": "64"}}}]}}),
    )
    .await;
    eventually(&plane, "the condition", || {
        let pod = plane.get("pods", Some("default"), "huge").expect("exists");
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|it| {
            it["reason"] == "Unschedulable"
                && it["message"]
                    .as_str()
                    .is_some_and(|text| text.starts_with("0/1 nodes are available: 1 Insufficient cpu"))
        })
    })
    .await;
}

#[tokio::test]
async fn a_privileged_pod_needs_a_namespace_that_allows_it() {
    let world = World::start().await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "image": "b", "securityContext": {"privileged": true}}]}});
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "default");
    let parsed: Pod = serde_json::from_value(pod.clone()).expect("valid");
    let refused = pods.create(&kube::api::PostParams::default(), &parsed).await.expect_err("baseline");
    let expected = "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"a\" must not set \
        securityContext.privileged=true)";
    assert!(refused.to_string().contains(expected), "{refused}");
    apply(
        &world,
        json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": "trusted", "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}),
    )
    .await;
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), "trusted");
    pods.create(&kube::api::PostParams::default(), &parsed).await.expect("allowed");
}

#[tokio::test]
async fn a_rotating_kubelet_waits_for_approval_of_its_serving_certificate() {
    use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
    let mut world = World::start().await;
    world.bootstrap(Cni::Flannel);
    world.add_node("w-1", false);
    world.kubelets[0].update(|options| options.rotate_server_certificates = true);
    let plane = world.control_plane.clone();
    let serving = || {
        let all = plane.list("certificatesigningrequests.certificates.k8s.io", None);
        all.into_iter().find(|it| it["spec"]["signerName"] == "kubernetes.io/kubelet-serving")
    };
    eventually(&plane, "the request", || serving().is_some()).await;
    let request = serving().expect("asked");
    assert_eq!(request["spec"]["username"], "system:node:w-1");
    assert!(request["status"]["certificate"].is_null(), "nobody approved it");
    let api: Api<CertificateSigningRequest> = Api::all(world.client.clone());
    let approval = json!({"status": {"conditions": [{
        "type": "Approved", "status": "True", "reason": "Test", "message": "by the test"}]}});
    let name = request["metadata"]["name"].as_str().expect("name").to_owned();
    api.patch_approval(&name, &PatchParams::default(), &Patch::Merge(&approval)).await.expect("approves");
    eventually(&plane, "the certificate", || serving().is_some_and(|it| it["status"]["certificate"].is_string())).await;
}
