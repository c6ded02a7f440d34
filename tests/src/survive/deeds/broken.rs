//! Real actions that are wrong on purpose: each bug must be found by the harness that looks for its kind.

use std::fmt;

use contractor::action::StepContext;
use infrastructure_contractor::{
    config::Sections,
    deps,
    inventory::{Machine, Vm},
};
use proxmox::{Client, VmId, targets::AllowedTargets};
use serde_json::Value;

/// What is wrong.
#[derive(Clone)]
pub enum Bug {
    /// An undo says that it is done, and does nothing.
    UndoesNothing,
    /// An undo fails where there is nothing left to undo.
    UndoesOnce,
    /// What an action has made is not in the inventory.
    LosesInventory,
    /// A machine is stopped and destroyed by its number, whosever it is by now.
    DestroysByNumber(Client),
}

impl fmt::Debug for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UndoesNothing => "UndoesNothing",
            Self::UndoesOnce => "UndoesOnce",
            Self::LosesInventory => "LosesInventory",
            Self::DestroysByNumber(_) => "DestroysByNumber",
        })
    }
}

impl Bug {
    /// With a connection of its own to the hypervisors.
    ///
    /// # Errors
    /// If the configuration is wrong.
    pub(in crate::survive) fn destroys_by_number(sections: &Sections) -> anyhow::Result<Self> {
        deps::client(sections, AllowedTargets::new(["127.0.0.0/8".parse()?])).map(Self::DestroysByNumber)
    }

    /// What comes before an action that takes a machine of ours away.
    pub(super) async fn strikes_before_release(&self, cx: &StepContext, input: &Value) {
        if let Self::DestroysByNumber(client) = self {
            destroy_by_number(client, cx, &input["machine"]).await;
        }
    }
}

/// What there is under the number of a machine of ours is stopped and destroyed; whatever comes of it.
async fn destroy_by_number(client: &Client, cx: &StepContext, machine: &Value) {
    let rows = cx.store.scan::<Vm>("vm/").unwrap_or_default();
    let ours = rows.into_iter().map(|row| row.value.machine);
    let named = |ours: &Machine| machine["hostname"] == ours.hostname.as_str();
    for machine in ours.filter(named) {
        let _ = client.stop_vm(&machine.host, VmId(machine.vmid)).await;
        let _ = client.destroy_vm(&machine.host, VmId(machine.vmid)).await;
    }
}
