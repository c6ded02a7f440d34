//! What the caller says about a cluster, an API server and a node before the simulation starts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::time_provider::TimeProvider;

use crate::delays::Recorder;

const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// What makes a cluster this cluster; comes from the Talos machine configuration of its control planes.
#[derive(Clone)]
pub struct ClusterIdentity {
    pub cluster_name: String,
    /// PEM of the cluster CA (`cluster.ca.crt`): signs client, kubelet and API server certificates.
    pub ca_certificate_pem: String,
    /// PEM of its key (`cluster.ca.key`).
    pub ca_key_pem: String,
    /// PEM of the service-account key (`cluster.serviceAccount.key`), RSA or ECDSA P-256.
    pub service_account_key_pem: String,
    /// `cluster.token`, `id.secret`: authenticates as `system:bootstrap:<id>`.
    pub bootstrap_token: String,
    /// `cluster.controlPlane.endpoint`, an https URL; also the service-account issuer.
    pub endpoint: String,
    /// First pod subnet, such as `10.244.0.0/16`.
    pub pod_subnet: String,
    /// First service subnet, such as `10.96.0.0/12`.
    pub service_subnet: String,
    /// `cluster.local` unless configured.
    pub dns_domain: String,
}

/// One API server of a cluster.
#[derive(Clone)]
pub struct ApiServerOptions {
    /// The control-plane node it runs on.
    pub node_name: String,
    /// Where it listens, usually node address and 6443; port 0 picks a free one.
    pub address: SocketAddr,
    pub serving: ServingIdentity,
    /// What `/version` answers, such as `v1.36.2`.
    pub kubernetes_version: String,
    /// The clock of the node, by which client certificates are in or out of their dates.
    pub time: Arc<dyn TimeProvider>,
}

/// Certificate chain and key that an API server shows.
#[derive(Clone)]
pub struct ServingIdentity {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl ServingIdentity {
    /// Issues a serving certificate from the cluster CA for these DNS names and addresses, as Talos does on the node; it is
    /// valid from `now` on, for a year.
    ///
    /// # Errors
    /// When the CA's certificate or key cannot be read, or a DNS name is not ASCII.
    pub fn issue(
        identity: &ClusterIdentity,
        names: &[String],
        addresses: &[IpAddr],
        now: jiff::Timestamp,
    ) -> Result<Self, rcgen::Error> {
        let ca_key = KeyPair::from_pem(&identity.ca_key_pem)?;
        let issuer = Issuer::from_ca_cert_pem(&identity.ca_certificate_pem, ca_key)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        let seconds = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + seconds;
        params.not_after = params.not_before + LIFETIME;
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.distinguished_name.push(DnType::OrganizationName, "kube-master");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Self { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

/// What Talos applies once the first API server is up; see `cluster.network.cni`, `cluster.proxy`, `cluster.coreDNS`.
#[derive(Clone)]
pub struct BootstrapManifests {
    pub cni: Cni,
    /// Image of kube-proxy; `None` when `cluster.proxy.disabled`.
    pub kube_proxy_image: Option<String>,
    /// Image of CoreDNS; `None` when `cluster.coreDNS.disabled`.
    pub coredns_image: Option<String>,
    /// Whether Talos keeps an inventory of what it applied, as since 1.13.
    pub inventory: bool,
}

/// The `cluster.network.cni.name` of the machine configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cni {
    /// Talos ships Flannel; nodes become ready by themselves.
    Flannel,
    /// Somebody else installs one; until then nodes are NotReady.
    None,
}

/// A node as its kubelet reports it.
#[derive(Clone)]
pub struct KubeletOptions {
    pub node_name: String,
    pub addresses: Vec<IpAddr>,
    /// Labels besides `kubernetes.io/{hostname,os,arch}`, which are added.
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Taints the node registers with.
    pub taints: Vec<Taint>,
    pub provider_id: Option<String>,
    /// Such as `v1.36.2`.
    pub kubelet_version: String,
    /// Such as `Talos (v1.13.9)`.
    pub os_image: String,
    pub kernel_version: String,
    /// Such as `containerd://2.2.1`.
    pub container_runtime: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub ephemeral_bytes: u64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    /// `rotate-server-certificates`: ask for a serving certificate by a CSR that somebody must approve.
    pub rotate_server_certificates: bool,
    pub static_pods: Vec<StaticPod>,
    /// Where it is recorded how long pods take.
    pub delays: Recorder,
}

/// A taint as in a Node's `spec.taints`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taint {
    pub key: String,
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// A control-plane component that Talos runs as a static pod in `kube-system`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaticPod {
    /// `kube-apiserver`, `kube-controller-manager` or `kube-scheduler`; the mirror pod is `<name>-<node>`.
    pub name: String,
    pub image: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Becomes the annotation `talos.dev/config-version` (talos.md section 8).
    pub config_version: String,
}
