//! Reads as other makers' clients make them: pages, versions, schemas, kinds in two versions, custom resources.

use http::{Method, Request};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use crate::harness::{World, eventually};

/// Sends a request as it is; a refusal is its code and message.
async fn send(world: &World, method: Method, path: &str, body: &Value) -> Result<Value, (u16, String)> {
    let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json").body(body);
    match world.client.request::<Value>(request.unwrap()).await {
        Ok(answer) => Ok(answer),
        Err(kube::Error::Api(status)) => Err((status.code, status.message.clone())),
        Err(error) => panic!("{error}"),
    }
}

async fn get(world: &World, path: &str) -> Result<Value, (u16, String)> {
    send(world, Method::GET, path, &Value::Null).await
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|it| it["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_pages_of_a_list_are_of_one_version_whatever_happens_between_them() {
    let world = World::start().await;
    let api: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    let map = |name: &str| serde_json::from_value::<ConfigMap>(json!({"metadata": {"name": name}})).unwrap();
    for name in ["a", "b", "c"] {
        api.create(&PostParams::default(), &map(name)).await.unwrap();
    }
    let first = api.list(&ListParams::default().limit(1)).await.unwrap();
    api.delete("b", &DeleteParams::default()).await.unwrap();
    api.create(&PostParams::default(), &map("bb")).await.unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let rest = api.list(&ListParams::default().continue_token(&token)).await.unwrap();
    let seen: Vec<_> = rest.items.iter().filter_map(|it| it.metadata.name.as_deref()).collect();
    assert_eq!(seen, ["b", "c", "kube-root-ca.crt"]);
    assert_eq!(rest.metadata.resource_version, first.metadata.resource_version);

    let version = first.metadata.resource_version.unwrap();
    let maps = "/api/v1/namespaces/default/configmaps";
    let then = get(&world, &format!("{maps}?resourceVersion={version}&resourceVersionMatch=Exact")).await.unwrap();
    assert_eq!(names(&then), ["a", "b", "c", "kube-root-ca.crt"]);
    let now =
        get(&world, &format!("{maps}?resourceVersion={version}&resourceVersionMatch=NotOlderThan")).await.unwrap();
    assert_eq!(names(&now), ["a", "bb", "c", "kube-root-ca.crt"]);
}

#[tokio::test]
async fn versions_of_the_future_and_contradictions_are_refused() {
    let world = World::start().await;
    let refused = async |query: &str| get(&world, &format!("/api/v1/pods?{query}")).await.unwrap_err();
    let (code, message) = refused("resourceVersion=999999").await;
    assert!(code == 504 && message.starts_with("Too large resource version: 999999, current: "), "{message}");
    let (code, message) = refused("resourceVersionMatch=Exact").await;
    assert!(code == 422 && message.contains("forbidden unless resourceVersion is provided"), "{message}");
    let (code, message) = refused("watch=1&sendInitialEvents=true").await;
    assert!(code == 422 && message.contains("requires setting resourceVersionMatch to NotOlderThan"), "{message}");
    assert_eq!(refused("resourceVersion=one").await.0, 400);
}

#[tokio::test]
async fn schemas_go_all_the_way_down() {
    let world = World::start().await;
    let core = get(&world, "/openapi/v3/api/v1").await.unwrap();
    let schemas = &core["components"]["schemas"];
    let spec = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"];
    assert_eq!(spec["containers"]["items"]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Container");
    assert_eq!(spec["containers"]["x-kubernetes-patch-merge-key"], "name");
    assert!(schemas["io.k8s.api.core.v1.Volume"]["properties"]["emptyDir"]["$ref"].is_string());
    let everything = core.to_string();
    let references =
        everything.split("\"$ref\":\"#/components/schemas/").skip(1).map(|it| it.split('"').next().unwrap());
    for reference in references {
        assert!(schemas.get(reference).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn events_and_autoscalers_are_the_same_in_both_their_versions() {
    let world = World::start().await;
    let event = json!({
        "metadata": {"name": "e"}, "note": "hello", "reason": "R", "action": "A", "type": "Normal",
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "x/y", "reportingInstance": "i",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}});
    let made = send(&world, Method::POST, "/apis/events.k8s.io/v1/namespaces/default/events", &event).await.unwrap();
    assert_eq!((&made["apiVersion"], &made["note"]), (&json!("events.k8s.io/v1"), &json!("hello")));
    let core = get(&world, "/api/v1/namespaces/default/events/e").await.unwrap();
    assert_eq!((&core["message"], &core["involvedObject"]["name"]), (&json!("hello"), &json!("p")));
    let autoscaler = json!({"metadata": {"name": "h"}, "spec": {
        "maxReplicas": 3, "targetCPUUtilizationPercentage": 50, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
    let path = |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    send(&world, Method::POST, &path("v1"), &autoscaler).await.unwrap();
    let newer = get(&world, &(path("v2") + "/h")).await.unwrap();
    assert_eq!(newer["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let older = get(&world, &(path("v1") + "/h")).await.unwrap();
    assert_eq!(older["spec"], autoscaler["spec"]);
}

#[tokio::test]
async fn custom_resources_are_held_to_their_schema() {
    let world = World::start().await;
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1}, "mode": {"type": "string", "default": "fast"}}}}});
    let definition = json!({"metadata": {"name": "disks.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"kind": "Disk", "plural": "disks", "singular": "disk"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    send(&world, Method::POST, definitions, &definition).await.unwrap();
    let disks = "/apis/example.com/v1/namespaces/default/disks";
    let disk =
        |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Disk", "metadata": {"name": "a"}, "spec": spec});
    let (code, message) = send(&world, Method::POST, disks, &disk(json!({"size": 0}))).await.unwrap_err();
    let expected = "Disk.example.com \"a\" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1";
    assert_eq!((code, message.as_str()), (422, expected));
    let strict = format!("{disks}?fieldValidation=Strict");
    let (code, message) =
        send(&world, Method::POST, &strict, &disk(json!({"size": 1, "colour": 2}))).await.unwrap_err();
    assert!(code == 400 && message.contains("unknown field \"spec.colour\""), "{message}");
    let made = send(&world, Method::POST, disks, &disk(json!({"size": 1, "colour": 2}))).await.unwrap();
    assert_eq!(made["spec"], json!({"size": 1, "mode": "fast"}));
}

#[tokio::test]
async fn every_port_of_a_slice_has_a_name_and_every_node_its_own_pod_subnet() {
    let mut world = World::start().await;
    (1..=4).for_each(|number| world.add_node(&format!("n{number}"), false));
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    let api: Api<Service> = Api::namespaced(world.client.clone(), "default");
    api.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    let plane = &world.control_plane;
    eventually(plane, "the slice of the service", || {
        let slices = plane.list("endpointslices.discovery.k8s.io", Some("default"));
        slices.iter().any(|it| it["ports"] == json!([{"name": "", "port": 80, "protocol": "TCP"}]))
    })
    .await;
    eventually(plane, "a subnet for every node", || {
        let nodes = plane.list("nodes", None);
        let mut subnets: Vec<_> = nodes.iter().filter_map(|it| it["spec"]["podCIDR"].as_str()).collect();
        subnets.sort_unstable();
        let all = subnets.len();
        subnets.dedup();
        assert_eq!(subnets.len(), all, "{subnets:?}");
        all == 4
    })
    .await;
}

#[tokio::test]
async fn old_clients_get_openapi_as_protobuf_and_nothing_else_in_that_form() {
    let world = World::start().await;
    let ask = |path: &str| {
        let form = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        Request::builder().uri(path).header("accept", form).body(Vec::new()).unwrap()
    };
    let answer = world.client.send(ask("/openapi/v2").map(Into::into)).await.unwrap();
    let media_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(media_type, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    assert_eq!(&bytes[..5], b"\x0a\x032.0");
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("io.k8s.api.core.v1.Pod") && holds("x-kubernetes-group-version-kind") && holds("fieldValidation"));
    for path in ["/api/v1/pods", "/version", "/openapi/v3"] {
        assert_eq!(world.client.send(ask(path).map(Into::into)).await.unwrap().status(), 406, "{path}");
    }
}
