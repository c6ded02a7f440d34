//! A world for one test, and how tests ask it for things.

use std::time::Duration;

use anyhow::{Context, bail};
use cortexctl::{
    client::{Client, Submission},
    commands::flows,
    watch,
};
use messages::{query::FlowView, subject::Party};
use serde_json::{Value, json};
use store::AuditRecord;
use tests::world::{self, World, WorldOptions};
use uuid::Uuid;

/// A world in a folder of its own, with a runtime to talk to it.
pub(crate) struct Scenario {
    /// The platform.
    pub(crate) world: World,
    /// To talk to it.
    pub(crate) runtime: tokio::runtime::Runtime,
    /// An operator.
    pub(crate) operator: Client,
    _folder: tempfile::TempDir,
}

impl Scenario {
    /// Starts a world.
    pub(crate) fn start(options: &WorldOptions) -> Self {
        Self::start_in(tempfile::tempdir().expect("a folder can be made"), options)
    }

    /// Starts a world in a folder that was made ready for it.
    pub(crate) fn start_in(folder: tempfile::TempDir, options: &WorldOptions) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let world = World::start(folder.path(), options).expect("the world starts");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        let operator = runtime.block_on(world.operator()).expect("an operator connects");
        Self { world, runtime, operator, _folder: folder }
    }

    /// Asks for something and follows it to its end.
    pub(crate) fn ask(&self, name: &str, body: &Value) -> anyhow::Result<FlowView> {
        let flow = self.submit(name, body)?;
        self.follow(flow)
    }

    /// Asks for something; it is durable when this returns.
    pub(crate) fn submit(&self, name: &str, body: &Value) -> anyhow::Result<Uuid> {
        let flow = Uuid::now_v7();
        match self.runtime.block_on(self.operator.submit(Party::Infrastructure, name, flow, body))? {
            Submission::Accepted(accepted) => Ok(accepted.flow),
            Submission::AwaitsApproval { plan, .. } => bail!("it waits for approval of {}", plan.plan_hash),
        }
    }

    /// Waits for the end of a flow, however it ends.
    pub(crate) fn follow(&self, flow: Uuid) -> anyhow::Result<FlowView> {
        self.runtime.block_on(async {
            let told = async {
                let tail = watch::events_from_now(&self.operator).await?;
                let (_, view) = watch::follow(&self.operator, flow, tail, |_| {}).await?;
                view.context("the flow needs an operator")
            };
            let patience = Duration::from_secs(240);
            tokio::time::timeout(patience, told).await.with_context(|| format!("flow {flow} did not end"))?
        })
    }

    /// Asks for something that destroys, with consent to its plan, and follows it to its end.
    pub(crate) fn ask_with_consent(&self, name: &str, body: Value) -> anyhow::Result<FlowView> {
        let flow = self.submit_with_consent(name, body)?;
        self.follow(flow)
    }

    /// Asks for something that destroys, with consent to its plan.
    pub(crate) fn submit_with_consent(&self, name: &str, body: Value) -> anyhow::Result<Uuid> {
        let consented = self.runtime.block_on(world::consented(&self.operator, name, body))?;
        self.submit(name, &consented)
    }

    /// Asks for another size of the workers' pool, with consent to the plan.
    pub(crate) fn scale(&self, cluster: &str, count: u32) -> Uuid {
        let body = json!({ "cluster_name": cluster, "pool": "worker", "count": count });
        self.submit_with_consent("scale_request", body).unwrap()
    }

    /// A flow as both contractors see it.
    pub(crate) fn flow(&self, flow: Uuid) -> FlowView {
        self.runtime.block_on(flows::of(&self.operator, flow)).expect("the flow is known")
    }

    /// The whole audit log of a contractor.
    pub(crate) fn audit(&self, of: Party) -> Vec<AuditRecord> {
        let mut log: Vec<AuditRecord> = Vec::new();
        loop {
            let page = self.operator.query(of, "audit.list", json!({ "from": log.len() + 1 }));
            let page: Vec<AuditRecord> = self.runtime.block_on(page).expect("the log is shown");
            if page.is_empty() {
                return log;
            }
            log.extend(page);
        }
    }

    /// The Proxmox world now.
    pub(crate) fn snapshot(&self) -> Value {
        self.runtime.block_on(self.world.snapshot()).expect("the lab answers")
    }

    /// The number of VMs that exist.
    pub(crate) fn machines(&self) -> usize {
        self.snapshot()["vms"].as_object().map_or(0, serde_json::Map::len)
    }
}

/// The state of a flow and why, for messages of failed assertions.
pub(crate) fn told(view: &FlowView) -> String {
    format!("{}: {}", view.state, view.reason.clone().unwrap_or_default())
}
