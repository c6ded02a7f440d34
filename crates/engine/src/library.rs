//! The playbooks of one contractor: read, checked against its actions, and linked to what they call.

mod link;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use serde_json::Value;

use crate::{
    catalog::{ActionSpec, Catalog, Undo},
    event::Pin,
    hash,
    playbook::Playbook,
    yaml::{Problem, Problems},
};

/// Checked playbooks by name.
#[derive(Clone, Debug, Default)]
pub struct Library {
    definitions: BTreeMap<String, Arc<Definition>>,
}

/// A kind of message that a trigger or `emit` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A request.
    Request,
    /// A handoff.
    Handoff,
    /// An event.
    Event,
}

/// What playbooks are checked against.
pub struct World<'w> {
    /// The contractor's actions.
    pub catalog: &'w dyn Catalog,
    /// JSON Schema of a message's body; none when there is no such type.
    pub messages: &'w dyn Fn(MessageKind, &str) -> Option<Value>,
    /// The conditions that the contractor watches.
    pub conditions: &'w [&'w str],
}

/// Playbooks that were read and are not checked yet, with what is wrong with those that cannot be read.
#[derive(Debug, Default)]
pub struct Unchecked {
    playbooks: Vec<Playbook>,
    problems: Vec<Problem>,
}

impl Unchecked {
    /// Reads playbooks, given as file name and text.
    pub fn read(files: &[(String, String)]) -> Self {
        let mut read = Self::default();
        for (file, text) in files {
            match Playbook::parse(file, text) {
                Ok(playbook) => read.playbooks.push(playbook),
                Err(found) => read.problems.extend(found.0),
            }
        }
        read
    }
}

impl Library {
    /// Reads and checks playbooks, given as file name and text; reports every problem of every file.
    pub fn load(files: &[(String, String)], world: &World<'_>) -> Result<Self, Problems> {
        Self::check(Unchecked::read(files), world)
    }

    /// Checks playbooks that were read; reports every problem of every file.
    pub fn check(read: Unchecked, world: &World<'_>) -> Result<Self, Problems> {
        let Unchecked { playbooks, mut problems } = read;
        let definitions = link::link(playbooks, world, &mut problems);
        if problems.is_empty() { Ok(Self { definitions }) } else { Err(Problems(problems)) }
    }

    /// The playbook called `name`.
    pub fn get(&self, name: &str) -> Option<&Arc<Definition>> {
        self.definitions.get(name)
    }

    /// All playbooks by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Definition>> {
        self.definitions.values()
    }
}

/// A playbook linked to its actions and the playbooks it calls: all that a run needs to decide.
#[derive(Debug)]
pub struct Definition {
    /// The playbook as its file says.
    pub playbook: Playbook,
    /// Beside each of the playbook's steps, what it means.
    pub links: Vec<Link>,
    /// Its own text and those of all it calls, by content hash.
    pub pins: Vec<Pin>,
    /// JSON Schema of its input, as far as known.
    pub input: Option<Value>,
}

impl Definition {
    /// Links the texts that a run has pinned, the run's own first. What the run was checked for when it started is not
    /// checked again: an action that no longer exists fails when its step starts.
    pub fn restore(texts: &[(String, String)], catalog: &dyn Catalog) -> Result<Arc<Self>, Problems> {
        let mut problems = Vec::new();
        let mut playbooks = Vec::new();
        for (name, text) in texts {
            playbooks.push(Playbook::parse(name, text)?);
        }
        let root = playbooks.first().map(|playbook| playbook.name.value.clone());
        let world = World { catalog, messages: &|_, _| Some(Value::Bool(true)), conditions: &[] };
        let mut linked = link::link(playbooks, &world, &mut problems);
        root.and_then(|root| linked.remove(&root)).ok_or(Problems(problems))
    }

    /// SHA-256 over its own text and those of all it calls, hexadecimal.
    pub fn hash(&self) -> String {
        hash::of(&self.pins)
    }

    /// The texts behind [`pins`](Self::pins), its own first.
    pub fn texts(&self) -> Vec<(&Pin, &str)> {
        let mut texts = BTreeMap::new();
        self.collect(&mut texts);
        self.pins.iter().filter_map(|pin| Some((pin, *texts.get(pin.playbook.as_str())?))).collect()
    }

    fn collect<'d>(&'d self, texts: &mut BTreeMap<&'d str, &'d str>) {
        texts.insert(&self.playbook.name.value, &self.playbook.text);
        for link in &self.links {
            if let Work::Call(definition) = &link.work {
                definition.collect(texts);
            }
        }
    }

    /// Whether anything in it cannot be taken back.
    pub fn is_irreversible(&self) -> bool {
        self.links.iter().any(Link::is_irreversible)
    }

    /// Why `input` does not fit, naming paths and rules, no values.
    pub fn refuses(&self, input: &Value) -> Option<String> {
        let schema = self.playbook.input.as_ref()?;
        let validator = jsonschema::validator_for(schema).ok()?;
        first_violation(&validator, input)
    }
}

