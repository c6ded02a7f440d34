//! DELETE: at once, gracefully, or when the finalizers allow it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::ApiError;
use super::handler::Context;
use super::request::ObjectRequest;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{format_time, integer, is_terminating, items, name, namespace, set, text, uid};
use crate::kubernetes::resources::Resource;
use crate::kubernetes::storage::WriteError;

/// `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) grace_seconds: Option<i64>,
    pub(crate) propagation: Option<String>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

impl Options {
    /// Reads the options; the query counts where the body says nothing.
    pub(crate) fn read(request: &ObjectRequest, body: &Value) -> Self {
        let string = |pointer: &str| Some(text(body, pointer).to_owned()).filter(|it| !it.is_empty());
        let query = &request.query;
        let orphan = body["orphanDependents"].as_bool().or(query.get("orphanDependents").map(|it| it == "true"));
        Self {
            grace_seconds: integer(body, "/gracePeriodSeconds").or_else(|| query.number("gracePeriodSeconds")),
            propagation: string("/propagationPolicy")
                .or_else(|| query.get("propagationPolicy").map(str::to_owned))
                .or_else(|| orphan.filter(|it| *it).map(|_| "Orphan".to_owned())),
            uid: string("/preconditions/uid"),
            resource_version: string("/preconditions/resourceVersion"),
            dry_run: request.is_dry_run() || items(body, "/dryRun").iter().any(|it| it == "All"),
        }
    }
}

/// What became of an object.
pub(crate) enum Deleted {
    Gone(Arc<Value>),
    /// It waits for its grace period or its finalizers.
    Terminating(Arc<Value>),
}

/// Deletes the object of a request and answers as the real server does.
///
/// # Errors
/// 404, 409 (preconditions).
pub(crate) fn delete(cx: &Context, request: &ObjectRequest, options: &Options) -> Result<Value, ApiError> {
    let resource = &request.resource;
    let deleted = delete_object(&cx.cluster, resource, request.place_namespace(), request.name(), options)?;
    Ok(match deleted {
        Deleted::Terminating(object) => (*object).clone(),
        Deleted::Gone(object) if resource.kind == "Pod" => (*object).clone(),
        Deleted::Gone(object) => {
            let mut details = json!({"name": name(&object), "kind": resource.plural, "uid": uid(&object)});
            if !resource.group.is_empty() {
                details["group"] = json!(resource.group);
            }
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
        }
    })
}

/// Deletes one object: marks it when something must still happen, removes it otherwise.
///
/// # Errors
/// 404, 409 (preconditions).
pub(crate) fn delete_object(
    cluster: &Cluster,
    resource: &Resource,
    in_namespace: &str,
    object_name: &str,
    options: &Options,
) -> Result<Deleted, ApiError> {
    let id = resource.id();
    let current =
        cluster.store.get(&id, in_namespace, object_name).ok_or_else(|| ApiError::not_found(resource, object_name))?;
    check_preconditions(resource, &current, options)?;
    if options.dry_run {
        return Ok(Deleted::Gone(current));
    }
    let finalizer = match options.propagation.as_deref() {
        Some("Foreground") => Some("foregroundDeletion"),
        Some("Orphan") => Some("orphan"),
        _ => None,
    };
    let grace = grace_seconds(resource, &current, options);
    let finalizers = items(&current, "/metadata/finalizers").len() + usize::from(finalizer.is_some());
    if grace == 0 && finalizers == 0 && resource.kind != "Namespace" {
        let last = cluster.store.remove(&id, in_namespace, object_name).unwrap_or(current);
        if resource.kind == "CustomResourceDefinition" {
            crate::kubernetes::controllers::definitions::sync(cluster);
        }
        return Ok(Deleted::Gone(last));
    }
    let marked = cluster.store.update::<ApiError>(&id, in_namespace, object_name, |object| {
        mark(object, grace, finalizer);
        Ok(())
    });
    match marked {
        Ok(object) if cluster.store.get(&id, in_namespace, object_name).is_none() => Ok(Deleted::Gone(object)),
        Ok(object) => Ok(Deleted::Terminating(object)),
        Err(WriteError::NotFound) => Err(ApiError::not_found(resource, object_name)),
        Err(WriteError::Refused(error)) => Err(error),
    }
}

fn check_preconditions(resource: &Resource, current: &Value, options: &Options) -> Result<(), ApiError> {
    let expect = |what: &str, wanted: &Option<String>, found: &str| match wanted {
        Some(wanted) if wanted != found => {
            let short = if what == "UID" { "UID" } else { "ResourceVersion" };
            let why =
                format!("Precondition failed: {short} in precondition: {wanted}, {short} in object meta: {found}");
            Err(ApiError::conflict(resource, name(current), &why))
        }
        _ => Ok(()),
    };
    expect("UID", &options.uid, uid(current))?;
    expect("ResourceVersion", &options.resource_version, text(current, "/metadata/resourceVersion"))
}

/// Seconds the object may take to leave; only pods on a node get any.
fn grace_seconds(resource: &Resource, current: &Value, options: &Options) -> i64 {
    let finished = matches!(text(current, "/status/phase"), "Succeeded" | "Failed");
    if resource.kind != "Pod" || text(current, "/spec/nodeName").is_empty() || finished {
        return 0;
    }
    let asked = options.grace_seconds.or_else(|| integer(current, "/spec/terminationGracePeriodSeconds")).unwrap_or(30);
    match integer(current, "/metadata/deletionGracePeriodSeconds") {
        Some(already) => asked.min(already),
        None => asked.max(0),
    }
}

fn mark(object: &mut Value, grace: i64, finalizer: Option<&str>) {
    if let Some(finalizer) = finalizer {
        let mut finalizers = items(object, "/metadata/finalizers").to_vec();
        if !finalizers.iter().any(|it| it == finalizer) {
            finalizers.push(json!(finalizer));
        }
        set(object, &["metadata", "finalizers"], Value::Array(finalizers));
    }
    let shorter = integer(object, "/metadata/deletionGracePeriodSeconds").is_none_or(|already| grace < already);
    if !is_terminating(object) || shorter {
        let when = jiff::Timestamp::now().as_second() + grace;
        let when = jiff::Timestamp::from_second(when).unwrap_or_default();
        set(object, &["metadata", "deletionTimestamp"], json!(format_time(when)));
        set(object, &["metadata", "deletionGracePeriodSeconds"], json!(grace));
    }
    if object["kind"] == "Namespace" {
        set(object, &["status", "phase"], json!("Terminating"));
    }
}

/// Deletes everything that a collection request selects; answers with the list of it.
///
/// # Errors
/// As for the deletion of one object; selectors that cannot be parsed are 400.
pub(crate) fn delete_collection(cx: &Context, request: &ObjectRequest, options: &Options) -> Result<Value, ApiError> {
    let selected = super::list::select(cx, request)?;
    for object in &selected.objects {
        let result = delete_object(&cx.cluster, &request.resource, namespace(object), name(object), options);
        match result {
            Err(error) if error.code != 404 => return Err(error),
            _ => {}
        }
    }
    Ok(super::list::to_list(&request.resource, &selected))
}
