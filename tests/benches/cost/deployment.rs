//! What orchestration adds to a deployment: 3 control planes and 3 workers at realistic delays of the datacenter.
//!
//! The lab records its delays; [`tests::critical_path`] says how long the deployment would take if nothing but those that
//! necessarily follow one another took time. Everything beyond that was added: contractors, bus, and the lab's own computing.
//! The service-account key is ECDSA on P-256: an RSA-4096 key, the default, is one to ten seconds of CPU, which
//! talos-contractor spends beforehand for its pool.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use bus::identity::Identity;
use cortexctl::client::{Client, Submission};
use cortexctl::watch;
use messages::subject::Party;
use proxmox::{
    options::{Credentials, Options, Timeouts},
    targets::AllowedTargets,
    trust::Trust,
};
use serde_json::json;
use simulators::delays::Delay;
use tests::{
    critical_path::{self, Path},
    world::{World, WorldOptions},
};
use uuid::Uuid;

use crate::figures::{Figures, scratch};

const NAME: &str = "deployment";
const REPETITIONS: usize = 3;

/// One deployment.
struct Deployed {
    /// Seconds from the request to the flow's end.
    wall: f64,
    /// Seconds of that in which the datacenter was at nothing.
    idle: f64,
    path: Path,
}

impl Deployed {
    /// What was added to the critical path, as a share of it.
    fn added(&self) -> f64 {
        (self.wall - self.path.seconds) / self.path.seconds
    }
}

pub(crate) fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    let mut all = (0..REPETITIONS).map(|_| deploy(1.0)).collect::<anyhow::Result<Vec<_>>>()?;
    all.sort_by(|left, right| left.added().total_cmp(&right.added()));
    let median = &all[REPETITIONS / 2];
    for link in median.path.links.iter().filter(|link| link.seconds >= 0.05) {
        println!("  {:6.2} s  {}  {}", link.seconds, link.machine, link.what);
    }
    figures.note(NAME, "3 + 3 nodes, realistic delays: critical path", median.path.seconds, "s");
    figures.note(NAME, "3 + 3 nodes, realistic delays: wall time", median.wall, "s");
    let added = "added by orchestration: (wall time - critical path) / critical path";
    figures.against(5.0, NAME, format!("{added}, median of {REPETITIONS}"), (100.0 * median.added(), "%"));
    for (name, one) in [("least", all.first()), ("most", all.last())] {
        figures.note(NAME, format!("{added}, {name}"), one.map_or(0.0, |one| 100.0 * one.added()), "%");
    }
    figures.note(NAME, "share of the wall time without any delay", 100.0 * median.idle / median.wall, "%");
    let instant = deploy(f64::INFINITY)?;
    figures.note(NAME, "3 + 3 nodes, no delays but those of pods: wall time", instant.wall, "s");
    Ok(())
}

fn deploy(speed: f64) -> anyhow::Result<Deployed> {
    let folder = tempfile::tempdir_in(scratch()?)?;
    let lab_arguments = vec!["--record-delays".to_owned()];
    let options = WorldOptions { speed, log: "warn".to_owned(), lab_arguments, ..WorldOptions::default() };
    let world = World::start(folder.path(), &options)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        hosts_report(&world).await?;
        let client = Client::connect(world.client_options(Identity::Coordinator, "bench")).await?;
        let tail = watch::events_from_now(&client).await?;
        let request = json!({ "request_type": "provision_cluster", "cluster_name": "prod-k8s", "pattern": "ha",
            "service_account_key": "ecdsa-p256" });
        let begin = unix_seconds();
        let flow = match client.submit(Party::Infrastructure, "provision_cluster", Uuid::now_v7(), &request).await? {
            Submission::Accepted(accepted) => accepted.flow,
            Submission::AwaitsApproval { .. } => bail!("a creation needs no approval"),
        };
        let (_, view) = watch::follow(&client, flow, tail, |_| {}).await?;
        let end = unix_seconds();
        let state = view.map(|view| view.state);
        if state.as_deref() != Some("succeeded") {
            bail!("the deployment is {state:?}");
        }
        let delays = reqwest::get(format!("{}/v1/delays", world.facts.control)).await?.error_for_status()?;
        let delays = critical_path::between(&delays.json::<Vec<Delay>>().await?, begin, end);
        let idle = critical_path::idle(&delays, begin, end);
        Ok(Deployed { wall: end - begin, idle, path: critical_path::critical_path(&delays) })
    })
}

/// Waits until every hypervisor has reported: one that has just started is unknown for up to ten seconds.
async fn hosts_report(world: &World) -> anyhow::Result<()> {
    let facts = &world.facts;
    let client = proxmox::Client::new(Options {
        endpoints: vec![facts.proxmox.parse().map_err(anyhow::Error::msg)?],
        credentials: Credentials::parse(&facts.api_token).map_err(anyhow::Error::msg)?,
        trust: Trust::Fingerprints(vec![facts.fingerprint.parse().map_err(anyhow::Error::msg)?]),
        allowed_targets: AllowedTargets::loopback(),
        timeouts: Timeouts::default(),
    })
    .map_err(anyhow::Error::msg)?;
    while !client.nodes().await?.iter().all(proxmox::nodes::Node::is_online) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
