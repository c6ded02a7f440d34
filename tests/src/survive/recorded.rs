//! Journals of runs as earlier programs wrote them: this one must still read every one to the same end.
//!
//! There is one file per playbook version, `tests/journals/<playbook>.v<version>.jsonl`: a line with the playbook's texts,
//! then a line per run. Once a version is released its file is never written again: whoever changes the playbook raises
//! its version, and records the new one.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, ensure};
use engine::{
    catalog::{ActionSpec, Catalog, Undo},
    event::Event,
    library::Definition,
    report::{Report, Status, StepStatus},
    run::{Command, RunState},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::RunSummary;

use super::{
    Ending, Fault, FaultKind, Scenario, Subject,
    play::{self, Left, play},
    trial,
};

/// Every kind of entry, as [`kind`] says it.
pub const KINDS: [&str; 16] = [
    "opened",
    "expanded",
    "skipped",
    "started",
    "checkpointed",
    "waiting",
    "succeeded",
    "failed",
    "undo_started",
    "undo_succeeded",
    "undo_failed",
    "halted",
    "cancel_requested",
    "undo_requested",
    "resumed",
    "finished",
];

/// The kind of an entry; whoever adds one adds it to [`KINDS`] too, and to a story.
fn kind(event: &Event) -> &'static str {
    match event {
        Event::Opened(_) => "opened",
        Event::Expanded { .. } => "expanded",
        Event::Skipped { .. } => "skipped",
        Event::Started { .. } => "started",
        Event::Checkpointed { .. } => "checkpointed",
        Event::Waiting { .. } => "waiting",
        Event::Succeeded { .. } => "succeeded",
        Event::Failed { .. } => "failed",
        Event::UndoStarted { .. } => "undo_started",
        Event::UndoSucceeded { .. } => "undo_succeeded",
        Event::UndoFailed { .. } => "undo_failed",
        Event::Halted { .. } => "halted",
        Event::CancelRequested { .. } => "cancel_requested",
        Event::UndoRequested { .. } => "undo_requested",
        Event::Resumed { .. } => "resumed",
        Event::Finished { .. } => "finished",
    }
}

/// A playbook's text.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// The playbook's name.
    pub playbook: String,
    /// As its file was.
    pub text: String,
}

/// One run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Story {
    /// What happened in it.
    pub name: String,
    /// Where it stands at the end of the journal.
    pub status: Status,
    /// Where each step instance stands.
    pub steps: Value,
    /// The journal.
    pub events: Vec<Value>,
}

/// The folder of this repository's recorded journals.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("journals")
}

/// Where the journals of a subject's playbook version are.
pub fn file(folder: &Path, subject: &Subject) -> PathBuf {
    folder.join(name(subject, subject.definition().playbook.version))
}

fn name(subject: &Subject, version: u32) -> String {
    format!("{}.v{version}.jsonl", subject.playbook)
}

/// Records every playbook version of `subjects` that has no file yet; returns the files written.
///
/// # Errors
/// If a run cannot be played, or a file cannot be written.
pub fn record(folder: &Path, subjects: &[Subject]) -> anyhow::Result<Vec<PathBuf>> {
    let missing: BTreeSet<_> =
        subjects.iter().map(|subject| file(folder, subject)).filter(|file| !file.exists()).collect();
    for path in &missing {
        let of_file = subjects.iter().filter(|subject| file(folder, subject) == *path);
        let mut lines = Vec::new();
        for subject in of_file {
            if lines.is_empty() {
                lines.push(serde_json::to_string(&texts(subject))?);
            }
            for story in stories(subject)? {
                lines.push(serde_json::to_string(&story)?);
            }
        }
        lines.push(String::new());
        write_new(path, &lines.join("\n")).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(missing.into_iter().collect())
}

/// A file that is there is never written again, whoever has made it meanwhile.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    fs::File::create_new(path)?.write_all(text.as_bytes())
}

/// Reads a file and replays its journals, and every beginning of them. Returns the kinds of entries in them.
///
/// # Errors
/// If one does not come to the end that was recorded.
pub fn replay(path: &Path, actions: &[ActionSpec]) -> anyhow::Result<BTreeSet<&'static str>> {
    let name = path.display();
    let (texts, stories) = read(path)?;
    let definition = restore(&texts, actions).with_context(|| name.to_string())?;
    ensure!(!stories.is_empty(), "{name} holds no journal");
    let mut kinds = BTreeSet::new();
    for story in &stories {
        let events = story.entries().with_context(|| format!("{name}, {}", story.name))?;
        replay_one(&definition, story, &events).with_context(|| format!("{name}, {}", story.name))?;
        kinds.extend(events.iter().map(kind));
    }
    Ok(kinds)
}

