//! `infrastructure.ensure_image`: makes the Talos image available to a host.

use std::{collections::BTreeMap, time::Duration};

use contractor::action::{Action, Change, DomainEvent, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use proxmox::{
    Upid,
    error::{Advice, Kind},
    storage::Download,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::InventoryChange;
use tokio::sync::Mutex;

use crate::{
    Deps,
    config::Method,
    failure, fetch,
    inventory::{Checksum, Image, checksum_key},
    reservation, schematic,
};

/// A download takes minutes on a slow line; the task goes on when a wait for it ends.
const PATIENCE: Duration = Duration::from_secs(5 * 60);
const GIVE_A_CHECKSUM: &str = "see that images.factory answers, or give the image's SHA-256 under images.checksums";

const PIN_IT: &str = "give the image's SHA-256 under images.checksums, or set images.factory to an https:// URL";

/// Whether anybody between here and there could answer.
fn is_open(url: &str) -> bool {
    bus::leaves_in_plain(url, false)
}

pub(super) struct EnsureImage {
    deps: Deps,
    /// What was hashed and is not recorded yet: hosts that ask meanwhile wait for the one that hashes.
    hashed: Mutex<BTreeMap<Image, String>>,
}

impl EnsureImage {
    pub(super) fn new(deps: Deps) -> Self {
        Self { deps, hashed: Mutex::default() }
    }
}

/// Which image, where.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The host whose machines will boot it.
    host: String,
    /// The image.
    image: Image,
}

/// Where it is.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub(super) struct AvailableImage {
    /// The host.
    pub(super) host: String,
    /// `local:import/talos-….qcow2`; left out where a template is cloned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) volume: Option<String>,
    /// VMID of the template that is cloned instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) template: Option<u32>,
    /// The host that has the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) template_host: Option<String>,
}

impl Action for EnsureImage {
    const NAME: &'static str = "infrastructure.ensure_image";
    /// An image is shared by clusters: it is ensured, and stays.
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = AvailableImage;

    fn limits(&self, input: &Input) -> Vec<(String, usize)> {
        vec![(format!("download/{}", input.host), 1)]
    }

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<AvailableImage>, StepError> {
        if self.deps.sections.images.method == Method::Clone {
            return self.find_template(input).await.map(Done::new);
        }
        let volume = self.volume(input);
        let done = AvailableImage {
            host: input.host.clone(),
            volume: Some(volume.clone()),
            template: None,
            template_host: None,
        };
        let there = self.is_there(input, &volume).await?;
        let (Checksum { sha256, hashed_from }, mut effects) = self.checksum(cx, &input.image, there).await?;
        // What is there already is compared by Proxmox, which then fetches nothing.
        self.download(cx, input, sha256.clone()).await?;
        if there {
            return Ok(Done::with_effects(done, effects));
        }
        let source =
            hashed_from.map_or_else(|| "given by the configuration".into(), |url| format!("hashed from {url}"));
        let facts = json!({
            "host": input.host, "schematic": input.image.schematic, "sha256": sha256, "checksum_source": source,
        });
        effects.events.push(DomainEvent {
            kind: "image_ready",
            cluster: None,
            body: json!({ "object": volume, "facts": facts }),
        });
        Ok(Done::with_effects(done, effects))
    }

    async fn preview(&self, _cx: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        let volume = self.volume(&input);
        if self.deps.sections.images.method == Method::Clone || self.is_there(&input, &volume).await? {
            return Ok(Vec::new());
        }
        Ok(vec![Change {
            verb: "download".into(),
            object: format!("{volume} on {}", input.host),
            details: [("url".to_owned(), json!(self.url(&input.image)))].into(),
            destroys: false,
        }])
    }
}

impl EnsureImage {
    fn volume(&self, input: &Input) -> String {
        format!("{}:import/{}", self.deps.sections.images.storage, input.image.file_name())
    }

    fn url(&self, image: &Image) -> String {
        let factory = self.deps.sections.images.factory.trim_end_matches('/');
        format!("{factory}/image/{}/v{}/nocloud-amd64.qcow2", image.schematic, image.talos_version)
    }

    async fn is_there(&self, input: &Input, volume: &str) -> Result<bool, StepError> {
        let storage = &self.deps.sections.images.storage;
        let volumes = self.deps.proxmox.volumes(&input.host, storage, "import").await;
        let volumes = volumes.map_err(|error| failure::of(&error))?;
        Ok(volumes.iter().any(|row| row.volid == volume))
    }

