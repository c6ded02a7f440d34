//! The services behind apid: machined's and those beside it.

mod apply;
mod capture;
mod cluster;
mod containers;
mod etcd;
mod files;
mod images;
mod inspect;
mod machine;
mod monitoring;
mod power;
mod sockets;
mod storage;
mod streams;
mod tree;

use std::sync::Arc;

use talos::proto::cluster::cluster_service_server::ClusterServiceServer;
use talos::proto::cosi::resource::state_server::StateServer;
use talos::proto::inspect::inspect_service_server::InspectServiceServer;
use talos::proto::machine::image_service_server::ImageServiceServer;
use talos::proto::machine::lifecycle_service_server::LifecycleServiceServer;
use talos::proto::machine::machine_service_server::MachineServiceServer;
use talos::proto::storage::storage_service_server::StorageServiceServer;
use talos::proto::time::time_service_server::TimeServiceServer;
use tonic::Status;
use tonic::service::Routes;

use super::cosi::StateService;
use super::node::Boot;

/// Messages of up to 32 MiB go both ways (talos.md 2.1).
const MESSAGE_LIMIT: usize = 32 << 20;

/// Serves every service of one boot.
#[derive(Clone)]
pub(crate) struct Api {
    boot: Arc<Boot>,
}

/// A stream of replies.
type Frames<T> = tonic::codegen::BoxStream<T>;

/// The services of a boot as one router.
pub(crate) fn routes(boot: &Arc<Boot>) -> Routes {
    let api = Api { boot: Arc::clone(boot) };
    let machine = MachineServiceServer::new(api.clone())
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT);
    Routes::new(machine)
        .add_service(ClusterServiceServer::new(api.clone()))
        .add_service(StorageServiceServer::new(api.clone()))
        .add_service(TimeServiceServer::new(api.clone()))
        .add_service(InspectServiceServer::new(api.clone()))
        .add_service(ImageServiceServer::new(api.clone()))
        .add_service(LifecycleServiceServer::new(api))
        .add_service(StateServer::new(StateService::new(boot.cosi.clone())).max_encoding_message_size(MESSAGE_LIMIT))
        .prepare()
}

impl Api {
    /// Refuses what only control planes do (talos.md 3).
    fn control_plane_only(&self, name: &str) -> Result<(), Status> {
        match self.boot.active_config().and_then(|config| config.machine_type()) {
            None => Err(Status::unimplemented(format!("machine type is not set, cannot use {name} API"))),
            Some(_) if self.boot.is_control_plane() => Ok(()),
            Some(_) => Err(Status::unimplemented(format!("{name} is only available on control plane nodes"))),
        }
    }
}

/// A plain Go error on the wire.
fn plain(text: impl Into<String>) -> Status {
    Status::unknown(text)
}
