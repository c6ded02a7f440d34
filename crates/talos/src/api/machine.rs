//! Calls of the machine service (talos.md 3).

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use tonic::{Streaming, transport::Channel};

use super::{Client, Error, MESSAGE_LIMIT};
use crate::{
    pki::Roles,
    proto::{
        common::{ContainerDriver, Data},
        machine::{
            self, ApplyConfigurationRequest, BootstrapRequest, DmesgRequest, GenerateClientConfigurationRequest,
            LogsRequest, RebootRequest, ResetPartitionSpec, ResetRequest, ServiceRestartRequest, ShutdownRequest,
            apply_configuration_request::Mode, machine_service_client::MachineServiceClient, reboot_request,
        },
    },
};

/// How a configuration takes effect. There is no default: the protocol's own zero value means "reboot".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyMode {
    /// As the change needs; what 1.14 knows besides the other three.
    Auto,
    /// At once; refused if the change needs a reboot.
    NoReboot,
    /// With the next reboot.
    Staged,
    /// At once, and back again after the given time unless another configuration is applied.
    Try(Duration),
}

/// What became of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Whether the node reboots now.
    pub rebooting: bool,
    /// Deprecations and the like.
    pub warnings: Vec<String>,
}

/// Version and platform of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// For example `v1.13.9`.
    pub tag: String,
    /// `amd64` or `arm64`.
    pub arch: String,
    /// `nocloud`, `metal`, …
    pub platform: String,
}

/// A service of Talos.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// For example `etcd`.
    pub id: String,
    /// `Running`, `Preparing`, `Finished`, …
    pub state: String,
    /// `None` when its health is not known.
    pub healthy: Option<bool>,
    /// The last word of its health check.
    pub message: String,
}

impl Service {
    /// Whether it runs and is not known to be unhealthy.
    pub fn is_up(&self) -> bool {
        self.state == "Running" && self.healthy != Some(false)
    }
}

/// What a reset does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetOptions {
    /// Cordon, drain, stop pods and leave etcd first. Impossible on the only control plane.
    pub graceful: bool,
    /// Reboot at the end; otherwise power off.
    pub reboot: bool,
    /// System partitions to wipe, for example `STATE` and `EPHEMERAL`; empty wipes the whole system disk.
    pub partitions: Vec<String>,
}

/// A client certificate that a control plane issued.
#[derive(Clone, Debug)]
pub struct ClientConfiguration {
    /// PEM of the API's authority.
    pub ca: String,
    /// PEM of the certificate.
    pub crt: String,
    /// PEM of the key.
    pub key: SecretString,
    /// A ready talosconfig.
    pub talosconfig: SecretString,
}

impl Client {
    /// Applies a whole machine configuration.
    pub async fn apply_configuration(&self, config: &SecretString, mode: ApplyMode) -> Result<Applied, Error> {
        self.apply(config, mode, false).await
    }

    /// Asks what applying would do. The node parses and validates it, and changes nothing.
    pub async fn check_configuration(&self, config: &SecretString, mode: ApplyMode) -> Result<Applied, Error> {
        self.apply(config, mode, true).await
    }

    async fn apply(&self, config: &SecretString, mode: ApplyMode, dry_run: bool) -> Result<Applied, Error> {
        const RPC: &str = "ApplyConfiguration";
        let (mode, revert_after) = match mode {
            ApplyMode::Auto => (Mode::Auto, None),
            ApplyMode::NoReboot => (Mode::NoReboot, None),
            ApplyMode::Staged => (Mode::Staged, None),
            ApplyMode::Try(after) => (Mode::Try, Some(after)),
        };
        let request = self.unary(ApplyConfigurationRequest {
            data: config.expose_secret().as_bytes().to_vec(),
            mode: mode.into(),
            dry_run,
            try_mode_timeout: revert_after.and_then(|after| after.try_into().ok()),
        });
        let failed = |error: Error| error.shortened();
        let reply = self.machine().apply_configuration(request).await;
        let reply = reply.map_err(self.failed(RPC)).map_err(failed)?.into_inner();
        let applied = self.single(RPC, reply.messages).map_err(failed)?;
        Ok(Applied { rebooting: applied.mode() == Mode::Reboot, warnings: applied.warnings })
    }

    /// Starts a new etcd cluster on this node. Returns before etcd is healthy. Never call it for a second node.
    pub async fn bootstrap(&self) -> Result<(), Error> {
        const RPC: &str = "Bootstrap";
        let request = self.unary(BootstrapRequest::default());
        let reply = self.machine().bootstrap(request).await.map_err(self.failed(RPC))?.into_inner();
        self.single(RPC, reply.messages).map(drop)
    }

    /// Version and platform.
    pub async fn version(&self) -> Result<Version, Error> {
        const RPC: &str = "Version";
        let reply = self.machine().version(self.unary(())).await.map_err(self.failed(RPC))?.into_inner();
        let reply = self.single(RPC, reply.messages)?;
        let version = reply.version.unwrap_or_default();
        Ok(Version { tag: version.tag, arch: version.arch, platform: reply.platform.unwrap_or_default().name })
    }

    /// Memory of the node in KiB.
    pub async fn memory_kib(&self) -> Result<u64, Error> {
        const RPC: &str = "Memory";
        let reply = self.machine().memory(self.unary(())).await.map_err(self.failed(RPC))?.into_inner();
        Ok(self.single(RPC, reply.messages)?.meminfo.unwrap_or_default().memtotal)
    }