    /// The image's SHA-256: from the configuration, from the inventory, or hashed now by fetching it once. Unless the file
    /// is there, the factory is told of the schematic first.
    async fn checksum(&self, cx: &StepContext, image: &Image, there: bool) -> Result<(Checksum, Effects), StepError> {
        let images = &self.deps.sections.images;
        let key = checksum_key(image);
        let given = images.checksums.get(&format!("{}/{}", image.schematic, image.talos_version));
        let given = given.map(|sum| Checksum { sha256: sum.to_ascii_lowercase(), hashed_from: None });
        let recorded = cx.store.get::<Checksum>(&key).map_err(failure::read)?.map(|found| found.value);
        let recorded = recorded.filter(|sum| !sum.hashed_from.as_deref().is_some_and(is_open));
        let is_given = given.is_some();
        let known = given.or(recorded);
        let url = self.url(image);
        if known.is_none() && is_open(&url) {
            let text = format!("{url} is not encrypted: a hash of what comes from there would prove nothing");
            return Err(StepError::fail(text).with_hint(PIN_IT));
        }
        if !(there && known.is_some())
            && let Err(error) = self.register(image).await
        {
            let reason = format!("the schematic cannot be registered: {error:#}");
            if !is_given {
                return Err(StepError::retry(reason).with_hint(GIVE_A_CHECKSUM));
            }
            tracing::warn!(reason, "a factory that only serves files may do without");
        }
        if let Some(known) = known {
            return Ok((known, Effects::default()));
        }
        // Whoever hashed it may have failed after that, and recorded nothing.
        let recorded = |sha256: &String| {
            let row = Checksum { sha256: sha256.clone(), hashed_from: Some(url.clone()) };
            let inventory = vec![InventoryChange::put(key, reservation::json(&row))];
            (row, Effects { inventory, ..Effects::default() })
        };
        let mut hashed = self.hashed.lock().await;
        if let Some(sha256) = hashed.get(image) {
            return Ok(recorded(sha256));
        }
        cx.progress(format!("hashing {url}"));
        let sha256 = fetch::sha256(images, &self.deps.allowed, &url)
            .await
            .map_err(|error| StepError::retry(format!("the image cannot be fetched to be hashed: {error:#}")))
            .map_err(|error| error.with_hint(GIVE_A_CHECKSUM))?;
        let told = recorded(&sha256);
        hashed.insert(image.clone(), sha256);
        Ok(told)
    }

    /// A factory serves images of the schematics that it was told of.
    async fn register(&self, image: &Image) -> anyhow::Result<()> {
        let canonical = schematic::canonical(&image.extensions);
        fetch::register_schematic(&self.deps.sections.images, &self.deps.allowed, &canonical, &image.schematic).await
    }

    /// With its checksum the call is idempotent; a task of an earlier attempt is waited for instead of started again.
    async fn download(&self, cx: &StepContext, input: &Input, sha256: String) -> Result<(), StepError> {
        let (client, images) = (&self.deps.proxmox, &self.deps.sections.images);
        if let Some(upid) = cx.last_checkpoint.as_ref().and_then(|value| value.as_str()?.parse::<Upid>().ok()) {
            match client.wait_for_task(&upid, PATIENCE).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind == Kind::TimedOut => return Err(failure::of(&error)),
                Err(error) => tracing::info!(%error, "an earlier download failed; downloading again"),
            }
        }
        let download = Download {
            url: self.url(&input.image),
            file_name: input.image.file_name(),
            content: "import".into(),
            sha256: Some(sha256),
            verify_certificates: images.verify_certificates,
        };
        let failed = |error: proxmox::Error| self.explain(error);
        let upid = client.download_url(&input.host, &images.storage, &download).await.map_err(failed)?;
        cx.checkpoint(json!(upid)).await?;
        cx.progress(format!("{} downloads {}", input.host, download.file_name));
        client.wait_for_task(&upid, PATIENCE).await.map(drop).map_err(failed)
    }

    fn explain(&self, error: proxmox::Error) -> StepError {
        let images = &self.deps.sections.images;
        if error.text.contains("is not configured for content-type") {
            return StepError::fail(error.to_string()).with_hint(crate::check::add_import(&images.storage));
        }
        if error.kind == Kind::ChecksumMismatch {
            return StepError::fail(error.to_string()).with_hint(
                "if another file lies there, remove it (pvesm free VOLUME); if the factory serves another file than was \
                 hashed or given, check images.checksums and the factory",
            );
        }
        if error.text.contains("download failed") && error.advice() == Advice::Fail {
            return StepError::retry(error.to_string());
        }
        failure::of(&error)
    }

    async fn find_template(&self, input: &Input) -> Result<AvailableImage, StepError> {
        let fits = |template: &&crate::config::Template| {
            template.holds(&input.image) && template.host.as_ref().is_none_or(|host| *host == input.host)
        };
        let Some(template) = self.deps.sections.images.templates.iter().find(fits) else {
            let image = &input.image;
            let message = format!(
                "no template on {} has Talos {} with schematic {}",
                input.host, image.talos_version, image.schematic
            );
            return Err(StepError::fail(message).with_hint("make one and name it under [[images.templates]]"));
        };
        let failed = |error| failure::of(&error);
        let row = self.deps.proxmox.locate_vm(proxmox::VmId(template.vmid)).await.map_err(failed)?;
        match row {
            Some(row) if row.template => Ok(AvailableImage {
                host: input.host.clone(),
                volume: None,
                template: Some(template.vmid),
                template_host: row.node,
            }),
            Some(_) => Err(StepError::fail(format!("VM {} is not a template", template.vmid))),
            None => Err(StepError::fail(format!("there is no template {}", template.vmid))),
        }
    }
}
