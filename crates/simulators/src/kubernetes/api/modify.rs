//! PUT and PATCH: a changed object.

use std::sync::Arc;

use serde_json::{Value, json};

use super::create;
use super::error::ApiError;
use super::handler::Context;
use super::request::ObjectRequest;
use super::{typed, validation};
use crate::kubernetes::defaults;
use crate::kubernetes::object::{name, remove, set, text, uid};
use crate::kubernetes::patch::ownership::{Writer, track_update};
use crate::kubernetes::patch::{apply, strategic};
use crate::kubernetes::storage::WriteError;

/// The ways to patch, by content type.
enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

/// Replaces an object by the body.
///
/// # Errors
/// 400, 404, 409 (stale resource version, other uid), 422.
pub(crate) fn update(cx: &Context, request: &ObjectRequest, mut object: Value) -> Result<Arc<Value>, ApiError> {
    create::identify(request, &mut object)?;
    write(cx, request, "Update", |current| {
        check_preconditions(request, current, &object)?;
        *current = object;
        Ok(())
    })
}

fn check_preconditions(request: &ObjectRequest, current: &Value, sent: &Value) -> Result<(), ApiError> {
    let version = text(sent, "/metadata/resourceVersion");
    if !version.is_empty() && version != text(current, "/metadata/resourceVersion") {
        return Err(ApiError::modified(&request.resource, request.name()));
    }
    if !uid(sent).is_empty() && uid(sent) != uid(current) {
        let why =
            format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", uid(sent), uid(current));
        return Err(ApiError::conflict(&request.resource, request.name(), &why));
    }
    Ok(())
}

/// Patches an object by the body, in the way its content type says; an apply makes the object when there is none.
///
/// # Errors
/// 400, 404, 409 (stale resource version, field conflict), 415, 422.
pub(crate) fn patch(
    cx: &Context,
    request: &ObjectRequest,
    media_type: &str,
    body: &[u8],
) -> Result<Arc<Value>, ApiError> {
    let patch = read_patch(request, media_type, body)?;
    if let Patch::Apply(config) = &patch {
        return server_side_apply(cx, request, config.clone());
    }
    write(cx, request, "Update", |current| {
        let before = current.clone();
        match &patch {
            Patch::Json(operations) => json_patch::patch(current, operations).map_err(|error| {
                ApiError::new(
                    422,
                    "Invalid",
                    format!("the server rejected our request due to an error in our request: {error}"),
                )
            })?,
            Patch::Merge(change) => json_patch::merge(current, change),
            Patch::Strategic(change) => strategic::apply(current, change).map_err(ApiError::bad_request)?,
            Patch::Apply(_) => {}
        }
        check_preconditions(request, &before, current)
    })
}

fn read_patch(request: &ObjectRequest, media_type: &str, body: &[u8]) -> Result<Patch, ApiError> {
    let parse = || -> Result<Value, ApiError> {
        serde_json::from_slice(body).map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))
    };
    let stored = |mut patch: Value| {
        super::versions::to_stored(&request.resource, &mut patch);
        patch
    };
    const SUPPORTED: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
    match media_type {
        "application/json-patch+json" => serde_json::from_value(parse()?)
            .map(Patch::Json)
            .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}"))),
        "application/merge-patch+json" => Ok(Patch::Merge(stored(parse()?))),
        "application/strategic-merge-patch+json" if request.resource.custom.is_none() => {
            Ok(Patch::Strategic(stored(parse()?)))
        }
        "application/apply-patch+yaml" => super::negotiation::decode(media_type, body).map(stored).map(Patch::Apply),
        other => Err(ApiError::unsupported_media_type(other, SUPPORTED)),
    }
}

fn server_side_apply(cx: &Context, request: &ObjectRequest, mut config: Value) -> Result<Arc<Value>, ApiError> {
    let Some(manager) = request.query.get("fieldManager") else {
        let message =
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
        return Err(ApiError::new(422, "Invalid", message));
    };
    if text(&config, "/apiVersion").is_empty() || text(&config, "/kind").is_empty() {
        return Err(ApiError::bad_request("invalid object type: apiVersion and kind are required for apply"));
    }
    if config.pointer("/metadata/managedFields").is_some_and(|it| it.as_array().is_some_and(|list| !list.is_empty())) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    create::identify(request, &mut config)?;
    if let [field, ..] = typed::prune(&request.resource, &mut config)?.as_slice() {
        let (place, version, kind) =
            (request.place_namespace(), request.resource.api_version(), &request.resource.kind);
        let message = format!(
            "failed to create typed patch object ({place}/{}; {version}, Kind={kind}): .{field}: field not declared in schema",
            request.name()
        );
        return Err(ApiError::new(500, "", message));
    }
    let subresource = request.subresource.as_deref().unwrap_or_default();
    let writer = Writer { manager, operation: "Apply", subresource };
    let force = request.query.flag("force");
    let rules = create::rules(&request.resource);
    let exists = cx.cluster.store.get(&request.resource.id(), request.place_namespace(), request.name()).is_some();
    if !exists {
        if !subresource.is_empty() {
            return Err(ApiError::not_found(&request.resource, request.name()));
        }
        return apply_new(cx, request, &config, writer);
    }
    write(cx, request, "Apply", |current| {
        let version = text(&config, "/metadata/resourceVersion");
        if !version.is_empty() && version != text(current, "/metadata/resourceVersion") {
            return Err(ApiError::modified(&request.resource, request.name()));
        }
        *current = apply::apply(rules, current, &config, writer, force)?;
        Ok(())
    })
}

