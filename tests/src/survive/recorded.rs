//! Journals of runs as earlier programs wrote them: this one must still read every one to the same end.
//!
//! There is one file per playbook version, `tests/journals/<playbook>.v<version>.jsonl`: a line with the playbook's texts,
//! then a line per run. Once a version is released its file is never written again: whoever changes the playbook raises
//! its version, and records the new one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, ensure};
use engine::{
    catalog::{ActionSpec, Catalog},
    event::Event,
    library::Definition,
    report::Status,
    run::{Command, RunState},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Fault, FaultKind, Scenario, Subject, play, trial};

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
    folder.join(format!("{}.v{}.jsonl", subject.playbook, subject.definition().playbook.version))
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
        fs::write(path, lines.join("\n")).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(missing.into_iter().collect())
}

/// Reads a file and replays its journals, and every beginning of them.
///
/// # Errors
/// If one does not come to the end that was recorded.
pub fn replay(path: &Path, actions: &[ActionSpec]) -> anyhow::Result<()> {
    let name = path.display();
    let (texts, stories) = read(path)?;
    let texts: Vec<_> = texts.into_iter().map(|it| (it.playbook, it.text)).collect();
    let definition = Definition::restore(&texts, &Known(actions));
    let definition = definition.map_err(|problems| anyhow::anyhow!("{name}: {problems}"))?;
    ensure!(!stories.is_empty(), "{name} holds no journal");
    for story in &stories {
        replay_one(&definition, story).with_context(|| format!("{name}, {}", story.name))?;
    }
    Ok(())
}

fn replay_one(definition: &Arc<Definition>, story: &Story) -> anyhow::Result<()> {
    let events = story.events.iter().map(|event| Ok(serde_json::from_value(event.clone())?));
    let events: Vec<Event> = events.collect::<anyhow::Result<_>>().context("an entry has another form")?;
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
        let path = file(folder, subject);
        let shown = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !path.exists() {
            forgotten.insert(format!("{shown} is missing: run `cargo survive -- --record`"));
            continue;
        }
        if read(&path)?.0.first() != texts(subject).first() {
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
    ];
    let story = |(name, scenario): (&str, Scenario)| {
        let ending = play(subject, &scenario).map_err(anyhow::Error::msg)?;
        let name = if subject.variant.is_empty() { name.to_owned() } else { format!("{}: {name}", subject.variant) };
        let steps = serde_json::to_value(&ending.report.steps)?;
        Ok(Story { name, status: ending.status, steps, events: ending.journal })
    };
    // What is special about the others changes which steps there are, not how they go.
    let many = if subject.variant.is_empty() { scenarios.len() } else { 1 };
    scenarios.into_iter().take(many).map(story).collect()
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
