//! Somebody consents to the plan of a request that waits for it.

use messages::query::{Accepted, Refusal, RefusalKind};
use serde_json::json;
use store::{Commit, Deed, InventoryChange};
use uuid::Uuid;

use super::{Intake, chain, internal, same_plan};
use crate::{
    agent::Asked,
    damage::unavailable,
    driver::{NewRun, Submitted},
    flows,
};

impl Intake {
    /// Consents to a plan that a waiting request showed.
    ///
    /// # Errors
    /// Why it has no effect.
    pub async fn approve(&self, flow: Uuid, plan_hash: &str, asked: &Asked) -> Result<Accepted, Refusal> {
        let key = flows::pending_key(flow);
        let pending = self.store.reader().get::<flows::Pending>(&key).map_err(|error| unavailable(&error))?;
        let Some(pending) = pending else {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                format!("no request waits for approval under flow {flow}"),
            ));
        };
        let mut value = pending.value;
        value.record.begin_now();
        let plan = self.planner.plan(&value.playbook, flow, &value.input).await?;
        same_plan(&plan, plan_hash)?;
        let approved = self.approved(&plan, &value.playbook, flow, &value.input).await?;
        let mut with = Commit::default();
        with.audit.push(Deed {
            who: asked.by.clone(),
            key: asked.key.clone(),
            did: "plan_approved".to_owned(),
            object: Some(value.playbook.clone()),
            cluster: value.record.cluster.clone(),
            flow: Some(flow),
            run: Some(value.run),
            plan: Some(plan_hash.to_owned()),
            outcome: None,
        });
        with.inventory.push(InventoryChange::delete_at(key, pending.revision));
        with.inventory.extend(flows::begun(&value.record));
        let body = json!({ "object": value.record.cluster, "flow": flow, "message": format!("approved by {}", asked.by),
            "facts": { "plan_hash": plan_hash } });
        let context = value.record.context(Some(&value.cause));
        with.outgoing.push(self.herald.event(Uuid::now_v7(), "approval_given", &context, &body).map_err(internal)?);
        with.outgoing.push(self.flow_event(&value.record, "flow_started", &value.cause).map_err(internal)?);
        let new = NewRun {
            run: value.run,
            flow,
            key: asked.key.clone(),
            cause: value.cause,
            playbook: value.playbook,
            subject: value.record.cluster,
            input: value.input,
            plan: Some(approved),
            trace: value.record.trace,
            with,
        };
        match self.driver.submit(new).await {
            Ok(Submitted::New(run)) => Ok(Accepted { flow, run, duplicate: false }),
            Ok(Submitted::Known(run)) => Ok(Accepted { flow, run, duplicate: true }),
            Err(error) => Err(Refusal::new(RefusalKind::Conflict, chain(&error))),
        }
    }
}
