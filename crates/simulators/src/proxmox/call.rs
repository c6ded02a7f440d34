//! One API call from decoded request to reply: the order of checks is PVE's (proxmox.md 1.4).

use std::sync::Arc;

use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::{
    access::Identity,
    api, auth,
    error::{ApiError, ApiResult},
    params::{Params, Raw},
    permission,
    schema::SCHEMA,
    sim::Sim,
    upload::Upload,
    validate,
    world::World,
};

/// A call that passed authentication, permissions and validation.
pub(crate) struct Call {
    pub(crate) sim: Arc<Sim>,
    pub(crate) identity: Identity,
    pub(crate) params: Params,
    /// The node that received the request.
    pub(crate) entry: String,
    pub(crate) upload: Option<Upload>,
}

/// A request as the HTTP server took it apart.
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Below `/api2/<format>`.
    pub(crate) path: String,
    pub(crate) params: Params,
    pub(crate) upload: Option<Upload>,
}

/// What a handler answers.
#[derive(Debug, PartialEq)]
pub(crate) enum Reply {
    Data(Value),
    /// A list with the number of all entries beside it.
    Counted(Value, usize),
    /// `text/plain`, as a downloaded log.
    Text(String),
}

impl Reply {
    pub(crate) const NULL: Self = Self::Data(Value::Null);
}

impl<T: Into<Value>> From<T> for Reply {
    fn from(value: T) -> Self {
        Self::Data(value.into())
    }
}

impl Call {
    pub(crate) fn node(&self) -> &str {
        self.params.need("node")
    }

    pub(crate) fn vmid(&self) -> u32 {
        self.params.int("vmid").and_then(|id| u32::try_from(id).ok()).unwrap_or_default()
    }

    pub(crate) fn check(&self, path: &str, all: &[&str]) -> ApiResult<()> {
        self.sim.world().check(&self.identity, path, all)
    }

    pub(crate) fn may(&self, world: &World, path: &str, any: &[&str]) -> bool {
        world.may(&self.identity, path, any)
    }

    pub(crate) fn is_root(&self) -> bool {
        self.identity.is_root()
    }
}

/// Whether a path may be used without credentials.
pub(crate) fn is_public(method: &Method, path: &str) -> bool {
    let path = path.trim_matches('/');
    match path {
        "access/domains" => method == Method::GET,
        "access/ticket" => method == Method::GET || method == Method::POST,
        "access/openid/login" | "access/openid/auth-url" => method == Method::POST,
        _ => false,
    }
}

/// Authenticates before the body is read, as pveproxy does.
pub(crate) fn authenticate(sim: &Sim, method: &Method, path: &str, headers: &HeaderMap) -> ApiResult<Option<Identity>> {
    if is_public(method, path) {
        let token = auth::authenticate(sim, headers, false).ok().filter(|identity| identity.token.is_some());
        if token.is_some() && path.trim_matches('/') == "access/ticket" {
            let detail = "URI '/access/ticket' not available with API token, need proper ticket.";
            return Err(ApiError::permission(Some(detail)));
        }
        return Ok(None);
    }
    let needs_csrf = method != Method::GET && !path.ends_with("/upload");
    auth::authenticate(sim, headers, needs_csrf).map(Some)
}

/// Finds the call, checks it in PVE's order and runs it.
pub(crate) async fn run(sim: &Arc<Sim>, identity: Option<Identity>, request: Request) -> ApiResult<Reply> {
    let Request { method, path, mut params, upload } = request;
    let version = sim.world().version;
    let relative = format!("/{}", path.trim_matches('/'));
    let Some((spec, variables)) = SCHEMA.find(method.as_str(), &relative, version) else {
        return Err(ApiError::with_code(501, format!("Method '{method} {relative}' not implemented")));
    };
    for (name, value) in variables {
        if params.raw(name).is_some_and(|given| *given != Raw::Text(value.clone())) {
            let text = "duplicate parameter (already defined in URI) with conflicting values!";
            return Err(ApiError::param(name, text));
        }
        params.set(name, value);
    }
    let identity = identity.unwrap_or_else(|| Identity::user(""));
    let entry = sim.world().entry_host().unwrap_or_default().to_owned();
    permission::check(&sim.world(), spec, &identity, &params)?;
    if spec.proxied {
        reach(&sim.world(), params.need("node"))?;
    }
    validate::call(spec, &params, version)?;
    let call = Call { sim: sim.clone(), identity, params, entry, upload };
    api::dispatch(&call, spec.method, spec.template).await
}

/// The node-to-node proxy: an unknown name fails in the resolver, a dead node in the connection.
pub(crate) fn reach(world: &World, node: &str) -> ApiResult<()> {
    if node == "localhost" {
        return Ok(());
    }
    match world.hosts.get(node) {
        None => Err(ApiError::die(format!(
            "hostname lookup '{node}' failed - failed to get address info for: {node}: Name or service not known"
        ))),
        Some(host) if !host.is_online() => Err(ApiError::bare(595, "No route to host")),
        Some(_) => Ok(()),
    }
}

/// The body of an answer in the `json` format, or none for errors of the HTTP server itself.
pub(crate) fn json_body(result: &ApiResult<Reply>, message_in_body: bool) -> Option<Value> {
    Some(match result {
        Ok(Reply::Data(data)) => json!({ "data": data }),
        Ok(Reply::Counted(data, 0)) => json!({ "data": data }),
        Ok(Reply::Counted(data, total)) => json!({ "data": data, "total": total }),
        Ok(Reply::Text(text)) => json!({ "data": text }),
        Err(error) if error.bare => return None,
        Err(error) => {
            let mut body = json!({ "data": null });
            if message_in_body {
                body["message"] = format!("{}\n", error.message).into();
            }
            if !error.errors.is_empty() {
                body["errors"] = json!(error.errors);
            }
            body
        }
    })
}

/// The body of an answer in the `extjs` format, whose HTTP status is always 200.
pub(crate) fn extjs_body(result: &ApiResult<Reply>) -> Value {
    match result {
        Ok(Reply::Data(data)) => json!({ "success": 1, "data": data }),
        Ok(Reply::Counted(data, total)) => json!({ "success": 1, "data": data, "total": total }),
        Ok(Reply::Text(text)) => json!({ "success": 1, "data": text }),
        Err(error) => {
            let message = format!("{}\n", error.message);
            let mut body = json!({ "success": 0, "data": null, "status": error.code, "message": message });
            if !error.errors.is_empty() {
                body["errors"] = json!(error.errors);
            }
            body
        }
    }
}
