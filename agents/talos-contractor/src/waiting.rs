//! Waits that follow the node: its connection, its COSI resources, its event stream.

use std::time::Duration;

use contractor::action::{StepContext, StepError};
use futures::StreamExt;
use talos::{
    api::{
        Client, Error, Happening,
        cosi::{self, MachineStatus},
    },
    pki::Role,
    proto::talos::resource::definitions::{enums::RuntimeMachineStage, runtime::MachineStatusSpec},
};
use tokio::time::{Instant, timeout};

use crate::{failure::reached, inventory::Node, reach::Deps};

/// First and longest pause between two tries to connect to a node that is away.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long one look at a node may take before its state is told to the driver.
const SLICE: Duration = Duration::from_secs(60);

/// Connects to a node that may be booting; tries until it answers, at most `within`.
pub async fn for_node(
    deps: &Deps,
    cx: &StepContext,
    node: &Node,
    role: Role,
    within: Duration,
) -> Result<Client, StepError> {
    let until = Instant::now() + within;
    let mut pause = PAUSE.0;
    loop {
        match deps.node(&cx.store, node, role).await {
            Err(StepError::Wait { reason, .. }) => {
                if Instant::now() >= until {
                    return Err(StepError::wait(reason, PAUSE.1));
                }
            }
            other => return other,
        }
        tokio::select! {
            () = cx.cancelled.cancelled() => return Err(StepError::wait("cancelled", Duration::ZERO)),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
        }
    }
}

/// Follows the machine's status until it runs and every readiness check passes.
pub async fn until_running(client: &Client, node: &Node) -> Result<(), StepError> {
    let mut last = String::from("its status is not known");
    let running = client
        .until::<MachineStatus>(cosi::MACHINE, SLICE, |status| {
            last = describe(status);
            status.stage() == RuntimeMachineStage::MachineStageRunning
                && status.status.as_ref().is_some_and(|status| status.ready)
        })
        .await;
    match running {
        Ok(_) => Ok(()),
        Err(Error::TimedOut { .. }) => {
            Err(StepError::wait(format!("{} is not running: {last}", node.hostname), Duration::ZERO))
        }
        Err(error) => Err(reached(error)),
    }
}

fn describe(status: &MachineStatusSpec) -> String {
    let stage = status.stage().as_str_name().trim_start_matches("MACHINE_STAGE_").to_lowercase().replace('_', " ");
    let unmet = status.status.iter().flat_map(|status| &status.unmet_conditions);
    let unmet: Vec<_> = unmet.map(|condition| format!("{}: {}", condition.name, condition.reason)).collect();
    if unmet.is_empty() { stage } else { format!("{stage} ({})", unmet.join("; ")) }
}

/// Follows the events of a node until one of its services is in one of `states`.
///
/// The stream is opened before the service is asked, so that nothing happens unseen in between.
pub async fn until_service(
    client: &Client,
    node: &Node,
    id: &str,
    is_there: impl Fn(&talos::api::Service) -> bool,
) -> Result<(), StepError> {
    let mut last = format!("{id} is not known");
    let follow = async {
        let mut events = client.events(0, None).await.map_err(reached)?;
        loop {
            let services = client.services().await.map_err(reached)?;
            if let Some(service) = services.iter().find(|service| service.id == id) {
                if is_there(service) {
                    return Ok(());
                }
                last = format!("{id} is {} {}", service.state, service.message);
            }
            wait_for_change(&mut events, id).await?;
        }
    };
    match timeout(SLICE, follow).await {
        Ok(result) => result,
        Err(_) => Err(StepError::wait(format!("{}: {}", node.hostname, last.trim_end()), Duration::ZERO)),
    }
}

/// Returns when the service's state changed, or after a while: health is not told by events.
async fn wait_for_change(events: &mut talos::api::EventStream, id: &str) -> Result<(), StepError> {
    const HEALTH: Duration = Duration::from_secs(1);
    let changed = async {
        loop {
            match events.next().await {
                Some(Ok(event)) => match event.happening {
                    Happening::Service(state) if state.service == id => return Ok(()),
                    _ => {}
                },
                Some(Err(error)) => return Err(reached(error)),
                None => return Err(StepError::wait("the node went away", PAUSE.0)),
            }
        }
    };
    timeout(HEALTH, changed).await.unwrap_or(Ok(()))
}
