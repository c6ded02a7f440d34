//! From YAML text to a [`Playbook`]; every problem of a file is reported at once, with its place.

use std::{borrow::Cow, time::Duration};

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Value, json};
use serde_saphyr::Spanned;

use super::{
    After, DEFAULT_DEADLINE, DEFAULT_TIMEOUT, Does, Emit, FanOut, OnFailure, Parallel, Placed, Playbook, Policy, Retry,
    Schedule, Step, Trigger,
};
use crate::{
    event::LockMode,
    expression::Expression,
    report::EmissionKind,
    template::{BadTemplate, Template},
    yaml::{self, Node, Place, Problem, Problems},
};

/// JSON Schema of a playbook file, for editors and `schemas/playbook.v1.json`.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(File);
    schema.insert("$id".to_owned(), "urn:cortex:schema:playbook:v1".into());
    let step = json!({ "id": "greet", "action": "talos.check_health", "with": { "cluster": "${input.cluster_name}" } });
    let example = json!({
        "playbook": "look-at-cluster", "version": 1, "trigger": { "handoff": "cluster_ready" }, "steps": [step],
    });
    schema.insert("examples".to_owned(), json!([example]));
    schema.to_value()
}

/// A playbook: a versioned DAG of steps that a contractor executes durably.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Playbook")]
struct File {
    /// Its name, unique among the contractor's playbooks.
    #[schemars(with = "String", regex(pattern = "^[a-z][a-z0-9-]{0,62}$"))]
    playbook: Spanned<String>,
    /// Grows with every change of meaning.
    #[schemars(with = "u32", range(min = 1))]
    version: Spanned<u32>,
    /// What it does, for people.
    description: Option<String>,
    /// What starts it; a playbook without one can only be called.
    #[schemars(with = "Option<TriggerText>")]
    trigger: Option<Spanned<TriggerText>>,
    /// JSON Schema of its input, where the trigger's message type does not say.
    #[schemars(with = "Option<Value>")]
    input: Option<Spanned<Node>>,
    /// Locks to hold before the first step.
    #[serde(default)]
    locks: LocksText,
    /// What happens when a step fails for good: a policy, or `${…}` over `input` that gives one.
    #[schemars(with = "Option<OnFailureText>")]
    on_failure: Option<Spanned<String>>,
    /// Once this step has started, nothing is taken back: the policy is `pause`.
    #[schemars(with = "Option<String>")]
    commit_point: Option<Spanned<String>>,
    /// The steps.
    #[schemars(with = "Vec<StepText>")]
    steps: Vec<Spanned<StepText>>,
    /// What a caller's `steps.<id>` is.
    #[schemars(with = "Option<Value>")]
    output: Option<Spanned<Node>>,
    /// Messages to send at its end, committed with its last journal entry.
    #[serde(default)]
    #[schemars(with = "Vec<EmitText>")]
    emit: Vec<Spanned<EmitText>>,
}

/// Starts the playbook: any of the messages named, a schedule, or a condition.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TriggerText {
    /// A request of this type.
    request: Option<String>,
    /// A handoff of this type.
    handoff: Option<String>,
    /// A schedule: five cron fields, UTC.
    #[schemars(with = "Option<String>")]
    cron: Option<Spanned<String>>,
    /// A condition that the contractor watches, by name.
    condition: Option<String>,
    /// How long the condition must hold before it fires.
    #[schemars(with = "Option<String>")]
    hold: Option<Spanned<String>>,
    /// How long after a firing it does not fire again.
    #[schemars(with = "Option<String>")]
    cool_down: Option<Spanned<String>>,
    /// CEL over the message's top-level fields, and `input` for all of it.
    #[schemars(with = "Option<String>")]
    when: Option<Spanned<String>>,
}

/// Locks, sorted and taken together before the first step.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct LocksText {
    /// Held alone.
    #[schemars(with = "Vec<String>")]
    exclusive: Vec<Spanned<String>>,
    /// Held together with other shared holders.
    #[schemars(with = "Vec<String>")]
    shared: Vec<Spanned<String>>,
    /// For what repairs or takes away: it goes before runs that wait, and paused ones that hold the locks are cancelled.
    preempt: bool,
}

