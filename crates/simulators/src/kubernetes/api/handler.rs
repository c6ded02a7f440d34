//! One request from headers to answer: authenticate, route, authorize, do.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::authentication::{User, authenticate};
use super::authorization::{authorize, authorize_path};
use super::error::ApiError;
use super::negotiation::{Shape, Wanted, accept, content_type, decode};
use super::request::{ObjectRequest, Query, Route, route};
use super::{
    create, delete, discovery, health, list, logs, modify, openapi, openapi_protobuf, reviews, subresources, watch,
};
use crate::kubernetes::cluster::Cluster;

/// What handling a request needs besides the request.
pub(crate) struct Context {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) user: User,
    pub(crate) wanted: Wanted,
    pub(crate) user_agent: String,
    pub(crate) server: Arc<ServerFacts>,
}

/// What an API server says about itself.
pub(crate) struct ServerFacts {
    pub(crate) kubernetes_version: String,
    /// `address:port`, for `/api`.
    pub(crate) address: String,
    /// Whether its machine stands still.
    pub(crate) frozen: tokio::sync::watch::Sender<bool>,
}

impl Context {
    /// The field manager of a write: the parameter, or the user agent up to its first slash.
    pub(crate) fn manager(&self, query: &Query) -> String {
        let agent = self.user_agent.split('/').next().filter(|name| !name.is_empty()).unwrap_or("unknown");
        query.get("fieldManager").unwrap_or(agent).to_owned()
    }
}

/// A request whose body was read.
pub(crate) struct Incoming<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: Bytes,
}

