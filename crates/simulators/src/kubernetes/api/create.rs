//! POST: a new object.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::ApiError;
use super::handler::Context;
use super::request::ObjectRequest;
use super::{typed, validation};
use crate::kubernetes::defaults;
use crate::kubernetes::object::{
    integer, is_terminating, name, namespace, random_suffix, remove, set, set_default, text,
};
use crate::kubernetes::patch::ownership::{Writer, track_update};
use crate::kubernetes::patch::schema::Rules;
use crate::kubernetes::resources::Resource;

/// Creates the object of a request's body.
///
/// # Errors
/// 400, 403 (terminating namespace), 404 (no such namespace), 409 (exists), 422 (invalid).
pub(crate) fn create(cx: &Context, request: &ObjectRequest, mut object: Value) -> Result<Arc<Value>, ApiError> {
    if !text(&object, "/metadata/resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    identify(request, &mut object)?;
    typed::check(&request.resource, &mut object, unknown_fields(request))?;
    let generated = name(&object).is_empty();
    if generated {
        let prefix = text(&object, "/metadata/generateName").to_owned();
        if !prefix.is_empty() {
            set(&mut object, &["metadata", "name"], json!(format!("{prefix}{}", random_suffix(5))));
        }
    }
    check_namespace(cx, request, &object)?;
    prepare(cx, &request.resource, &mut object);
    defaults::apply(Some(&cx.cluster), &request.resource.id(), &mut object);
    super::structural::set_defaults(&request.resource, &mut object);
    let problems = validation::problems(&request.resource, None, &object);
    if !problems.is_empty() {
        return Err(ApiError::invalid(&request.resource, name(&object), &problems));
    }
    admit(cx, &request.resource, &object)?;
    let writer = Writer { manager: &cx.manager(&request.query), operation: "Update", subresource: "" };
    remove(&mut object, &["metadata", "managedFields"]);
    track_update(rules(&request.resource), &Value::Null, &mut object, writer);
    store(cx, request, object)
}

/// What `fieldValidation` says about fields that the kind does not have.
pub(crate) fn unknown_fields(request: &ObjectRequest) -> typed::Unknown {
    if request.query.get("fieldValidation") == Some("Strict") { typed::Unknown::Refuse } else { typed::Unknown::Drop }
}

/// The admission plugin PodSecurity.
pub(crate) fn admit(cx: &Context, resource: &Resource, object: &Value) -> Result<(), ApiError> {
    if resource.id() != "pods" {
        return Ok(());
    }
    match crate::kubernetes::pod_security::violation(&cx.cluster, namespace(object), object) {
        Some(why) => Err(ApiError::forbidden(resource, name(object), &why)),
        None => Ok(()),
    }
}

/// How lists of this resource merge under server-side apply.
pub(crate) fn rules(resource: &Resource) -> Rules {
    if resource.custom.is_some() { Rules::Custom } else { Rules::Apply }
}

/// Stores a complete new object, or only says what would be stored.
pub(crate) fn store(cx: &Context, request: &ObjectRequest, mut object: Value) -> Result<Arc<Value>, ApiError> {
    let resource = &request.resource;
    let object_name = name(&object).to_owned();
    if request.is_dry_run() {
        if cx.cluster.store.get(&resource.id(), namespace(&object), &object_name).is_some() {
            return Err(ApiError::already_exists(resource, &object_name));
        }
        set(&mut object, &["metadata", "uid"], json!(uuid::Uuid::new_v4()));
        set(&mut object, &["metadata", "creationTimestamp"], json!(crate::kubernetes::object::now()));
        return Ok(Arc::new(object));
    }
    let stored = cx.cluster.store.create(&resource.id(), object);
    if resource.id() == "customresourcedefinitions.apiextensions.k8s.io" {
        crate::kubernetes::controllers::definitions::sync(&cx.cluster);
    }
    stored.ok_or_else(|| ApiError::already_exists(resource, &object_name))
}

/// Checks that the body is of the kind, namespace and name that the URL says, and fills what it leaves out.
pub(crate) fn identify(request: &ObjectRequest, object: &mut Value) -> Result<(), ApiError> {
    let resource = &request.resource;
    if !object.is_object() {
        return Err(ApiError::bad_request("the body of the request is not an object"));
    }
    set_default(object, &["apiVersion"], json!(resource.api_version()));
    set_default(object, &["kind"], json!(resource.kind));
    let (version, kind) = (text(object, "/apiVersion").to_owned(), text(object, "/kind").to_owned());
    if kind != resource.kind || version != resource.api_version() {
        let group_version = |version: &str| {
            version
                .split_once('/')
                .map_or_else(|| format!("/{version}"), |(group, version)| format!("{group}/{version}"))
        };
        return Err(ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: no kind {kind:?} is registered for version {:?} in \
             scheme, expected {}, Kind={}",
            resource.kind,
            version,
            group_version(&resource.api_version()),
            resource.kind
        )));
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    if resource.namespaced {
        let given = namespace(object).to_owned();
        let of_url = request.place_namespace();
        if given.is_empty() {
            set(object, &["metadata", "namespace"], json!(of_url));
        } else if given != of_url {
            const MESSAGE: &str =
                "the namespace of the provided object does not match the namespace sent on the request";
            return Err(ApiError::bad_request(MESSAGE));
        }
    } else {
        remove(object, &["metadata", "namespace"]);
    }
    if let Some(of_url) = &request.name {
        let given = name(object).to_owned();
        if given.is_empty() {
            set(object, &["metadata", "name"], json!(of_url));
        } else if given != *of_url {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({of_url})"
            )));
        }
    }
    Ok(())
}

