//! StorageService and TimeService (talos.md 3.9).

use std::time::SystemTime;

use talos::proto::storage::disk::DiskType;
use talos::proto::storage::storage_service_server::StorageService;
use talos::proto::storage::{
    BlockDeviceWipe, BlockDeviceWipeRequest, BlockDeviceWipeResponse, Disk, Disks, DisksResponse,
};
use talos::proto::time::time_service_server::TimeService;
use talos::proto::time::{Time, TimeRequest, TimeResponse};
use tonic::{Request, Response, Status};

use super::Api;
use crate::talos::disk::device_names;
use crate::talos::node::Stage;
use crate::talos::publish;
use crate::talos::roles::{Role, Roles};

#[tonic::async_trait]
impl StorageService for Api {
    async fn disks(&self, _: Request<()>) -> Result<Response<DisksResponse>, Status> {
        let system = self.boot.disk.device();
        let disk = |view: publish::DiskView| Disk {
            size: view.size,
            model: view.model,
            device_name: format!("/dev/{}", view.name),
            serial: view.serial,
            r#type: match (view.cdrom, view.rotational) {
                (true, _) => DiskType::Cd,
                (_, true) => DiskType::Hdd,
                _ => DiskType::Ssd,
            }
            .into(),
            bus_path: view.bus_path,
            system_disk: system.as_ref() == Some(&view.name),
            subsystem: "/sys/class/block".to_owned(),
            readonly: view.read_only,
            ..Disk::default()
        };
        let disks = publish::disks(&self.boot).into_iter().filter(|view| view.name != "loop0").map(disk).collect();
        Ok(Response::new(DisksResponse { messages: vec![Disks { metadata: None, disks }] }))
    }

    async fn block_device_wipe(
        &self,
        request: Request<BlockDeviceWipeRequest>,
    ) -> Result<Response<BlockDeviceWipeResponse>, Status> {
        let admin = request.extensions().get::<Roles>().is_some_and(|roles| roles.includes(Role::Admin));
        if !admin && self.boot.stage() != Stage::Maintenance {
            return Err(Status::permission_denied("not authorized"));
        }
        let names = device_names(&self.boot.machine);
        let mut wiped = Vec::new();
        for device in &request.get_ref().devices {
            let name = device.device.trim_start_matches("/dev/");
            let index = names.iter().position(|known| known == name);
            let Some(index) = index else {
                return Err(Status::not_found(format!("blockdevice {name:?} not found")));
            };
            if self.boot.disk.device().as_deref() == Some(name) && !device.skip_volume_check {
                return Err(Status::failed_precondition(format!(
                    "blockdevice {name:?} is in use by volume \"EPHEMERAL\""
                )));
            }
            wiped.push(index);
        }
        wiped.iter().for_each(|index| self.boot.machine.disks[*index].content.wipe());
        Ok(Response::new(BlockDeviceWipeResponse { messages: vec![BlockDeviceWipe::default()] }))
    }
}

#[tonic::async_trait]
impl TimeService for Api {
    async fn time(&self, _: Request<()>) -> Result<Response<TimeResponse>, Status> {
        Ok(Response::new(self.time_of("time.cloudflare.com")))
    }

    async fn time_check(&self, request: Request<TimeRequest>) -> Result<Response<TimeResponse>, Status> {
        Ok(Response::new(self.time_of(&request.get_ref().server)))
    }
}

impl Api {
    fn time_of(&self, server: &str) -> TimeResponse {
        let (local, remote) = (SystemTime::from(self.boot.clock.now()).into(), SystemTime::now().into());
        let time = Time { metadata: None, server: server.to_owned(), localtime: Some(local), remotetime: Some(remote) };
        TimeResponse { messages: vec![time] }
    }
}
