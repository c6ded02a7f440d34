//! What an agent adds to the contractor that every agent is.

use std::{future::Future, pin::Pin, sync::Arc};

use bus::Bus;
use engine::{event::Opened, library::Library};
use messages::{
    catalogue::Family,
    envelope::Envelope,
    query::Refusal,
    schema::Violation,
    subject::{Party, Subject},
};
use serde_json::Value;
use store::{InventoryChange, ReadError, Reader, Store};
use tokio_util::sync::CancellationToken;

use crate::{action::Actions, credentials::Certificate, driver::Driver, flows::FlowRecord, herald::Herald};

/// A future that an agent hands out.
pub type Answering<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One of the two contractors (or a third).
pub trait Agent: Send + Sync + 'static {
    /// Its end of the subjects.
    fn party(&self) -> Party;

    /// What its playbooks' steps can do.
    fn actions(&self) -> Actions;

    /// Whether a message that validates also makes sense, before anything is created.
    fn accept<'a>(&'a self, message: &'a Message, store: &'a Reader) -> Answering<'a, Result<Sense, Vec<Violation>>>;

    /// What the other contractor will be handed at the end of what this message asks for, as far as the message says it:
    /// enough to hear before anything is made whether it would be refused.
    fn foreseen(&self, _message: &Message) -> Option<Foreseen> {
        None
    }

    /// What it answers about its inventory, beside the queries that every contractor answers.
    fn queries(&self) -> Vec<Query>;

    /// The conditions that its background work watches, for playbooks to start by.
    fn conditions(&self) -> &'static [&'static str] {
        &[]
    }

    /// What it does besides answering messages and following schedules. Each runs until `stop`.
    fn background(&self, _place: Background) -> Vec<(&'static str, Answering<'static, ()>)> {
        Vec::new()
    }

    /// What the inventory says of what a flow or run made that failed, where nothing is taken back. Changes without
    /// preconditions.
    ///
    /// # Errors
    /// What cannot be read is said; it does not keep the flow or run from ending.
    fn left(&self, _what: Left<'_>, _store: &Reader) -> Result<Vec<InventoryChange>, ReadError> {
        Ok(Vec::new())
    }

    /// The certificates that it keeps sealed, for their dates, and those that its servers have shown. Opens every one.
    fn certificates(&self) -> Vec<Certificate> {
        Vec::new()
    }

    /// What the other contractor would be handed at the end of a plan, for its part of it: type and body, with
    /// `"${…}"` where a value is known only later.
    fn handed_over(&self, _plan: &engine::plan::Plan) -> Option<(Party, String, Value)> {
        None
    }
}

/// A handoff that lies ahead, with stand-ins for what is known only later.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreseen {
    /// Who will get it.
    pub to: Party,
    /// Its type.
    pub name: String,
    /// Its body, which validates.
    pub body: Value,
    /// JSON pointer to the fields in it that are the message's own.
    pub within: &'static str,
}

/// What an agent says of a message that makes sense.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sense {
    /// It destroys data or capacity: somebody must approve its plan.
    pub needs_consent: bool,
}

/// Who failed and left what was made as it is: by the failure policy `keep`, or because it was cancelled.
#[derive(Clone, Copy, Debug)]
pub enum Left<'a> {
    /// A flow that this contractor keeps.
    ByFlow(&'a FlowRecord),
    /// A run.
    ByRun(&'a Opened),
}

/// What background work is given.
#[derive(Clone)]
pub struct Background {
    /// Where it works.
    pub at: Workplace,
    /// The playbooks that are loaded.
    pub playbooks: Library,
    /// To ask the other contractor.
    pub bus: Bus,
    /// When it ends.
    pub stop: CancellationToken,
}

/// What work of an agent may use beside its actions.
#[derive(Clone)]
pub struct Workplace {
    /// Everything the contractor remembers.
    pub store: Store,
    /// Makes messages.
    pub herald: Herald,
    /// Runs playbooks.
    pub driver: Driver,
}

/// A message that validates.
#[derive(Clone, Debug)]
pub struct Message {
    /// Request or handoff.
    pub family: Family,
    /// Its type.
    pub name: String,
    /// Where it came.
    pub subject: Subject,
    /// Who sent it, when, because of what.
    pub envelope: Envelope,
    /// Its body.
    pub body: Value,
}

/// One query or command that a contractor answers.
#[derive(Clone)]
pub struct Query {
    /// `clusters.list`; its subject is `cortex.query.<party>.clusters.list`, or `cortex.cmd.<party>.…`.
    pub name: &'static str,
    /// Whether it only reads.
    pub reads: bool,
    /// The event that tells of every time it was answered, for what must leave a trace.
    pub told_as: Option<&'static str>,
    /// Answers it.
    pub answer: Arc<dyn Fn(Asked) -> Answering<'static, Result<Value, Refusal>> + Send + Sync>,
}

/// What a query was asked with.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its arguments; an empty object where none were given.
    pub arguments: Value,
    /// Who asks, as far as a signature proves it: `/operator/ada`.
    pub by: String,
    /// The last 8 characters of the key that proves it; none where nothing does.
    pub key: Option<String>,
}

impl Query {
    /// A query that only reads.
    pub fn read<F, T>(name: &'static str, answer: F) -> Self
    where
        F: Fn(Asked) -> T + Send + Sync + 'static,
        T: Future<Output = Result<Value, Refusal>> + Send + 'static,
    {
        Self { name, reads: true, told_as: None, answer: Arc::new(move |asked| Box::pin(answer(asked))) }
    }

    /// A command.
    pub fn command<F, T>(name: &'static str, answer: F) -> Self
    where
        F: Fn(Asked) -> T + Send + Sync + 'static,
        T: Future<Output = Result<Value, Refusal>> + Send + 'static,
    {
        Self { name, reads: false, told_as: None, answer: Arc::new(move |asked| Box::pin(answer(asked))) }
    }
}

impl Query {
    /// The same, told by an event every time.
    #[must_use]
    pub fn told_as(self, event: &'static str) -> Self {
        Self { told_as: Some(event), ..self }
    }
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Query").field("name", &self.name).field("reads", &self.reads).finish_non_exhaustive()
    }
}
