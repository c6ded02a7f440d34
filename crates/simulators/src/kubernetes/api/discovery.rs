//! What is served where: `/api`, `/apis` and their resource lists, plain and aggregated.

use serde_json::{Value, json};

use super::error::ApiError;
use super::handler::{Answer, Context};
use super::negotiation::Shape;
use crate::kubernetes::resources::Resource;

/// The paths that `/` lists.
pub(crate) fn paths(cx: &Context) -> Value {
    let mut paths =
        vec!["/.well-known/openid-configuration".to_owned(), "/api".into(), "/api/v1".into(), "/apis".into()];
    for (group, versions) in cx.cluster.registry.groups() {
        if !group.is_empty() {
            paths.push(format!("/apis/{group}"));
            paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
        }
    }
    paths.extend(["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"].map(str::to_owned));
    json!({"paths": paths})
}

/// `/api`: the core group.
pub(crate) fn api(cx: &Context) -> Answer {
    if let Shape::AggregatedDiscovery(version) = cx.wanted.shape {
        return aggregated(cx, version, |group| group.is_empty());
    }
    Answer::Json(
        200,
        json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": cx.server.address}],
        }),
    )
}

/// `/apis`: every named group.
pub(crate) fn apis(cx: &Context) -> Answer {
    if let Shape::AggregatedDiscovery(version) = cx.wanted.shape {
        return aggregated(cx, version, |group| !group.is_empty());
    }
    let groups: Vec<Value> = cx
        .cluster
        .registry
        .groups()
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| api_group(group, versions))
        .collect();
    Answer::Json(200, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

fn api_group(group: &str, versions: &[String]) -> Value {
    let shown: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "versions": shown, "preferredVersion": shown.first()})
}

/// `/apis/<group>`
///
/// # Errors
/// 404 for a group that is not served.
pub(crate) fn group(cx: &Context, name: &str) -> Result<Answer, ApiError> {
    let groups = cx.cluster.registry.groups();
    let (group, versions) = groups.iter().find(|(group, _)| group == name).ok_or_else(ApiError::no_such_path)?;
    let mut shown = api_group(group, versions);
    shown["kind"] = json!("APIGroup");
    shown["apiVersion"] = json!("v1");
    Ok(Answer::Json(200, shown))
}

/// `/apis/<group>/<version>` and `/api/v1`
///
/// # Errors
/// 404 for a version that is not served.
pub(crate) fn resource_list(cx: &Context, group: &str, version: &str) -> Result<Answer, ApiError> {
    let all = cx.cluster.registry.all();
    let served: Vec<&Resource> =
        all.iter().filter(|it| it.group == group && it.version == version).map(|it| &**it).collect();
    let Some(first) = served.first() else { return Err(ApiError::no_such_path()) };
    let group_version = first.api_version();
    let mut list = Vec::new();
    for resource in served {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs(),
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        list.push(entry);
        for (name, kind, verbs) in resource.subresources() {
            let kind = if kind.is_empty() { &resource.kind } else { kind };
            let mut entry = json!({
                "name": format!("{}/{name}", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": kind, "verbs": verbs,
            });
            let (group, version) = subresource_version(kind, resource);
            if (group.as_str(), version.as_str()) != (resource.group.as_str(), resource.version.as_str()) {
                entry["group"] = json!(group);
                entry["version"] = json!(version);
            }
            list.push(entry);
        }
    }
    Ok(Answer::Json(
        200,
        json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list,
        }),
    ))
}

/// The group and version of what a subresource answers with.
fn subresource_version(kind: &str, resource: &Resource) -> (String, String) {
    match kind {
        "Scale" => ("autoscaling".into(), "v1".into()),
        "Eviction" => ("policy".into(), "v1".into()),
        "TokenRequest" => ("authentication.k8s.io".into(), "v1".into()),
        _ => (resource.group.clone(), resource.version.clone()),
    }
}

fn aggregated(cx: &Context, version: &'static str, wanted: fn(&str) -> bool) -> Answer {
    let all = cx.cluster.registry.all();
    let groups: Vec<Value> = cx
        .cluster
        .registry
        .groups()
        .iter()
        .filter(|(group, _)| wanted(group))
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = all
                        .iter()
                        .filter(|it| it.group == *group && it.version == *version)
                        .map(|it| aggregated_resource(it))
                        .collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let media_type = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    Answer::Typed(
        media_type,
        json!({
            "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {},
            "items": groups,
        }),
    )
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |kind: &str| {
        let (group, version) = subresource_version(kind, resource);
        json!({"group": group, "version": version, "kind": kind})
    };
    let subresources: Vec<Value> = resource
        .subresources()
        .iter()
        .map(|(name, of_kind, verbs)| {
            let of_kind = if of_kind.is_empty() { &resource.kind } else { *of_kind };
            json!({"subresource": name, "responseKind": kind(of_kind), "verbs": verbs})
        })
        .collect();
    let mut entry = json!({
        "resource": resource.plural, "responseKind": kind(&resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular, "verbs": resource.verbs(),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    if !subresources.is_empty() {
        entry["subresources"] = json!(subresources);
    }
    entry
}
