//! Who may ask, and when nobody is answered.

use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{Api, ListParams, PostParams};
use serde_json::json;
use simulators::kubernetes::Kubelet;

use crate::harness::{World, eventually, start_server};

#[tokio::test]
async fn a_certificate_without_rights_is_refused_in_the_words_of_the_real_server() {
    let world = World::start().await;
    let jane = world.client_as("jane", &["developers"]).await;
    let nodes: Api<Node> = Api::all(jane);
    let error = nodes.list(&ListParams::default()).await.expect_err("forbidden");
    let expected =
        "nodes is forbidden: User \"jane\" cannot list resource \"nodes\" in API group \"\" at the cluster scope";
    assert!(error.to_string().contains(expected), "{error}");
}

#[tokio::test]
async fn a_bound_role_opens_what_it_names_and_tokens_work() {
    let world = World::start().await;
    let token_request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}});
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), "default");
    eventually(&world.control_plane, "the default account", || {
        world.control_plane.get("serviceaccounts", Some("default"), "default").is_some()
    })
    .await;
    let request = http::Request::post("/api/v1/namespaces/default/serviceaccounts/default/token")
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&token_request).expect("json"))
        .expect("request");
    let answer: serde_json::Value = world.client.request(request).await.expect("token");
    let token = answer["status"]["token"].as_str().expect("token");
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let request = http::Request::post("/apis/authentication.k8s.io/v1/tokenreviews")
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&review).expect("json"))
        .expect("request");
    let answer: serde_json::Value = world.client.request(request).await.expect("review");
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:default:default");
    drop(accounts);
}

#[tokio::test]
async fn without_quorum_nothing_is_written_and_readiness_fails() {
    let world = World::start().await;
    world.control_plane.set_quorum(false);
    let nodes: Api<Node> = Api::all(world.client.clone());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}})).expect("valid");
    let error = nodes.create(&PostParams::default(), &node).await.expect_err("no quorum");
    assert!(error.to_string().contains("etcdserver: request timed out"), "{error}");
    let ready = http::Request::get("/readyz").body(Vec::new()).expect("request");
    assert!(world.client.request_text(ready).await.is_err());
    world.control_plane.set_quorum(true);
    nodes.create(&PostParams::default(), &node).await.expect("creates");
}

#[tokio::test]
async fn a_snapshot_restores_and_a_dropped_server_is_gone() {
    let mut world = World::start().await;
    world.add_node("w-1", false);
    let plane = world.control_plane.clone();
    eventually(&plane, "the node", || plane.get("nodes", None, "w-1").is_some()).await;
    let snapshot = plane.snapshot();
    world.kubelets.clear();
    let nodes: Api<Node> = Api::all(world.client.clone());
    nodes.delete("w-1", &kube::api::DeleteParams::default()).await.expect("deletes");
    plane.restore(&snapshot).expect("restores");
    assert!(nodes.get_opt("w-1").await.expect("reads").is_some());
    let address = world.server.address();
    let other = start_server(&plane, &world.identity, "127.0.0.1:0").await;
    drop(world.server);
    assert!(nodes.list(&ListParams::default()).await.is_err());
    other.add_listener(address).await.expect("the address is free again");
    assert!(nodes.get_opt("w-1").await.expect("reads through the moved address").is_some());
    let _: Vec<Kubelet> = world.kubelets;
}