fn restore(texts: &[Text], actions: &[ActionSpec]) -> anyhow::Result<Arc<Definition>> {
    let texts: Vec<_> = texts.iter().map(|it| (it.playbook.clone(), it.text.clone())).collect();
    Definition::restore(&texts, &Known(actions)).map_err(|problems| anyhow::anyhow!("{problems}"))
}

fn replay_one(definition: &Arc<Definition>, story: &Story, events: &[Event]) -> anyhow::Result<()> {
    let mut state = RunState::replay(definition.clone(), &events[..events.len().min(1)])?;
    for event in &events[1..] {
        // What a process that died here would do next must be there to be asked for.
        let _ = state.next(Timestamp::UNIX_EPOCH);
        state.apply(event)?;
    }
    let report = state.report();
    ensure!(report.status == story.status, "it ends {:?} instead of {:?}", report.status, story.status);
    ensure!(serde_json::to_value(&report.steps)? == story.steps, "its steps end otherwise than recorded");
    Ok(())
}

impl Story {
    fn entries(&self) -> anyhow::Result<Vec<Event>> {
        let events = self.events.iter().map(|event| Ok(serde_json::from_value(event.clone())?));
        events.collect::<anyhow::Result<_>>().context("an entry has another form")
    }

    /// Whether it is one of the subject's, whose variant stands before its name.
    fn is_of(&self, subject: &Subject) -> bool {
        let variant = self.name.split_once(": ").map_or("", |(variant, _)| variant);
        variant == subject.variant
    }
}

/// Lets this program go on from beginnings of the journals of a subject's playbook, of all its versions: the one with
/// `first` entries, and each that has `every` more.
/// Nothing goes wrong any more: what was on its way to its end comes to the one that was recorded, all else succeeds.
/// Returns how many it went on from.
///
/// # Errors
/// If one comes to another end, or leaves another world.
pub fn go_on(folder: &Path, subject: &Subject, (first, every): (usize, usize)) -> anyhow::Result<usize> {
    let mut count = 0;
    for version in 1..=subject.definition().playbook.version {
        let (texts, stories) = read(&folder.join(name(subject, version)))?;
        let definition = restore(&texts, &subject.specs)?;
        for story in stories.iter().filter(|story| story.is_of(subject)) {
            let events = story.entries()?;
            for length in (first..events.len()).step_by(every) {
                let state = RunState::replay(definition.clone(), &events[..length])?;
                let told = || format!("{}, v{version}, {}, on from entry {length}", subject.title(), story.name);
                go_on_from(subject, &state, story).with_context(told)?;
                count += 1;
            }
        }
    }
    Ok(count)
}

fn go_on_from(subject: &Subject, state: &RunState, story: &Story) -> anyhow::Result<()> {
    let report = state.report();
    let is_there = |step: &&engine::report::StepReport| {
        let is_begun = !matches!(step.status, StepStatus::Pending | StepStatus::Skipped | StepStatus::Undone);
        is_begun && subject.undo_of(&step.does).is_some_and(|undo| undo != Undo::Nothing)
    };
    let texts = state.definition().texts().into_iter();
    let left = Left {
        summary: summary(&report),
        events: story.events[..usize::try_from(state.events())?].to_vec(),
        texts: texts.map(|(pin, text)| (pin.hash.clone(), text.to_owned())).collect(),
        objects: report.steps.iter().filter(is_there).map(|step| step.step.clone()).collect(),
    };
    let scenario = Scenario { mends: true, ..Scenario::default() };
    let ending = play::play_on(subject, &scenario, left).map_err(anyhow::Error::msg)?;
    let expected = match report.status {
        status if status.is_terminal() => status,
        _ if state.is_stopping() => story.status,
        _ => Status::Succeeded,
    };
    ensure!(ending.status == expected, "it ends {:?} instead of {expected:?}", ending.status);
    ensure!(ending.broken.is_empty(), "{}", ending.broken.join(", "));
    leaves(subject, &ending)
}

/// Whether what is there is what its steps have made.
fn leaves(subject: &Subject, ending: &Ending) -> anyhow::Result<()> {
    let made: BTreeSet<String> = match ending.status {
        Status::Succeeded => {
            let done = ending.report.steps.iter().filter(|step| step.status == StepStatus::Succeeded);
            let changes = |action: &str| subject.undo_of(action).is_some_and(|undo| undo != Undo::Nothing);
            done.filter(|step| changes(&step.does)).map(|step| step.step.clone()).collect()
        }
        Status::Undone => BTreeSet::new(),
        _ => return Ok(()),
    };
    ensure!(ending.objects == made, "it leaves {:?} instead of {made:?}", ending.objects);
    Ok(())
}

/// How the row of such a run reads.
fn summary(report: &Report) -> RunSummary {
    RunSummary {
        flow: report.flow,
        playbook: report.playbook.clone(),
        cluster: report.subject.clone(),
        state: serde_json::from_value(serde_json::json!(report.status)).expect("a row knows every status"),
        detail: Value::Null,
    }
}

