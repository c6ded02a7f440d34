//! The health check that runs on a control plane (talos.md 7).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use talos::proto::cluster::cluster_service_server::ClusterService;
use talos::proto::cluster::{HealthCheckProgress, HealthCheckRequest};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::{Api, Frames};
use crate::talos::config::MachineType;
use crate::talos::join;
use crate::talos::node::{Boot, Stage};

/// The nodes under check.
struct Nodes {
    control_planes: Vec<IpAddr>,
    workers: Vec<IpAddr>,
}

type Check = fn(&Boot, &Nodes) -> Result<(), String>;

/// The checks in their order, as a user sees them.
const CHECKS: [(&str, Check); 16] = [
    ("etcd to be healthy", |boot, nodes| service(boot, &nodes.control_planes, "etcd")),
    ("etcd members to be consistent across nodes", consistent_members),
    ("etcd members to be control plane nodes", members_are_control_planes),
    ("apid to be ready", |boot, nodes| each(boot, &nodes.all(), |_| Ok(()))),
    ("all nodes memory sizes", memory),
    ("all nodes disk sizes", disks),
    ("no diagnostics", |boot, nodes| each(boot, &nodes.all(), |_| Ok(()))),
    ("kubelet to be healthy", |boot, nodes| service(boot, &nodes.control_planes, "kubelet")),
    ("all nodes to finish boot sequence", |boot, nodes| {
        each(boot, &nodes.all(), |node| if node.stage() == Stage::Running { Ok(()) } else { Err("not running".into()) })
    }),
    ("all k8s nodes to report", nodes_report),
    ("all control plane static pods to be running", static_pods),
    ("all control plane components to be ready", components),
    ("all k8s nodes to report ready", nodes_ready),
    ("kube-proxy to report ready", kube_proxy),
    ("coredns to report ready", coredns),
    ("all k8s nodes to report schedulable", schedulable),
];

