//! apid and trustd: certificates, listeners, and a worker's way to its certificate (talos.md 2.2, 2.3).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use talos::pki::{self, Algorithm, CertificateAndKey, ServerNames};
use talos::proto::securityapi::security_service_client::SecurityServiceClient;
use talos::proto::securityapi::security_service_server::{SecurityService, SecurityServiceServer};
use talos::proto::securityapi::{CertificateRequest, CertificateResponse};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{ClientTlsConfig, Endpoint};
use tonic::{Request, Response, Status};

use super::clock::Clock;
use super::config::Config;
use super::gateway::{Gateway, Mode};
use super::node::Boot;
use super::proxy::Forwarder;
use super::services::State;
use super::{api, claims, clock, dated, join, publish, serve, tls};

const API_PORT: u16 = 50000;
const TRUSTD_PORT: u16 = 50001;

/// Serves maintenance mode until `stop`; returns the certificate's fingerprint.
pub(crate) async fn maintenance(boot: &Arc<Boot>, stop: &CancellationToken) -> tls::Result<String> {
    let network = boot.network();
    let certificate = tls::maintenance_certificate(&network.hostname, &network.addresses(), boot.clock.now())?;
    let fingerprint = tls::fingerprint(&certificate)?;
    let config = tls::open_server(&tls::Shown::new(&certificate)?)?;
    for address in network.addresses() {
        listen(boot, address, Mode::Maintenance, Arc::clone(&config), stop.clone()).await;
    }
    let (owner, stop) = (Arc::clone(boot), stop.clone());
    boot.spawn(async move { follow(&owner, &(Mode::Maintenance, config), stop).await });
    Ok(fingerprint)
}

/// Gets the node's certificate and serves mutual TLS until the boot ends.
pub(crate) async fn configured(boot: Arc<Boot>) {
    boot.services.set("apid", State::Waiting, "Waiting for service \"containerd\" to be \"up\", api certificates");
    join::until_up(&boot, "containerd").await;
    let Some(config) = boot.active_config() else { return };
    claims::configure(&boot);
    if certify(&boot, &config).await.is_err() {
        boot.services.set("apid", State::Failed, "failed to generate the API server certificate");
        return;
    }
    boot.services.set("apid", State::Preparing, "Creating service runner");
    boot.work("service apid", 1.0).await;
    for address in boot.network().addresses() {
        listen_on(&boot, address, boot.stop.clone()).await;
    }
    boot.services.set("apid", State::Running, "Started task apid (PID 2601) for container apid");
    boot.services.set_health("apid", Ok(()));
    let Some(front) = front(&boot) else { return };
    tokio::join!(follow(&boot, &front, boot.stop.clone()), renew(&boot, &config));
}

/// Gets the node a certificate for the names it has now, dated by the clock it has now.
async fn certify(boot: &Arc<Boot>, config: &Config) -> tls::Result<()> {
    let now = boot.clock.now();
    let certificate = match tls::authority(&config.os_ca()) {
        Some(authority) => pki::server_certificate(&authority, Algorithm::Ed25519, &names(boot, config), now)?,
        None => certificate_from_trustd(boot, config).await,
    };
    boot.shown.set(&certificate)?;
    {
        let mut state = boot.state();
        state.api_certificate = Some(certificate);
        state.certified = Some(now);
    }
    publish::secrets(boot, config);
    boot.world.touch();
    Ok(())
}

/// Renews the certificate when the clock jumps or the addresses change.
async fn renew(boot: &Arc<Boot>, config: &Config) {
    let (mut claims, mut clock) = (boot.world.claims().subscribe(), boot.clock.settings());
    loop {
        let jumped = tokio::select! {
            changed = clock.changed() => if changed.is_ok() { true } else { return },
            changed = claims.changed() => if changed.is_ok() { false } else { return },
        };
        if (claims::configure(boot) || jumped)
            && let Err(error) = certify(boot, config).await
        {
            boot.logs.kernel(&format!("failed to renew the API server certificate: {error}"));
        }
    }
}

/// Answers at the addresses of others that lead here, for as long as they do.
async fn follow(boot: &Arc<Boot>, front: &Front, stop: CancellationToken) {
    let mut claims = boot.world.claims().subscribe();
    let mut held: HashMap<IpAddr, CancellationToken> = HashMap::new();
    loop {
        let now = claims.borrow_and_update().clone();
        let leads_here = |address: &IpAddr| now.get(address).is_some_and(|claim| claim.vmid == boot.machine.vmid);
        for (_, token) in held.extract_if(|address, _| !leads_here(address)) {
            token.cancel();
        }
        let own = boot.network().addresses();
        for address in now.keys().filter(|address| leads_here(address) && !own.contains(address)) {
            if !held.contains_key(address) {
                let token = stop.child_token();
                listen(boot, *address, front.0.clone(), Arc::clone(&front.1), token.clone()).await;
                held.insert(*address, token);
            }
        }
        if claims.changed().await.is_err() {
            return;
        }
    }
}

