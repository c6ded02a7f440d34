//! `infrastructure.describe_machines`: the `vm_provisioned` handoff of machines that answer.

use contractor::action::{Action, Done, StepContext, StepError};
use engine::catalog::Undo;
use messages::{
    handoff::{NetworkFacts, Node, Purpose, VmProvisioned},
    name::{ClusterName, VmId},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{known_cluster, recall_known};
use crate::inventory::{Machine, MachineRef};

pub(super) struct DescribeMachines;

/// Which machines, and what for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// Their cluster.
    cluster: ClusterName,
    /// What they are for.
    purpose: Purpose,
    /// The machines.
    machines: Vec<MachineRef>,
}

/// The handoff.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Output {
    /// Its body.
    handoff: VmProvisioned,
}

impl Action for DescribeMachines {
    const NAME: &'static str = "infrastructure.describe_machines";
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let cluster = known_cluster(&cx.store, &input.cluster, None)?.value;
        let machines = input.machines.iter().map(|machine| recall_known(&cx.store, machine));
        let machines = machines.collect::<Result<Vec<_>, _>>()?;
        let network = NetworkFacts {
            gateway: cluster.network.gateway,
            dns_servers: cluster.network.dns_servers.clone(),
            prefix: Some(cluster.network.prefix),
            unknown: Default::default(),
        };
        let handoff = VmProvisioned {
            handoff_type: "vm_provisioned".into(),
            cluster_name: cluster.name.clone(),
            nodes: machines.iter().map(node).collect(),
            network,
            ready: true,
            cluster_uid: Some(cluster.uid),
            purpose: Some(input.purpose),
            api_endpoint: Some(cluster.endpoint.url()),
            schematic: Some(cluster.image.schematic.clone()),
            spec: Some(cluster.spec),
            unknown: Default::default(),
        };
        Ok(Done::new(Output { handoff }))
    }
}

fn node(machine: &Machine) -> Node {
    Node {
        role: machine.role,
        ip: machine.ip,
        hostname: machine.hostname.clone(),
        vm_id: VmId(machine.vmid),
        node_uid: Some(machine.node_uid),
        pool: Some(machine.pool.clone()),
        mac: machine.mac().map(|mac| mac.to_string()),
        smbios_uuid: Some(machine.smbios_uuid),
        host: Some(machine.host.clone()),
        unknown: Default::default(),
    }
}
