//! The condition `unschedulable_pods`: pods that no node of a cluster has room for.

use contractor::action::{StepContext, StepError};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};

use crate::failure::asked;

/// How many pods wait for room. Only what more nodes could change counts: the scheduler said `Unschedulable`.
pub async fn unschedulable(client: &Client) -> Result<usize, StepError> {
    let pending = ListParams::default().fields("status.phase=Pending");
    let pods = Api::<Pod>::all(client.clone()).list(&pending).await;
    let pods = pods.map_err(|error| asked("listing pending pods", &error))?;
    Ok(pods.items.iter().filter(|pod| is_unschedulable(pod)).count())
}

fn is_unschedulable(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut refused = conditions.filter(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    refused.next().is_some() && pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none())
}

/// What the trigger needs of a step's context, for callers outside of a run.
pub async fn clusters_under_pressure(
    deps: &crate::reach::Deps,
    cx: &StepContext,
) -> Result<Vec<(messages::name::ClusterName, usize)>, StepError> {
    let mut found = Vec::new();
    for known in crate::inventory::clusters(&cx.store).map_err(crate::failure::read)? {
        let cluster = known.value;
        if cluster.state != crate::inventory::ClusterState::Active {
            continue;
        }
        let Ok(client) = crate::kubernetes::connect(deps, cx, &cluster).await else { continue };
        let waiting = unschedulable(&client).await?;
        if waiting > 0 {
            found.push((cluster.name, waiting));
        }
    }
    Ok(found)
}
