//! The condition `unschedulable_pods`: pods that no node of a cluster has room for.

use contractor::action::StepError;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use messages::name::ClusterName;
use store::Reader;

use crate::{
    failure::{asked, read},
    inventory::{self, ClusterState},
    kubernetes,
    reach::Deps,
};

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

/// The clusters that stand and have such pods, with how many. One whose API does not answer is left out.
pub async fn clusters_under_pressure(deps: &Deps, store: &Reader) -> Result<Vec<(ClusterName, usize)>, StepError> {
    let mut found = Vec::new();
    for cluster in inventory::clusters(store).map_err(read)?.into_iter().map(|known| known.value) {
        if cluster.state != ClusterState::Active {
            continue;
        }
        let Ok(client) = kubernetes::connect(deps, store, &cluster).await else { continue };
        if let Ok(waiting @ 1..) = unschedulable(&client).await {
            found.push((cluster.name, waiting));
        }
    }
    Ok(found)
}