    /// The services of Talos.
    pub async fn services(&self) -> Result<Vec<Service>, Error> {
        const RPC: &str = "ServiceList";
        let reply = self.machine().service_list(self.unary(())).await.map_err(self.failed(RPC))?.into_inner();
        let services = self.single(RPC, reply.messages)?.services.into_iter();
        Ok(services
            .map(|service| {
                let health = service.health.unwrap_or_default();
                Service {
                    id: service.id,
                    state: service.state,
                    healthy: (!health.unknown).then_some(health.healthy),
                    message: health.last_message,
                }
            })
            .collect())
    }

    /// Restarts a service; Talos allows kubelet and extension services.
    pub async fn restart_service(&self, id: &str) -> Result<(), Error> {
        const RPC: &str = "ServiceRestart";
        let request = self.unary(ServiceRestartRequest { id: id.to_owned() });
        let reply = self.machine().service_restart(request).await.map_err(self.failed(RPC))?.into_inner();
        self.single(RPC, reply.messages).map(drop)
    }

    /// The log of a service: `tail` old lines (negative is all), and what follows if `follow`.
    pub async fn logs(
        &self,
        service: &str,
        tail: i32,
        follow: bool,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + use<>, Error> {
        let request = LogsRequest {
            namespace: "system".to_owned(),
            id: service.to_owned(),
            driver: ContainerDriver::Containerd.into(),
            follow,
            tail_lines: tail,
        };
        let stream = self.machine().logs(self.streaming(request)).await.map_err(self.failed("Logs"))?.into_inner();
        Ok(self.frames("Logs", stream))
    }

    /// The kernel log; with `tail` only what is new.
    pub async fn dmesg(
        &self,
        follow: bool,
        tail: bool,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + use<>, Error> {
        let request = self.streaming(DmesgRequest { follow, tail });
        let stream = self.machine().dmesg(request).await.map_err(self.failed("Dmesg"))?.into_inner();
        Ok(self.frames("Dmesg", stream))
    }

    /// A regular file; administrators only.
    pub async fn read_file(&self, path: &str) -> Result<Vec<u8>, Error> {
        let request = self.unary(machine::ReadRequest { path: path.to_owned() });
        let stream = self.machine().read(request).await.map_err(self.failed("Read"))?.into_inner();
        self.collect("Read", stream).await
    }

    /// Changes with every boot.
    pub async fn boot_id(&self) -> Result<String, Error> {
        let bytes = self.read_file("/proc/sys/kernel/random/boot_id").await?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Wipes the node; the id marks the events of the sequence. Returns at once.
    pub async fn reset(&self, options: &ResetOptions) -> Result<String, Error> {
        const RPC: &str = "Reset";
        let partitions = options.partitions.iter();
        let request = self.unary(ResetRequest {
            graceful: options.graceful,
            reboot: options.reboot,
            system_partitions_to_wipe: partitions
                .map(|label| ResetPartitionSpec { label: label.clone(), wipe: true })
                .collect(),
            ..ResetRequest::default()
        });
        let reply = self.machine().reset(request).await.map_err(self.failed(RPC))?.into_inner();
        Ok(self.single(RPC, reply.messages)?.actor_id)
    }

    /// Reboots; the id marks the events of the sequence. Returns at once.
    pub async fn reboot(&self) -> Result<String, Error> {
        const RPC: &str = "Reboot";
        let request = self.unary(RebootRequest { mode: reboot_request::Mode::Default.into() });
        let reply = self.machine().reboot(request).await.map_err(self.failed(RPC))?.into_inner();
        Ok(self.single(RPC, reply.messages)?.actor_id)
    }

    /// Powers off; the id marks the events of the sequence. Returns at once.
    pub async fn shutdown(&self, force: bool) -> Result<String, Error> {
        const RPC: &str = "Shutdown";
        let request = self.unary(ShutdownRequest { force });
        let reply = self.machine().shutdown(request).await.map_err(self.failed(RPC))?.into_inner();
        Ok(self.single(RPC, reply.messages)?.actor_id)
    }

    /// Has a client certificate issued; control planes only. `lifetime` must be positive.
    pub async fn generate_client_configuration(
        &self,
        roles: &Roles,
        lifetime: Duration,
    ) -> Result<ClientConfiguration, Error> {
        const RPC: &str = "GenerateClientConfiguration";
        let request = self.unary(GenerateClientConfigurationRequest {
            roles: roles.iter().map(|role| role.as_str().to_owned()).collect(),
            crt_ttl: lifetime.try_into().ok(),
        });
        let reply = self.machine().generate_client_configuration(request).await.map_err(self.failed(RPC))?.into_inner();
        let issued = self.single(RPC, reply.messages)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(ClientConfiguration {
            ca: text(issued.ca),
            crt: text(issued.crt),
            key: text(issued.key).into(),
            talosconfig: text(issued.talosconfig).into(),
        })
    }

    pub(super) fn machine(&self) -> MachineServiceClient<Channel> {
        MachineServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// The whole of a byte stream that ends by itself.
    pub(super) async fn collect(&self, rpc: &'static str, mut stream: Streaming<Data>) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while let Some(frame) = stream.message().await.map_err(self.failed(rpc))? {
            bytes.extend_from_slice(&self.frame(rpc, frame)?);
        }
        Ok(bytes)
    }

    /// The bytes of a frame; a node that a control plane cannot reach is told of in a frame, too (talos.md 2.4).
    fn frame(&self, rpc: &'static str, frame: Data) -> Result<Bytes, Error> {
        match frame.metadata {
            Some(metadata) if !metadata.error.is_empty() => Err(Error::forwarded(rpc, metadata)),
            _ => Ok(frame.bytes),
        }
    }

    fn frames(
        &self,
        rpc: &'static str,
        stream: Streaming<Data>,
    ) -> impl Stream<Item = Result<Bytes, Error>> + Send + use<> {
        let client = self.clone();
        stream.map(move |frame| client.frame(rpc, frame.map_err(client.failed(rpc))?))
    }
}
