//! The table of contents of MachineService: every method and where it is done.

use talos::proto::common::Data;
use talos::proto::machine as m;
use talos::proto::machine::machine_service_server::MachineService;
use talos::proto::machine::{self as api};
use tonic::{Request, Response, Status, Streaming};

use super::{Api, Frames, plain};

type Reply<T> = Result<Response<T>, Status>;

/// One reply message inside its response.
macro_rules! single {
    ($response:ident { $message:expr }) => {
        Ok(Response::new(api::$response { messages: vec![$message] }))
    };
}

#[tonic::async_trait]
impl MachineService for Api {
    async fn apply_configuration(
        &self,
        request: Request<m::ApplyConfigurationRequest>,
    ) -> Reply<m::ApplyConfigurationResponse> {
        single!(ApplyConfigurationResponse { self.apply(request).await? })
    }

    async fn bootstrap(&self, request: Request<m::BootstrapRequest>) -> Reply<m::BootstrapResponse> {
        self.bootstrap_etcd(request.get_ref()).await?;
        single!(BootstrapResponse { m::Bootstrap::default() })
    }

    async fn version(&self, _: Request<()>) -> Reply<m::VersionResponse> {
        single!(VersionResponse { self.version_info() })
    }

    async fn hostname(&self, _: Request<()>) -> Reply<m::HostnameResponse> {
        single!(HostnameResponse { m::Hostname { metadata: None, hostname: self.boot.network().hostname } })
    }

    // Power.

    async fn reboot(&self, request: Request<m::RebootRequest>) -> Reply<m::RebootResponse> {
        let actor_id = self.request_reboot(request.get_ref());
        single!(RebootResponse { m::Reboot { metadata: None, actor_id } })
    }

    async fn shutdown(&self, request: Request<m::ShutdownRequest>) -> Reply<m::ShutdownResponse> {
        let actor_id = self.request_shutdown(request.get_ref());
        single!(ShutdownResponse { m::Shutdown { metadata: None, actor_id } })
    }

    async fn reset(&self, request: Request<m::ResetRequest>) -> Reply<m::ResetResponse> {
        let actor_id = self.request_reset(request.get_ref())?;
        single!(ResetResponse { m::Reset { metadata: None, actor_id } })
    }

    async fn rollback(&self, _: Request<m::RollbackRequest>) -> Reply<m::RollbackResponse> {
        self.request_rollback()?;
        single!(RollbackResponse { m::Rollback::default() })
    }

    async fn upgrade(&self, request: Request<m::UpgradeRequest>) -> Reply<m::UpgradeResponse> {
        let actor_id = self.request_upgrade(request.get_ref()).await?;
        let ack = "Upgrade request received".to_owned();
        single!(UpgradeResponse { m::Upgrade { metadata: None, ack, actor_id } })
    }

    // etcd.

    async fn etcd_member_list(&self, request: Request<m::EtcdMemberListRequest>) -> Reply<m::EtcdMemberListResponse> {
        single!(EtcdMemberListResponse { self.member_list(request.get_ref().query_local)? })
    }

    async fn etcd_remove_member_by_id(
        &self,
        request: Request<m::EtcdRemoveMemberByIdRequest>,
    ) -> Reply<m::EtcdRemoveMemberByIdResponse> {
        self.remove_member(request.get_ref().member_id)?;
        single!(EtcdRemoveMemberByIdResponse { m::EtcdRemoveMemberById::default() })
    }

    async fn etcd_leave_cluster(&self, _: Request<m::EtcdLeaveClusterRequest>) -> Reply<m::EtcdLeaveClusterResponse> {
        self.leave_cluster().await?;
        single!(EtcdLeaveClusterResponse { m::EtcdLeaveCluster::default() })
    }

    async fn etcd_forfeit_leadership(
        &self,
        _: Request<m::EtcdForfeitLeadershipRequest>,
    ) -> Reply<m::EtcdForfeitLeadershipResponse> {
        let member = self.forfeit_leadership()?;
        single!(EtcdForfeitLeadershipResponse { m::EtcdForfeitLeadership { metadata: None, member } })
    }

    async fn etcd_status(&self, _: Request<()>) -> Reply<m::EtcdStatusResponse> {
        let member_status = Some(self.member_status()?);
        single!(EtcdStatusResponse { m::EtcdStatus { metadata: None, member_status } })
    }

