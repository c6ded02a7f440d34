//! How fast the engine decides, and whether a step costs more when many finished runs lie in the store.
//!
//! `ENGINE` says how many, default `10,1000,100000`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use contractor::{
    driver::{Driver, NewRun},
    runtime::message_schema,
};
use engine::{
    catalog::{ActionSpec, Catalog, Undo},
    event::{Event, FORMAT, Opened},
    library::{Library, World},
    report::Status,
    run::{AttemptEnd, Effect, RunState},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Commit, Options, RunAppend, RunState as State, RunSummary, Store};
use uuid::Uuid;

use crate::{
    figures::{Figures, percentile, scratch},
    stub,
};

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

/// Steps one after the other, under a lock.
const STEPS: &str = r#"
playbook: steps
version: 1
input: { type: object, properties: { cluster: { type: string }, items: { type: array } } }
locks: { exclusive: ["cluster/${input.cluster}"] }
steps:
  - id: work
    for_each: "${input.items}"
    key: "${item}"
    parallel: 1
    action: nothing
    with: { name: "${item}" }
"#;
const STEPS_OF_A_RUN: u32 = 50;
const RUNS: u32 = 20;

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
    tokio::runtime::Runtime::new()?.block_on(growth(figures))
}

/// What a step costs beside so many finished runs: its journal entry alone, and as a step of a run that a driver performs.
async fn growth(figures: &mut Figures) -> anyhow::Result<()> {
    let sizes = std::env::var("ENGINE").unwrap_or_else(|_| "10,1000,100000".to_owned());
    let folder = tempfile::tempdir_in(scratch()?)?;
    let store = Store::open(folder.path(), Options::default())?;
    let (driver, _) = stub::driver(&store, STEPS, Arc::new(stub::Silent)).await?;
    let (mut finished, mut costs) = (0, Vec::new());
    for size in sizes.split(',') {
        let size: u128 = size.trim().parse().with_context(|| format!("ENGINE: {size} is no number"))?;
        finish_runs(&store, finished..size).await?;
        finished = size;
        let mut appends = appends(&store, size, 2_000).await?;
        let mut steps = performed(&driver, size).await?;
        for (share, name) in [(0.5, "p50"), (0.99, "p99")] {
            let (append, step) = (percentile(&mut appends, share), percentile(&mut steps, share));
            figures.note(NAME, format!("append of a step, {size} finished runs, {name}"), append, "ms");
            figures.note(NAME, format!("step of a run with a lock, {size} finished runs, {name}"), step, "ms");
        }
        costs.push((size, percentile(&mut appends, 0.5), percentile(&mut steps, 0.5)));
    }
    if let [(few, append, step), .., (many, append_later, step_later)] = costs[..] {
        let ratio = |what: &str| format!("{what}: p50 with {many} finished runs / with {few}");
        figures.against(1.2, NAME, ratio("append of a step"), (append_later / append, "×"));
        figures.against(1.2, NAME, ratio("step of a run with a lock"), (step_later / step, "×"));
    }
    driver.shutdown(Duration::from_secs(20)).await;
    drop(driver);
    store.close().await;
    Ok(())
}

/// What steps cost in runs that a driver performs: opened, lock taken, each step started and done, finished, every one of
/// them durable before the next. One cost a run, per step.
async fn performed(driver: &Driver, at: u128) -> anyhow::Result<Vec<Duration>> {
    let items: Vec<String> = (0..STEPS_OF_A_RUN).map(|item| format!("node-{item}")).collect();
    let mut costs = Vec::new();
    for number in 0..RUNS {
        let new = NewRun {
            key: None,
            run: Uuid::from_u128((2 << 100) + (at << 32) + u128::from(number)),
            flow: Uuid::from_u128(u128::from(number)),
            cause: format!("/bench/{at}/{number}"),
            playbook: "steps".to_owned(),
            subject: None,
            input: json!({ "cluster": "prod-k8s", "items": items }),
            plan: None,
            trace: None,
            with: Commit::default(),
        };
        let (run, begun) = (new.run, Instant::now());
        driver.submit(new).await?;
        driver.idle().await;
        costs.push(begun.elapsed() / STEPS_OF_A_RUN);
        let status = driver.report(run)?.map(|report| report.status);
        if status != Some(Status::Succeeded) {
            anyhow::bail!("the run is {status:?}");
        }
    }
    Ok(costs)
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
async fn appends(store: &Store, at: u128, count: u64) -> anyhow::Result<Vec<Duration>> {
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