fn apply_new(
    cx: &Context,
    request: &ObjectRequest,
    config: &Value,
    writer: Writer<'_>,
) -> Result<Arc<Value>, ApiError> {
    let resource = &request.resource;
    super::authorization::authorize(&cx.cluster, &cx.user, &ObjectRequest { verb: "create", ..request.clone() })?;
    let mut object = apply::apply(create::rules(resource), &Value::Null, config, writer, false)?;
    create::check_namespace(cx, request, &object)?;
    create::prepare(cx, resource, &mut object);
    defaults::apply(Some(&cx.cluster), &resource.id(), &mut object);
    super::structural::set_defaults(resource, &mut object);
    let problems = validation::problems(resource, None, &object);
    if !problems.is_empty() {
        return Err(ApiError::invalid(resource, request.name(), &problems));
    }
    create::admit(cx, resource, &object)?;
    create::store(cx, request, object)
}

/// Runs a change with everything that surrounds one: what it may not touch, defaults, validation, field ownership.
pub(crate) fn write(
    cx: &Context,
    request: &ObjectRequest,
    operation: &str,
    change: impl FnOnce(&mut Value) -> Result<(), ApiError>,
) -> Result<Arc<Value>, ApiError> {
    let resource = &request.resource;
    let manager = cx.manager(&request.query);
    let subresource = request.subresource.as_deref().unwrap_or_default();
    let mut dry = None;
    let result = cx.cluster.store.update(&resource.id(), request.place_namespace(), request.name(), |current| {
        let before = current.clone();
        change(current)?;
        typed::check(resource, current, create::unknown_fields(request))?;
        keep_what_is_not_the_clients(request, &before, current);
        if subresource.is_empty() {
            defaults::apply(None, &resource.id(), current);
            super::structural::set_defaults(resource, current);
        }
        let problems = validation::problems(resource, Some(&before), current);
        if !problems.is_empty() {
            return Err(ApiError::invalid(resource, request.name(), &problems));
        }
        if operation != "Apply" {
            let writer = Writer { manager: &manager, operation, subresource };
            track_update(create::rules(resource), &before, current, writer);
        }
        let versionless = |object: &Value| {
            let mut object = object.clone();
            remove(&mut object, &["metadata", "managedFields"]);
            object
        };
        if operation != "Apply" && versionless(&before) == versionless(current) {
            *current = before.clone();
        }
        if request.is_dry_run() {
            dry = Some(std::mem::replace(current, before));
        }
        Ok(())
    });
    if resource.id() == "customresourcedefinitions.apiextensions.k8s.io" {
        crate::kubernetes::controllers::definitions::sync(&cx.cluster);
    }
    match result {
        Ok(stored) => Ok(dry.map_or(stored, Arc::new)),
        Err(WriteError::NotFound) => Err(ApiError::not_found(resource, request.name())),
        Err(WriteError::Refused(error)) => Err(error),
    }
}

/// Puts back server-side metadata; the main resource keeps its status, a subresource keeps everything else.
fn keep_what_is_not_the_clients(request: &ObjectRequest, before: &Value, current: &mut Value) {
    if !current["metadata"].is_object() {
        current["metadata"] = before["metadata"].clone();
    }
    let status_only = matches!(request.subresource.as_deref(), Some("status" | "approval"));
    if status_only {
        let status = current.get("status").cloned();
        let mut metadata = before["metadata"].clone();
        if request.resource.kind == "Node" || request.resource.custom.is_none() {
            for key in ["labels", "annotations"] {
                if let Some(sent) = current["metadata"].get(key) {
                    metadata[key] = sent.clone();
                }
            }
        }
        metadata["managedFields"] = current["metadata"]["managedFields"].clone();
        *current = before.clone();
        current["metadata"] = metadata;
        match status {
            Some(status) => current["status"] = status,
            None => drop(remove(current, &["status"])),
        }
    } else if request.resource.has_status {
        match before.get("status") {
            Some(status) => current["status"] = status.clone(),
            None => drop(remove(current, &["status"])),
        }
    }
    for key in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "resourceVersion"]
    {
        match before["metadata"].get(key) {
            Some(value) => set(current, &["metadata", key], value.clone()),
            None => drop(remove(current, &["metadata", key])),
        }
    }
    set(current, &["metadata", "name"], json!(name(before)));
    if let Some(namespace) = before["metadata"].get("namespace") {
        set(current, &["metadata", "namespace"], namespace.clone());
    }
    if current["metadata"]["managedFields"].is_null() {
        remove(current, &["metadata", "managedFields"]);
    }
}
