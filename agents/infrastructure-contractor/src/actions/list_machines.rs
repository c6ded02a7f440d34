//! `infrastructure.list_machines`: the machines that are to go, from the inventory.

use contractor::action::{Action, Change, Done, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use messages::name::ClusterName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::Reader;
use uuid::Uuid;

use super::{cluster, known_cluster, machines, references};
use crate::inventory::{Machine, MachineRef};

pub(super) struct ListMachines;

/// Which.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// Their cluster.
    cluster: ClusterName,
    /// Its incarnation.
    #[serde(default)]
    cluster_uid: Option<Uuid>,
    /// Only nodes with these names; left out: all.
    #[serde(default)]
    hostnames: Option<Vec<String>>,
}

/// What the inventory knows.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Output {
    /// The machines; one that is gone already is left out.
    machines: Vec<MachineRef>,
}

impl Action for ListMachines {
    const NAME: &'static str = "infrastructure.list_machines";
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        Ok(Done::new(Output { machines: references(&find(&cx.store, input)?) }))
    }

    /// The machines that later steps destroy: their own inputs are known only later.
    async fn preview(&self, cx: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        Ok(find(&cx.store, &input)?.iter().map(destruction).collect())
    }
}

fn find(reader: &Reader, input: &Input) -> Result<Vec<Machine>, StepError> {
    if cluster(reader, &input.cluster)?.is_none() {
        return Ok(Vec::new());
    }
    known_cluster(reader, &input.cluster, input.cluster_uid)?;
    let wanted = |machine: &Machine| {
        input.hostnames.as_ref().is_none_or(|names| names.iter().any(|name| name == machine.hostname.as_str()))
    };
    Ok(machines(reader, &input.cluster)?.into_iter().map(|vm| vm.machine).filter(|machine| wanted(machine)).collect())
}

/// What a plan says of a machine that is to go.
pub(super) fn destruction(machine: &Machine) -> Change {
    let details = [("ip", serde_json::json!(machine.ip)), ("disk_gib", serde_json::json!(machine.shape.disk_gib))];
    Change {
        verb: "destroy".into(),
        object: machine.title(),
        details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        destroys: true,
    }
}
