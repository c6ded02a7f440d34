//! What orchestration adds to a deployment: 3 control planes and 3 workers, at several speeds of the datacenter.
//!
//! Wall time is the critical path of the datacenter's delays, divided by its speed, plus what the contractors add. Two speeds
//! tell the two apart; the overhead at speed 1 is what is left of its wall time. The service-account key is ECDSA on P-256: an
//! RSA-4096 key, the default, is one to ten seconds of CPU, which talos-contractor spends beforehand for its pool of two.

use std::time::Instant;

use anyhow::bail;
use bus::identity::Identity;
use cortexctl::client::{Client, Submission};
use cortexctl::watch;
use messages::subject::Party;
use serde_json::json;
use tests::world::{World, WorldOptions};
use uuid::Uuid;

use crate::figures::{Figures, scratch};

const NAME: &str = "deployment";

pub(crate) fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    let real = deploy(1.0)?;
    let faster = deploy(4.0)?;
    let instant = deploy(f64::INFINITY)?;
    let path = (real - faster) / (1.0 - 1.0 / 4.0);
    let overhead = real - path;
    figures.note(NAME, "3 + 3 nodes, realistic delays", real, "s");
    figures.note(NAME, "3 + 3 nodes, four times as fast", faster, "s");
    figures.note(NAME, "3 + 3 nodes, no delays", instant, "s");
    figures.note(NAME, "critical path of the delays", path, "s");
    figures.against("< 5", NAME, "added by orchestration at realistic delays", (100.0 * overhead / path, "%"));
    Ok(())
}

/// Seconds from the request to the flow's end.
fn deploy(speed: f64) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir_in(scratch()?)?;
    // Hypervisors that have just started are unknown until they first report: that is waited for in short steps here.
    let more = ["\n[placement]\nlook_again_seconds = 1\n".to_owned(), String::new()];
    let options = WorldOptions { speed, log: "warn".to_owned(), more, ..WorldOptions::default() };
    let world = World::start(folder.path(), &options)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let client = Client::connect(world.client_options(Identity::Coordinator, "bench")).await?;
        let tail = watch::events_from_now(&client).await?;
        let request = json!({ "request_type": "provision_cluster", "cluster_name": "prod-k8s", "pattern": "ha",
            "service_account_key": "ecdsa-p256" });
        let begun = Instant::now();
        let flow = match client.submit(Party::Infrastructure, "provision_cluster", Uuid::now_v7(), &request).await? {
            Submission::Accepted(accepted) => accepted.flow,
            Submission::AwaitsApproval { .. } => bail!("a creation needs no approval"),
        };
        let (_, view) = watch::follow(&client, flow, tail, |_| {}).await?;
        let state = view.map(|view| view.state);
        if state.as_deref() != Some("succeeded") {
            bail!("the deployment is {state:?}");
        }
        Ok(begun.elapsed().as_secs_f64())
    })
}
