//! `talos.forget_cluster`: a cluster is given up: its records are deleted and its secrets destroyed.
//!
//! Its machines are not reset one by one: whoever owns them destroys them with their disks.

use contractor::action::{Action, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use messages::{
    handoff::{ClusterRemoved, Unknown},
    name::ClusterName,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{InventoryChange, SecretPut};
use uuid::Uuid;

use super::nodes_of;
use crate::{
    failure::read,
    inventory::{self, Cluster},
    told,
};

/// Forgets a cluster.
pub struct ForgetCluster;

/// Which cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    /// The incarnation that is meant.
    #[serde(default)]
    pub cluster_uid: Option<Uuid>,
}

/// What was forgotten.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// False where nothing was known: its making may have failed before it came here.
    pub known: bool,
    pub nodes: usize,
    /// What to hand over.
    pub handoff: ClusterRemoved,
}

impl Action for ForgetCluster {
    const NAME: &'static str = "talos.forget_cluster";
    const UNDO: Undo = Undo::Irreversible;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let name = &input.cluster;
        let known = inventory::cluster(&cx.store, name).map_err(read)?;
        if let Some(known) = &known
            && input.cluster_uid.is_some_and(|uid| uid != known.value.uid)
        {
            return Err(StepError::fail(format!("the request is for another cluster called {name}")));
        }
        let mut effects = Effects::default();
        let nodes = nodes_of(&cx.store, name)?;
        for node in &nodes {
            effects.inventory.push(InventoryChange::delete(inventory::node_key(name, &node.hostname)));
            effects.inventory.push(InventoryChange::delete(inventory::config_key(name, &node.hostname)));
        }
        for (key, _) in cx.store.keys(&inventory::trigger_key(name, "")).map_err(read)? {
            effects.inventory.push(InventoryChange::delete(key));
        }
        // The slash keeps `prod` from matching `prod2`.
        for (secret, _) in cx.store.secret_names(&format!("cluster/{name}/")).map_err(read)? {
            effects.secrets.push(SecretPut { name: secret, plain: None });
        }
        if known.is_some() {
            effects.inventory.push(InventoryChange::delete(inventory::cluster_key(name)));
            let facts = json!({ "nodes": nodes.len() });
            effects.events.push(told::event("cluster_forgotten", name, name.as_str(), facts));
        }
        let handoff = ClusterRemoved {
            handoff_type: "cluster_removed".to_owned(),
            cluster_name: name.clone(),
            cluster_uid: input.cluster_uid.or(known.as_ref().map(|known| known.value.uid)),
            unknown: Unknown::default(),
        };
        Ok(Done::with_effects(Output { known: known.is_some(), nodes: nodes.len(), handoff }, effects))
    }

    async fn preview(&self, cx: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let Ok(input) = Input::deserialize(input) else { return Ok(Vec::new()) };
        cx.read::<Cluster>(&inventory::cluster_key(&input.cluster)).map_err(read)?;
        let nodes = nodes_of(&cx.store, &input.cluster)?;
        let details = [("nodes".to_owned(), json!(nodes.len())), ("secrets".to_owned(), json!("destroyed"))].into();
        let object = format!("cluster {}", input.cluster);
        Ok(vec![Change { verb: "forget".to_owned(), object, details, destroys: true }])
    }
}
