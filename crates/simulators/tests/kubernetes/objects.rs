//! Objects: created, changed, watched, owned, deleted.

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

use crate::harness::World;

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"kind": value}}, "data": {"key": value}}))
        .expect("valid")
}

fn code(error: kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("not an API error: {other}"),
    }
}

#[tokio::test]
async fn an_object_is_created_replaced_listed_and_deleted() {
    let world = World::start().await;
    let api: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    let created = api.create(&PostParams::default(), &config_map("a", "one")).await.expect("creates");
    assert_eq!(
        code(api.create(&PostParams::default(), &config_map("a", "x")).await.expect_err("exists")).1,
        "AlreadyExists"
    );
    let mut stale = created.clone();
    let mut fresh = created.clone();
    fresh.data.get_or_insert_default().insert("key".into(), "two".into());
    let replaced = api.replace("a", &PostParams::default(), &fresh).await.expect("replaces");
    assert_ne!(replaced.metadata.resource_version, created.metadata.resource_version);
    stale.data.get_or_insert_default().insert("key".into(), "three".into());
    let error = api.replace("a", &PostParams::default(), &stale).await.expect_err("stale");
    assert_eq!(code(error), (409, "Conflict".into()));
    for name in ["b", "c"] {
        api.create(&PostParams::default(), &config_map(name, "two")).await.expect("creates");
    }
    let page = api.list(&ListParams::default().limit(2)).await.expect("lists");
    assert_eq!(page.items.len(), 2);
    let token = page.metadata.continue_.expect("more");
    let rest = api.list(&ListParams::default().limit(2).continue_token(&token)).await.expect("lists");
    assert_eq!(rest.items.iter().filter_map(|it| it.metadata.name.as_deref()).next_back(), Some("kube-root-ca.crt"));
    let selected = api.list(&ListParams::default().labels("kind in (two)")).await.expect("lists");
    assert_eq!(selected.items.len(), 2);
    api.delete("a", &DeleteParams::default()).await.expect("deletes");
    assert_eq!(code(api.get("a").await.expect_err("gone")), (404, "NotFound".into()));
    let nowhere: Api<ConfigMap> = Api::namespaced(world.client.clone(), "nowhere");
    let error = nowhere.create(&PostParams::default(), &config_map("a", "x")).await.expect_err("no namespace");
    assert_eq!(code(error), (404, "NotFound".into()));
}

#[tokio::test]
async fn a_watch_tells_additions_changes_and_selector_exits() {
    let world = World::start().await;
    let api: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    let version = api.list(&ListParams::default()).await.expect("lists").metadata.resource_version.expect("version");
    let watched = api.watch(&WatchParams::default().labels("kind=one"), &version).await.expect("watches");
    let mut events = watched.boxed();
    api.create(&PostParams::default(), &config_map("a", "one")).await.expect("creates");
    let change = json!({"data": {"key": "changed"}});
    api.patch("a", &PatchParams::default(), &Patch::Merge(&change)).await.expect("patches");
    let leave = json!({"metadata": {"labels": {"kind": "other"}}});
    api.patch("a", &PatchParams::default(), &Patch::Strategic(&leave)).await.expect("patches");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match events.try_next().await.expect("stream").expect("event") {
            WatchEvent::Added(_) => seen.push("added"),
            WatchEvent::Modified(_) => seen.push("modified"),
            WatchEvent::Deleted(_) => seen.push("deleted"),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => panic!("{status:?}"),
        }
    }
    assert_eq!(seen, ["added", "modified", "deleted"]);
}

#[tokio::test]
async fn two_appliers_of_one_field_conflict_until_one_forces() {
    let world = World::start().await;
    let api: Api<ConfigMap> = Api::namespaced(world.client.clone(), "default");
    let object = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"key": value}});
    let mine = PatchParams::apply("mine");
    api.patch("a", &mine, &Patch::Apply(object("one"))).await.expect("applies");
    let again = api.patch("a", &mine, &Patch::Apply(object("one"))).await.expect("applies");
    let unchanged = api.patch("a", &mine, &Patch::Apply(object("one"))).await.expect("applies");
    assert_eq!(again.metadata.resource_version, unchanged.metadata.resource_version);
    let other = PatchParams::apply("other");
    let error = api.patch("a", &other, &Patch::Apply(object("two"))).await.expect_err("conflict");
    assert!(error.to_string().contains("conflict with \"mine\" using v1: .data.key"), "{error}");
    let forced = api.patch("a", &other.clone().force(), &Patch::Apply(object("two"))).await.expect("forces");
    assert_eq!(forced.data.expect("data")["key"], "two");
    let emptied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let dropped = api.patch("a", &other, &Patch::Apply(emptied)).await.expect("applies");
    assert_eq!(dropped.data, None);
}

#[tokio::test]
async fn a_definition_is_served_and_its_namespace_empties() {
    let world = World::start().await;
    let definition = ApiResource::erase::<
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    >(&());
    let definitions: Api<DynamicObject> = Api::all_with(world.client.clone(), &definition);
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "volumes.longhorn.io"},
        "spec": {
            "group": "longhorn.io", "scope": "Namespaced", "names": {"kind": "Volume", "plural": "volumes"},
            "versions": [{
                "name": "v1beta2", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    definitions.patch("volumes.longhorn.io", &PatchParams::apply("t"), &Patch::Apply(crd)).await.expect("applies");
    let kind = GroupVersionKind::gvk("longhorn.io", "v1beta2", "Volume");
    let (resource, _) = kube::discovery::pinned_kind(&world.client, &kind).await.expect("discovered");
    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "longhorn-system"}})).expect("valid");
    namespaces.create(&PostParams::default(), &namespace).await.expect("creates");
    let volumes: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), "longhorn-system", &resource);
    let volume = json!({"apiVersion": "longhorn.io/v1beta2", "kind": "Volume", "metadata": {"name": "v"}, "spec": {"size": "1"}});
    volumes.patch("v", &PatchParams::apply("t"), &Patch::Apply(&volume)).await.expect("applies");
    let status = json!({"status": {"state": "attached"}, "spec": {"size": "2"}});
    let written = volumes.patch_status("v", &PatchParams::default(), &Patch::Merge(&status)).await.expect("patches");
    assert_eq!((&written.data["spec"]["size"], &written.data["status"]["state"]), (&json!("1"), &json!("attached")));
    namespaces.delete("longhorn-system", &DeleteParams::default()).await.expect("deletes");
    let plane = &world.control_plane;
    let gone = || plane.get("namespaces", None, "longhorn-system").is_none();
    crate::harness::eventually(plane, "the namespace to go", gone).await;
    assert!(plane.list("volumes.longhorn.io", None).is_empty());
}

#[tokio::test]
async fn a_misspelt_field_is_refused_when_the_client_is_strict() {
    let world = World::start().await;
    let send = |strict: &str| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "datum": {}});
        http::Request::post(format!("/api/v1/namespaces/default/configmaps?fieldValidation={strict}"))
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&body).expect("json"))
            .expect("request")
    };
    let error = world.client.request::<serde_json::Value>(send("Strict")).await.expect_err("strict");
    assert!(error.to_string().contains("strict decoding error: unknown field \"datum\""), "{error}");
    let made: serde_json::Value = world.client.request(send("Warn")).await.expect("lenient");
    assert!(made.get("datum").is_none());
}
