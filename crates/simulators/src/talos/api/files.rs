//! Version, credentials and META (talos.md 3.9).

use std::io::Write as _;
use std::time::Duration;

use base64::Engine as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt as _, stream};
use secrecy::ExposeSecret as _;
use talos::pki;
use talos::proto::common::Data;
use talos::proto::machine::{
    GenerateClientConfiguration, GenerateClientConfigurationRequest, MetaDeleteRequest, MetaWriteRequest, PlatformInfo,
    Version, VersionInfo,
};
use tonic::Status;

use super::{Api, Frames, plain};
use crate::talos::tls;

impl Api {
    pub(super) fn version_info(&self) -> Version {
        let release = &self.boot.release;
        let version = VersionInfo {
            tag: release.tag().to_owned(),
            sha: "3ebd10a7".to_owned(),
            built: String::new(),
            go_version: release.go_version().to_owned(),
            os: "linux".to_owned(),
            arch: "amd64".to_owned(),
        };
        let mode = if self.boot.image.platform == "metal" { "metal" } else { "cloud" };
        let platform = PlatformInfo { name: self.boot.image.platform.clone(), mode: mode.to_owned() };
        let rbac = self.boot.active_config().map(|_| talos::proto::machine::FeaturesInfo { rbac: true });
        Version { metadata: None, version: Some(version), platform: Some(platform), features: rbac }
    }

    /// One frame: gzip of a tar with the single file `kubeconfig` and no trailer.
    pub(super) fn admin_kubeconfig(&self) -> Result<Frames<Data>, Status> {
        self.control_plane_only("kubeconfig")?;
        let text = self.kubeconfig_text().map_err(|error| plain(error.to_string()))?;
        let archive = untrailed_tar("kubeconfig", text.as_bytes()).map_err(|error| plain(error.to_string()))?;
        Ok(stream::iter([Ok(Data { metadata: None, bytes: archive.into() })]).boxed())
    }

    fn kubeconfig_text(&self) -> tls::Result<String> {
        let config = self.boot.active_config().ok_or("no machine configuration")?;
        let authority = tls::authority(&config.cluster_ca()).ok_or("cluster CA has no key")?;
        let now = self.boot.clock.now();
        let admin =
            pki::kubernetes_client_certificate(&authority, "admin", "system:masters", pki::ADMIN_LIFETIME, now)?;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let (name, server) = (config.cluster_name(), config.endpoint());
        Ok(format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {name}\n  cluster:\n    server: {server}\n    certificate-authority-data: {ca}\nusers:\n- name: admin@{name}\n  user:\n    client-certificate-data: {crt}\n    client-key-data: {key}\ncontexts:\n- context:\n    cluster: {name}\n    namespace: default\n    user: admin@{name}\n  name: admin@{name}\ncurrent-context: admin@{name}\n",
            ca = encode(&authority.crt),
            crt = encode(&admin.crt),
            key = encode(admin.key.expose_secret()),
        ))
    }

    pub(super) fn client_configuration(
        &self,
        request: &GenerateClientConfigurationRequest,
    ) -> Result<GenerateClientConfiguration, Status> {
        self.control_plane_only("generate client configuration")?;
        let lifetime = request.crt_ttl.and_then(|ttl| Duration::try_from(ttl).ok()).unwrap_or_default();
        if lifetime.is_zero() {
            return Err(Status::invalid_argument("crt_ttl should be positive"));
        }
        let roles = request.roles.iter().map(|name| name.parse::<pki::Role>()).collect::<Result<Vec<_>, _>>();
        let roles = roles.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let roles = pki::Roles::new(roles).ok_or_else(|| Status::invalid_argument("no roles given"))?;
        let config = self.boot.active_config().ok_or_else(|| plain("no machine configuration"))?;
        let authority = tls::authority(&config.os_ca()).ok_or_else(|| plain("OS CA has no key"))?;
        let client = pki::client_certificate(&authority, &roles, lifetime, self.boot.clock.now())
            .map_err(|error| plain(error.to_string()))?;
        let names: Vec<_> = roles.iter().map(pki::Role::as_str).collect();
        let context = match names.as_slice() {
            [single] => format!("{}@{}", single.trim_start_matches("os:"), config.cluster_name()),
            _ => config.cluster_name(),
        };
        let (crt, key) = (client.crt.clone(), client.key.expose_secret().to_owned());
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let endpoints: String =
            self.boot.address().iter().map(|address| format!("            - {address}\n")).collect();
        let talosconfig = format!(
            "context: {context}\ncontexts:\n    {context}:\n        endpoints:\n{endpoints}        ca: {ca}\n        crt: {crt}\n        key: {key}\n",
            ca = encode(&authority.crt),
            crt = encode(&crt),
            key = encode(&key),
        );
        Ok(GenerateClientConfiguration {
            metadata: None,
            ca: authority.crt.into_bytes(),
            crt: crt.into_bytes(),
            key: key.into_bytes(),
            talosconfig: talosconfig.into_bytes(),
        })
    }

    pub(super) fn write_meta(&self, request: &MetaWriteRequest) -> Result<(), Status> {
        let key = meta_key(request.key)?;
        let size: usize = self.boot.disk.read(|saved| saved.meta.values().map(String::len).sum());
        if size + request.value.len() > 256 * 1024 {
            return Err(Status::resource_exhausted("meta write failed"));
        }
        let value = String::from_utf8_lossy(&request.value).into_owned();
        self.boot.disk.write(|saved| saved.meta.insert(key, value));
        crate::talos::publish::meta_keys(&self.boot);
        Ok(())
    }

    pub(super) fn delete_meta(&self, request: &MetaDeleteRequest) -> Result<(), Status> {
        let key = meta_key(request.key)?;
        let removed = self.boot.disk.write(|saved| saved.meta.remove(&key));
        crate::talos::publish::meta_keys(&self.boot);
        removed.map(|_| ()).ok_or_else(|| Status::not_found("meta key not found"))
    }
}

fn meta_key(key: u32) -> Result<u8, Status> {
    u8::try_from(key).map_err(|_| Status::invalid_argument("key must be a uint8"))
}

pub(super) fn chunks(content: Vec<u8>) -> Frames<Data> {
    let content = bytes::Bytes::from(content);
    let frames: Vec<_> =
        (0..content.len()).step_by(1024).map(|at| content.slice(at..(at + 1024).min(content.len()))).collect();
    stream::iter(frames.into_iter().map(|bytes| Ok(Data { metadata: None, bytes }))).boxed()
}

/// A tar of one file whose writer was never closed: neither padding after the body nor end blocks.
fn untrailed_tar(name: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(body.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mtime(u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0));
    header.set_cksum();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(header.as_bytes())?;
    gzip.write_all(body)?;
    gzip.finish()
}
