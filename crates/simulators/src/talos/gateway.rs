//! What stands before every call: faults, the caller's roles, routing by `node`/`nodes`, authorisation (talos.md 2.3-2.5).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use super::node::Boot;
use super::proxy;
use super::release::Line;
use super::roles::{Role, Roles};
use super::serve::Peer;
use super::tls;
use crate::faults::FaultAction;

/// Services whose methods answer with `messages`, which alone may be sent to several nodes.
const AGGREGATABLE: [&str; 5] = [
    "machine.MachineService",
    "cluster.ClusterService",
    "inspect.InspectService",
    "storage.StorageService",
    "time.TimeService",
];

/// How apid runs now.
#[derive(Clone)]
pub(crate) enum Mode {
    /// No configuration yet: no routing, everybody reads.
    Maintenance,
    /// Mutual TLS; `forwarding` on control planes, which have a client certificate of their own.
    Configured { forwarding: Option<Arc<proxy::Forwarder>> },
}

/// apid of one node for one connection.
#[derive(Clone)]
pub(crate) struct Gateway {
    boot: Arc<Boot>,
    mode: Mode,
    routes: Routes,
    peer: Peer,
}

/// Where a call goes.
#[derive(Debug, PartialEq)]
enum Route {
    Local,
    One(String),
    Many(Vec<String>),
}

impl Gateway {
    pub(crate) fn new(boot: Arc<Boot>, mode: Mode, routes: Routes, peer: Peer) -> Self {
        Self { boot, mode, routes, peer }
    }

    async fn handle(mut self, request: Request<Incoming>) -> Response<Body> {
        self.boot.awake().await;
        let path = request.uri().path().to_owned();
        let planned = self.fault(&path);
        match &planned {
            Some(FaultAction::Delay { milliseconds }) => {
                tokio::time::sleep(std::time::Duration::from_millis(*milliseconds)).await;
            }
            Some(FaultAction::Error { code, message, .. }) => return refusal(*code, message).into_http(),
            Some(FaultAction::Hold) => self.boot.world.faults().lifted(&self.name_of(&path).unwrap_or_default()).await,
            Some(FaultAction::Hang) => std::future::pending::<()>().await,
            Some(FaultAction::DropRequest) => self.peer.line.cut::<()>().await,
            Some(
                FaultAction::DropReply
                | FaultAction::LateError { .. }
                | FaultAction::Break { .. }
                | FaultAction::Warnings { .. },
            )
            | None => {}
        }
        let response = self.answer(&path, request).await.unwrap_or_else(|status| status.into_http());
        match planned {
            Some(FaultAction::DropReply) => self.peer.line.cut().await,
            Some(FaultAction::LateError { code, message }) => refusal(code, &message).into_http(),
            Some(FaultAction::Break { frames }) => {
                response.map(|body| Body::new(self.peer.line.breaking(body, frames)))
            }
            _ => response,
        }
    }

    async fn answer(&mut self, path: &str, mut request: Request<Incoming>) -> Result<Response<Body>, Status> {
        self.check_registered(path)?;
        let roles = self.roles(request.headers())?;
        let route = self.route(path, request.headers())?;
        match (route, &self.mode) {
            (Route::One(node), Mode::Configured { forwarding: Some(forwarder) }) => {
                forwarder.one(&node, &roles, request).await
            }
            (Route::Many(nodes), Mode::Configured { forwarding: Some(forwarder) }) => {
                forwarder.many(nodes, &roles, request).await
            }
            _ => {
                if !roles.may_call(path) {
                    return Err(Status::permission_denied("not authorized"));
                }
                request.extensions_mut().insert(roles);
                request.extensions_mut().insert(self.peer.clone());
                match self.routes.call(request).await {
                    Ok(response) => Ok(response),
                    Err(never) => match never {},
                }
            }
        }
    }

    fn fault(&self, path: &str) -> Option<FaultAction> {
        self.boot.world.faults().take(&self.name_of(path)?)
    }

    /// The name by which faults know the call.
    fn name_of(&self, path: &str) -> Option<String> {
        Some(format!("talos {} {path}", self.boot.network().primary()?))
    }

