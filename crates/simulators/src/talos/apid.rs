//! apid and trustd: certificates, listeners, and a worker's way to its certificate (talos.md 2.2, 2.3).

use std::net::IpAddr;
use std::sync::Arc;

use talos::pki::{self, Algorithm, CertificateAndKey, ServerNames};
use talos::proto::securityapi::security_service_client::SecurityServiceClient;
use talos::proto::securityapi::security_service_server::{SecurityService, SecurityServiceServer};
use talos::proto::securityapi::{CertificateRequest, CertificateResponse};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Request, Response, Status};

use super::config::Config;
use super::gateway::{Gateway, Mode};
use super::node::Boot;
use super::proxy::Forwarder;
use super::services::State;
use super::{api, join, publish, serve, tls};

const API_PORT: u16 = 50000;
const TRUSTD_PORT: u16 = 50001;

/// Serves maintenance mode until `stop`; returns the certificate's fingerprint.
pub(crate) async fn maintenance(boot: &Arc<Boot>, stop: &CancellationToken) -> tls::Result<String> {
    let network = boot.network();
    let certificate = tls::maintenance_certificate(&network.hostname, &network.addresses())?;
    let fingerprint = tls::fingerprint(&certificate)?;
    let config = tls::open_server(&certificate)?;
    for address in network.addresses() {
        listen(boot, address, Mode::Maintenance, Arc::clone(&config), stop.clone()).await;
    }
    Ok(fingerprint)
}

/// Gets the node's certificate and serves mutual TLS until the boot ends.
pub(crate) async fn configured(boot: Arc<Boot>) {
    boot.services.set("apid", State::Waiting, "Waiting for service \"containerd\" to be \"up\", api certificates");
    join::until_up(&boot, "containerd").await;
    let Some(config) = boot.active_config() else { return };
    let certificate = match tls::authority(&config.os_ca()) {
        Some(authority) => {
            pki::server_certificate(&authority, Algorithm::Ed25519, &names(&boot, &config), jiff::Timestamp::now()).ok()
        }
        None => Some(certificate_from_trustd(&boot, &config).await),
    };
    let Some(certificate) = certificate else {
        boot.services.set("apid", State::Failed, "failed to generate the API server certificate");
        return;
    };
    boot.state().api_certificate = Some(certificate);
    publish::secrets(&boot, &config);
    boot.services.set("apid", State::Preparing, "Creating service runner");
    boot.world.work(1.0).await;
    for address in boot.network().addresses() {
        listen_on(&boot, address, boot.stop.clone()).await;
    }
    boot.services.set("apid", State::Running, "Started task apid (PID 2601) for container apid");
    boot.services.set_health("apid", Ok(()));
}

/// Serves mutual TLS on one more address until `stop`.
pub(crate) async fn listen_on(boot: &Arc<Boot>, address: IpAddr, stop: CancellationToken) {
    let Some(config) = boot.active_config() else { return };
    let Some(certificate) = boot.state().api_certificate.clone() else { return };
    let Ok(server) = tls::mutual_server(&certificate, &config.accepted_cas()) else { return };
    let forwarding = forwarder(boot, &config).map(Arc::new);
    listen(boot, address, Mode::Configured { forwarding }, server, stop).await;
}

fn forwarder(boot: &Boot, config: &Config) -> Option<Forwarder> {
    let authority = tls::authority(&config.os_ca())?;
    let role = pki::Roles::from(pki::Role::Impersonator);
    let client = pki::client_certificate(&authority, &role, pki::SERVER_LIFETIME, jiff::Timestamp::now()).ok()?;
    let discovery = (config.cluster_id(), config.cluster_secret());
    Some(Forwarder::new(boot.world.clone(), authority.crt, client, boot.address(), discovery))
}

async fn listen(
    boot: &Arc<Boot>,
    address: IpAddr,
    mode: Mode,
    tls: Arc<rustls::ServerConfig>,
    stop: CancellationToken,
) {
    match serve::bind(address, API_PORT).await {
        Ok(listener) => {
            let (weak, routes) = (Arc::clone(boot), api::routes(boot));
            let make = move |peer| Gateway::new(Arc::clone(&weak), mode.clone(), routes.clone(), peer);
            serve::spawn(listener, tls, make, stop);
            boot.world.attach(address, boot);
        }
        Err(error) => {
            tracing::warn!(vmid = boot.machine.vmid, %address, %error, "a simulated node cannot listen on its address");
            boot.logs.kernel(&format!("apid cannot listen on {address}:{API_PORT}: {error}"));
        }
    }
}