fn read(path: &Path) -> anyhow::Result<(Vec<Text>, Vec<Story>)> {
    let name = path.display();
    let file = fs::read_to_string(path).with_context(|| format!("{name} cannot be read"))?;
    let mut lines = file.lines();
    let texts = serde_json::from_str(lines.next().with_context(|| format!("{name} is empty"))?)?;
    let stories = lines.map(serde_json::from_str).collect::<Result<_, _>>();
    Ok((texts, stories.with_context(|| format!("{name} has another form"))?))
}

/// What is wrong with the journals kept for `subjects`: one is missing, or is of another text than what ships.
///
/// # Errors
/// If a file cannot be read.
pub fn forgotten(folder: &Path, subjects: &[Subject]) -> anyhow::Result<BTreeSet<String>> {
    let mut forgotten = BTreeSet::new();
    for subject in subjects {
        let current = subject.definition().playbook.version;
        for shown in (1..current).map(|version| name(subject, version)).filter(|shown| !folder.join(shown).exists()) {
            forgotten.insert(format!("{shown} is missing: bring it back, for there are runs of it"));
        }
        let shown = name(subject, current);
        if !folder.join(&shown).exists() {
            forgotten.insert(format!("{shown} is missing: run `cargo survive -- --record`"));
            continue;
        }
        if read(&folder.join(&shown))?.0.first() != texts(subject).first() {
            forgotten.insert(format!(
                "{shown} is of another text: raise the version of {} and run `cargo survive -- --record` \
                 (while that version is not released: delete the file instead)",
                subject.playbook
            ));
        }
    }
    Ok(forgotten)
}

fn texts(subject: &Subject) -> Vec<Text> {
    let texts = subject.definition().texts().into_iter();
    texts.map(|(pin, text)| Text { playbook: pin.playbook.clone(), text: text.to_owned() }).collect()
}

/// Runs that between them have every kind of entry.
fn stories(subject: &Subject) -> anyhow::Result<Vec<Story>> {
    let untroubled = trial::untroubled(subject).map_err(anyhow::Error::msg)?;
    let steps: Vec<_> =
        untroubled.report.steps.iter().filter(|step| step.ended_at.is_some()).map(|step| &step.step).collect();
    let all = |undo: bool, kind| steps.iter().map(move |step| Fault { step: (*step).clone(), undo, kind, times: 1 });
    let last =
        steps.last().map(|step| Fault { step: (*step).clone(), undo: false, kind: FaultKind::FailLate, times: 1 });
    let scenarios = [
        ("nothing goes wrong", Scenario::default()),
        (
            "every step waits, then needs a second attempt",
            Scenario {
                faults: all(false, FaultKind::Wait).chain(all(false, FaultKind::LostReply)).collect(),
                ..Scenario::default()
            },
        ),
        ("the last step fails", Scenario { faults: last.clone().into_iter().collect(), ..Scenario::default() }),
        (
            "the last step fails, and every undo needs a second attempt",
            Scenario {
                faults: all(true, FaultKind::Wait).chain(all(true, FaultKind::Retry)).chain(last.clone()).collect(),
                ..Scenario::default()
            },
        ),
        (
            "the last step fails, no undo goes well, an operator mends that",
            Scenario { faults: all(true, FaultKind::Fail).chain(last).collect(), mends: true, ..Scenario::default() },
        ),
        (
            "cancelled half-way",
            Scenario { commands: vec![(untroubled.commits / 2, Command::Cancel)], ..Scenario::default() },
        ),
        (
            "undone after its end",
            Scenario { commands: vec![(untroubled.commits, Command::Undo)], ..Scenario::default() },
        ),
        ("what it hands over is refused", Scenario { refuses: true, ..Scenario::default() }),
    ];
    let story = |(name, scenario): (&str, Scenario)| {
        let ending = play(subject, &scenario).map_err(anyhow::Error::msg)?;
        let name = if subject.variant.is_empty() { name.to_owned() } else { format!("{}: {name}", subject.variant) };
        let steps = serde_json::to_value(&ending.report.steps)?;
        Ok(Story { name, status: ending.status, steps, events: ending.journal })
    };
    // What is special about the others changes which steps there are, not how they go; or only what follows a failure.
    let is_told = |(name, scenario): &(&str, Scenario)| match subject {
        _ if scenario.refuses && untroubled.sent.is_empty() => false,
        Subject { variant: "", .. } => true,
        Subject { differs_in_failure: true, .. } => !scenario.faults.is_empty() || !scenario.commands.is_empty(),
        _ => *name == "nothing goes wrong",
    };
    scenarios.into_iter().filter(is_told).map(story).collect()
}

struct Known<'s>(&'s [ActionSpec]);

impl Catalog for Known<'_> {
    fn action(&self, name: &str) -> Option<&ActionSpec> {
        self.0.iter().find(|spec| spec.name == name)
    }

    fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|spec| spec.name).collect()
    }
}
