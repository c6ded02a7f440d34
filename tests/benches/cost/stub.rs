//! A driver over a real store whose one action is done at once, and an agent that has nothing of its own.

use std::sync::Arc;

use contractor::{
    action::{Action, Actions, Done, StepContext, StepError},
    agent::{Agent, Answering, Message, Query, Sense},
    driver::{Driver, Happened, Hooks, Parts, SystemClock},
    runtime::message_schema,
};
use engine::{
    catalog::Undo,
    event::Failure,
    library::{Library, World},
};
use messages::{schema::Violation, subject::Party};
use serde_json::{Map, Value};
use store::{Outgoing, Reader, Store};

/// Starts a driver with one playbook, whose steps do `nothing`.
pub(crate) async fn driver(store: &Store, playbook: &str, hooks: Arc<dyn Hooks>) -> anyhow::Result<(Driver, Library)> {
    let actions = Actions::default().with(Nothing);
    let world = World { catalog: &actions, messages: &message_schema, conditions: &[] };
    let library = Library::load(&[("bench.yaml".to_owned(), playbook.to_owned())], &world)
        .map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let journal = Arc::new(store.clone());
    let parts = Parts { journal, actions, playbooks: library.clone(), clock: Arc::new(SystemClock), hooks };
    Ok((Driver::start(parts).await?, library))
}

/// Does nothing.
struct Nothing;

impl Action for Nothing {
    const NAME: &'static str = "nothing";
    const UNDO: Undo = Undo::Nothing;
    type Input = Map<String, Value>;
    type Output = Map<String, Value>;

    async fn run(&self, _: &StepContext, _: &Self::Input) -> Result<Done<Self::Output>, StepError> {
        Ok(Done::new(Map::new()))
    }
}

/// Makes no messages.
pub(crate) struct Silent;

impl Hooks for Silent {
    fn outgoing(&self, _: &Happened<'_>) -> Result<Vec<Outgoing>, Failure> {
        Ok(Vec::new())
    }
}

/// An agent that takes everything.
pub(crate) struct Nobody;

impl Agent for Nobody {
    fn party(&self) -> Party {
        Party::Infrastructure
    }

    fn actions(&self) -> Actions {
        Actions::default()
    }

    fn accept<'a>(&'a self, _: &'a Message, _: &'a Reader) -> Answering<'a, Result<Sense, Vec<Violation>>> {
        Box::pin(async { Ok(Sense::default()) })
    }

    fn queries(&self) -> Vec<Query> {
        Vec::new()
    }
}
