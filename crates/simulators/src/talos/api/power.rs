//! Reboot, shutdown, reset, rollback, legacy upgrade, and service control (talos.md 3.3, 3.4, 3.8).

use talos::proto::machine::reset_request::WipeMode;
use talos::proto::machine::{RebootRequest, ResetRequest, ShutdownRequest, UpgradeRequest, reboot_request};
use tonic::Status;
use uuid::Uuid;

use super::{Api, plain};
use crate::talos::disk::{Partition, device_names};
use crate::talos::install;
use crate::talos::release::Release;
use crate::talos::sequence::{Action, Request, Reset};
use crate::talos::services::State;

impl Api {
    /// Asks for a sequence; whether it starts is told by events only.
    fn request(&self, action: Action, takeover: bool) -> String {
        let actor = Uuid::new_v4().to_string();
        // The boot that serves this call is still there to receive it.
        let _ = self.boot.requests.send(Request { action, actor: actor.clone(), takeover });
        actor
    }

    pub(super) fn request_reboot(&self, request: &RebootRequest) -> String {
        let force = request.mode() == reboot_request::Mode::Force;
        self.request(Action::Reboot { force }, false)
    }

    pub(super) fn request_shutdown(&self, request: &ShutdownRequest) -> String {
        self.request(Action::Shutdown { force: request.force }, true)
    }

    pub(super) fn request_rollback(&self) -> Result<(), Status> {
        if !self.boot.disk.rollback() {
            return Err(plain("failed to revert bootloader: no boot entry to revert to"));
        }
        self.request(Action::Reboot { force: false }, true);
        Ok(())
    }

    pub(super) fn request_reset(&self, request: &ResetRequest) -> Result<String, Status> {
        let system = request.mode() == WipeMode::SystemDisk;
        if system && !request.user_disks_to_wipe.is_empty() {
            return Err(plain(
                "reset failed: invalid input, wipe mode SYSTEM_DISK doesn't support UserDisksToWipe parameter",
            ));
        }
        if request.mode() == WipeMode::UserDisks && !request.system_partitions_to_wipe.is_empty() {
            return Err(plain(
                "reset failed: invalid input, wipe mode USER_DISKS doesn't support SystemPartitionsToWipe parameter",
            ));
        }
        let user_disks =
            request.user_disks_to_wipe.iter().map(|path| self.user_disk(path)).collect::<Result<Vec<_>, _>>()?;
        let mut partitions = Vec::new();
        for spec in &request.system_partitions_to_wipe {
            let known = Partition::parse(&spec.label).filter(|_| self.boot.disk.is_installed());
            let partition = known.ok_or_else(|| plain(format!("reset: partition {} not found", spec.label)))?;
            if spec.wipe {
                partitions.push(partition);
            }
        }
        let reset = Reset {
            graceful: request.graceful,
            reboot: request.reboot,
            partitions: (!request.system_partitions_to_wipe.is_empty()).then_some(partitions),
            user_disks,
            keep_system_disk: request.mode() == WipeMode::UserDisks,
        };
        Ok(self.request(Action::Reset(reset), false))
    }

    /// Index of a user disk by its path.
    fn user_disk(&self, path: &str) -> Result<usize, Status> {
        let name = path.trim_start_matches("/dev/");
        let index = device_names(&self.boot.machine).iter().position(|known| known == name);
        let Some(index) = index else { return Err(plain(format!("reset user disk failed: device {path} not found"))) };
        if self.boot.machine.disks[index].read_only {
            return Err(plain(format!("reset user disk failed: device {path} is readonly")));
        }
        if self.boot.disk.device().as_deref() == Some(name) {
            return Err(plain(format!("reset user disk failed: device {path} is a system disk")));
        }
        Ok(index)
    }

    /// The deprecated Upgrade call: pulls, checks etcd, then runs the sequence.
    pub(super) async fn request_upgrade(&self, request: &UpgradeRequest) -> Result<String, Status> {
        let boot = &self.boot;
        if !boot.disk.is_installed() {
            return Err(Status::failed_precondition("Talos is not installed"));
        }
        let image = install::image_of(&request.image, &boot.image)
            .map_err(|text| plain(format!("error validating installer image {:?}: {text}", request.image)))?;
        boot.work("installer pull", 5.0).await;
        let release = image.talos_version.as_deref().and_then(Release::parse);
        if let Some(reason) = release.and_then(|release| release.refuses_host(&boot.release)) {
            return Err(plain(format!("error validating installer image {:?}: {reason}", request.image)));
        }
        if boot.is_control_plane() && !request.force && !request.preserve {
            self.etcd_allows_upgrade()?;
        }
        if request.stage {
            boot.disk.upgrade(image);
            return Ok(self.request(Action::Reboot { force: false }, false));
        }
        let maintenance = boot.active_config().is_none();
        Ok(self.request(Action::Upgrade { image, maintenance }, false))
    }

    fn etcd_allows_upgrade(&self) -> Result<(), Status> {
        let data = self.local_member("upgrade")?;
        data.cluster.read(|membership| {
            let members: Vec<_> = membership.members().collect();
            if members.len() == 2 {
                return Err(plain("error validating etcd for upgrade: upgrade would cause loss of quorum: 2 members"));
            }
            let unhealthy = members.iter().find(|member| !member.running || member.name.is_empty());
            unhealthy.map_or(Ok(()), |member| {
                Err(plain(format!("error validating etcd for upgrade: member {:016x} is not healthy", member.id)))
            })
        })
    }

    /// Start, stop or restart of what the API may control.
    pub(super) async fn control_service(&self, id: &str, operation: &str) -> Result<String, Status> {
        let services = &self.boot.services;
        if services.state(id).is_none() {
            return Err(plain(format!("service {id:?} not defined")));
        }
        let allowed = id.starts_with("ext-") || (id == "kubelet" && operation != "stop");
        if !allowed {
            return Err(plain(format!("service {id:?} doesn't support {operation} operation via API")));
        }
        if operation != "start" {
            services.set(id, State::Stopping, "Sending SIGTERM to task");
            self.boot.work(&format!("stop of {id}"), 1.0).await;
            services.set(id, State::Finished, "Service finished successfully");
        }
        if operation != "stop" && services.state(id) != Some(State::Running) {
            services.set(id, State::Preparing, "Running pre state");
            services.set(id, State::Running, &format!("Started task {id} (PID 4102) for container {id}"));
        }
        let past = match operation {
            "start" => "started",
            "stop" => "stopped",
            _ => "restarted",
        };
        Ok(format!("Service {id:?} {past}"))
    }
}
