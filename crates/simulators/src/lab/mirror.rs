//! An HTTP mirror on loopback: stand-ins for Image Factory images and for add-on manifests.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::schematic::{self, Schematic};
use crate::image::{self, Label};

/// The Talos releases the mirror says it has.
const RELEASES: &[&str] = &["v1.12.9", "v1.13.9", "v1.14.0-rc.1"];

/// Add-ons by name: version and manifest. They are small stand-ins written for the lab, not the upstream files.
const ADDONS: &[(&str, &str, &str)] = &[
    ("local-path", "0.0.32", include_str!("addons/local-path.yaml")),
    ("longhorn", "1.10.1", include_str!("addons/longhorn.yaml")),
];

/// A running mirror; dropping it ends it.
#[derive(Debug)]
pub struct Mirror {
    address: SocketAddr,
    registry: Registry,
    stop: CancellationToken,
}

/// Schematics that were registered; clones share them.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Mutex<BTreeMap<String, Schematic>>>);

/// Where an add-on's manifest lies, with what pins it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Addon {
    pub name: String,
    pub version: String,
    pub url: String,
    /// Lower-case hex.
    pub sha256: String,
}

impl Default for Registry {
    fn default() -> Self {
        let known = BTreeMap::from([(schematic::EMPTY.to_owned(), Schematic::default())]);
        Self(Arc::new(Mutex::new(known)))
    }
}

impl Registry {
    /// The extensions in images of a schematic.
    pub fn extensions(&self, id: &str) -> Vec<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(id).map(|schematic| schematic.extensions().to_vec()).unwrap_or_default()
    }

    fn register(&self, schematic: Schematic) -> String {
        let id = schematic.id();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), schematic);
        id
    }

    fn knows(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }
}

impl Mirror {
    /// Binds an address and serves until dropped.
    pub async fn start(address: SocketAddr) -> io::Result<Self> {
        let listener = sockets::listen(address).await?;
        let address = listener.local_addr()?;
        let registry = Registry::default();
        let router = Router::new()
            .route("/", get(|| async { "a mirror of the lab: Image Factory paths and /addons/NAME.yaml\n" }))
            .route("/schematics", post(register))
            .route("/schematics/{id}", get(show))
            .route("/versions", get(|| async { axum::Json(RELEASES) }))
            .route("/version/{version}/extensions/official", get(extensions))
            .route("/image/{schematic}/{version}/{file}", get(serve_image))
            .route("/addons/{file}", get(addon))
            .with_state(registry.clone());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            let serving = axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned());
            if let Err(error) = serving.await {
                tracing::warn!(%error, "the mirror ended");
            }
        });
        Ok(Self { address, registry, stop })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a client is given as Image Factory.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The add-ons with the checksums that pin them.
    pub fn addons(&self) -> Vec<Addon> {
        let addon = |(name, version, text): &(&str, &str, &str)| Addon {
            name: (*name).to_owned(),
            version: (*version).to_owned(),
            url: format!("{}/addons/{name}.yaml", self.url()),
            sha256: hex::encode(Sha256::digest(text)),
        };
        ADDONS.iter().map(addon).collect()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn register(State(registry): State<Registry>, body: String) -> Response {
    match Schematic::parse(&body) {
        Ok(schematic) => {
            (StatusCode::CREATED, axum::Json(json!({ "id": registry.register(schematic) }))).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, error).into_response(),
    }
}

async fn show(State(registry): State<Registry>, Path(id): Path<String>) -> Response {
    match registry.knows(&id) {
        true => axum::Json(
            json!({ "customization": { "systemExtensions": { "officialExtensions": registry.extensions(&id) } } }),
        )
        .into_response(),
        false => missing(&format!("schematic ID {id:?} not found")),
    }
}

async fn extensions(Path(version): Path<String>) -> axum::Json<serde_json::Value> {
    let names =
        ["siderolabs/gvisor", "siderolabs/iscsi-tools", "siderolabs/qemu-guest-agent", "siderolabs/util-linux-tools"];
    let row = |name: &str| json!({ "name": name, "ref": format!("ghcr.io/{name}:{version}"), "author": "Sidero Labs" });
    axum::Json(names.map(row).to_vec().into())
}

async fn serve_image(
    State(registry): State<Registry>,
    Path((id, version, file)): Path<(String, String, String)>,
) -> Response {
    if !registry.knows(&id) {
        return missing(&format!("schematic ID {id:?} not found"));
    }
    let known = version.strip_prefix('v').is_some_and(|rest| rest.split('.').count() >= 3);
    let Some((name, suffix)) = file.split_once('.').filter(|_| known) else {
        return missing(&format!("{version}/{file} not found"));
    };
    let Some(platform) = name.split('-').next().filter(|platform| matches!(*platform, "nocloud" | "metal")) else {
        return missing(&format!("platform of {file} not found"));
    };
    let label = Label { talos_version: version, schematic: id, platform: platform.to_owned() };
    let bytes = match suffix {
        "qcow2" => image::qcow2(&label),
        "iso" => image::iso(&label),
        _ => return missing(&format!("the lab has no stand-in for {file}")),
    };
    ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}

async fn addon(Path(file): Path<String>) -> Response {
    let found = ADDONS.iter().find(|(name, ..)| file.strip_suffix(".yaml") == Some(*name));
    match found {
        Some((.., text)) => ([(header::CONTENT_TYPE, "application/yaml")], *text).into_response(),
        None => missing(&format!("no add-on {file}")),
    }
}

fn missing(text: &str) -> Response {
    (StatusCode::NOT_FOUND, format!("{text}\n")).into_response()
}