    /// A service that this release does not have, or not in maintenance.
    fn check_registered(&self, path: &str) -> Result<(), Status> {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        let line = self.boot.release.line;
        let since = match service {
            "machine.ImageService" | "machine.LifecycleService" | "machine.DebugService" => Line::V1_13,
            "machine.LVMService" | "machine.MDService" => Line::V1_14,
            _ => Line::V1_12,
        };
        if line < since {
            return Err(Status::unimplemented(format!("unknown service {service}")));
        }
        let teardown = service == "cosi.resource.State" && method.starts_with("Teardown");
        let generate = service == "machine.MachineService" && method == "GenerateConfiguration";
        if (teardown && line < Line::V1_14) || (generate && line >= Line::V1_13) {
            return Err(Status::unimplemented(format!("unknown method {method} for service {service}")));
        }
        if line >= Line::V1_13 || !matches!(self.mode, Mode::Maintenance) {
            return Ok(());
        }
        match (service, method) {
            ("machine.MachineService", "ApplyConfiguration" | "GenerateConfiguration")
            | ("storage.StorageService" | "cosi.resource.State", _) => Ok(()),
            ("machine.MachineService", "Version" | "Upgrade" | "Reset" | "MetaWrite" | "MetaDelete") => {
                Err(Status::unimplemented("API is not implemented in maintenance mode"))
            }
            ("machine.MachineService", _) => Err(Status::unimplemented(format!("method {method} not implemented"))),
            _ => Err(Status::unimplemented(format!("unknown service {service}"))),
        }
    }

    /// Who calls: organizations of the certificate; an impersonator may speak for others.
    fn roles(&self, headers: &HeaderMap) -> Result<Roles, Status> {
        if matches!(self.mode, Mode::Maintenance) {
            return Ok(Roles::of(Role::Reader));
        }
        let organizations = self.peer.certificate.as_ref().and_then(tls::client_organizations);
        let Some(organizations) = organizations else {
            return Err(Status::unavailable("certificate is not valid for client authentication"));
        };
        let own = Roles::from_names(organizations.iter().map(String::as_str));
        let claimed = values(headers, "talos-role");
        if own.includes(Role::Impersonator) && !claimed.is_empty() {
            return Ok(Roles::from_names(claimed.iter().map(String::as_str)));
        }
        Ok(own)
    }

    fn route(&self, path: &str, headers: &HeaderMap) -> Result<Route, Status> {
        let Mode::Configured { forwarding } = &self.mode else { return Ok(Route::Local) };
        let (mut node, mut nodes) = (values(headers, "node"), values(headers, "nodes"));
        if (node.is_empty() && nodes.is_empty()) || headers.contains_key("proxyfrom") {
            return Ok(Route::Local);
        }
        if headers.contains_key("node") && node.len() != 1 {
            return Err(Status::invalid_argument("node metadata must be single-valued"));
        }
        if forwarding.is_none() {
            let own = self.own_names();
            node.retain(|name| !own.contains(name));
            if nodes.len() == 1 && own.contains(&nodes[0]) {
                nodes.clear();
            }
        }
        let refused = || Status::permission_denied("no request forwarding");
        if !nodes.is_empty() {
            let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
            if !AGGREGATABLE.contains(&service) {
                let text = format!("one-2-many proxying is not supported for method {path}");
                return Err(Status::invalid_argument(text));
            }
            return if forwarding.is_some() { Ok(Route::Many(nodes)) } else { Err(refused()) };
        }
        match node.into_iter().next() {
            Some(_) if forwarding.is_none() => Err(refused()),
            Some(node) => Ok(Route::One(node)),
            None => Ok(Route::Local),
        }
    }

    fn own_names(&self) -> Vec<String> {
        let network = self.boot.network();
        let mut names: Vec<String> = network.addresses().iter().map(ToString::to_string).collect();
        names.extend([network.hostname.clone(), network.short_name().to_owned()]);
        names
    }
}

/// The answer of a planned failure; what is no code of gRPC means that nobody is there.
fn refusal(code: u16, message: &str) -> Status {
    let code = if code <= 16 { tonic::Code::from_i32(i32::from(code)) } else { tonic::Code::Unavailable };
    Status::new(code, message)
}

/// All values of a metadata key, also when one header carries several.
fn values(headers: &HeaderMap, key: &str) -> Vec<String> {
    let all = headers.get_all(key).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(','))
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
        .collect()
}

impl Service<Request<Incoming>> for Gateway {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.handle(request).await) })
    }
}
