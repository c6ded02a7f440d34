//! Forwarding of calls from a control plane to other nodes, one or many (talos.md 2.4).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use prost::Message as _;
use talos::pki::CertificateAndKey;
use talos::proto::{common, google::rpc};
use tonic::body::Body;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use tower::{Service as _, ServiceExt as _};

use super::frames::{self, Deframer};
use super::roles::Roles;
use super::tls;
use super::world::World;

/// Replies of a node whole, in the order of the call.
const STREAMING: [&str; 12] = [
    "Copy",
    "DiskUsage",
    "Dmesg",
    "EtcdSnapshot",
    "Events",
    "ImageList",
    "Kubeconfig",
    "List",
    "Logs",
    "PacketCapture",
    "Read",
    "HealthCheck",
];

/// The impersonating client of a control plane's apid.
pub(crate) struct Forwarder {
    world: World,
    /// CA of the nodes and our own certificate, `O=os:impersonator`.
    authority: String,
    client: CertificateAndKey,
    own_address: String,
    channels: Mutex<HashMap<IpAddr, Channel>>,
    /// The cluster whose node names can be resolved.
    discovery: (String, String),
}

impl Forwarder {
    pub(crate) fn new(
        world: World,
        authority: String,
        client: CertificateAndKey,
        own: Option<IpAddr>,
        discovery: (String, String),
    ) -> Self {
        let own_address = own.map(|address| address.to_string()).unwrap_or_default();
        Self { world, authority, client, own_address, channels: Mutex::default(), discovery }
    }

    /// Sends the call to one node; its reply comes back untouched.
    pub(crate) async fn one(
        &self,
        node: &str,
        roles: &Roles,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let (mut parts, body) = request.into_parts();
        self.rewrite(&mut parts.headers, roles);
        self.send(node, Request::from_parts(parts, Body::new(body))).await
    }

    /// Sends the call to many nodes and puts their replies together.
    pub(crate) async fn many(
        self: &Arc<Self>,
        nodes: Vec<String>,
        roles: &Roles,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let (mut parts, body) = request.into_parts();
        self.rewrite(&mut parts.headers, roles);
        let collected = body.collect().await.map_err(|error| Status::internal(error.to_string()))?.to_bytes();
        let method = parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
        let streaming = STREAMING.contains(&method.as_str()) || method.ends_with("Stream");
        let calls = nodes.into_iter().map(|node| {
            let mut request = Request::new(Body::new(http_body_util::Full::new(collected.clone())));
            *request.uri_mut() = parts.uri.clone();
            *request.method_mut() = parts.method.clone();
            *request.headers_mut() = parts.headers.clone();
            let this = Arc::clone(self);
            async move {
                let reply = this.send(&node, request).await;
                // A call that is refused at once has its status in the headers, and no body.
                let reply = reply.and_then(|response| check(response.headers()).map(|()| response));
                (node, reply)
            }
        });
        let replies = futures::future::join_all(calls).await;
        if streaming {
            return Ok(merged(replies));
        }
        let mut out = Vec::new();
        for (node, reply) in replies {
            out.extend(match unary(reply).await {
                Ok(message) => frames::with_metadata(&message, &metadata(&node, None)),
                Err(status) => frames::failure(&metadata(&node, Some(&status))),
            });
        }
        Ok(response(stream::iter([frames::frame(&out)]).boxed()))
    }

    fn rewrite(&self, headers: &mut HeaderMap, roles: &Roles) {
        for key in ["node", "nodes", "host", "talos-role", "grpc-timeout-original"] {
            headers.remove(key);
        }
        if let Ok(own) = HeaderValue::from_str(&self.own_address) {
            headers.insert("proxyfrom", own);
        }
        for name in roles.names() {
            headers.append("talos-role", HeaderValue::from_static(name));
        }
    }

    async fn send(&self, node: &str, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let address = self.resolve(node)?;
        let mut channel = self.channel(address)?;
        // The channel puts its own scheme and authority in front of the path.
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = http::Uri::builder()
            .path_and_query(path.map_or_else(|| "/".to_owned(), |path| path.to_string()))
            .build()
            .map_err(|error| Status::internal(error.to_string()))?;
        let ready = channel.ready().await.map_err(|error| unavailable(address, &error))?;
        let response = ready.call(request).await.map_err(|error| unavailable(address, &error))?;
        Ok(response.map(Body::new))
    }

