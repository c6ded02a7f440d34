//! Files, containers, images and sockets, as talosctl asks for them, and refusals of streams through a control plane.

use std::io::Read as _;

use talos::config::generate::Role;
use talos::pki;
use talos::proto::common::{ContainerDriver, Data};
use talos::proto::cosi::resource::GetRequest;
use talos::proto::cosi::resource::state_client::StateClient;
use talos::proto::machine as m;
use talos::proto::machine::machine_service_client::MachineServiceClient;
use tonic::{Code, Request, Streaming};

use crate::harness::{Lab, bootstrap, channel, until};

async fn bytes(mut frames: Streaming<Data>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(frame) = frames.message().await.unwrap() {
        all.extend_from_slice(&frame.bytes);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_shows_its_files_containers_and_sockets() {
    let lab = Lab::new("v1.13.9");
    lab.join(lab.machine(1, "v1.13.9"), 1, Role::ControlPlane).await;
    bootstrap(&lab.secure(1).await).await;
    lab.running(1).await;
    let admin = lab.credentials(pki::Role::Admin);
    let mut machine = MachineServiceClient::new(channel(&lab, 1, &admin).await);

    let read = m::ReadRequest { path: "/proc/cmdline".into() };
    let text = String::from_utf8(bytes(machine.read(read).await.unwrap().into_inner()).await).unwrap();
    assert!(text.starts_with("talos.platform=nocloud "), "{text}");
    let list = m::ListRequest { root: "/etc".into(), recurse: true, ..m::ListRequest::default() };
    let mut files = machine.list(list).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(file) = files.message().await.unwrap() {
        seen.push((file.relative_name, file.is_dir));
    }
    for wanted in [(".", true), ("hostname", false), ("kubernetes/manifests", true)] {
        assert!(seen.contains(&(wanted.0.to_owned(), wanted.1)), "{wanted:?} in {seen:?}");
    }
    let usage =
        m::DiskUsageRequest { paths: vec!["/var".into()], recursion_depth: 1, ..m::DiskUsageRequest::default() };
    let first = machine.disk_usage(usage).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert!(first.relative_name == "." && first.size > 4096);
    let copy = m::CopyRequest { root_path: "/sys/fs/cgroup".into() };
    let archive = bytes(machine.copy(copy).await.unwrap().into_inner()).await;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive.as_slice()));
    let mut found = String::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().ends_with("system/etcd/memory.current") {
            entry.read_to_string(&mut found).unwrap();
        }
    }
    assert!(found.trim().parse::<u64>().is_ok(), "{found:?}");
    containers_and_sockets(&mut machine).await;

    // talosctl patches and edits the configuration by its whole text, which this annotation promises.
    let mut state = StateClient::new(channel(&lab, 1, &admin).await);
    let get = GetRequest {
        namespace: "config".into(),
        r#type: "MachineConfigs.config.talos.dev".into(),
        id: "v1alpha1".into(),
        options: None,
    };
    let resource = state.get(get).await.unwrap().into_inner().resource.unwrap();
    assert_eq!(resource.metadata.unwrap().annotations["talos.dev/yaml-spec"], "1");
}

async fn containers_and_sockets(machine: &mut MachineServiceClient<tonic::transport::Channel>) {
    let driver = ContainerDriver::Cri.into();
    let pods = m::ContainersRequest { namespace: "k8s.io".into(), driver };
    let id = until("the API server's container is listed", || {
        let mut machine = machine.clone();
        let pods = pods.clone();
        async move {
            let reply = machine.containers(pods).await.unwrap().into_inner();
            let containers = reply.messages.into_iter().flat_map(|message| message.containers);
            containers.map(|it| it.id).find(|id| id.starts_with("kube-system/kube-apiserver-demo-1:kube-apiserver:"))
        }
    })
    .await;
    let logs = m::LogsRequest { namespace: "k8s.io".into(), driver, id, follow: false, tail_lines: -1 };
    let log = bytes(machine.logs(logs.clone()).await.unwrap().into_inner()).await;
    assert!(String::from_utf8(log).unwrap().contains("kube-apiserver from registry.k8s.io/kube-apiserver:"));
    let absent = m::LogsRequest { id: "kube-system/none:none".into(), ..logs };
    assert!(machine.logs(absent).await.unwrap_err().message().contains("not found"));
    let service = m::LogsRequest {
        namespace: "system".into(),
        id: "kubelet".into(),
        tail_lines: -1,
        ..m::LogsRequest::default()
    };
    assert!(!bytes(machine.logs(service).await.unwrap().into_inner()).await.is_empty());
    let sockets = machine.netstat(m::NetstatRequest::default()).await.unwrap().into_inner();
    let ports: Vec<u32> = sockets.messages[0].connectrecord.iter().map(|it| it.localport).collect();
    assert!([50_000, 50_001, 2379, 6443, 10_250].iter().all(|port| ports.contains(port)), "{ports:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_stream_through_a_control_plane_says_why() {
    let lab = Lab::new("v1.13.9");
    lab.join(lab.machine(1, "v1.13.9"), 1, Role::ControlPlane).await;
    bootstrap(&lab.secure(1).await).await;
    lab.running(1).await;
    let mut machine = MachineServiceClient::new(channel(&lab, 1, &lab.credentials(pki::Role::Admin)).await);
    let mut absent = Request::new(m::ReadRequest { path: "/nope".into() });
    absent.metadata_mut().append("nodes", lab.address(1).to_string().parse().unwrap());
    let frame = machine.read(absent).await.unwrap().into_inner().message().await.unwrap().unwrap();
    let failed = frame.metadata.unwrap();
    assert_eq!(failed.hostname, lab.address(1).to_string());
    assert_eq!(failed.status.unwrap().code, i32::from(Code::NotFound as u8));
    assert!(failed.error.contains("no such file or directory"), "{}", failed.error);
}
