//! What the engine knows about actions without being able to run them.

/// What undoing an action means; declared by every action (design: engine semantics 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// The action has an undo that may run twice and copes with nothing done.
    Yes,
    /// The action changes nothing that would have to be undone.
    Nothing,
    /// What the action did cannot be taken back; the playbook must name its commit point.
    Irreversible,
}

/// The typed surface of one action: what a playbook step may pass and what later steps may refer to.
#[derive(Clone, Debug)]
pub struct ActionSpec {
    /// Dotted name as playbooks write it, `proxmox.create_vm`.
    pub name: &'static str,
    /// What undoing it means.
    pub undo: Undo,
    /// JSON Schema (2020-12) of the step's `with`.
    pub input: serde_json::Value,
    /// JSON Schema (2020-12) of the step's output.
    pub output: serde_json::Value,
}

/// All actions that one contractor can run.
pub trait Catalog {
    /// The action called `name`, if there is one.
    fn action(&self, name: &str) -> Option<&ActionSpec>;
    /// Every action name, sorted; for "did you mean".
    fn names(&self) -> Vec<&'static str>;
}
