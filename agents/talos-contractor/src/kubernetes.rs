//! The Kubernetes API of a cluster: an administrator's client from the sealed secrets, allowed targets only.

use std::{net::IpAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use contractor::action::StepError;
use jiff::Timestamp;
use kube::{
    Client, Config,
    config::AuthInfo,
    core::{DynamicObject, GroupVersionKind},
    discovery::ApiResource,
};
use secrecy::ExposeSecret;
use store::Reader;
use talos::{kubeconfig, secrets::Bundle};

use crate::{
    failure::{asked, chain, unusable},
    inventory::Cluster,
    issued,
    reach::{Deps, control_planes},
};

/// Where kube-apiserver listens on every control plane.
pub const PORT: u16 = 6443;
/// The name under which this contractor owns fields that it applied.
pub const FIELD_MANAGER: &str = "talos-contractor";
/// How long one server is given to say what it is.
const PROBE: Duration = Duration::from_secs(3);
/// A request that takes longer is broken; watches end and are renewed within it.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// What a client of a cluster's API needs beside its address.
#[derive(Clone)]
pub struct Access {
    /// The cluster's Kubernetes authority, DER.
    authority: Vec<u8>,
    /// An administrator's certificate and key.
    identity: AuthInfo,
}

impl Access {
    /// Issues it for [`issued::LIFETIME`].
    pub fn issue(bundle: &Bundle, now: Timestamp) -> Result<Self, StepError> {
        let unfit = |error| unusable("the cluster's Kubernetes authority", &error);
        let certificate = kubeconfig::admin_certificate(bundle, issued::LIFETIME, now).map_err(unfit)?;
        let authority = bundle.kubernetes.certificate().map_err(unfit)?;
        let identity = AuthInfo {
            client_certificate_data: Some(STANDARD.encode(&certificate.crt)),
            client_key_data: Some(STANDARD.encode(certificate.key.expose_secret()).into()),
            ..AuthInfo::default()
        };
        Ok(Self { authority: authority.to_vec(), identity })
    }
}

/// A client of a cluster's API through whichever server answers: the endpoint first, then each control plane.
pub async fn connect(deps: &Deps, store: &Reader, cluster: &Cluster) -> Result<Client, StepError> {
    let mut last = StepError::wait("the cluster has no control plane with an address", Duration::from_secs(1));
    for server in servers(store, cluster)? {
        let client = client(deps, store, cluster, &server)?;
        match probe(&client, &server).await {
            Ok(_) => return Ok(client),
            Err(error @ StepError::Fail(_)) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The version that the API says at one server, `v1.36.3`.
pub async fn probe(client: &Client, server: &str) -> Result<String, StepError> {
    match tokio::time::timeout(PROBE, client.apiserver_version()).await {
        Ok(Ok(version)) => Ok(version.git_version),
        Ok(Err(error)) => Err(asked(&format!("the Kubernetes API at {server}"), &error)),
        Err(_) => Err(StepError::wait(format!("the Kubernetes API at {server} does not answer"), PROBE / 10)),
    }
}

/// URLs to try, the cluster's endpoint first. A host name is the endpoint's only where it is an address.
pub fn servers(store: &Reader, cluster: &Cluster) -> Result<Vec<String>, StepError> {
    let endpoint = address_of(&cluster.endpoint).map(|_| cluster.endpoint.clone());
    let planes = control_planes(store, &cluster.name)?;
    let direct = planes.iter().map(|node| format!("https://{}", std::net::SocketAddr::new(node.ip, PORT)));
    let mut servers: Vec<_> = endpoint.into_iter().chain(direct).collect();
    let mut seen = std::collections::HashSet::new();
    servers.retain(|server| seen.insert(server.clone()));
    Ok(servers)
}

/// A client of the API at `server`, which must be an address among the allowed targets.
pub fn client(deps: &Deps, store: &Reader, cluster: &Cluster, server: &str) -> Result<Client, StepError> {
    let address = address_of(server).ok_or_else(|| StepError::fail(format!("{server} names no address")))?;
    if !deps.allowed().allows(address) {
        return Err(StepError::fail(format!("{address} is outside the allowed targets ({})", deps.allowed()))
            .with_hint("add the network to `allowed_targets` if it is meant to be reached"));
    }
    let access = deps.kubernetes(store, &cluster.name)?;
    let uri = server.parse::<http::Uri>().map_err(|error| unusable("the API's address", &error))?;
    let mut config = Config::new(uri);
    config.root_cert = Some(vec![access.authority]);
    config.connect_timeout = Some(PROBE);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    // kube would repeat the 429 of an eviction for up to 163 s; what to do about it is the step's decision.
    config.default_retry = false;
    config.auth_info = access.identity;
    Client::try_from(config)
        .map_err(|error| StepError::fail(format!("the Kubernetes client cannot be made: {}", chain(&error))))
}

/// The address in `https://address:port`; `None` for a host name.
pub fn address_of(url: &str) -> Option<IpAddr> {
    let uri = url.parse::<http::Uri>().ok()?;
    uri.host()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The API resource of an object by its own `apiVersion` and `kind`, asked from the server.
pub async fn resource_of(client: &Client, object: &DynamicObject) -> Result<(ApiResource, bool), StepError> {
    let types = object.types.as_ref().ok_or_else(|| StepError::fail("an object without apiVersion and kind"))?;
    let kind = GroupVersionKind::try_from(types).map_err(|error| unusable("an object's type", &error))?;
    let (resource, capabilities) = kube::discovery::pinned_kind(client, &kind)
        .await
        .map_err(|error| asked(&format!("looking up {}", types.kind), &error))?;
    Ok((resource, capabilities.scope == kube::discovery::Scope::Namespaced))
}
