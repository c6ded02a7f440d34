//! Real actions that are wrong on purpose: each bug must be found by the harness that looks for its kind.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex},
};

use contractor::action::{Actions, AnyAction, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Catalog;
use futures::future::BoxFuture;
use infrastructure_contractor::inventory::{Machine, Vm};
use proxmox::{Client, VmId};
use serde_json::Value;
use uuid::Uuid;

use super::super::machine::lock;

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

/// The same actions with this bug.
pub(in crate::survive) fn with(bug: &Bug, actions: &Actions) -> Actions {
    let mut broken = Actions::default();
    for name in actions.names() {
        if let (Some(spec), Some(action)) = (actions.action(name), actions.get(name)) {
            let releases = name == "infrastructure.release_vm";
            let undone = Mutex::default();
            let action = Broken { bug: bug.clone(), releases, action: action.clone(), undone };
            broken = broken.with_any(spec.clone(), Arc::new(action));
        }
    }
    broken
}

struct Broken {
    bug: Bug,
    /// Whether it is the action that takes a machine away.
    releases: bool,
    action: Arc<dyn AnyAction>,
    undone: Mutex<BTreeSet<(Uuid, String)>>,
}

impl AnyAction for Broken {
    fn run<'a>(&'a self, cx: &'a StepContext, input: &'a Value) -> BoxFuture<'a, Result<Done<Value>, StepError>> {
        Box::pin(async move {
            if let Bug::DestroysByNumber(client) = &self.bug
                && self.releases
            {
                destroy_by_number(client, cx, &input["machine"]).await;
            }
            let mut done = self.action.run(cx, input).await?;
            if matches!(self.bug, Bug::LosesInventory) {
                done.effects.inventory.clear();
            }
            Ok(done)
        })
    }

    fn find<'a>(
        &'a self,
        cx: &'a StepContext,
        input: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Done<Value>>, StepError>> {
        self.action.find(cx, input)
    }

    fn undo<'a>(
        &'a self,
        cx: &'a StepContext,
        input: &'a Value,
        output: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<Effects, StepError>> {
        let is_first = lock(&self.undone).insert((cx.run, cx.step.clone()));
        match self.bug {
            Bug::UndoesNothing => Box::pin(async { Ok(Effects::default()) }),
            Bug::UndoesOnce if !is_first => Box::pin(async { Err(StepError::fail("it is not there")) }),
            _ => self.action.undo(cx, input, output),
        }
    }

    fn limits(&self, input: &Value) -> Vec<(String, usize)> {
        self.action.limits(input)
    }

    fn preview<'a>(
        &'a self,
        cx: &'a PreviewContext,
        input: &'a Value,
    ) -> BoxFuture<'a, Result<Vec<Change>, StepError>> {
        self.action.preview(cx, input)
    }

    fn foresee<'a>(
        &'a self,
        cx: &'a PreviewContext,
        input: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Value>, StepError>> {
        self.action.foresee(cx, input)
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