    fn resolve(&self, node: &str) -> Result<IpAddr, Status> {
        if let Ok(address) = node.trim_matches(['[', ']']).parse() {
            return Ok(address);
        }
        if node.contains(':') {
            return Err(Status::internal(format!("invalid target {node:?}")));
        }
        let known = self.world.affiliates(&self.discovery);
        let found = known.iter().find(|affiliate| affiliate.hostname == node);
        found
            .and_then(|affiliate| affiliate.addresses.first().copied())
            .ok_or_else(|| Status::unavailable(format!("name resolver error: produced zero addresses for {node:?}")))
    }

    fn channel(&self, address: IpAddr) -> Result<Channel, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(&address) {
            return Ok(channel.clone());
        }
        let tls = ClientTlsConfig::new()
            .domain_name(address.to_string())
            .ca_certificate(Certificate::from_pem(&self.authority))
            .identity(tls::tonic_identity(&self.client));
        let endpoint = Endpoint::from_shared(format!("https://{}", std::net::SocketAddr::new(address, 50000)))
            .and_then(|endpoint| endpoint.tls_config(tls))
            .map_err(|error| Status::internal(error.to_string()))?;
        let channel = endpoint.tcp_nodelay(true).connect_lazy();
        channels.insert(address, channel.clone());
        Ok(channel)
    }
}

fn unavailable(address: IpAddr, error: &(dyn std::error::Error + 'static)) -> Status {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = match cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => "connect: connection refused".to_owned(),
        _ => cause.to_string(),
    };
    Status::unavailable(format!(
        "connection error: desc = \"transport: Error while dialing: dial tcp {address}:50000: {text}\""
    ))
}

/// The single message of a unary reply, or the status it ended with.
async fn unary(reply: Result<Response<Body>, Status>) -> Result<Bytes, Status> {
    let (parts, mut body) = reply?.into_parts();
    let mut deframer = Deframer::default();
    let mut trailers = parts.headers;
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        match frame.into_data() {
            Ok(data) => deframer.push(&data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    check(&trailers)?;
    deframer.next().ok_or_else(|| Status::internal("the node sent no message"))
}

/// Streams of all nodes, frame by frame as they come.
fn merged(replies: Vec<(String, Result<Response<Body>, Status>)>) -> Response<Body> {
    let streams = replies.into_iter().map(|(node, reply)| {
        let state = (node, reply.map(|response| (response.into_body(), Deframer::default())), false);
        stream::unfold(state, |(node, reply, done)| async move {
            if done {
                return None;
            }
            let (mut body, mut deframer) = match reply {
                Ok(open) => open,
                Err(status) => {
                    let failed = frames::metadata_field(&metadata(&node, Some(&status)));
                    return Some((frames::frame(&failed), (node, Err(status), true)));
                }
            };
            loop {
                if let Some(message) = deframer.next() {
                    let stamped = frames::stream_frame_with_metadata(&message, &metadata(&node, None));
                    return Some((frames::frame(&stamped), (node, Ok((body, deframer)), false)));
                }
                let ended = match body.frame().await {
                    None => return None,
                    Some(Err(status)) => Err(status),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => {
                            deframer.push(&data);
                            continue;
                        }
                        Err(frame) => check(&frame.into_trailers().unwrap_or_default()),
                    },
                };
                let status = ended.err()?;
                let failed = frames::metadata_field(&metadata(&node, Some(&status)));
                return Some((frames::frame(&failed), (node, Err(status), true)));
            }
        })
        .boxed()
    });
    response(stream::select_all(streams).boxed())
}

fn response(messages: stream::BoxStream<'static, Bytes>) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let data = messages.map(|message| Ok::<_, Status>(Frame::data(message)));
    let body = StreamBody::new(data.chain(stream::iter([Ok(Frame::trailers(trailers))])));
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn check(trailers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(trailers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ => Ok(()),
    }
}

/// `hostname` is the target exactly as the client named it.
fn metadata(node: &str, failed: Option<&Status>) -> common::Metadata {
    common::Metadata {
        hostname: node.to_owned(),
        error: failed
            .map(|status| format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
            .unwrap_or_default(),
        status: failed.map(|status| rpc::Status {
            code: status.code() as i32,
            message: status.message().to_owned(),
            details: prost_details(status),
        }),
    }
}

fn prost_details(status: &Status) -> Vec<prost_types::Any> {
    rpc::Status::decode(status.details()).map(|decoded| decoded.details).unwrap_or_default()
}
