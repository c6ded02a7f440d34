//! Images, and installing or upgrading with them (talos.md 3.3, 3.9).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use talos::proto::common::{ContainerDriver, ContainerdInstance, ContainerdNamespace};
use talos::proto::machine::image_service_server::ImageService;
use talos::proto::machine::lifecycle_service_server::LifecycleService;
use talos::proto::machine::{
    self as m, image_service_pull_response as pull, lifecycle_service_install_progress as progress,
};
use tonic::{Request, Response, Status, Streaming};

use super::{Api, Frames};
use crate::machine::ImageRef;
use crate::talos::disk::device_names;
use crate::talos::install;
use crate::talos::node::Boot;
use crate::talos::release::Release;

/// The containerd namespace of a request, as a number for the store of images.
fn namespace(instance: Option<&ContainerdInstance>) -> Result<i32, Status> {
    let instance = instance.cloned().unwrap_or_default();
    let (driver, namespace) = (instance.driver(), instance.namespace());
    match (driver, namespace) {
        (ContainerDriver::Containerd, ContainerdNamespace::NsSystem)
        | (ContainerDriver::Cri, ContainerdNamespace::NsSystem | ContainerdNamespace::NsCri) => Ok(namespace.into()),
        _ => Err(Status::invalid_argument(format!(
            "unsupported containerd namespace {namespace:?} for driver {driver:?}"
        ))),
    }
}

fn digest(reference: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(reference)))
}

/// The repository without tag and digest.
fn repository(reference: &str) -> &str {
    let bare = reference.split('@').next().unwrap_or(reference);
    match bare.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => bare,
    }
}

impl Api {
    fn pulled(&self, namespace: i32) -> Vec<(String, String)> {
        let mut images: BTreeMap<String, String> = self.boot.disk.read(|saved| {
            let of = saved.images.iter().filter(|((known, _), _)| *known == namespace);
            of.map(|((_, name), digest)| (name.clone(), digest.clone())).collect()
        });
        images.extend(self.images_in_use(namespace).into_iter().map(|name| (name.clone(), digest(&name))));
        images.into_iter().collect()
    }

    /// The registry of the lab knows every image with a tag or digest.
    async fn pull(&self, namespace: i32, reference: &str) -> Result<String, Status> {
        if repository(reference) == reference {
            return Err(Status::not_found(format!("failed to pull image {reference:?}: not found")));
        }
        self.boot.work("image pull", 3.0).await;
        let digest = digest(reference);
        self.boot.disk.write(|saved| saved.images.insert((namespace, reference.to_owned()), digest.clone()));
        Ok(format!("{}@{digest}", repository(reference)))
    }

    pub(super) fn legacy_image_list(
        &self,
        request: &m::ImageListRequest,
    ) -> Result<Frames<m::ImageListResponse>, Status> {
        let images = self.pulled(request.namespace).into_iter().map(|(name, digest)| {
            Ok(m::ImageListResponse { name, digest, size: 80 << 20, ..m::ImageListResponse::default() })
        });
        Ok(stream::iter(images.collect::<Vec<_>>()).boxed())
    }

    pub(super) async fn legacy_image_pull(&self, request: &m::ImagePullRequest) -> Result<(), Status> {
        self.pull(request.namespace, &request.reference).await.map(|_| ())
    }
}

#[tonic::async_trait]
impl ImageService for Api {
    async fn list(
        &self,
        request: Request<m::ImageServiceListRequest>,
    ) -> Result<Response<Frames<m::ImageServiceListResponse>>, Status> {
        let namespace = namespace(request.get_ref().containerd.as_ref())?;
        let created_at = Some(self.boot.started.into());
        let images = self.pulled(namespace).into_iter().map(|(name, digest)| {
            Ok(m::ImageServiceListResponse { name, digest, size: 80 << 20, created_at, labels: HashMap::new() })
        });
        Ok(Response::new(stream::iter(images.collect::<Vec<_>>()).boxed()))
    }

    async fn pull(
        &self,
        request: Request<m::ImageServicePullRequest>,
    ) -> Result<Response<Frames<m::ImageServicePullResponse>>, Status> {
        let request = request.into_inner();
        let namespace = namespace(request.containerd.as_ref())?;
        let name = Self::pull(self, namespace, &request.image_ref).await?;
        let layer = m::ImageServicePullProgress {
            layer_id: digest(&name),
            progress: Some(m::ImageServicePullLayerProgress {
                status: m::image_service_pull_layer_progress::Status::ExtractComplete.into(),
                offset: 80 << 20,
                total: 80 << 20,
                ..Default::default()
            }),
        };
        let frames = [pull::Response::PullProgress(layer), pull::Response::Name(name)];
        let frames = frames.map(|response| Ok(m::ImageServicePullResponse { response: Some(response) }));
        Ok(Response::new(stream::iter(frames).boxed()))
    }

    async fn import(
        &self,
        request: Request<Streaming<m::ImageServiceImportRequest>>,
    ) -> Result<Response<m::ImageServiceImportResponse>, Status> {
        use m::image_service_import_request::Request as Part;
        let mut parts = request.into_inner();
        let first = parts.next().await.transpose()?.and_then(|part| part.request);
        let Some(Part::Containerd(instance)) = first else {
            return Err(Status::invalid_argument("the first message must name the containerd instance"));
        };
        let namespace = namespace(Some(&instance))?;
        let mut hash = Sha256::new();
        while let Some(part) = parts.next().await.transpose()? {
            if let Some(Part::ImageChunk(chunk)) = part.request {
                hash.update(&chunk.bytes);
            }
        }
        let digest = format!("sha256:{}", hex::encode(hash.finalize()));
        let name = format!("imported@{digest}");
        self.boot.disk.write(|saved| saved.images.insert((namespace, name.clone()), digest));
        Ok(Response::new(m::ImageServiceImportResponse { name }))
    }