/// What one step means.
#[derive(Debug)]
pub struct Link {
    /// What it does.
    pub work: Work,
    /// Places of the steps that it needs, by `needs` or by reference.
    pub needs: Vec<usize>,
    /// Places of the steps that need it.
    pub dependents: Vec<usize>,
}

impl Link {
    /// Whether it cannot be taken back.
    pub fn is_irreversible(&self) -> bool {
        match &self.work {
            Work::Action(contract) => contract.undo == Undo::Irreversible,
            Work::Call(definition) => definition.is_irreversible(),
        }
    }
}

/// What a step does, looked up.
#[derive(Clone, Debug)]
pub enum Work {
    /// Runs an action.
    Action(Arc<Contract>),
    /// Runs the steps of another playbook.
    Call(Arc<Definition>),
}

/// What the engine holds an action to.
#[derive(Debug)]
pub struct Contract {
    /// The action's name.
    pub name: String,
    /// What undoing it means.
    pub undo: Undo,
    /// JSON Schema of its input.
    pub input: Value,
    /// JSON Schema of its output.
    pub output: Value,
    validator: OnceLock<Option<jsonschema::Validator>>,
}

impl Contract {
    fn of(spec: &ActionSpec) -> Self {
        let (input, output) = (spec.input.clone(), spec.output.clone());
        Self { name: spec.name.to_owned(), undo: spec.undo, input, output, validator: OnceLock::new() }
    }

    /// For an action that this contractor no longer has: its undo fails, visibly.
    fn unknown(name: &str) -> Self {
        let any = Value::Bool(true);
        let name = name.to_owned();
        Self { name, undo: Undo::Yes, input: any.clone(), output: any, validator: OnceLock::new() }
    }

    /// Why `input` does not fit, naming paths and rules, no values.
    pub fn refuses(&self, input: &Value) -> Option<String> {
        let validator = self.validator.get_or_init(|| jsonschema::validator_for(&self.input).ok());
        first_violation(validator.as_ref()?, input)
    }
}