/// One step: an `action`, or a `call` of another playbook.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StepText {
    /// Unique in the playbook; later steps refer to its output as `steps.<id>`.
    #[schemars(with = "String", regex(pattern = "^[a-z][a-z0-9_]{0,62}$"))]
    id: Spanned<String>,
    /// The action to run.
    #[schemars(with = "Option<String>")]
    action: Option<Spanned<String>>,
    /// The playbook to run instead of an action.
    #[schemars(with = "Option<String>")]
    call: Option<Spanned<String>>,
    /// The input; `${…}` is CEL over `input`, `steps`, `item`, `key` and `run`.
    #[schemars(with = "Option<WithText>")]
    with: Option<Spanned<Node>>,
    /// Steps that must be done or skipped before, besides those that it refers to.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    needs: Vec<Spanned<String>>,
    /// CEL; false skips the step.
    #[schemars(with = "Option<String>")]
    when: Option<Spanned<String>>,
    /// CEL giving a list: one instance per item.
    #[schemars(with = "Option<String>")]
    for_each: Option<Spanned<String>>,
    /// The stable name of an instance; required with `for_each`.
    #[schemars(with = "Option<String>")]
    key: Option<Spanned<String>>,
    /// How many instances at once: a number or a percentage.
    #[schemars(with = "Option<ParallelText>")]
    parallel: Option<Spanned<Node>>,
    /// What happens after an attempt that failed and may be repeated.
    #[schemars(with = "Option<RetryText>")]
    retry: Option<Spanned<RetryText>>,
    /// How long one attempt may take, `10m`.
    #[schemars(with = "Option<String>")]
    timeout: Option<Spanned<String>>,
    /// How long it may wait and retry, over all attempts.
    #[schemars(with = "Option<String>")]
    deadline: Option<Spanned<String>>,
}

/// A number from 1, or a percentage such as `20%`: only its schema is used.
struct ParallelText;

impl JsonSchema for ParallelText {
    fn schema_name() -> Cow<'static, str> {
        "Parallel".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^([1-9][0-9]?|100)%$"}]
        })
    }
}

/// A mapping, or one `${…}` that gives one: only its schema is used.
struct WithText;

impl JsonSchema for WithText {
    fn schema_name() -> Cow<'static, str> {
        "With".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "object"}, {"type": "string", "pattern": r"^\$\{.*\}$"}]})
    }
}

/// A policy, or one `${…}` that gives one: only its schema is used.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum OnFailureText {
    /// The policy.
    Fixed(Policy),
    /// What the input asks for.
    Asked(#[schemars(regex(pattern = r"^\$\{.*\}$"))] String),
}

/// Attempts and the pauses between them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RetryText {
    /// How many attempts in all.
    #[schemars(range(min = 1, max = 1000))]
    attempts: u32,
    /// Bounds of the pause, `2s..30s`: it doubles from the first to the second, with full jitter.
    #[schemars(with = "Option<String>")]
    backoff: Option<Spanned<String>>,
}

/// One message to send at the end of the run.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EmitText {
    /// Type of the handoff.
    handoff: Option<String>,
    /// Type of the event, instead of a handoff.
    event: Option<String>,
    /// Which end of the run it belongs to.
    #[serde(default)]
    after: After,
    /// CEL; false leaves it out.
    #[schemars(with = "Option<String>")]
    when: Option<Spanned<String>>,
    /// CEL giving a list: one message per item.
    #[schemars(with = "Option<String>")]
    for_each: Option<Spanned<String>>,
    /// The stable name of a message; required with `for_each`.
    #[schemars(with = "Option<String>")]
    key: Option<Spanned<String>>,
    /// The body.
    #[schemars(with = "Option<WithText>")]
    with: Option<Spanned<Node>>,
}

pub(super) fn parse(name: &str, text: &str) -> Result<Playbook, Problems> {
    let file: File = yaml::read(name, text).map_err(|problem| Problems(vec![problem]))?;
    let mut reader = Reader { file: name, problems: Vec::new() };
    let playbook = reader.playbook(file, text);
    if reader.problems.is_empty() {
        return Ok(playbook);
    }
    reader.problems.sort();
    Err(Problems(reader.problems))
}