    async fn etcd_alarm_list(&self, _: Request<()>) -> Reply<m::EtcdAlarmListResponse> {
        self.local_member("etcd alarm list")?;
        single!(EtcdAlarmListResponse { m::EtcdAlarm::default() })
    }

    async fn etcd_alarm_disarm(&self, _: Request<()>) -> Reply<m::EtcdAlarmDisarmResponse> {
        self.local_member("etcd alarm disarm")?;
        single!(EtcdAlarmDisarmResponse { m::EtcdAlarmDisarm::default() })
    }

    async fn etcd_defragment(&self, _: Request<()>) -> Reply<m::EtcdDefragmentResponse> {
        self.local_member("etcd defragment")?;
        self.boot.work("etcd defragmentation", 2.0).await;
        single!(EtcdDefragmentResponse { m::EtcdDefragment::default() })
    }

    async fn etcd_snapshot(&self, _: Request<m::EtcdSnapshotRequest>) -> Reply<Frames<Data>> {
        Ok(Response::new(self.snapshot()?))
    }

    async fn etcd_recover(&self, request: Request<Streaming<Data>>) -> Reply<m::EtcdRecoverResponse> {
        self.recover(request.into_inner()).await?;
        single!(EtcdRecoverResponse { m::EtcdRecover::default() })
    }

    async fn etcd_downgrade_validate(
        &self,
        request: Request<m::EtcdDowngradeValidateRequest>,
    ) -> Reply<m::EtcdDowngradeValidateResponse> {
        let cluster_downgrade = Some(self.downgrade(&request.get_ref().version)?);
        single!(EtcdDowngradeValidateResponse { m::EtcdDowngradeValidate { metadata: None, cluster_downgrade } })
    }

    // Services.

    async fn service_list(&self, _: Request<()>) -> Reply<m::ServiceListResponse> {
        let services = self.boot.services.list();
        single!(ServiceListResponse { m::ServiceList { metadata: None, services } })
    }

    async fn service_start(&self, request: Request<m::ServiceStartRequest>) -> Reply<m::ServiceStartResponse> {
        let resp = self.control_service(&request.get_ref().id, "start").await?;
        single!(ServiceStartResponse { m::ServiceStart { metadata: None, resp } })
    }

    async fn service_stop(&self, request: Request<m::ServiceStopRequest>) -> Reply<m::ServiceStopResponse> {
        let resp = self.control_service(&request.get_ref().id, "stop").await?;
        single!(ServiceStopResponse { m::ServiceStop { metadata: None, resp } })
    }

    async fn service_restart(&self, request: Request<m::ServiceRestartRequest>) -> Reply<m::ServiceRestartResponse> {
        let resp = self.control_service(&request.get_ref().id, "restart").await?;
        single!(ServiceRestartResponse { m::ServiceRestart { metadata: None, resp } })
    }

    // Streams.

    async fn events(&self, request: Request<m::EventsRequest>) -> Reply<Frames<m::Event>> {
        Ok(Response::new(self.event_stream(request.into_inner())))
    }

    async fn logs(&self, request: Request<m::LogsRequest>) -> Reply<Frames<Data>> {
        Ok(Response::new(self.log_stream(request.get_ref())?))
    }

    async fn logs_containers(&self, _: Request<()>) -> Reply<m::LogsContainersResponse> {
        let mut ids = self.boot.services.ids();
        ids.extend(self.boot.logs.ids());
        ids.sort();
        ids.dedup();
        single!(LogsContainersResponse { m::LogsContainer { metadata: None, ids } })
    }

    async fn dmesg(&self, request: Request<m::DmesgRequest>) -> Reply<Frames<Data>> {
        Ok(Response::new(self.kernel_stream(request.get_ref())))
    }

    // Files.

    async fn read(&self, request: Request<m::ReadRequest>) -> Reply<Frames<Data>> {
        Ok(Response::new(self.read_file(&request.get_ref().path)?))
    }

    async fn list(&self, request: Request<m::ListRequest>) -> Reply<Frames<m::FileInfo>> {
        Ok(Response::new(self.list_files(request.get_ref())?))
    }

    async fn copy(&self, request: Request<m::CopyRequest>) -> Reply<Frames<Data>> {
        Ok(Response::new(self.copy_files(request.get_ref())?))
    }

