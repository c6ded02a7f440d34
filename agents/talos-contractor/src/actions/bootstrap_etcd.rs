//! `talos.bootstrap_etcd`: begins etcd on one control plane, only while no control plane has a member.
//!
//! Talos has no cluster-wide guard: a bootstrap on a second node makes a second cluster. So every control plane must have
//! said that it has no member, and the node is always the same one, whose own guard is its data directory.

use contractor::action::{Action, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use futures::future::join_all;
use messages::name::{ClusterName, NodeName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use talos::{
    api::{
        Client, Code,
        cosi::{self, EtcdLocalMember},
    },
    pki::Role,
};

use super::first_control_plane;
use crate::{
    failure::{named, reached},
    inventory::{ClusterState, Node},
    reach::{Deps, control_planes, known_cluster},
    told, waiting,
};

/// Begins etcd.
pub struct BootstrapEtcd(pub Deps);

/// Which cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
}

/// Where etcd began.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub node: NodeName,
}

impl Action for BootstrapEtcd {
    const NAME: &'static str = "talos.bootstrap_etcd";
    /// What it makes goes with the machines: undoing `talos.apply_config` wipes them.
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let cluster = known_cluster(cx, &input.cluster)?.value;
        if cluster.state != ClusterState::Bootstrapping {
            return Err(StepError::fail(format!("cluster {} is not being created", cluster.name)));
        }
        let node = first_control_plane(cx, &input.cluster)?;
        let members = self.members(cx, &input.cluster).await?;
        if !members.is_empty() {
            let runs_here = members.iter().any(|member| member.hostname == node.hostname);
            if runs_here || self.is_known(cx, &node, &members).await? {
                cx.progress(format!("etcd has begun on {}, which is to become healthy", node.hostname));
                return self.healthy(cx, &node).await;
            }
            let names: Vec<_> = members.iter().map(|member| member.hostname.as_str()).collect();
            return Err(StepError::fail(format!("etcd already has a member on {}", names.join(", ")))
                .with_hint("a bootstrap here would make a second cluster; look at that node first"));
        }
        let client = self.0.node(&cx.store, &node, Role::Admin).await?;
        match client.bootstrap().await {
            Ok(()) => {}
            // Its data directory is not empty: it was bootstrapped before, which its health has to prove.
            Err(error) if error.code() == Some(Code::AlreadyExists) => {}
            Err(error) => return Err(named(&node, reached(error))),
        }
        cx.progress(format!("etcd begins on {}", node.hostname));
        self.healthy(cx, &node).await
    }

    async fn find(&self, cx: &StepContext, input: &Input) -> Result<Option<Done<Output>>, StepError> {
        let node = first_control_plane(cx, &input.cluster)?;
        let Ok(client) = self.0.node(&cx.store, &node, Role::Reader).await else { return Ok(None) };
        match has_member(&client).await {
            Ok(true) => self.healthy(cx, &node).await.map(Some),
            _ => Ok(None),
        }
    }

    async fn preview(&self, _: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let object = format!("etcd of cluster {}", input["cluster"].as_str().unwrap_or("?"));
        Ok(vec![Change { verb: "bootstrap".to_owned(), object, details: [].into(), destroys: false }])
    }
}

impl BootstrapEtcd {
    /// The control planes that have an etcd member. All of them must answer: silence is no proof.
    async fn members(&self, cx: &StepContext, cluster: &ClusterName) -> Result<Vec<Node>, StepError> {
        let planes = control_planes(&cx.store, cluster)?;
        let asked = planes.iter().map(|node| async move {
            let client = waiting::for_node(&self.0, cx, node, Role::Reader, waiting::TOLD_AFTER).await?;
            Ok::<_, StepError>((node.clone(), has_member(&client).await?))
        });
        let answers = join_all(asked).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(answers.into_iter().filter_map(|(node, member)| member.then_some(node)).collect())
    }

    /// Whether the etcd that runs on `members` counts `node` among its own: it began there, and the node has rebooted
    /// since. A learner does not answer this, so whoever answers first is believed.
    async fn is_known(&self, cx: &StepContext, node: &Node, members: &[Node]) -> Result<bool, StepError> {
        let mut last = None;
        for member in members {
            let client = waiting::for_node(&self.0, cx, member, Role::Reader, waiting::TOLD_AFTER).await?;
            match client.etcd_members(true).await {
                Ok(known) => return Ok(known.iter().any(|known| known.hostname == node.hostname.as_str())),
                Err(error) => last = Some(named(member, reached(error))),
            }
        }
        last.map_or(Ok(false), Err)
    }

    /// Waits until etcd on `node` is healthy; a bootstrap that a reboot swallowed is found missing here.
    async fn healthy(&self, cx: &StepContext, node: &Node) -> Result<Done<Output>, StepError> {
        let client = waiting::for_node(&self.0, cx, node, Role::Reader, waiting::TOLD_AFTER).await?;
        waiting::until_up(&client, node, "etcd").await?;
        let mut effects = Effects::default();
        let name = node.hostname.as_str();
        effects.events.push(told::event("etcd_bootstrapped", &node.cluster, name, json!({})));
        Ok(Done::with_effects(Output { node: node.hostname.clone() }, effects))
    }
}

async fn has_member(client: &Client) -> Result<bool, StepError> {
    let member = client.get::<EtcdLocalMember>(cosi::LOCAL_MEMBER).await.map_err(reached)?;
    Ok(member.is_some())
}