#[tonic::async_trait]
impl ClusterService for Api {
    async fn health_check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Frames<HealthCheckProgress>>, Status> {
        self.control_plane_only("health check")?;
        let request = request.into_inner();
        let wait = request.wait_timeout.and_then(|wait| Duration::try_from(wait).ok()).filter(|wait| !wait.is_zero());
        let wait = wait.unwrap_or(Duration::from_secs(20 * 60));
        let info = request.cluster_info.unwrap_or_default();
        let parse = |names: &[String]| names.iter().filter_map(|name| name.parse().ok()).collect::<Vec<_>>();
        let mut nodes = Nodes { control_planes: parse(&info.control_plane_nodes), workers: parse(&info.worker_nodes) };
        if nodes.control_planes.is_empty() && nodes.workers.is_empty() {
            nodes = discovered(&self.boot);
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let boot = Arc::clone(&self.boot);
        self.boot.spawn(async move {
            let checks = run(&boot, &nodes, &sender);
            if tokio::time::timeout(wait, checks).await.is_err() {
                let text = "healthcheck error: rpc error: code = DeadlineExceeded desc = context deadline exceeded";
                // The client may have gone.
                let _ = sender.send(Err(Status::unknown(text)));
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::UnboundedReceiverStream::new(receiver))))
    }
}

impl Nodes {
    fn all(&self) -> Vec<IpAddr> {
        self.control_planes.iter().chain(&self.workers).copied().collect()
    }
}

fn discovered(boot: &Boot) -> Nodes {
    let known = boot.discovery_key().map(|key| boot.world.affiliates(&key)).unwrap_or_default();
    let of = |wanted: MachineType| {
        let matching = known.iter().filter(|affiliate| affiliate.machine_type == wanted);
        matching.filter_map(|affiliate| affiliate.addresses.first().copied()).collect()
    };
    Nodes { control_planes: of(MachineType::ControlPlane), workers: of(MachineType::Worker) }
}

async fn run(boot: &Boot, nodes: &Nodes, sender: &mpsc::UnboundedSender<Result<HealthCheckProgress, Status>>) {
    let say = |message: String| sender.send(Ok(HealthCheckProgress { metadata: None, message })).is_ok();
    let quoted: Vec<String> = nodes.all().iter().map(|address| format!("{:?}", address.to_string())).collect();
    say(format!("discovered nodes: [{}]", quoted.join(" ")));
    for (description, check) in CHECKS {
        let mut last = String::new();
        say(format!("waiting for {description}: ..."));
        loop {
            let state = check(boot, nodes).err().unwrap_or_else(|| "OK".to_owned());
            if state != last && !say(format!("waiting for {description}: {state}")) {
                return;
            }
            last = state;
            if last == "OK" {
                break;
            }
            boot.world.idle(Duration::from_secs(5)).await;
        }
    }
}

fn each(boot: &Boot, nodes: &[IpAddr], check: impl Fn(&Boot) -> Result<(), String>) -> Result<(), String> {
    let failed = |address: &IpAddr| match boot.world.node_at(*address) {
        None => Some(format!("{address}: rpc error: code = Unavailable desc = connection error")),
        Some(node) => check(&node).err().map(|text| format!("{address}: {text}")),
    };
    let failures: Vec<String> = nodes.iter().filter_map(failed).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

fn service(boot: &Boot, nodes: &[IpAddr], id: &str) -> Result<(), String> {
    each(boot, nodes, |node| match node.services.problem(id) {
        None => Ok(()),
        Some(problem) => Err(format!("service {problem}")),
    })
}

fn consistent_members(boot: &Boot, nodes: &Nodes) -> Result<(), String> {
    let own = boot.etcd.running().ok_or("etcd is not running")?;
    each(boot, &nodes.control_planes, |node| match node.etcd.running() {
        Some(data) if data.cluster.is(&own.cluster) => Ok(()),
        _ => Err("etcd member list is different".into()),
    })
}

fn members_are_control_planes(boot: &Boot, nodes: &Nodes) -> Result<(), String> {
    let data = boot.etcd.running().ok_or("etcd is not running")?;
    let stranger = data.cluster.read(|membership| {
        membership.members().find(|member| !nodes.control_planes.contains(&member.address)).map(|member| member.id)
    });
    stranger.map_or(Ok(()), |id| Err(format!("etcd member {id:016x} is not a control plane node")))
}

fn memory(boot: &Boot, nodes: &Nodes) -> Result<(), String> {
    let enough = |minimum: u64| {
        move |node: &Boot| {
            let actual = node.machine.memory_mib * 97 / 100;
            if actual >= minimum { Ok(()) } else { Err(format!("memory {actual} MiB is less than {minimum} MiB")) }
        }
    };
    each(boot, &nodes.control_planes, enough(1848 - 150))?;
    each(boot, &nodes.workers, enough(1024 - 150))
}

fn disks(boot: &Boot, nodes: &Nodes) -> Result<(), String> {
    // Six GiB for everything that Talos partitions; what stands before EPHEMERAL is counted in.
    const MINIMUM: u64 = (6 << 30) - (2400 << 20);
    each(boot, &nodes.all(), |node| match node.ephemeral_bytes() {
        enough if enough >= MINIMUM => Ok(()),
        size => Err(format!("ephemeral partition size {size} is less than {MINIMUM}")),
    })
}

fn kube_proxy(boot: &Boot, nodes: &Nodes) -> Result<(), String> {
    if boot.active_config().is_none_or(|config| config.kube_proxy_image(boot.release.line).is_none()) {
        return Ok(());
    }
    let control_plane = join::find_control_plane(boot).ok_or("the Kubernetes API is not reachable")?;
    let pods = control_plane.list("pods", Some("kube-system"));
    let ready = pods.iter().filter(|pod| pod["metadata"]["labels"]["k8s-app"] == "kube-proxy" && is_ready(pod)).count();
    if ready >= nodes.all().len() {
        Ok(())
    } else {
        Err(format!("{ready} of {} kube-proxy pods are ready", nodes.all().len()))
    }
}

fn kubernetes_nodes(boot: &Boot) -> Result<Vec<Arc<Value>>, String> {
    let control_plane = join::find_control_plane(boot).ok_or("the Kubernetes API is not reachable")?;
    Ok(control_plane.list("nodes", None))
}

fn nodes_report(boot: &Boot, nodes: &Nodes) -> Result<(), String> {
    let known = kubernetes_nodes(boot)?;
    let addresses: Vec<&str> = known
        .iter()
        .flat_map(|node| node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten())
        .filter_map(|address| address["address"].as_str())
        .collect();
    let missing = nodes.all().into_iter().find(|address| !addresses.contains(&address.to_string().as_str()));
    missing.map_or(Ok(()), |address| Err(format!("can't find expected node with IPs [{address}]")))
}

fn static_pods(boot: &Boot, nodes: &Nodes) -> Result<(), String> {
    each(boot, &nodes.control_planes, |node| {
        let kubelet = node.state().kubelet.clone().ok_or("kubelet is not running")?;
        let ready = crate::talos::publish::ready_static_pods(&kubelet);
        if ready >= 3 { Ok(()) } else { Err("missing static pods".into()) }
    })
}

fn components(boot: &Boot, nodes: &Nodes) -> Result<(), String> {
    let control_plane = join::find_control_plane(boot).ok_or("the Kubernetes API is not reachable")?;
    let pods = control_plane.list("pods", Some("kube-system"));
    for component in ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        let count =
            pods.iter().filter(|pod| pod["metadata"]["labels"]["k8s-app"] == component && is_ready(pod)).count();
        if count < nodes.control_planes.len() {
            return Err(format!(
                "no ready pods found for namespace \"kube-system\" and label selector \"k8s-app={component}\""
            ));
        }
    }
    Ok(())
}

fn is_ready(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn nodes_ready(boot: &Boot, _: &Nodes) -> Result<(), String> {
    if boot.active_config().is_some_and(|config| config.cni(boot.release.line) == "none") {
        return Ok(());
    }
    let not_ready: Vec<String> = kubernetes_nodes(boot)?
        .iter()
        .filter(|node| !is_ready(node))
        .map(|node| node["metadata"]["name"].to_string())
        .collect();
    if not_ready.is_empty() { Ok(()) } else { Err(format!("some nodes are not ready: [{}]", not_ready.join(" "))) }
}

fn coredns(boot: &Boot, _: &Nodes) -> Result<(), String> {
    let config = boot.active_config();
    let skipped =
        config.is_none_or(|config| config.cni(boot.release.line) == "none" || config.coredns_image().is_none());
    if skipped {
        return Ok(());
    }
    let control_plane = join::find_control_plane(boot).ok_or("the Kubernetes API is not reachable")?;
    let pods = control_plane.list("pods", Some("kube-system"));
    let ready = pods.iter().any(|pod| pod["metadata"]["labels"]["k8s-app"] == "kube-dns" && is_ready(pod));
    if ready {
        Ok(())
    } else {
        Err("no ready pods found for namespace \"kube-system\" and label selector \"k8s-app=kube-dns\"".into())
    }
}

fn schedulable(boot: &Boot, _: &Nodes) -> Result<(), String> {
    let cordoned = |node: &&Arc<Value>| node["spec"]["unschedulable"] == true;
    let names: Vec<String> =
        kubernetes_nodes(boot)?.iter().filter(cordoned).map(|node| node["metadata"]["name"].to_string()).collect();
    if names.is_empty() { Ok(()) } else { Err(format!("some nodes are not schedulable: [{}]", names.join(" "))) }
}
