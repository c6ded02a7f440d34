//! `/nodes/N/storage`: room, content, images from a URL.

use serde::Deserialize;

use crate::{
    Client, Result, Upid,
    form::{self, Params},
    lenient,
};

/// A row of `/nodes/N/storage`.
#[derive(Clone, Debug, Deserialize)]
pub struct Storage {
    /// Its name.
    pub storage: String,
    /// `dir`, `lvmthin`, `zfspool`, `rbd`, `nfs`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Content types, comma-separated.
    pub content: String,
    /// Whether it answers on this node.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub active: bool,
    /// Whether the administrator wants it used.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub enabled: bool,
    /// One content seen by all nodes.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub shared: bool,
    /// Free bytes.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    pub avail: Option<u64>,
    /// Size in bytes.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    pub total: Option<u64>,
}

impl Storage {
    /// Whether it takes content of type `kind`: `images`, `import`, …
    pub fn takes(&self, kind: &str) -> bool {
        self.content.split(',').any(|own| own.trim() == kind)
    }
}

/// A row of `/nodes/N/storage/S/content`.
#[derive(Clone, Debug, Deserialize)]
pub struct Volume {
    /// `local:import/talos.qcow2`.
    pub volid: String,
    /// Size in bytes.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    pub size: Option<u64>,
    /// Its owner.
    #[serde(default, deserialize_with = "lenient::opt_u32")]
    pub vmid: Option<u32>,
}

/// What `download-url` shall fetch.
#[derive(Clone, Debug)]
pub struct Download {
    /// Where from; the Proxmox node fetches it, not we.
    pub url: String,
    /// File name with the suffix that the content type wants.
    pub file_name: String,
    /// `import`, `iso` or `vztmpl`.
    pub content: String,
    /// With it the call is idempotent: an equal file is a success (proxmox.md 3.4).
    pub sha256: Option<String>,
    /// Whether the node checks the server's certificate.
    pub verify_certificates: bool,
}

impl Client {
    /// The storages that `node` can use and we may see.
    pub async fn storages(&self, node: &str) -> Result<Vec<Storage>> {
        self.get(&form::path(&["nodes", node, "storage"]), &Params::default()).await
    }

    /// What lies on a storage, of one content type.
    pub async fn volumes(&self, node: &str, storage: &str, content: &str) -> Result<Vec<Volume>> {
        let path = form::path(&["nodes", node, "storage", storage, "content"]);
        self.get(&path, &Params::default().with("content", content)).await
    }

    /// Makes the node fetch a file into a storage.
    pub async fn download_url(&self, node: &str, storage: &str, download: &Download) -> Result<Upid> {
        let params = Params::default()
            .with("content", &download.content)
            .with("filename", &download.file_name)
            .with("url", &download.url)
            .with_some("checksum", download.sha256.as_ref())
            .with_some("checksum-algorithm", download.sha256.as_ref().map(|_| "sha256"))
            .with_flag("verify-certificates", download.verify_certificates);
        self.post(&form::path(&["nodes", node, "storage", storage, "download-url"]), &params).await
    }

    /// Deletes a volume; `None` when it was done at once.
    pub async fn delete_volume(&self, node: &str, storage: &str, volume: &str) -> Result<Option<Upid>> {
        let path = form::path(&["nodes", node, "storage", storage, "content", volume]);
        self.delete(&path, &Params::default()).await
    }
}