struct Reader<'f> {
    file: &'f str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn playbook(&mut self, file: File, text: &str) -> Playbook {
        self.name(&file.playbook, "playbook", '-');
        if file.version.value == 0 {
            self.problem(&file.version, "versions count from 1");
        }
        let mut locks = Vec::new();
        for (mode, names) in [(LockMode::Exclusive, &file.locks.exclusive), (LockMode::Shared, &file.locks.shared)] {
            for name in names {
                locks.push((mode, self.text(name)));
            }
        }
        Playbook {
            file: self.file.to_owned(),
            text: text.to_owned(),
            name: placed(file.playbook),
            version: file.version.value,
            description: file.description,
            trigger: file.trigger.map(|trigger| self.trigger(trigger)),
            input: file.input.map(|input| input.value.to_value()),
            locks,
            preempts: file.locks.preempt,
            on_failure: file.on_failure.map_or(OnFailure::Fixed(Policy::default()), |text| self.on_failure(&text)),
            commit_point: file.commit_point.map(placed),
            steps: file.steps.into_iter().map(|step| self.step(step)).collect(),
            output: file.output.map(|output| self.template(&output)),
            emits: file.emit.into_iter().map(|emit| self.emit(emit)).collect(),
        }
    }

    fn trigger(&mut self, text: Spanned<TriggerText>) -> Trigger {
        let place = Place::from(&text);
        let it = text.value;
        let sources = [it.request.is_some(), it.handoff.is_some(), it.cron.is_some(), it.condition.is_some()];
        if !sources.contains(&true) {
            self.at(place, "a trigger names a `request`, `handoff`, `cron` or `condition`");
        }
        Trigger {
            place,
            request: it.request,
            handoff: it.handoff,
            cron: it.cron.and_then(|cron| self.schedule(&cron)),
            condition: it.condition,
            hold: self.duration(it.hold.as_ref(), Duration::ZERO),
            cool_down: self.duration(it.cool_down.as_ref(), Duration::ZERO),
            when: it.when.and_then(|when| self.expression(&when)),
        }
    }

    fn schedule(&mut self, text: &Spanned<String>) -> Option<Schedule> {
        Schedule::parse(&text.value).map_err(|reason| self.problem(text, reason)).ok()
    }

    fn step(&mut self, text: Spanned<StepText>) -> Step {
        let place = Place::from(&text);
        let it = text.value;
        self.name(&it.id, "step", '_');
        let does = match (it.action, it.call) {
            (Some(action), None) => Does::Action(placed(action)),
            (None, Some(call)) => Does::Call(placed(call)),
            _ => {
                self.at(place, "a step names either an `action` or a playbook to `call`");
                Does::Action(Placed { value: String::new(), place })
            }
        };
        if let (Does::Call(_), Some(retry)) = (&does, &it.retry) {
            self.problem(retry, "a call is not retried: its steps are");
        }
        let fan_out = self.fan_out(it.for_each.as_ref(), it.key.as_ref(), it.parallel.as_ref());
        Step {
            id: placed(it.id),
            does,
            needs: it.needs.into_iter().map(placed).collect(),
            when: it.when.and_then(|when| self.expression(&when)),
            fan_out,
            with_place: it.with.as_ref().map_or(place, Place::from),
            with: it.with.map_or(Template::Literal(Value::Object(serde_json::Map::new())), |with| self.template(&with)),
            retry: it.retry.map_or_else(Retry::default, |retry| self.retry(&retry)),
            timeout: self.duration(it.timeout.as_ref(), DEFAULT_TIMEOUT),
            deadline: self.duration(it.deadline.as_ref(), DEFAULT_DEADLINE),
        }
    }

    fn fan_out(
        &mut self,
        each: Option<&Spanned<String>>,
        key: Option<&Spanned<String>>,
        parallel: Option<&Spanned<Node>>,
    ) -> Option<FanOut> {
        let Some(each) = each else {
            if let Some(place) = key.map(Place::from).or(parallel.map(Place::from)) {
                self.at(place, "`key` and `parallel` go with `for_each`");
            }
            return None;
        };
        let Some(key) = key else {
            self.problem(each, "`for_each` needs a `key`: the stable name of each instance, such as `${item.name}`");
            return None;
        };
        let key = self.text(key);
        let parallel = parallel.map_or(Parallel::Unlimited, |parallel| self.parallel(parallel));
        self.expression(each).map(|each| FanOut { each, key, parallel })
    }

    fn on_failure(&mut self, text: &Spanned<String>) -> OnFailure {
        if text.value.starts_with("${") {
            return OnFailure::Asked(self.text(text));
        }
        let fixed = Policy::deserialize(Value::from(text.value.as_str()));
        OnFailure::Fixed(fixed.unwrap_or_else(|_| {
            let message =
                format!("`{}` is no failure policy: write `rollback`, `keep`, `pause`, or `${{…}}`", text.value);
            self.suggest(text, message, yaml::similar(&text.value, ["rollback", "keep", "pause"]));
            Policy::default()
        }))
    }

    fn parallel(&mut self, node: &Spanned<Node>) -> Parallel {
        let parsed = match &node.value {
            Node::Scalar(Value::Number(number)) => number.as_u64().map(|count| Parallel::Count(count as usize)),
            Node::Text(text) => text.strip_suffix('%').and_then(|text| text.parse().ok()).map(Parallel::Percent),
            _ => None,
        };
        match parsed {
            Some(parallel @ Parallel::Count(1..)) | Some(parallel @ Parallel::Percent(1..=100)) => parallel,
            _ => {
                self.problem(node, "`parallel` is a number from 1 or a percentage such as `20%`");
                Parallel::Unlimited
            }
        }
    }

    fn retry(&mut self, text: &Spanned<RetryText>) -> Retry {
        if !(1..=1000).contains(&text.value.attempts) {
            self.problem(text, "`attempts` is a number from 1 to 1000");
        }
        let mut retry = Retry { attempts: text.value.attempts.max(1), ..Retry::default() };
        if let Some(backoff) = &text.value.backoff {
            let bounds =
                backoff.value.split_once("..").and_then(|(first, cap)| Some((duration(first)?, duration(cap)?)));
            match bounds {
                Some((first, cap)) if first <= cap => (retry.first, retry.cap) = (first, cap),
                _ => self.problem(backoff, "`backoff` is a range of durations such as `2s..30s`"),
            }
        }
        retry
    }

    fn emit(&mut self, text: Spanned<EmitText>) -> Emit {
        let place = Place::from(&text);
        let it = text.value;
        let (kind, name) = match (it.handoff, it.event) {
            (Some(name), None) => (EmissionKind::Handoff, name),
            (None, Some(name)) => (EmissionKind::Event, name),
            _ => {
                self.at(place, "a message to emit is either a `handoff` or an `event`");
                (EmissionKind::Event, String::new())
            }
        };
        Emit {
            place,
            kind,
            name,
            after: it.after,
            when: it.when.and_then(|when| self.expression(&when)),
            fan_out: self.fan_out(it.for_each.as_ref(), it.key.as_ref(), None),
            with: it.with.map_or(Template::Literal(Value::Object(serde_json::Map::new())), |with| self.template(&with)),
        }
    }

    fn name(&mut self, name: &Spanned<String>, what: &str, joint: char) {
        let fits = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == joint;
        let text = &name.value;
        if !text.starts_with(|char: char| char.is_ascii_lowercase()) || !text.chars().all(fits) || text.len() > 63 {
            self.problem(
                name,
                format!("`{text}` is no {what} name: a-z, 0-9 and `{joint}`, at most 63, a letter first"),
            );
        }
    }

    fn expression(&mut self, text: &Spanned<String>) -> Option<Placed<Expression>> {
        let source = text.value.trim();
        let source = source.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).unwrap_or(source);
        match Expression::compile(source) {
            Ok(value) => Some(Placed { value, place: text.into() }),
            Err(error) => {
                self.problem(text, format!("`{source}` is not an expression: {error}"));
                None
            }
        }
    }

    fn template(&mut self, node: &Spanned<Node>) -> Template {
        Template::compile(node).unwrap_or_else(|bad| self.bad(bad))
    }

    fn text(&mut self, text: &Spanned<String>) -> Template {
        Template::compile_text(&text.value, text.into()).unwrap_or_else(|bad| self.bad(bad))
    }

    fn bad(&mut self, bad: BadTemplate) -> Template {
        self.at(bad.place, bad.message);
        Template::Literal(Value::Null)
    }

    fn duration(&mut self, text: Option<&Spanned<String>>, default: Duration) -> Duration {
        let Some(text) = text else { return default };
        duration(&text.value).unwrap_or_else(|| {
            self.problem(text, format!("`{}` is no duration: write `30s`, `10m` or `1h30m`", text.value));
            default
        })
    }

    fn problem<T>(&mut self, at: &Spanned<T>, message: impl Into<String>) {
        self.at(at.into(), message);
    }

    fn suggest<T>(&mut self, at: &Spanned<T>, message: String, suggestion: Option<String>) {
        self.problems.push(Problem { file: self.file.to_owned(), place: at.into(), message, suggestion });
    }

    fn at(&mut self, place: Place, message: impl Into<String>) {
        self.problems.push(Problem { file: self.file.to_owned(), place, message: message.into(), suggestion: None });
    }
}

fn placed<T>(spanned: Spanned<T>) -> Placed<T> {
    Placed { place: Place::from(&spanned), value: spanned.value }
}

fn duration(text: &str) -> Option<Duration> {
    Duration::try_from(text.trim().parse::<SignedDuration>().ok()?).ok()
}
