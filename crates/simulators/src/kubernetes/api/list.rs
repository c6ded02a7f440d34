//! GET: one object or a selection, in pages.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::error::ApiError;
use super::handler::Context;
use super::negotiation::Shape;
use super::request::ObjectRequest;
use super::{revisions, table};
use crate::kubernetes::object::{name, namespace};
use crate::kubernetes::resources::Resource;
use crate::kubernetes::selectors::{FieldSelector, LabelSelector};

/// The filters of a list or watch.
#[derive(Clone, Default)]
pub(crate) struct Filter {
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

impl Filter {
    /// Reads the selectors of a request.
    ///
    /// # Errors
    /// 400 for a selector that cannot be parsed or a field that this resource cannot be selected by.
    pub(crate) fn of(request: &ObjectRequest) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(request.query.get("labelSelector").unwrap_or_default())
            .map_err(ApiError::bad_request)?;
        let fields = FieldSelector::parse(request.query.get("fieldSelector").unwrap_or_default())
            .map_err(ApiError::bad_request)?;
        if let Some(field) = fields.unsupported(&request.resource.id()) {
            return Err(ApiError::bad_request(format!("field label not supported: {field}")));
        }
        Ok(Self { namespace: request.namespace.clone(), name: request.name.clone(), labels, fields })
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace(object))
            && self.name.as_deref().is_none_or(|wanted| wanted == name(object))
            && self.labels.selects(object)
            && self.fields.matches(object)
    }
}

/// One page of a list.
pub(crate) struct Selection {
    pub(crate) revision: u64,
    pub(crate) objects: Vec<Arc<Value>>,
    /// Where the next page starts, and how many objects it and those after it hold.
    pub(crate) more: Option<(String, usize)>,
}

/// What a list request selects.
///
/// # Errors
/// 400 for bad selectors or continue tokens, 410 for a version that is too old, 422 for options that exclude each other,
/// 504 for a version that does not exist yet.
pub(crate) fn select(cx: &Context, request: &ObjectRequest) -> Result<Selection, ApiError> {
    let filter = Filter::of(request)?;
    let at = revisions::wanted(request, cx.cluster.store.revision())?;
    let token = request.query.get("continue").map(read_token).transpose()?;
    let exact = token.as_ref().map(|(revision, _)| *revision).or(at);
    let (id, namespace) = (request.resource.id(), request.namespace.as_deref());
    let (revision, all) = if request.resource.is_metrics() {
        (cx.cluster.store.revision(), super::metrics::all(&cx.cluster, &request.resource))
    } else if let Some(revision) = exact {
        let all = cx.cluster.store.list_as_of(&id, namespace, revision);
        (revision, all.ok_or_else(|| too_old(token.is_some()))?)
    } else {
        cx.cluster.store.list_at(&id, namespace)
    };
    let mut objects: Vec<Arc<Value>> = all.into_iter().filter(|object| filter.matches(object)).collect();
    if let Some((_, start)) = &token {
        objects.retain(|object| key(object) >= *start);
    }
    let limit: usize = request.query.number("limit").unwrap_or(0);
    let mut more = None;
    if limit > 0 && objects.len() > limit {
        let rest = objects.split_off(limit);
        more = Some((self::token(revision, &key(&rest[0])), rest.len()));
    }
    Ok(Selection { revision, objects, more })
}

fn too_old(continued: bool) -> ApiError {
    let message = if continued {
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
         the continue parameter."
    } else {
        "The resourceVersion for the provided list is too old."
    };
    ApiError::new(410, "Expired", message)
}

fn key(object: &Value) -> String {
    format!("{}/{}", namespace(object), name(object))
}

fn token(revision: u64, start: &str) -> String {
    URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string())
}

fn read_token(token: &str) -> Result<(u64, String), ApiError> {
    let read = || -> Option<(u64, String)> {
        let json: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        Some((json["rv"].as_u64()?, json["start"].as_str()?.to_owned()))
    };
    read().ok_or_else(|| ApiError::bad_request("continue key is not valid"))
}

/// The metadata of a list.
fn list_metadata(selection: &Selection) -> Value {
    let mut metadata = json!({"resourceVersion": selection.revision.to_string()});
    if let Some((token, remaining)) = &selection.more {
        metadata["continue"] = json!(token);
        metadata["remainingItemCount"] = json!(remaining);
    }
    metadata
}

/// A selection as `<Kind>List`.
pub(crate) fn to_list(resource: &Resource, selection: &Selection) -> Value {
    let items: Vec<Value> = selection.objects.iter().map(|object| convert(resource, object)).collect();
    json!({
        "kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
        "metadata": list_metadata(selection), "items": items,
    })
}

/// An object in the version that was asked for; custom resources convert by name only (strategy `None`).
pub(crate) fn convert(resource: &Resource, object: &Value) -> Value {
    let mut object = object.clone();
    super::versions::from_stored(resource, &mut object);
    object["apiVersion"] = json!(resource.api_version());
    object["kind"] = json!(resource.kind);
    object
}

/// Answers a list request.
///
/// # Errors
/// As [`select`].
pub(crate) fn list(cx: &Context, request: &ObjectRequest) -> Result<Value, ApiError> {
    let selection = select(cx, request)?;
    let resource = &request.resource;
    Ok(match cx.wanted.shape {
        Shape::Table => {
            let mut made = table::of(resource, &selection.objects, request.query.get("includeObject"));
            made["metadata"] = list_metadata(&selection);
            made
        }
        Shape::Metadata => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": list_metadata(&selection),
            "items": selection.objects.iter().map(|it| table::partial(it)).collect::<Vec<_>>(),
        }),
        _ => to_list(resource, &selection),
    })
}

/// The object of a request.
///
/// # Errors
/// 404, and 504 for a version that does not exist yet.
pub(crate) fn find(cx: &Context, request: &ObjectRequest) -> Result<Arc<Value>, ApiError> {
    let resource = &request.resource;
    revisions::wanted(request, cx.cluster.store.revision())?;
    let found = if resource.is_metrics() {
        let all = super::metrics::all(&cx.cluster, resource);
        all.into_iter().find(|it| name(it) == request.name() && namespace(it) == request.place_namespace())
    } else {
        cx.cluster.store.get(&resource.id(), request.place_namespace(), request.name())
    };
    found.ok_or_else(|| ApiError::not_found(resource, request.name()))
}

/// One object in the shape that was asked for.
pub(crate) fn show(cx: &Context, request: &ObjectRequest, object: &Arc<Value>) -> Value {
    match cx.wanted.shape {
        Shape::Table => {
            let mut made =
                table::of(&request.resource, std::slice::from_ref(object), request.query.get("includeObject"));
            made["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
            made
        }
        Shape::Metadata => table::partial(object),
        _ => convert(&request.resource, object),
    }
}