    async fn remove(&self, request: Request<m::ImageServiceRemoveRequest>) -> Result<Response<()>, Status> {
        let request = request.into_inner();
        let key = (namespace(request.containerd.as_ref())?, request.image_ref);
        let removed = self.boot.disk.write(|saved| saved.images.remove(&key));
        removed.map(|_| Response::new(())).ok_or_else(|| Status::not_found(format!("image {:?}: not found", key.1)))
    }

    async fn verify(
        &self,
        request: Request<m::ImageServiceVerifyRequest>,
    ) -> Result<Response<m::ImageServiceVerifyResponse>, Status> {
        let reference = &request.get_ref().image_ref;
        Ok(Response::new(m::ImageServiceVerifyResponse {
            verified: false,
            message: "no verification rules matched".to_owned(),
            digested_image_ref: format!("{}@{}", repository(reference), digest(reference)),
        }))
    }
}

#[tonic::async_trait]
impl LifecycleService for Api {
    async fn install(
        &self,
        request: Request<m::LifecycleServiceInstallRequest>,
    ) -> Result<Response<Frames<m::LifecycleServiceInstallResponse>>, Status> {
        let request = request.into_inner();
        if self.boot.disk.is_installed() {
            return Err(Status::already_exists("machine is already installed"));
        }
        let name = request.source.map(|source| source.image_name).unwrap_or_default();
        let image = self.installer(request.containerd.as_ref(), &name, "install")?;
        let disk = request.destination.map(|destination| destination.disk).unwrap_or_default();
        let disk = disk.trim_start_matches("/dev/").to_owned();
        let index = device_names(&self.boot.machine).iter().position(|known| *known == disk);
        let index = index.ok_or_else(|| Status::invalid_argument(format!("disk {disk:?} not found")))?;
        let slot = Slot::take(&self.boot)?;
        let frames = run_installer(slot, image, Target::Install(index, disk))
            .map(|progress| Ok(m::LifecycleServiceInstallResponse { progress: Some(progress) }));
        Ok(Response::new(frames.boxed()))
    }

    async fn upgrade(
        &self,
        request: Request<m::LifecycleServiceUpgradeRequest>,
    ) -> Result<Response<Frames<m::LifecycleServiceUpgradeResponse>>, Status> {
        let request = request.into_inner();
        if !self.boot.disk.is_installed() {
            return Err(Status::failed_precondition("machine is not installed"));
        }
        let name = request.source.map(|source| source.image_name).unwrap_or_default();
        let image = self.installer(request.containerd.as_ref(), &name, "upgrade")?;
        let slot = Slot::take(&self.boot)?;
        let frames = run_installer(slot, image, Target::Upgrade)
            .map(|progress| Ok(m::LifecycleServiceUpgradeResponse { progress: Some(progress) }));
        Ok(Response::new(frames.boxed()))
    }
}

impl Api {
    /// The installer image, which must have been pulled before.
    fn installer(&self, instance: Option<&ContainerdInstance>, name: &str, verb: &str) -> Result<ImageRef, Status> {
        let namespace = namespace(instance)?;
        if name.is_empty() {
            return Err(Status::invalid_argument("installer image name is required"));
        }
        let known = self
            .pulled(namespace)
            .into_iter()
            .find(|(known, digest)| known == name || format!("{}@{digest}", repository(known)) == name);
        let Some((reference, _)) = known else {
            let text = format!(
                "{verb} failed: installer image {name:?} not found in containerd store, please pull the image first"
            );
            return Err(Status::internal(text));
        };
        install::image_of(&reference, &self.boot.image).map_err(Status::internal)
    }
}

/// Holds the one place for an installation or upgrade.
struct Slot(Arc<Boot>);

impl Slot {
    fn take(boot: &Arc<Boot>) -> Result<Self, Status> {
        let busy = std::mem::replace(&mut boot.state().installing, true);
        if busy {
            return Err(Status::failed_precondition("another installation/upgrade is already in progress"));
        }
        Ok(Self(Arc::clone(boot)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.state().installing = false;
    }
}

enum Target {
    Install(usize, String),
    Upgrade,
}

/// The installer's output and exit code; it finishes even when nobody reads.
fn run_installer(
    slot: Slot,
    image: ImageRef,
    target: Target,
) -> impl futures::Stream<Item = m::LifecycleServiceInstallProgress> + Send {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let boot = Arc::clone(&slot.0);
    boot.spawn(async move {
        let boot = &slot.0;
        let say = |response| {
            // The client may have gone; the installation goes on.
            let _ = sender.send(m::LifecycleServiceInstallProgress { response: Some(response) });
        };
        let line = |text: String| say(progress::Response::Message(format!("{text}\n")));
        let version = image.talos_version.clone().unwrap_or_default();
        line(format!("running Talos installer {version}"));
        let refused = Release::parse(&version).and_then(|release| release.refuses_host(&boot.release));
        if let Some(reason) = refused {
            line(format!("Error: pre-flight checks failed: {reason}"));
            say(progress::Response::ExitCode(1));
            return;
        }
        line("performing installation/upgrade, wiping boot partitions".to_owned());
        boot.work("installer", 20.0).await;
        match target {
            Target::Install(index, name) => boot.disk.install(&name, &boot.machine.disks[index].content, image),
            Target::Upgrade => boot.disk.upgrade(image),
        }
        line("installation of Talos is complete".to_owned());
        say(progress::Response::ExitCode(0));
    });
    tokio_stream::wrappers::UnboundedReceiverStream::new(receiver)
}