fn first_violation(validator: &jsonschema::Validator, value: &Value) -> Option<String> {
    let error = validator.iter_errors(value).next()?;
    let path = error.instance_path().to_string();
    let at = if path.is_empty() { "the input".to_owned() } else { format!("`{path}` of the input") };
    Some(format!("{at} breaks the rule `{}`: {}", error.kind().keyword(), error.masked()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Actions(Vec<ActionSpec>);

    impl Catalog for Actions {
        fn action(&self, name: &str) -> Option<&ActionSpec> {
            self.0.iter().find(|spec| spec.name == name)
        }

        fn names(&self) -> Vec<&'static str> {
            self.0.iter().map(|spec| spec.name).collect()
        }
    }

    fn actions() -> Actions {
        let input = json!({"type": "object", "properties": {"name": {"type": "string"}, "size": {"type": "integer"}},
            "required": ["name"], "additionalProperties": false});
        let output = json!({"type": "object", "properties": {"id": {"type": "integer"},
            "node": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": {"type": "object", "properties": {"ip": {}}}}});
        let spec = |name, undo| ActionSpec { name, undo, input: input.clone(), output: output.clone() };
        Actions(vec![
            spec("vm.create", Undo::Yes),
            spec("vm.destroy", Undo::Irreversible),
            spec("vm.look", Undo::Nothing),
        ])
    }

    fn load(files: &[(&str, &str)]) -> Result<Library, String> {
        let files: Vec<_> = files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
        let message = json!({"type": "object", "properties": {"cluster": {}, "nodes": {"type": "array",
            "items": {"type": "object", "properties": {"host": {}}}}}, "required": ["cluster"],
            "additionalProperties": false});
        let world = World {
            catalog: &actions(),
            messages: &|_, name| (name == "wanted").then(|| message.clone()),
            conditions: &["hot"],
        };
        Library::load(&files, &world).map_err(|problems| problems.to_string())
    }

    const GOOD: &str = "
playbook: make
version: 1
trigger: { request: wanted, when: \"size(nodes) > 0\" }
locks: { exclusive: [\"cluster/${input.cluster}\"] }
steps:
  - id: create
    for_each: \"${input.nodes}\"
    key: \"${item.host}\"
    parallel: 50%
    action: vm.create
    with: { name: \"${item.host}\", size: 2 }
    retry: { attempts: 4, backoff: 100ms..2s }
    timeout: 1m
  - id: look
    call: inner
    with: { name: \"${steps.create[0].node.ip}\" }
emit:
  - handoff: wanted
    with: { cluster: \"${steps.look.id}\" }
";

    const INNER: &str = "
playbook: inner
version: 1
input: { type: object, properties: { name: { type: string } }, required: [name], additionalProperties: false }
steps:
  - { id: look, action: vm.look, with: { name: \"${input.name}\" } }
output: { id: \"${steps.look.id}\" }
";

    #[test]
    fn a_playbook_is_linked_by_needs_references_and_calls() {
        let library = load(&[("make.yaml", GOOD), ("inner.yaml", INNER)]).unwrap();
        let make = library.get("make").unwrap();
        assert_eq!(make.links[1].needs, [0]);
        assert_eq!(make.links[0].dependents, [1]);
        assert_eq!(make.pins.iter().map(|pin| pin.playbook.as_str()).collect::<Vec<_>>(), ["make", "inner"]);
        let texts = make.texts().into_iter().map(|(pin, text)| (pin.playbook.clone(), text.to_owned()));
        let restored = Definition::restore(&texts.collect::<Vec<_>>(), &actions()).unwrap();
        assert_eq!(restored.hash(), make.hash());
        assert_eq!(make.playbook.trigger.as_ref().unwrap().accepts(&json!({"nodes": []})), Ok(false));
        assert_eq!(make.playbook.trigger.as_ref().unwrap().accepts(&json!({})), Ok(false));
        assert_eq!(make.playbook.trigger.as_ref().unwrap().accepts(&json!({"nodes": [1]})), Ok(true));
    }

    /// Each case is a change of the good playbook and the one problem it makes.
    #[test]
    fn every_mistake_is_reported_with_its_place_and_what_was_meant() {
        let cases = [
            (
                "action: vm.create",
                "action: vm.crate",
                "11:13: there is no action `vm.crate`; did you mean `vm.create`?",
            ),
            ("size: 2", "sice: 2", "12:11: there is no field `sice` here; did you mean `size`?"),
            ("size: 2", "size: two", "12:11: field `size`: \"two\" breaks the rule `type`"),
            ("version: 1", "version: 1\non_failure: rolback", "4:13: `rolback` is no failure policy: write"),
            ("version: 1", "version: 1\non_failure: \"${input.polcy}\"", "4:13: there is no `input.polcy`"),
            ("name: \"${item.host}\", size", "size", "12:11: the required field `name` is missing"),
            ("${item.host}\", size", "${item.hots}\", size", "12:19: there is no `item.hots`; did you mean `host`?"),
            ("create[0].node.ip", "create[0].node.ipp", "17:19: there is no `[…].node.ipp`; did you mean `ip`?"),
            ("create[0].node", "creat[0].node", "17:19: there is no `steps.creat`; did you mean `create`?"),
            ("call: inner", "call: iner", "16:11: there is no playbook `iner`; did you mean `inner`?"),
            ("steps.look.id", "steps.look.ip", "20:22: there is no `steps.look.ip`; did you mean `id`?"),
            ("id: look", "id: create", "15:9: there is a step `create` before this one"),
            (
                "    key: \"${item.host}\"\n",
                "",
                "8:15: `for_each` needs a `key`: the stable name of each instance, such as `${item.name}`",
            ),
            ("timeout: 1m", "timeout: 1 minuet", "14:14: `1 minuet` is no duration: write `30s`, `10m` or `1h30m`"),
            ("100ms..2s", "2s..1s", "13:36: `backoff` is a range of durations such as `2s..30s`"),
            ("50%", "0", "10:15: `parallel` is a number from 1 or a percentage such as `20%`"),
            ("version: 1", "version: 1\nsetps: []", "4:1: unknown field `setps`, expected one of"),
            ("handoff: wanted", "handoff: unwanted", "19:5: there is no handoff type `unwanted`"),
            (
                "call: inner\n",
                "call: inner\n    needs: [look]\n",
                "15:9: step `look` needs itself, directly or through others",
            ),
            ("call: inner", "action: vm.destroy", "15:9: step `look` cannot be taken back: name the `commit_point`"),
            ("request: wanted", "condition: hott", "4:10: nobody watches a condition `hott`; did you mean `hot`?"),
            ("request: wanted", "cron: \"0 0 30 2 *\"", "4:18: no day fits this schedule"),
            ("request: wanted", "event: wanted", "4:12: unknown field `event`, expected one of"),
            ("size(nodes) > 0", "size(nodes >", "4:35: `size(nodes >` is not an expression"),
            (
                "cluster: \"${steps",
                "clutser: \"${steps",
                "19:5: there is no field `clutser` here; did you mean `cluster`?",
            ),
        ];
        for (from, to, expected) in cases {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            let problems = load(&[("p.yaml", &text), ("inner.yaml", INNER)]).unwrap_err();
            assert!(problems.contains(&format!("p.yaml:{expected}")), "{from} -> {to}\n{problems}");
        }
        let circle = INNER.replace("action: vm.look", "call: inner");
        assert!(load(&[("i.yaml", &circle)]).unwrap_err().contains("i.yaml:2:11: it calls itself"));
    }
}
