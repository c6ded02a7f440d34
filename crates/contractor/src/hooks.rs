//! What a contractor adds to its runs' commits: the herald's messages, and the agent's word on what a failed run left.

use std::sync::Arc;

use engine::event::{Event, Failure, Outcome};
use store::{InventoryChange, Outgoing, Reader};
use uuid::Uuid;

use crate::{
    agent::{Agent, Left},
    driver::{Happened, Hooks},
    herald::Herald,
    intake::chain,
};

/// The hooks of a daemon's driver.
pub(crate) struct AgentHooks {
    pub(crate) herald: Herald,
    pub(crate) agent: Arc<dyn Agent>,
    pub(crate) store: Reader,
}

impl Hooks for AgentHooks {
    fn outgoing(&self, happened: &Happened<'_>) -> Result<Vec<Outgoing>, Failure> {
        self.herald.outgoing(happened)
    }

    fn inventory(&self, happened: &Happened<'_>) -> Vec<InventoryChange> {
        let was_left =
            |event: &Event| matches!(event, Event::Finished { outcome: Outcome::Kept | Outcome::Cancelled, .. });
        if !happened.events.iter().any(was_left) {
            return Vec::new();
        }
        self.agent.left(Left::ByRun(happened.run), &self.store).unwrap_or_else(|error| {
            tracing::error!(run = %happened.run.run, error = chain(&error), "what the run left could not be read");
            Vec::new()
        })
    }

    fn committed(&self, happened: &Happened<'_>) {
        self.herald.committed(happened);
    }

    fn progress(&self, run: Uuid, step: &str, text: &str) {
        self.herald.progress(run, step, text);
    }
}