/// Serves mutual TLS on one more address until `stop`.
pub(crate) async fn listen_on(boot: &Arc<Boot>, address: IpAddr, stop: CancellationToken) {
    if let Some((mode, server)) = front(boot) {
        listen(boot, address, mode, server, stop).await;
    }
}

/// How apid answers, and what it shows and demands before.
type Front = (Mode, Arc<rustls::ServerConfig>);

/// apid with mutual TLS; none if the configuration's authorities cannot be used.
fn front(boot: &Arc<Boot>) -> Option<Front> {
    let config = boot.active_config()?;
    let server = tls::mutual_server(&boot.shown, &config.accepted_cas(), &boot.clock).ok()?;
    let forwarding = forwarder(boot, &config).map(Arc::new);
    Some((Mode::Configured { forwarding }, server))
}

fn forwarder(boot: &Boot, config: &Config) -> Option<Forwarder> {
    let authority = tls::authority(&config.os_ca())?;
    let role = pki::Roles::from(pki::Role::Impersonator);
    let client = pki::client_certificate(&authority, &role, pki::SERVER_LIFETIME, boot.clock.now()).ok()?;
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
    let owner = Arc::clone(boot);
    let open = move |stop| {
        let (boot, mode, tls) = (Arc::clone(&owner), mode.clone(), Arc::clone(&tls));
        async move { open(&boot, address, mode, tls, stop).await }
    };
    claims::hold(boot, address, stop, open).await;
}

async fn open(boot: &Arc<Boot>, address: IpAddr, mode: Mode, tls: Arc<rustls::ServerConfig>, stop: CancellationToken) {
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
    names.addresses.extend(&network.given);
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
    let (tls, verifier) =
        (ClientTlsConfig::new().domain_name(address.to_string()), dated::node_verifier(&accepted, &boot.clock)?);
    let endpoint = Endpoint::from_shared(format!("https://{}", std::net::SocketAddr::new(address, TRUSTD_PORT)))?
        .connect_timeout(std::time::Duration::from_secs(5))
        .timeout(std::time::Duration::from_secs(10))
        .tls_config_with_verifier(tls, verifier)?;
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
    clock::until_set(&boot).await;
    boot.work("service trustd", 1.0).await;
    let Some(config) = boot.active_config() else { return };
    let Some(authority) = tls::authority(&config.os_ca()) else { return };
    let certificate = || {
        let names = names(&boot, &config);
        pki::server_certificate(&authority, Algorithm::Ed25519, &names, boot.clock.now())
    };
    let shown = Arc::<tls::Shown>::default();
    let Ok(server) = tls::open_server(&shown) else { return };
    let mut clock = boot.clock.settings();
    if certificate().map_err(Into::into).and_then(|certificate| shown.set(&certificate)).is_err() {
        return;
    }
    for address in boot.network().addresses() {
        let (server, token, authority, clock) =
            (Arc::clone(&server), config.token(), authority.clone(), boot.clock.clone());
        let open = move |stop| {
            let trustd = Trustd { token: token.clone(), authority: authority.clone(), clock: clock.clone() };
            let (server, routes) = (Arc::clone(&server), Routes::new(SecurityServiceServer::new(trustd)));
            async move {
                if let Ok(listener) = serve::bind(address, TRUSTD_PORT).await {
                    serve::spawn(listener, server, move |_| routes.clone(), stop);
                }
            }
        };
        claims::hold(&boot, address, boot.stop.clone(), open).await;
    }
    boot.services.set("trustd", State::Running, "Started task trustd (PID 2655) for container trustd");
    boot.services.set_health("trustd", Ok(()));
    while clock.changed().await.is_ok() {
        if let Err(error) = certificate().map_err(Into::into).and_then(|certificate| shown.set(&certificate)) {
            boot.logs.kernel(&format!("failed to renew the certificate of trustd: {error}"));
        }
    }
}

/// Signs certificate requests for those who know the token.
struct Trustd {
    token: String,
    authority: CertificateAndKey,
    clock: Clock,
}

#[tonic::async_trait]
impl SecurityService for Trustd {
    async fn certificate(&self, request: Request<CertificateRequest>) -> Result<Response<CertificateResponse>, Status> {
        let token = request.metadata().get("token").and_then(|token| token.to_str().ok());
        if token != Some(self.token.as_str()) {
            return Err(Status::unauthenticated("Unauthenticated"));
        }
        let csr = String::from_utf8_lossy(&request.get_ref().csr).into_owned();
        let crt = tls::sign_request(&self.authority, &csr, self.clock.now())
            .map_err(|error| Status::invalid_argument(format!("failed to parse CSR: {error}")))?;
        Ok(Response::new(CertificateResponse { ca: self.authority.crt.clone().into_bytes(), crt: crt.into_bytes() }))
    }
}
