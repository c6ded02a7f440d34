//! `infrastructure.check_request`: refuses a request that makes no sense, before anything is created.

use contractor::action::{Action, Done, StepContext, StepError};
use engine::catalog::Undo;
use messages::request::ProvisionCluster;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cluster;
use crate::{Deps, failure, reservation, sense};

pub(super) struct CheckRequest(pub(super) Deps);

/// What is checked.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The request.
    request: ProvisionCluster,
}

/// That it makes sense.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Output {
    /// How many machines it asks for.
    machines: u32,
    /// Proxmox VE version.
    proxmox_version: String,
}

impl Action for CheckRequest {
    const NAME: &'static str = "infrastructure.check_request";
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let deps = &self.0;
        let request = &input.request;
        if let Some(found) = cluster(&cx.store, &request.cluster_name)?
            && found.value.flow != cx.flow
        {
            let message = format!("a cluster {} exists (uid {})", request.cluster_name, found.value.uid);
            return Err(StepError::fail(message).with_hint("choose another name, or decommission that cluster first"));
        }
        let mut problems = sense::violations(request, &deps.sections);
        let failed = |error| failure::of(&error);
        let version = deps.proxmox.version().await.map_err(failed)?;
        let pools = request.effective_pools();
        if problems.is_empty() {
            let world = deps.world().await.map_err(failed)?;
            let network = reservation::cluster_network(deps, request)?;
            problems = sense::against(&pools, &network, &deps.sections, &world);
        }
        if !version.imports_images() && deps.sections.images.method == crate::config::Method::Import {
            let message = format!("Proxmox VE {version} cannot import a downloaded image over its API; 8.4 can");
            return Err(StepError::fail(message).with_hint("upgrade, or set images.method = \"clone\" with a template"));
        }
        if problems.is_empty() {
            let machines = pools.iter().map(|pool| pool.count).sum();
            return Ok(Done::new(Output { machines, proxmox_version: version.to_string() }));
        }
        let words: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Err(StepError::fail(format!("the request makes no sense here: {}", words.join("; "))))
    }
}
