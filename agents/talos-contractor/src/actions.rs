//! Everything that this contractor's playbooks can do, one action per file.

pub mod activate_cluster;
pub mod apply_config;
pub mod bootstrap_etcd;
pub mod check_health;
pub mod cordon_node;
pub mod delete_node;
pub mod drain_node;
pub mod ensure_secrets;
pub mod forget_cluster;
pub mod forget_node;
pub mod install_addon;
pub mod install_cilium;
pub mod label_nodes;
pub mod list_clusters;
pub mod plan_scale_up;
pub mod register_cluster;
pub mod register_nodes;
pub mod reset_node;
pub mod seal_credentials;
pub mod select_nodes;
pub mod smoke_test;
pub mod wait_etcd_ready;
pub mod wait_kubernetes;
pub mod wait_members;
pub mod wait_nodes_ready;
pub mod wait_workloads;

use contractor::action::{Actions, StepContext, StepError};
use messages::name::ClusterName;
use store::Reader;

use crate::{
    failure::read,
    inventory::{self, Node},
    reach::{Deps, control_planes},
};

/// The actions of this contractor.
pub fn actions(deps: &Deps) -> Actions {
    let deps = || deps.clone();
    Actions::default()
        .with(register_cluster::RegisterCluster(deps()))
        .with(register_nodes::RegisterNodes)
        .with(ensure_secrets::EnsureSecrets)
        .with(apply_config::ApplyConfig(deps()))
        .with(wait_etcd_ready::WaitEtcdReady(deps()))
        .with(bootstrap_etcd::BootstrapEtcd(deps()))
        .with(wait_members::WaitMembers(deps()))
        .with(wait_kubernetes::WaitKubernetes(deps()))
        .with(seal_credentials::SealCredentials)
        .with(install_cilium::InstallCilium(deps()))
        .with(install_addon::InstallAddon(deps()))
        .with(wait_workloads::WaitWorkloads(deps()))
        .with(wait_nodes_ready::WaitNodesReady(deps()))
        .with(label_nodes::LabelNodes(deps()))
        .with(smoke_test::SmokeTest(deps()))
        .with(check_health::CheckHealth(deps()))
        .with(activate_cluster::ActivateCluster)
        .with(select_nodes::SelectNodes(deps()))
        .with(cordon_node::CordonNode(deps()))
        .with(drain_node::DrainNode(deps()))
        .with(reset_node::ResetNode(deps()))
        .with(delete_node::DeleteNode(deps()))
        .with(forget_node::ForgetNode)
        .with(forget_cluster::ForgetCluster)
        .with(list_clusters::ListClusters)
        .with(plan_scale_up::PlanScaleUp(deps()))
}

/// The control plane that etcd begins on: always the same one.
fn first_control_plane(cx: &StepContext, cluster: &ClusterName) -> Result<Node, StepError> {
    let planes = control_planes(&cx.store, cluster)?;
    planes.into_iter().next().ok_or_else(|| StepError::fail(format!("cluster {cluster} has no control plane")))
}

/// The nodes of a cluster, sorted by name.
pub(crate) fn nodes_of(store: &Reader, cluster: &ClusterName) -> Result<Vec<Node>, StepError> {
    Ok(inventory::nodes(store, cluster).map_err(read)?.into_iter().map(|node| node.value).collect())
}