/// What is sent back.
pub(crate) enum Answer {
    Json(u16, Value),
    Text(u16, String),
    /// JSON documents, one per line, until the watch ends.
    Watch(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
    /// Plain text that may go on: logs.
    TextStream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
    /// A document that says its own media type: aggregated discovery.
    Typed(&'static str, Value),
    /// A document in bytes, with its media type.
    Bytes(&'static str, Vec<u8>),
}

/// Answers a request.
///
/// # Errors
/// Whatever the API refuses; the caller writes it as a `Status`.
pub(crate) async fn handle(
    cluster: &Arc<Cluster>,
    server: &Arc<ServerFacts>,
    certificate: Option<&User>,
    request: &Incoming<'_>,
) -> Result<Answer, ApiError> {
    if let Some(answer) = health::answer(cluster, request.path, Query::parse(request.query).flag("verbose")) {
        return Ok(answer);
    }
    let user = authenticate(cluster, certificate, request.headers)?;
    if user.is_anonymous() {
        return Err(ApiError::unauthorized());
    }
    let user = reviews::impersonate(cluster, user, request.headers)?;
    let agent = request.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
    let cx = Context {
        cluster: Arc::clone(cluster),
        user,
        wanted: accept(request.headers)?,
        user_agent: agent.unwrap_or_default().to_owned(),
        server: Arc::clone(server),
    };
    match route(&cluster.registry, request.method, request.path, Query::parse(request.query))? {
        Route::Objects(_) if cx.wanted.shape == Shape::OpenApiProtobuf => Err(ApiError::not_acceptable()),
        Route::Objects(objects) => {
            authorize(cluster, &cx.user, &objects)?;
            wait_for_etcd(cluster, &objects).await?;
            serve_objects(&cx, &objects, request)
        }
        Route::ResourceList { group, version } => discovery::resource_list(&cx, &group, &version),
        Route::Group(group) => discovery::group(&cx, &group),
        Route::Other(path) => {
            if cx.wanted.shape == Shape::OpenApiProtobuf && path != "/openapi/v2" {
                return Err(ApiError::not_acceptable());
            }
            authorize_path(cluster, &cx.user, &request.method.as_str().to_lowercase(), &path)?;
            serve_path(&cx, &path)
        }
    }
}

/// Without quorum only cached reads (`resourceVersion=0`) and watches answer; everything else times out.
async fn wait_for_etcd(cluster: &Cluster, request: &ObjectRequest) -> Result<(), ApiError> {
    let cached = matches!(request.verb, "get" | "list") && request.query.get("resourceVersion") == Some("0");
    if cluster.has_quorum() || cached || request.verb == "watch" {
        return Ok(());
    }
    tokio::time::sleep(cluster.scaled(std::time::Duration::from_secs(7))).await;
    Err(ApiError::no_quorum())
}

fn serve_path(cx: &Context, path: &str) -> Result<Answer, ApiError> {
    match path {
        "/" => Ok(Answer::Json(200, discovery::paths(cx))),
        "/api" => Ok(discovery::api(cx)),
        "/apis" => Ok(discovery::apis(cx)),
        "/version" => Ok(Answer::Json(200, health::version(&cx.server.kubernetes_version))),
        "/openapi/v2" => Ok(match cx.wanted.shape {
            Shape::OpenApiProtobuf => {
                Answer::Bytes(openapi_protobuf::MEDIA_TYPE, openapi_protobuf::document(&openapi::v2(cx)))
            }
            _ => Answer::Json(200, openapi::v2(cx)),
        }),
        "/openapi/v3" => Ok(Answer::Json(200, openapi::index(cx))),
        "/.well-known/openid-configuration" => Ok(Answer::Json(200, health::openid(cx))),
        _ => match path.strip_prefix("/openapi/v3/") {
            Some(group_version) => openapi::v3(cx, group_version).map(|it| Answer::Json(200, it)),
            None => Err(ApiError::no_such_path()),
        },
    }
}

fn serve_objects(cx: &Context, request: &ObjectRequest, incoming: &Incoming<'_>) -> Result<Answer, ApiError> {
    let media_type = content_type(incoming.headers);
    let body = || {
        let mut body = decode(media_type, &incoming.body)?;
        super::versions::to_stored(&request.resource, &mut body);
        Ok(body)
    };
    if request.resource.is_review() {
        return reviews::answer(cx, request, body()?).map(|it| Answer::Json(201, it));
    }
    if let Some(subresource) = request.subresource.as_deref()
        && subresource != "status"
    {
        return match (subresource, request.verb) {
            ("log", _) => logs::answer(cx, request),
            ("scale", _) => subresources::scale(cx, request, media_type, &incoming.body),
            ("approval", "get") => Ok(Answer::Json(200, (*list::find(cx, request)?).clone())),
            ("approval", "patch") => {
                modify::patch(cx, request, media_type, &incoming.body).map(|it| shown(cx, request, 200, &it))
            }
            ("approval", _) => modify::update(cx, request, body()?).map(|it| shown(cx, request, 200, &it)),
            _ => subresources::post(cx, request, body()?),
        };
    }
    match request.verb {
        "get" => list::find(cx, request).map(|it| shown(cx, request, 200, &it)),
        "list" => list::list(cx, request).map(|it| Answer::Json(200, it)),
        "watch" => watch::start(cx, request).map(|it| Answer::Watch(Box::pin(it))),
        "create" => create::create(cx, request, body()?).map(|it| shown(cx, request, 201, &it)),
        "update" => modify::update(cx, request, body()?).map(|it| shown(cx, request, 200, &it)),
        "patch" => {
            let existed =
                cx.cluster.store.get(&request.resource.id(), request.place_namespace(), request.name()).is_some();
            let code = if existed { 200 } else { 201 };
            modify::patch(cx, request, media_type, &incoming.body).map(|it| shown(cx, request, code, &it))
        }
        verb => {
            let body = if incoming.body.is_empty() { json!({}) } else { body()? };
            let options = delete::Options::read(request, &body);
            let answer = if verb == "delete" { delete::delete } else { delete::delete_collection };
            answer(cx, request, &options).map(|it| Answer::Json(200, it))
        }
    }
}

fn shown(cx: &Context, request: &ObjectRequest, code: u16, object: &Arc<Value>) -> Answer {
    Answer::Json(code, list::show(cx, request, object))
}
