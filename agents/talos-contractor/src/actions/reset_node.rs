//! `talos.reset_node`: makes a node leave its cluster and forget its secrets; a dead one is only removed from etcd.

use std::{net::SocketAddr, time::Duration};

use contractor::action::{Action, Change, Done, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use futures::{StreamExt, future::join_all};
use messages::name::{ClusterName, NodeName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use talos::{
    api::{Client, Code, EtcdMember, EventStream, Happening, ResetOptions},
    pki::Role,
    proto::machine::task_event,
};
use tokio::time::timeout;

use crate::{
    failure::reached,
    inventory::Node,
    reach::{Deps, control_planes, known_node},
    waiting::for_node,
};

/// How long a node is given to answer before it counts as dead: one lost connection is no death.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a node is given to end its services and wipe itself.
const WIPE: Duration = Duration::from_secs(5 * 60);
/// Where etcd's members reach each other.
const PEER_PORT: u16 = 2380;
/// The task at whose start a reset is past everything that matters to others.
const LAST_TASK: &str = "stopAllServices";

/// Resets a node.
pub struct ResetNode(pub Deps);

/// Which node.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    pub node: NodeName,
}

/// What became of the node.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// False where it did not answer: its disk still holds the cluster's secrets until its VM is destroyed.
    pub wiped: bool,
}

impl Action for ResetNode {
    const NAME: &'static str = "talos.reset_node";
    const UNDO: Undo = Undo::Irreversible;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let node = known_node(cx, &input.cluster, &input.node)?.value;
        let others: Vec<_> = control_planes(&cx.store, &input.cluster)?
            .into_iter()
            .filter(|other| other.hostname != node.hostname)
            .collect();
        if node.is_control_plane() {
            self.prove_quorum(cx, &others, &node).await?;
        }
        let wiped = match for_node(&self.0, cx, &node, Role::Admin, ANSWER).await {
            Ok(client) => self.wipe(cx, &client, &node).await?,
            Err(error @ StepError::Fail(_)) => return Err(error),
            Err(_) => false,
        };
        if node.is_control_plane() {
            remove_member(&self.0, cx, &others, &node).await?;
        }
        Ok(Done::new(Output { wiped }))
    }

    async fn preview(&self, _: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let object = format!("node {}", input["node"].as_str().unwrap_or("?"));
        Ok(vec![Change { verb: "reset".to_owned(), object, details: [].into(), destroys: true }])
    }
}

impl ResetNode {
    /// Follows the node's own events, opened before the call, until it is past its services or gone.
    async fn wipe(&self, cx: &StepContext, client: &Client, node: &Node) -> Result<bool, StepError> {
        let events = client.events(0, None).await.map_err(reached)?;
        // It was cordoned and drained before; what has not left etcd afterwards is removed from it by whoever stays.
        // Only a member that is well can leave by itself; of another one, leaving would not end.
        let graceful = node.is_control_plane() && client.etcd_status().await.is_ok_and(|status| status.leader != 0);
        let options = ResetOptions { graceful, reboot: false, partitions: Vec::new() };
        let actor = client.reset(&options).await.map_err(reached)?;
        cx.progress(format!("{} is being wiped", node.hostname));
        match timeout(WIPE, follow(events, &actor)).await {
            Ok(result) => result.map(|()| true),
            Err(_) => Err(StepError::retry(format!("{} did not end its services within {WIPE:?}", node.hostname))),
        }
    }

    /// Without this node, more than half of the members that stay must be healthy: otherwise the cluster would stop.
    ///
    /// Who is a member is what etcd says, not the inventory: a dead member that nobody removed counts, too.
    async fn prove_quorum(&self, cx: &StepContext, others: &[Node], node: &Node) -> Result<(), StepError> {
        let asked = others.iter().map(|other| async move {
            let client = for_node(&self.0, cx, other, Role::Reader, ANSWER).await.ok()?;
            let status = client.etcd_status().await.ok()?;
            let is_healthy = status.leader != 0 && !status.is_learner && status.errors.is_empty();
            let members = client.etcd_members(true).await.ok().filter(|_| is_healthy)?;
            let stay = members.iter().filter(|member| !member.is_learner && member.hostname != node.hostname.as_str());
            Some(stay.count())
        });
        let views: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        let staying = views.iter().copied().max().unwrap_or(others.len());
        if views.len() > staying / 2 {
            return Ok(());
        }
        Err(StepError::fail(format!(
            "without this control plane {} healthy members of {staying} would be left: no quorum",
            views.len()
        )))
    }
}

/// Takes a control plane out of etcd, through another one, unless it is no member.
pub(super) async fn remove_member(
    deps: &Deps,
    cx: &StepContext,
    others: &[Node],
    node: &Node,
) -> Result<(), StepError> {
    let mut last = StepError::wait("no other control plane answers", Duration::from_secs(1));
    for other in others {
        let client = match deps.node(&cx.store, other, Role::Admin).await {
            Ok(client) => client,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let members = client.etcd_members(true).await.map_err(reached)?;
        let Some(member) = members.iter().find(|member| is_of(member, node)) else { return Ok(()) };
        return match client.remove_etcd_member(member.id).await {
            Err(error) if error.code() != Some(Code::NotFound) => Err(reached(error)),
            _ => Ok(()),
        };
    }
    Err(last)
}

/// One that has not started yet has no name, but an address.
fn is_of(member: &EtcdMember, node: &Node) -> bool {
    let at = SocketAddr::new(node.ip, PEER_PORT).to_string();
    member.hostname == node.hostname.as_str()
        || (member.hostname.is_empty() && member.peer_urls.iter().any(|url| url.ends_with(&format!("://{at}"))))
}

/// Ends well when the last task began or the connection broke, which is what a node that powers off does.
async fn follow(mut events: EventStream, actor: &str) -> Result<(), StepError> {
    while let Some(Ok(event)) = events.next().await {
        let ours = event.actor == actor;
        match event.happening {
            Happening::Task(task) if task.task == LAST_TASK && task.action() == task_event::Action::Start => {
                return Ok(());
            }
            Happening::Sequence(sequence) if ours => {
                if let Some(error) = sequence.error {
                    return Err(StepError::retry(format!("the reset did not start: {}", error.message)));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
