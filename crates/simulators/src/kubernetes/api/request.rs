//! What a URL asks for: verb, resource, namespace, name, subresource and options.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use super::error::ApiError;
use crate::kubernetes::resources::{Registry, Resource};

/// Query parameters; the first value of a repeated one counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(HashMap<String, String>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let mut all = HashMap::new();
        let url = reqwest::Url::parse(&format!("http://localhost/?{}", query.unwrap_or_default()));
        if let Ok(url) = url {
            for (key, value) in url.query_pairs() {
                all.entry(key.into_owned()).or_insert_with(|| value.into_owned());
            }
        }
        Self(all)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// True for `true`, `1` and a parameter without a value.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| matches!(value.as_str(), "" | "true" | "1"))
    }

    /// The value as a whole number; `None` when absent or not one.
    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }
}

/// A request for objects of one resource.
#[derive(Clone, Debug)]
pub(crate) struct ObjectRequest {
    pub(crate) resource: Arc<Resource>,
    /// As RBAC names it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub(crate) verb: &'static str,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    pub(crate) query: Query,
}

impl ObjectRequest {
    /// The namespace for the store: empty for what is not namespaced.
    pub(crate) fn place_namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.query.get("dryRun").is_some_and(|value| value == "All")
    }
}

/// Where a path leads.
pub(crate) enum Route {
    Objects(Box<ObjectRequest>),
    /// `/apis/<group>/<version>`; the core group is empty.
    ResourceList {
        group: String,
        version: String,
    },
    /// `/apis/<group>`
    Group(String),
    /// Everything else, such as `/version` and `/readyz`.
    Other(String),
}

/// Reads a path.
///
/// # Errors
/// 404 for a resource that is not served, 405 for a method it does not have.
pub(crate) fn route(registry: &Registry, method: &Method, path: &str, query: Query) -> Result<Route, ApiError> {
    let decoded: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(percent_decode).collect();
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["api", "v1"] => Ok(Route::ResourceList { group: String::new(), version: "v1".into() }),
        ["api", version, rest @ ..] => objects(registry, method, Target { group: "", version, rest }, query),
        ["apis", group] => Ok(Route::Group((*group).into())),
        ["apis", group, version] => Ok(Route::ResourceList { group: (*group).into(), version: (*version).into() }),
        ["apis", group, version, rest @ ..] => objects(registry, method, Target { group, version, rest }, query),
        _ => Ok(Route::Other(format!("/{}", parts.join("/")))),
    }
}

#[derive(Clone, Copy)]
struct Target<'a> {
    group: &'a str,
    version: &'a str,
    rest: &'a [&'a str],
}

fn objects(registry: &Registry, method: &Method, target: Target<'_>, query: Query) -> Result<Route, ApiError> {
    let mut rest = target.rest;
    let mut watch = query.flag("watch");
    if let ["watch", after @ ..] = rest {
        watch = true;
        rest = after;
    }
    let find = |plural: &str| registry.find(target.group, target.version, plural).ok_or_else(ApiError::no_such_path);
    let (namespace, resource, rest) = match rest {
        ["namespaces", namespace, plural, after @ ..] if !matches!(*plural, "status" | "finalize") => {
            let resource = find(plural)?;
            if !resource.namespaced {
                return Err(ApiError::no_such_path());
            }
            (Some((*namespace).to_owned()), resource, after)
        }
        [plural, after @ ..] => (None, find(plural)?, after),
        [] => return Err(ApiError::no_such_path()),
    };
    let name = rest.first().map(|name| (*name).to_owned());
    let subresource = if rest.len() > 1 { Some(rest[1..].join("/")) } else { None };
    if let Some(asked) = &subresource
        && !resource.subresources().iter().any(|(served, _, _)| served == asked)
    {
        return Err(ApiError::no_such_path());
    }
    if resource.namespaced && namespace.is_none() && name.is_some() {
        return Err(ApiError::no_such_path());
    }
    let collection_watch = watch && (name.is_none() || subresource.is_none());
    let verb = match (method, name.is_some()) {
        (&Method::GET | &Method::HEAD, _) if collection_watch => "watch",
        (&Method::GET | &Method::HEAD, true) => "get",
        (&Method::GET | &Method::HEAD, false) => "list",
        (&Method::POST, named) if !named || subresource.is_some() => "create",
        (&Method::PUT, true) => "update",
        (&Method::PATCH, true) => "patch",
        (&Method::DELETE, true) if subresource.is_none() => "delete",
        (&Method::DELETE, false) => "deletecollection",
        _ => return Err(ApiError::method_not_allowed()),
    };
    let allowed = resource.verbs();
    if subresource.is_none() && !allowed.contains(&verb) && !(verb == "watch" && allowed.contains(&"list")) {
        return Err(ApiError::method_not_allowed());
    }
    Ok(Route::Objects(Box::new(ObjectRequest { resource, verb, namespace, name, subresource, query })))
}

fn percent_decode(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = (*first == b'%').then(|| after.get(..2)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &Method, url: &str) -> Option<(String, &'static str, String, String, String)> {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        match route(&Registry::built_in(), method, path, Query::parse(Some(query))) {
            Ok(Route::Objects(it)) => Some((
                it.resource.id(),
                it.verb,
                it.place_namespace().into(),
                it.name().into(),
                it.subresource.unwrap_or_default(),
            )),
            _ => None,
        }
    }

    #[test]
    fn urls_are_read_as_the_api_conventions_say() {
        let expect =
            |a: &str, b: &'static str, c: &str, d: &str, e: &str| Some((a.into(), b, c.into(), d.into(), e.into()));
        assert_eq!(read(&Method::GET, "/api/v1/nodes"), expect("nodes", "list", "", "", ""));
        assert_eq!(read(&Method::GET, "/api/v1/pods?watch=1"), expect("pods", "watch", "", "", ""));
        assert_eq!(
            read(&Method::PUT, "/api/v1/namespaces/a/finalize"),
            expect("namespaces", "update", "", "a", "finalize")
        );
        let eviction = "/api/v1/namespaces/a/pods/b/eviction";
        assert_eq!(read(&Method::POST, eviction), expect("pods", "create", "a", "b", "eviction"));
        let scale = "/apis/apps/v1/namespaces/a/deployments/b/scale";
        assert_eq!(read(&Method::PATCH, scale), expect("deployments.apps", "patch", "a", "b", "scale"));
        assert_eq!(read(&Method::GET, "/api/v1/namespaces/a/nodes"), None);
        assert_eq!(read(&Method::POST, "/api/v1/namespaces/a/pods/b"), None);
        assert_eq!(read(&Method::GET, "/api/v1/namespaces/a/pods/b/exec"), None);
    }
}
