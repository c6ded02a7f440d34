//! The health checks of `talosctl health` (talos.md 7), asked from here, and how fast the API answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use contractor::action::StepError;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node as KubernetesNode, Pod};
use kube::{Api, Client as Kubernetes, api::ListParams};
use messages::request::Cni;
use store::Reader;
use talos::{
    api::{
        Client, EtcdMember,
        cosi::{self, Diagnostic, MachineStatus},
    },
    pki::Role,
    proto::talos::resource::definitions::enums::RuntimeMachineStage,
};

use crate::{
    actions::wait_nodes_ready::ready,
    failure::chain,
    inventory::{Cluster, Health, Node},
    kubernetes,
    reach::Deps,
};

/// How often the API is asked for its answer time.
const SAMPLES: usize = 20;
/// What the nodes of each role need at least, KiB: Talos's own minimum less what firmware takes (talos.md 7).
const MEMORY_KIB: (u64, u64) = ((1848 - 150) * 1024, (1024 - 150) * 1024);

/// What was found so far.
#[derive(Default)]
struct Findings(BTreeMap<String, Option<String>>);

impl Findings {
    fn note(&mut self, check: &str, problems: Vec<String>) {
        self.0.insert(check.to_owned(), (!problems.is_empty()).then(|| problems.join("; ")));
    }
}

/// What one node says about itself.
struct Seen<'n> {
    node: &'n Node,
    facts: Result<Facts, String>,
}

struct Facts {
    services: Vec<talos::api::Service>,
    members: Option<Vec<EtcdMember>>,
    memory_kib: u64,
    status: String,
    running: bool,
    /// What a running node still lacks, by the names of Talos's checks.
    unmet: Vec<String>,
    diagnostics: Vec<String>,
}

/// Checks a cluster; what cannot be asked counts as a problem and not as an error.
pub async fn check(deps: &Deps, store: &Reader, cluster: &Cluster, nodes: &[Node]) -> Result<Health, StepError> {
    let seen = join_all(nodes.iter().map(|node| see(deps, store, node))).await;
    let mut findings = Findings::default();
    machines(&mut findings, cluster, &seen);
    etcd(&mut findings, &seen);
    let mut p95 = 0.0;
    match kubernetes::connect(deps, store, cluster).await {
        Ok(client) => {
            findings.note("Kubernetes API", Vec::new());
            kubernetes_nodes(&mut findings, &client, cluster, nodes).await;
            system_pods(&mut findings, &client, cluster, nodes).await;
            p95 = answer_time(&client).await;
        }
        Err(error) => findings.note("Kubernetes API", vec![error.to_string()]),
    }
    let healthy = findings.0.values().all(Option::is_none);
    Ok(Health { checked: Timestamp::now(), healthy, checks: findings.0, api_p95_ms: p95 })
}

async fn see<'n>(deps: &Deps, store: &Reader, node: &'n Node) -> Seen<'n> {
    let facts = async {
        let client = deps.node(store, node, Role::Reader).await.map_err(|error| error.to_string())?;
        facts(&client, node).await.map_err(|error| chain(&error))
    };
    Seen { node, facts: facts.await }
}

async fn facts(client: &Client, node: &Node) -> Result<Facts, talos::api::Error> {
    let status = client.get::<MachineStatus>(cosi::MACHINE).await?.map(|status| status.spec).unwrap_or_default();
    let members = if node.is_control_plane() { client.etcd_members(true).await.ok() } else { None };
    let unmet = status.status.as_ref().map(|status| status.unmet_conditions.as_slice()).unwrap_or_default();
    Ok(Facts {
        services: client.services().await?,
        members,
        memory_kib: client.memory_kib().await?,
        running: status.stage() == RuntimeMachineStage::MachineStageRunning
            && status.status.as_ref().is_some_and(|status| status.ready || !unmet.is_empty()),
        unmet: unmet.iter().map(|condition| condition.name.clone()).collect(),
        status: status.stage().as_str_name().to_owned(),
        diagnostics: client.list::<Diagnostic>().await?.into_iter().map(|of| of.spec.message).collect(),
    })
}

