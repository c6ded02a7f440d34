//! Waits that follow the node: its connection, its COSI resources, its event stream.

use std::time::Duration;

use contractor::action::{StepContext, StepError};
use futures::StreamExt;
use talos::{
    api::{
        Client, Error, Happening,
        cosi::{self, MachineStatus, ServiceStatus},
    },
    pki::Role,
    proto::talos::resource::definitions::runtime::MachineStatusSpec,
};
use tokio::time::{Instant, timeout};

use crate::{
    failure::reached,
    inventory::Node,
    reach::{Deps, Missed},
};

/// How long something may be away before its step says so: whoever watches wants to know, and it may never come.
pub const TOLD_AFTER: Duration = Duration::from_secs(10);
/// First and longest pause between two tries to connect to a node that is away.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long one look at a node may take before its state is told to the driver.
const SLICE: Duration = Duration::from_secs(60);
/// How long a node is given to say how it is.
const LOOK: Duration = Duration::from_secs(5);

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
        let away = match deps.try_node(&cx.store, node, role).await {
            Ok(client) => return Ok(client),
            Err(Missed::Away(StepError::Wait { reason, .. })) => StepError::wait(reason, PAUSE.1),
            // Somebody has to know of it, however long it may take.
            Err(missed) => return Err(missed.into_error()),
        };
        if Instant::now() >= until {
            return Err(away);
        }
        tokio::select! {
            () = cx.cancelled.cancelled() => return Err(away),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
        }
    }
}

/// What a node says about itself: its stage and the checks that do not pass. For the reason of a wait.
pub async fn state_of(deps: &Deps, cx: &StepContext, node: &Node) -> String {
    let status = async {
        let client = deps.node(&cx.store, node, Role::Reader).await?;
        client.get::<MachineStatus>(cosi::MACHINE).await.map_err(reached)
    };
    match timeout(LOOK, status).await {
        Ok(Ok(Some(status))) => describe(&status.spec),
        Ok(Ok(None)) => "its status is not known".to_owned(),
        Ok(Err(StepError::Wait { reason, .. })) => {
            reason.strip_prefix(&format!("{}: ", node.hostname)).unwrap_or(&reason).to_owned()
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it does not answer".to_owned(),
    }
}

fn describe(status: &MachineStatusSpec) -> String {
    let stage = status.stage().as_str_name().trim_start_matches("MACHINE_STAGE_").to_lowercase().replace('_', " ");
    let unmet = status.status.iter().flat_map(|status| &status.unmet_conditions);
    let unmet: Vec<_> = unmet.map(|condition| format!("{}: {}", condition.name, condition.reason)).collect();
    if unmet.is_empty() { stage } else { format!("{stage} ({})", unmet.join("; ")) }
}

/// Watches a service's own status until it runs and says that it is healthy.
pub async fn until_up(client: &Client, node: &Node, id: &str) -> Result<(), StepError> {
    let mut last = format!("{id} does not run");
    let up = client
        .until::<ServiceStatus>(id, SLICE, |service| {
            last = match (service.running, service.unknown) {
                (false, _) => format!("{id} does not run"),
                (true, true) => format!("{id} runs, its health is not known yet"),
                (true, false) => format!("{id} is not healthy"),
            };
            service.running && service.healthy && !service.unknown
        })
        .await;
    match up {
        Ok(_) => Ok(()),
        Err(Error::TimedOut { .. }) => Err(StepError::wait(format!("{}: {last}", node.hostname), Duration::ZERO)),
        Err(error) => Err(reached(error)),
    }
}

/// Follows the events of a node until one of its services is as wanted: what has not begun to run has no status to watch.
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
            changed(&mut events, id).await?;
        }
    };
    match timeout(SLICE, follow).await {
        Ok(result) => result,
        Err(_) => Err(StepError::wait(format!("{}: {}", node.hostname, last.trim_end()), Duration::ZERO)),
    }
}

/// Returns when the service's state changed.
async fn changed(events: &mut talos::api::EventStream, id: &str) -> Result<(), StepError> {
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
}