/// Names and addresses of the node's certificate.
pub(crate) fn names(boot: &Boot, config: &Config) -> ServerNames {
    let network = boot.network();
    let mut names = ServerNames {
        common_name: network.hostname.clone(),
        dns: vec![network.hostname.clone()],
        addresses: network.addresses(),
    };
    names.addresses.extend(config.virtual_addresses());
    names.addresses.push(IpAddr::from([127, 0, 0, 1]));
    for san in config.cert_sans() {
        match san.parse() {
            Ok(address) => names.addresses.push(address),
            Err(_) => names.dns.push(san),
        }
    }
    names.dns.push(network.short_name().to_owned());
    names.dns.sort();
    names.dns.dedup();
    names.addresses.sort();
    names.addresses.dedup();
    names
}

/// Asks the control planes for a certificate until one of them signs it.
async fn certificate_from_trustd(boot: &Arc<Boot>, config: &Config) -> CertificateAndKey {
    let mut last = String::new();
    loop {
        let mut endpoints = join::control_plane_addresses(boot, config);
        let endpoint = config.endpoint_parts().and_then(|(host, _)| host.parse().ok());
        endpoints.extend(endpoint.filter(|address| !endpoints.contains(address)));
        for address in endpoints {
            match ask_trustd(boot, config, address).await {
                Ok(certificate) => return certificate,
                Err(error) => {
                    let text = format!("failed to get the API certificate from trustd at {address}: {error}");
                    if text != last {
                        boot.logs.kernel(&text);
                        last = text;
                    }
                }
            }
        }
        boot.world.idle(std::time::Duration::from_secs(3)).await;
    }
}

async fn ask_trustd(boot: &Arc<Boot>, config: &Config, address: IpAddr) -> tls::Result<CertificateAndKey> {
    let (request, key) = tls::certificate_request(&names(boot, config))?;
    let accepted = config.accepted_cas();
    let mut tls = ClientTlsConfig::new().domain_name(address.to_string());
    for ca in &accepted {
        tls = tls.ca_certificate(Certificate::from_pem(ca));
    }
    let endpoint = Endpoint::from_shared(format!("https://{}", std::net::SocketAddr::new(address, TRUSTD_PORT)))?
        .connect_timeout(std::time::Duration::from_secs(5))
        .timeout(std::time::Duration::from_secs(10))
        .tls_config(tls)?;
    let mut client = SecurityServiceClient::new(endpoint.connect().await?);
    let mut request = Request::new(CertificateRequest { csr: request.into_bytes() });
    request.metadata_mut().insert("token", config.token().parse()?);
    let reply = client.certificate(request).await.map_err(|status| status.message().to_owned())?.into_inner();
    Ok(CertificateAndKey { crt: String::from_utf8(reply.crt)?, key: key.to_pem() })
}

/// Runs trustd on a control plane.
pub(crate) async fn trustd(boot: Arc<Boot>) {
    boot.services.set("trustd", State::Waiting, "Waiting for service \"containerd\" to be \"up\", time sync, network");
    join::until_up(&boot, "containerd").await;
    boot.world.work(1.0).await;
    let Some(config) = boot.active_config() else { return };
    let Some(authority) = tls::authority(&config.os_ca()) else { return };
    let now = jiff::Timestamp::now();
    let certificate = pki::server_certificate(&authority, Algorithm::Ed25519, &names(&boot, &config), now);
    let Ok(server) = certificate.map_err(Into::into).and_then(|certificate| tls::open_server(&certificate)) else {
        return;
    };
    for address in boot.network().addresses() {
        let Ok(listener) = serve::bind(address, TRUSTD_PORT).await else { continue };
        let trustd = Trustd { token: config.token(), authority: authority.clone() };
        let routes = Routes::new(SecurityServiceServer::new(trustd));
        serve::spawn(listener, Arc::clone(&server), move |_| routes.clone(), boot.stop.clone());
    }
    boot.services.set("trustd", State::Running, "Started task trustd (PID 2655) for container trustd");
    boot.services.set_health("trustd", Ok(()));
}

/// Signs certificate requests for those who know the token.
struct Trustd {
    token: String,
    authority: CertificateAndKey,
}

#[tonic::async_trait]
impl SecurityService for Trustd {
    async fn certificate(&self, request: Request<CertificateRequest>) -> Result<Response<CertificateResponse>, Status> {
        let token = request.metadata().get("token").and_then(|token| token.to_str().ok());
        if token != Some(self.token.as_str()) {
            return Err(Status::unauthenticated("Unauthenticated"));
        }
        let csr = String::from_utf8_lossy(&request.get_ref().csr).into_owned();
        let crt = tls::sign_request(&self.authority, &csr)
            .map_err(|error| Status::invalid_argument(format!("failed to parse CSR: {error}")))?;
        Ok(Response::new(CertificateResponse { ca: self.authority.crt.clone().into_bytes(), crt: crt.into_bytes() }))
    }
}