fn machines(findings: &mut Findings, cluster: &Cluster, seen: &[Seen<'_>]) {
    let each = |problem: &dyn Fn(&Node, &Facts) -> Option<String>| -> Vec<String> {
        let known = seen.iter().filter_map(|seen| Some((seen.node, seen.facts.as_ref().ok()?)));
        known.filter_map(|(node, facts)| Some(format!("{}: {}", node.hostname, problem(node, facts)?))).collect()
    };
    let silent = seen
        .iter()
        .filter_map(|seen| seen.facts.as_ref().err().map(|error| format!("{}: {error}", seen.node.hostname)));
    findings.note("Talos API", silent.collect());
    // Without a CNI no node comes to be Ready, and none of them calls itself so (talos.md 6.1).
    let without_cni = cluster.spec.network_cni == Some(Cni::None);
    findings.note("boot sequence", each(&|_, facts| boot_problem(facts, without_cni)));
    findings.note(
        "memory",
        each(&|node, facts| {
            let least = if node.is_control_plane() { MEMORY_KIB.0 } else { MEMORY_KIB.1 };
            (facts.memory_kib < least).then(|| format!("{} KiB, {least} KiB are needed", facts.memory_kib))
        }),
    );
    findings
        .note("diagnostics", each(&|_, facts| (!facts.diagnostics.is_empty()).then(|| facts.diagnostics.join(", "))));
    findings.note("kubelet", each(&|_, facts| service_problem(facts, "kubelet")));
}

/// Why a node has not come up: its stage, or what it lacks in the last one.
fn boot_problem(facts: &Facts, without_cni: bool) -> Option<String> {
    if !facts.running {
        return Some(facts.status.clone());
    }
    let lacking: Vec<&str> =
        facts.unmet.iter().map(String::as_str).filter(|name| !(without_cni && *name == "nodeReady")).collect();
    (!lacking.is_empty()).then(|| format!("{}, and lacks {}", facts.status, lacking.join(", ")))
}

fn service_problem(facts: &Facts, id: &str) -> Option<String> {
    match facts.services.iter().find(|service| service.id == id) {
        None => Some("is not there".to_owned()),
        Some(service) if service.is_up() => None,
        Some(service) => Some(format!("{} {}", service.state, service.message)),
    }
}

fn etcd(findings: &mut Findings, seen: &[Seen<'_>]) {
    let planes: Vec<_> = seen.iter().filter(|seen| seen.node.is_control_plane()).collect();
    let names: BTreeSet<_> = planes.iter().map(|seen| seen.node.hostname.to_string()).collect();
    let (mut unhealthy, mut views, mut strangers) = (Vec::new(), BTreeSet::new(), Vec::new());
    for plane in planes {
        let Ok(facts) = &plane.facts else { continue };
        unhealthy.extend(service_problem(facts, "etcd").map(|problem| format!("{}: {problem}", plane.node.hostname)));
        let Some(members) = &facts.members else {
            unhealthy.push(format!("{}: it does not list its members", plane.node.hostname));
            continue;
        };
        let listed: BTreeSet<_> = members.iter().map(|member| member.hostname.clone()).collect();
        strangers.extend(listed.symmetric_difference(&names).cloned());
        views.insert(members.iter().map(|member| (member.id, member.is_learner)).collect::<BTreeSet<_>>());
    }
    let learners = views.iter().flatten().filter(|(_, learner)| *learner).count();
    unhealthy.extend((learners > 0).then(|| format!("{learners} members are learners")));
    findings.note("etcd", unhealthy);
    findings.note(
        "etcd consistency",
        if views.len() > 1 { vec!["the members disagree about who is one".to_owned()] } else { Vec::new() },
    );
    findings.note("etcd members are control planes", strangers);
}

async fn kubernetes_nodes(findings: &mut Findings, client: &Kubernetes, cluster: &Cluster, nodes: &[Node]) {
    let listed = Api::<KubernetesNode>::all(client.clone()).list(&ListParams::default()).await;
    let listed = match listed {
        Ok(list) => list.items,
        Err(error) => return findings.note("nodes report", vec![chain(&error)]),
    };
    let find = |node: &Node| listed.iter().find(|of| of.metadata.name.as_deref() == Some(node.hostname.as_str()));
    let missing = nodes.iter().filter(|node| find(node).is_none()).map(|node| node.hostname.to_string());
    findings.note("nodes report", missing.collect());
    if cluster.spec.network_cni != Some(Cni::None) {
        let unready = nodes.iter().filter(|node| find(node).is_some_and(|of| !ready(of)));
        findings.note("nodes are Ready", unready.map(|node| node.hostname.to_string()).collect());
    }
    let cordoned = |of: &KubernetesNode| of.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
    let cordoned = nodes.iter().filter(|node| find(node).is_some_and(cordoned));
    findings.note("nodes are schedulable", cordoned.map(|node| node.hostname.to_string()).collect());
}

async fn system_pods(findings: &mut Findings, client: &Kubernetes, cluster: &Cluster, nodes: &[Node]) {
    let api = Api::<Pod>::namespaced(client.clone(), "kube-system");
    let pods = match api.list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(error) => return findings.note("system pods", vec![chain(&error)]),
    };
    let planes = nodes.iter().filter(|node| node.is_control_plane()).count();
    let of = |app: &str| {
        pods.iter().filter(|pod| label(pod, "k8s-app") == app || label(pod, "component") == app).collect::<Vec<_>>()
    };
    for app in ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        let running = of(app).into_iter().filter(|pod| is_ready(pod)).count();
        let problem = (running < planes).then(|| format!("{running} of {planes} are ready"));
        findings.note(app, problem.into_iter().collect());
    }
    // Without a pod network only what runs on the host network can be ready.
    let others: &[_] =
        if cluster.spec.network_cni == Some(Cni::None) { &["kube-proxy"] } else { &["kube-proxy", "kube-dns"] };
    for app in others {
        let unready = of(app).into_iter().filter(|pod| !is_ready(pod));
        findings.note(app, unready.filter_map(|pod| pod.metadata.name.clone()).collect());
    }
}

fn label<'p>(pod: &'p Pod, name: &str) -> &'p str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map_or("", String::as_str)
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// 95th percentile of the time for a small read, in milliseconds.
async fn answer_time(client: &Kubernetes) -> f64 {
    let mut times = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let begin = Instant::now();
        if client.apiserver_version().await.is_ok() {
            times.push(begin.elapsed());
        }
    }
    percentile(times)
}

fn percentile(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let at = (times.len() * 95).div_ceil(100).saturating_sub(1);
    let millis = times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    (millis * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_95th_of_a_hundred_is_the_95th() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(times), 95.0);
        assert_eq!(percentile(vec![Duration::from_micros(1234)]), 1.23);
        assert_eq!(percentile(Vec::new()), 0.0);
    }
}