pub(crate) fn check_namespace(cx: &Context, request: &ObjectRequest, object: &Value) -> Result<(), ApiError> {
    if !request.resource.namespaced {
        return Ok(());
    }
    let namespaces = cx.cluster.registry.find("", "v1", "namespaces").ok_or_else(ApiError::no_such_path)?;
    let at = namespace(object);
    let Some(found) = cx.cluster.store.get("namespaces", "", at) else {
        return Err(ApiError::not_found(&namespaces, at));
    };
    if is_terminating(&found) {
        let why = format!("unable to create new content in namespace {at} because it is being terminated");
        let mut error = ApiError::forbidden(&request.resource, name(object), &why);
        if let Some(details) = &mut error.details {
            details["causes"] = json!([{
                "reason": "NamespaceTerminating", "message": format!("namespace {at} is being terminated"),
                "field": "metadata.namespace"}]);
        }
        return Err(error);
    }
    Ok(())
}

/// What a creating client may not decide: server-side metadata, and the status of most kinds.
pub(crate) fn prepare(cx: &Context, resource: &Resource, object: &mut Value) {
    for key in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"]
    {
        remove(object, &["metadata", key]);
    }
    if resource.custom.is_some() {
        set(object, &["metadata", "generation"], json!(1));
    }
    if resource.has_status && !matches!(resource.kind.as_str(), "Node") {
        remove(object, &["status"]);
    }
    match resource.id().as_str() {
        "certificatesigningrequests.certificates.k8s.io" => {
            set(object, &["spec", "username"], json!(cx.user.name));
            set(object, &["spec", "groups"], json!(cx.user.groups));
            if !cx.user.uid.is_empty() {
                set(object, &["spec", "uid"], json!(cx.user.uid));
            }
        }
        "pods" => admit_pod(cx, object),
        _ => {}
    }
}

/// The admission plugins ServiceAccount and Priority.
pub(crate) fn admit_pod(cx: &Context, object: &mut Value) {
    let class = text(object, "/spec/priorityClassName").to_owned();
    if !class.is_empty() {
        let found = cx.cluster.store.get("priorityclasses.scheduling.k8s.io", "", &class);
        let value = found.and_then(|it| integer(&it, "/value")).unwrap_or(0);
        set(object, &["spec", "priority"], json!(value));
    }
}
