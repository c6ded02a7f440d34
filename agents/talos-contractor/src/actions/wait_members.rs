//! `talos.wait_members`: waits until every control plane is a voting member of one etcd.

use std::{collections::BTreeSet, time::Duration};

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use futures::future::try_join_all;
use messages::name::ClusterName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use talos::{api::EtcdMember, pki::Role};

use crate::{
    failure::reached,
    inventory::Node,
    reach::{Deps, control_planes},
    told, waiting,
};

/// A learner is promoted within seconds.
const PROMOTION: Duration = Duration::from_millis(500);

/// Waits for the members of etcd.
pub struct WaitMembers(pub Deps);

/// Which cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
}

/// Who is a member.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub members: Vec<String>,
}

impl Action for WaitMembers {
    const NAME: &'static str = "talos.wait_members";
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let planes = control_planes(&cx.store, &input.cluster)?;
        let views = try_join_all(planes.iter().map(|node| self.view(cx, node))).await?;
        let wanted: BTreeSet<_> = planes.iter().map(|node| node.hostname.to_string()).collect();
        for (node, members) in planes.iter().zip(&views) {
            let names: BTreeSet<_> = members.iter().map(|member| member.hostname.clone()).collect();
            let missing: Vec<_> = wanted.difference(&names).cloned().collect();
            let learners: Vec<_> =
                members.iter().filter(|member| member.is_learner).map(|member| member.hostname.clone()).collect();
            if !missing.is_empty() || !learners.is_empty() {
                let reason = format!(
                    "etcd as {} sees it: {} of {} members, learners: {}",
                    node.hostname,
                    wanted.len() - missing.len(),
                    wanted.len(),
                    if learners.is_empty() { "none".to_owned() } else { learners.join(", ") }
                );
                return Err(StepError::wait(reason, PROMOTION));
            }
        }
        let mut effects = Effects::default();
        let members: Vec<_> = wanted.into_iter().collect();
        for name in &members {
            effects.events.push(told::event("etcd_member_joined", &input.cluster, name, json!({})));
        }
        Ok(Done::with_effects(Output { members }, effects))
    }
}

impl WaitMembers {
    /// The members as this control plane's own etcd knows them, once it is up.
    async fn view(&self, cx: &StepContext, node: &Node) -> Result<Vec<EtcdMember>, StepError> {
        let client = waiting::for_node(&self.0, cx, node, Role::Reader, waiting::TOLD_AFTER).await?;
        waiting::until_up(&client, node, "etcd").await?;
        client.etcd_members(true).await.map_err(reached)
    }
}
