//! Scale, binding, eviction, token and finalize: what is done to an object besides changing it.

use serde_json::{Value, json};

use super::delete::{self, Options};
use super::error::ApiError;
use super::handler::{Answer, Context};
use super::list;
use super::modify;
use super::negotiation::decode;
use super::request::ObjectRequest;
use super::tokens::TokenSubject;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::controllers::disruption;
use crate::kubernetes::object::{integer, is_terminating, items, name, set, text, uid};

/// Reads or changes how many replicas a workload has, as `autoscaling/v1 Scale`.
///
/// # Errors
/// As reading and writing the workload itself.
pub(crate) fn scale(cx: &Context, request: &ObjectRequest, media_type: &str, body: &[u8]) -> Result<Answer, ApiError> {
    let workload = list::find(cx, request)?;
    let mut shown = scale_of(&workload);
    if request.verb == "get" {
        return Ok(Answer::Json(200, shown));
    }
    match (request.verb, media_type) {
        ("update", _) => shown = decode(media_type, body)?,
        (_, "application/json-patch+json") => {
            let patch: json_patch::Patch = serde_json::from_slice(body)
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
            json_patch::patch(&mut shown, &patch).map_err(|error| ApiError::bad_request(error.to_string()))?;
        }
        _ => {
            let patch = decode("application/yaml", body)?;
            json_patch::merge(&mut shown, &patch);
        }
    }
    let version = text(&shown, "/metadata/resourceVersion");
    if !version.is_empty() && version != text(&workload, "/metadata/resourceVersion") {
        return Err(ApiError::modified(&request.resource, request.name()));
    }
    let replicas = shown.pointer("/spec/replicas").cloned().unwrap_or(json!(0));
    let whole = ObjectRequest { subresource: None, ..request.clone() };
    let written = modify::write(cx, &whole, "Update", |current| {
        set(current, &["spec", "replicas"], replicas);
        Ok(())
    })?;
    Ok(Answer::Json(200, scale_of(&written)))
}

fn scale_of(workload: &Value) -> Value {
    let selector: Vec<String> = crate::kubernetes::object::map(workload, "/spec/selector/matchLabels")
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let metadata = &workload["metadata"];
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"]},
        "spec": {"replicas": workload["spec"]["replicas"]},
        "status": {"replicas": integer(workload, "/status/replicas").unwrap_or(0), "selector": selector.join(",")},
    })
}

/// Serves the POSTs (and the PUT of finalize).
///
/// # Errors
/// What the subresource refuses.
pub(crate) fn post(cx: &Context, request: &ObjectRequest, body: Value) -> Result<Answer, ApiError> {
    let object = list::find(cx, request)?;
    match request.subresource.as_deref() {
        Some("eviction") => evict(cx, request, &object, &body),
        Some("binding") => bind(cx, request, &body),
        Some("token") => token(cx, &object, body),
        Some("finalize") => {
            let finalizers = body["spec"]["finalizers"].clone();
            let whole = ObjectRequest { subresource: None, ..request.clone() };
            let written = modify::write(cx, &whole, "Update", |current| {
                set(current, &["spec", "finalizers"], finalizers);
                Ok(())
            })?;
            Ok(Answer::Json(200, (*written).clone()))
        }
        _ => Err(ApiError::no_such_path()),
    }
}

/// Evicts a pod unless a budget forbids it; see reliability.md section 9.
fn evict(cx: &Context, request: &ObjectRequest, pod: &Value, body: &Value) -> Result<Answer, ApiError> {
    let options = Options::read(request, &body["deleteOptions"]);
    evict_pod(&cx.cluster, pod, &options)?;
    Ok(Answer::Json(
        201,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

/// Evicts a pod of a cluster: 429 when its budget is exhausted, 500 when it has two.
///
/// # Errors
/// See above, and those of deleting the pod.
pub(crate) fn evict_pod(cluster: &Cluster, pod: &Value, options: &Options) -> Result<(), ApiError> {
    let pods = cluster.registry.find("", "v1", "pods").ok_or_else(ApiError::no_such_path)?;
    let finished = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed" | "Pending");
    if !finished && !is_terminating(pod) {
        disruption::take_permission(cluster, pod, options.dry_run)?;
    }
    let in_namespace = crate::kubernetes::object::namespace(pod);
    delete::delete_object(cluster, &pods, in_namespace, name(pod), options).map(drop)
}

/// What a scheduler does: puts a pod on a node.
fn bind(cx: &Context, request: &ObjectRequest, body: &Value) -> Result<Answer, ApiError> {
    let node = body["target"]["name"].clone();
    let result = cx.cluster.store.update("pods", request.place_namespace(), request.name(), |pod| {
        if !text(pod, "/spec/nodeName").is_empty() {
            let why = format!("pod {} is already assigned to node {:?}", request.name(), text(pod, "/spec/nodeName"));
            return Err(ApiError::conflict(&request.resource, request.name(), &why));
        }
        set(pod, &["spec", "nodeName"], node);
        Ok(())
    });
    match result {
        Err(crate::kubernetes::storage::WriteError::Refused(error)) => Err(error),
        _ => Ok(Answer::Json(
            201,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
        )),
    }
}

/// A fresh token for a service account, at least ten minutes long.
fn token(cx: &Context, account: &Value, mut body: Value) -> Result<Answer, ApiError> {
    let issuer = &cx.cluster.identity.endpoint;
    let mut audiences: Vec<String> =
        items(&body, "/spec/audiences").iter().filter_map(|it| it.as_str().map(str::to_owned)).collect();
    if audiences.is_empty() {
        audiences.push(issuer.clone());
    }
    let seconds = integer(&body, "/spec/expirationSeconds").unwrap_or(3600).max(600);
    let subject = TokenSubject {
        namespace: crate::kubernetes::object::namespace(account),
        account: name(account),
        account_uid: uid(account),
    };
    let key = cx.cluster.tokens.as_ref().ok_or_else(|| ApiError::internal("no usable service-account key"))?;
    let token = key
        .issue(&subject, issuer, &audiences, seconds)
        .ok_or_else(|| ApiError::internal("the token could not be signed"))?;
    let expires = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + seconds).unwrap_or_default();
    set(&mut body, &["kind"], json!("TokenRequest"));
    set(&mut body, &["apiVersion"], json!("authentication.k8s.io/v1"));
    set(&mut body, &["metadata", "name"], json!(name(account)));
    set(&mut body, &["spec", "audiences"], json!(audiences));
    set(&mut body, &["spec", "expirationSeconds"], json!(seconds));
    let expires = crate::kubernetes::object::format_time(expires);
    set(&mut body, &["status"], json!({"token": token, "expirationTimestamp": expires}));
    Ok(Answer::Json(201, body))
}