    async fn disk_usage(&self, request: Request<m::DiskUsageRequest>) -> Reply<Frames<m::DiskUsageInfo>> {
        Ok(Response::new(Self::usage(self, request.get_ref())))
    }

    async fn kubeconfig(&self, _: Request<()>) -> Reply<Frames<Data>> {
        Ok(Response::new(self.admin_kubeconfig()?))
    }

    async fn generate_client_configuration(
        &self,
        request: Request<m::GenerateClientConfigurationRequest>,
    ) -> Reply<m::GenerateClientConfigurationResponse> {
        single!(GenerateClientConfigurationResponse { self.client_configuration(request.get_ref())? })
    }

    async fn meta_write(&self, request: Request<m::MetaWriteRequest>) -> Reply<m::MetaWriteResponse> {
        self.write_meta(request.get_ref())?;
        single!(MetaWriteResponse { m::MetaWrite::default() })
    }

    async fn meta_delete(&self, request: Request<m::MetaDeleteRequest>) -> Reply<m::MetaDeleteResponse> {
        self.delete_meta(request.get_ref())?;
        single!(MetaDeleteResponse { m::MetaDelete::default() })
    }

    // Images, the old way.

    async fn image_list(&self, request: Request<m::ImageListRequest>) -> Reply<Frames<m::ImageListResponse>> {
        Ok(Response::new(self.legacy_image_list(request.get_ref())?))
    }

    async fn image_pull(&self, request: Request<m::ImagePullRequest>) -> Reply<m::ImagePullResponse> {
        self.legacy_image_pull(request.get_ref()).await?;
        single!(ImagePullResponse { m::ImagePull::default() })
    }

    // Monitoring.

    async fn memory(&self, _: Request<()>) -> Reply<m::MemoryResponse> {
        single!(MemoryResponse { self.memory_info() })
    }

    async fn mounts(&self, _: Request<()>) -> Reply<m::MountsResponse> {
        single!(MountsResponse { self.mount_stats() })
    }

    async fn load_avg(&self, _: Request<()>) -> Reply<m::LoadAvgResponse> {
        single!(LoadAvgResponse { m::LoadAvg { metadata: None, load1: 0.42, load5: 0.37, load15: 0.31 } })
    }

    async fn system_stat(&self, _: Request<()>) -> Reply<m::SystemStatResponse> {
        single!(SystemStatResponse { self.system_statistics() })
    }

    async fn cpu_info(&self, _: Request<()>) -> Reply<m::CpuInfoResponse> {
        single!(CpuInfoResponse { self.cpus() })
    }

    async fn cpu_freq_stats(&self, _: Request<()>) -> Reply<m::CpuFreqStatsResponse> {
        single!(CpuFreqStatsResponse { m::CpUsFreqStats::default() })
    }

    async fn network_device_stats(&self, _: Request<()>) -> Reply<m::NetworkDeviceStatsResponse> {
        single!(NetworkDeviceStatsResponse { self.network_devices() })
    }

    async fn disk_stats(&self, _: Request<()>) -> Reply<m::DiskStatsResponse> {
        single!(DiskStatsResponse { self.disk_statistics() })
    }

    async fn packet_capture(&self, request: Request<m::PacketCaptureRequest>) -> Reply<Frames<Data>> {
        Ok(Response::new(self.capture(request.get_ref())?))
    }

    async fn netstat(&self, request: Request<m::NetstatRequest>) -> Reply<m::NetstatResponse> {
        single!(NetstatResponse { Self::sockets(self, request.get_ref()) })
    }

    async fn processes(&self, _: Request<()>) -> Reply<m::ProcessesResponse> {
        single!(ProcessesResponse { self.process_list() })
    }

    async fn containers(&self, request: Request<m::ContainersRequest>) -> Reply<m::ContainersResponse> {
        single!(ContainersResponse { self.container_list(request.get_ref()) })
    }

    async fn stats(&self, request: Request<m::StatsRequest>) -> Reply<m::StatsResponse> {
        single!(StatsResponse { self.container_stats(request.get_ref()) })
    }

    async fn restart(&self, request: Request<m::RestartRequest>) -> Reply<m::RestartResponse> {
        let known = self.container_list(&m::ContainersRequest::default());
        if !known.containers.iter().any(|container| container.id == request.get_ref().id) {
            return Err(plain(format!("container {:?} not found", request.get_ref().id)));
        }
        single!(RestartResponse { m::Restart::default() })
    }
}
