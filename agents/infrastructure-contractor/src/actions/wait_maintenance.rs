//! `infrastructure.wait_maintenance`: waits until a machine's Talos API answers at the address we gave it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::{machine_event, recall_known, record};
use crate::{
    Deps, fence,
    inventory::{Machine, MachineRef, VmState},
};

/// Port of the Talos API.
const TALOS: u16 = 50000;
const CONNECT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct WaitMaintenance(pub(super) Deps);

/// Which machine.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The machine, as it was started.
    machine: MachineRef,
}

impl Action for WaitMaintenance {
    const NAME: &'static str = "infrastructure.wait_maintenance";
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = MachineRef;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<MachineRef>, StepError> {
        let machine = &recall_known(&cx.store, &input.machine)?;
        if !self.0.allowed.allows(machine.ip) {
            let message = format!("{} is outside the allowed targets ({})", machine.ip, self.0.allowed);
            return Err(StepError::fail(message).with_hint("add the node network to allowed_targets"));
        }
        cx.progress(format!("waiting for the Talos API of {} at {}", machine.hostname, machine.ip));
        let until = Instant::now() + Duration::from_secs(self.0.sections.machines.patience_seconds);
        let target = SocketAddr::new(machine.ip, TALOS);
        while !cx.cancelled.is_cancelled() {
            if answers(target).await {
                let mut effects = Effects::default();
                effects.inventory.push(record(&cx.store, machine, VmState::Answering)?);
                effects.events.push(machine_event("vm_answering", machine));
                return Ok(Done::with_effects(machine.reference(), effects));
            }
            if Instant::now() > until {
                return Err(self.why_not(machine).await?);
            }
            sleep(PAUSE).await;
        }
        Err(StepError::retry("cancelled while waiting"))
    }
}

impl WaitMaintenance {
    /// What Proxmox says of a machine that does not answer.
    async fn why_not(&self, machine: &Machine) -> Result<StepError, StepError> {
        let ours = fence::prove_present(&self.0, machine).await?;
        let status = fence::status(&self.0, machine, &ours.host).await?;
        let state = status.qmpstatus.as_deref().unwrap_or(&status.status);
        let reason = format!("{} does not answer at {}:{TALOS}; the VM is {state}", machine.hostname, machine.ip);
        Ok(match state {
            "stopped" => StepError::retry(reason)
                .with_hint("it was stopped after it was started: look at its console and the host's task log"),
            "io-error" => StepError::no_capacity(reason, Duration::from_secs(15)),
            _ => StepError::wait(reason, Duration::from_secs(1)),
        })
    }
}

/// Whether a TLS handshake succeeds. Nothing is sent: whose machine it is, talos-contractor proves by its SMBIOS UUID
/// before it hands over a configuration.
async fn answers(target: SocketAddr) -> bool {
    let attempt = async {
        let tcp = TcpStream::connect(target).await.ok()?;
        connector().connect(ServerName::IpAddress(target.ip().into()), tcp).await.ok()
    };
    timeout(CONNECT, attempt).await.ok().flatten().is_some()
}

fn connector() -> TlsConnector {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default TLS versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// A machine in maintenance mode has a certificate that nobody could know.
#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
