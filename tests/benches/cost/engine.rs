//! How fast the engine decides, and whether a step costs more when many finished runs lie in the store.

use std::time::Instant;

use contractor::runtime::message_schema;
use engine::{
    catalog::{ActionSpec, Catalog, Undo},
    event::{Event, FORMAT, Opened},
    library::{Library, World},
    run::{AttemptEnd, Effect, RunState},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Commit, Options, RunAppend, RunState as State, RunSummary, Store};
use uuid::Uuid;

use crate::figures::{Figures, percentile, scratch};

const NAME: &str = "engine";
const PLAYBOOK: &str = r#"
playbook: fan
version: 1
input: { type: object, properties: { items: { type: array } } }
steps:
  - { id: first, for_each: "${input.items}", key: "${item}", action: work, with: { name: "${item}" } }
  - { id: second, needs: [first], for_each: "${input.items}", key: "${item}", action: work, with: { name: "${item}" } }
  - { id: third, needs: [second], for_each: "${input.items}", key: "${item}", action: work, with: { name: "${item}" } }
"#;

/// One action that takes anything.
struct Anything(Vec<ActionSpec>);

impl Catalog for Anything {
    fn action(&self, name: &str) -> Option<&ActionSpec> {
        self.0.iter().find(|spec| spec.name == name)
    }

    fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|spec| spec.name).collect()
    }
}

pub(crate) fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    for width in [10, 100, 500] {
        decisions(figures, width)?;
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let folder = tempfile::tempdir_in(scratch()?)?;
    let store = Store::open(folder.path(), Options::default())?;
    let mut finished = 0;
    for goal in [10, 1_000, 100_000] {
        runtime.block_on(finish_runs(&store, finished..goal))?;
        finished = goal;
        let mut times = runtime.block_on(appends(&store, goal, 2_000))?;
        let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
        figures.note(NAME, format!("append of a step, {goal} finished runs, p50"), p50, "ms");
        figures.note(NAME, format!("append of a step, {goal} finished runs, p99"), p99, "ms");
    }
    runtime.block_on(store.close());
    Ok(())
}

/// Plays a fan-out of three steps to its end with actions that are done at once.
fn decisions(figures: &mut Figures, width: usize) -> anyhow::Result<()> {
    let spec = ActionSpec { name: "work", undo: Undo::Nothing, input: json!({"type": "object"}), output: json!({}) };
    let catalog = Anything(vec![spec]);
    let world = World { catalog: &catalog, messages: &message_schema, conditions: &[] };
    let library = Library::load(&[("fan.yaml".to_owned(), PLAYBOOK.to_owned())], &world)
        .map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let definition = library.get("fan").ok_or_else(|| anyhow::anyhow!("the playbook was not loaded"))?;
    let items: Vec<String> = (0..width).map(|item| format!("node-{item}")).collect();
    let now = Timestamp::UNIX_EPOCH;
    let opened = Opened {
        format: FORMAT,
        run: Uuid::nil(),
        flow: Uuid::nil(),
        cause: "/bench/1".to_owned(),
        playbook: "fan".to_owned(),
        version: 1,
        pins: definition.pins.clone(),
        subject: None,
        input: json!({ "items": items }),
        locks: Vec::new(),
        on_failure: None,
        plan: None,
        own_plan: None,
        trace: None,
        at: now,
    };
    let mut state = RunState::open(opened, definition.clone())?;
    let (begun, mut effects, mut events) = (Instant::now(), 0_u32, 0_u32);
    loop {
        let next = state.next(now).effects;
        effects += u32::try_from(next.len())?;
        let mut last = false;
        for effect in next {
            let journaled = match effect {
                Effect::Record(events) => events,
                Effect::Run(attempt) => {
                    state.apply(&attempt.started(now))?;
                    events += 1;
                    let ended = state.settle(&attempt.step, AttemptEnd::Done(json!({})), now);
                    ended.map(|entry| entry.event().clone()).into_iter().collect()
                }
                Effect::Finish { .. } => {
                    last = true;
                    Vec::new()
                }
                other => anyhow::bail!("an untroubled run has nothing to do with {other:?}"),
            };
            for event in &journaled {
                state.apply(event)?;
                events += 1;
            }
        }
        if last {
            break;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    figures.note(NAME, format!("effects decided, 3 steps of {width} instances"), f64::from(effects) / seconds, "1/s");
    figures.note(
        NAME,
        format!("journal entries applied, 3 steps of {width} instances"),
        f64::from(events) / seconds,
        "1/s",
    );
    Ok(())
}

/// Runs that ended and are archived, of twelve entries each.
async fn finish_runs(store: &Store, numbers: std::ops::Range<u128>) -> anyhow::Result<()> {
    const AT_ONCE: usize = 256;
    let numbers: Vec<u128> = numbers.collect();
    for some in numbers.chunks(AT_ONCE) {
        let commits = some.iter().map(|number| {
            let run = Uuid::from_u128(1 + number);
            let entry = |at: usize| entry(&format!("apply[node-{at}]"));
            let append = RunAppend {
                run,
                expected_seq: 0,
                events: (0..12).map(entry).collect(),
                summary: Some(summary(State::Succeeded)),
            };
            store.commit(Commit { run: Some(append), archive: vec![run], ..Commit::default() })
        });
        for done in futures::future::join_all(commits).await {
            done?;
        }
    }
    Ok(())
}

/// The times of single commits of one journal entry with its run's row.
async fn appends(store: &Store, at: u128, count: u64) -> anyhow::Result<Vec<std::time::Duration>> {
    let run = Uuid::from_u128((1 << 100) + at);
    let mut times = Vec::new();
    for number in 0..count {
        let append = RunAppend {
            run,
            expected_seq: number,
            events: vec![entry("apply[node-1]")],
            summary: Some(summary(State::Running)),
        };
        let begun = Instant::now();
        store.commit(Commit { run: Some(append), ..Commit::default() }).await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

pub(crate) fn entry(step: &str) -> Value {
    let done = Event::Succeeded {
        step: step.to_owned(),
        attempt: 1,
        output: json!({ "node": step, "digest": "0".repeat(64) }),
        at: Timestamp::UNIX_EPOCH,
    };
    serde_json::to_value(done).unwrap_or_default()
}

fn summary(state: State) -> RunSummary {
    RunSummary { flow: Uuid::nil(), playbook: "fan".to_owned(), cluster: None, state, detail: Value::Null }
}
