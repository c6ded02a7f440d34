//! Runs every playbook through every failure, prints what was tried, and shrinks a failure to the shortest story.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use clap::Parser;
use serde_json::{Value, json};
use tests::survive::{
    Ending, Scenario, Subject,
    cases::{self, Case},
    judge, play, shrink,
};

/// Runs every playbook through every failure that a machine can think of.
#[derive(Parser)]
struct Options {
    /// The first seed of the random cases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many random cases for each playbook.
    #[arg(long, default_value_t = 200)]
    cases: u64,
    /// Only playbooks with this in their name.
    #[arg(long, default_value = "")]
    playbook: String,
    /// Writes the journal of each playbook version that has none yet into this folder, and does nothing else.
    #[arg(long)]
    record: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut out = io::stdout().lock();
    match run(&options, &mut out) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing is left to do when even this cannot be written.
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options, out: &mut dyn Write) -> anyhow::Result<bool> {
    if let Some(folder) = &options.record {
        return record(folder, out);
    }
    let subjects = Subject::every()?;
    let (mut total, started, mut failures) = (0, Instant::now(), 0);
    for subject in subjects.iter().filter(|subject| subject.playbook.contains(&options.playbook)) {
        let began = Instant::now();
        let untroubled = play(subject, &Scenario::default()).map_err(anyhow::Error::msg)?;
        let mut all = cases::all(subject, &untroubled).map_err(anyhow::Error::msg)?;
        let seeds = options.seed..options.seed.saturating_add(options.cases);
        all.extend(seeds.map(|seed| Case { group: "random", scenario: cases::random(subject, &untroubled, seed) }));
        let mut groups = BTreeMap::new();
        for case in &all {
            *groups.entry(case.group).or_insert(0) += 1;
            if let Err(reason) = check(subject, &case.scenario, &untroubled) {
                failures += 1;
                // A made case is as short as it gets; what is expected of it is not expected of its parts.
                let is_made = case.scenario.expected.is_some();
                let shortest = shrink(&case.scenario, &|it| !is_made && check(subject, it, &untroubled).is_err());
                let reason = check(subject, &shortest, &untroubled).err().unwrap_or(reason);
                writeln!(out, "FAILED {} ({}): {reason}\n    {shortest}", subject.playbook, case.group)?;
            }
        }
        total += all.len();
        let steps = untroubled.report.steps.len();
        writeln!(
            out,
            "{}: {steps} steps, {} cases, {:.1} s",
            subject.playbook,
            all.len(),
            began.elapsed().as_secs_f64()
        )?;
        for (group, count) in groups {
            writeln!(out, "    {count:5}  {group}")?;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = total as f64 / seconds * 60.0;
    writeln!(out, "{total} cases in {seconds:.1} s ({rate:.0} a minute), {failures} failed")?;
    Ok(failures == 0)
}

/// Journals of untroubled runs, one per shipped playbook and version: later programs must still read them.
fn record(folder: &Path, out: &mut dyn Write) -> anyhow::Result<bool> {
    for subject in Subject::shipped()? {
        let definition = subject.definition();
        let file = folder.join(format!("{}.v{}.json", subject.playbook, definition.playbook.version));
        if file.exists() {
            continue;
        }
        let ending = play(&subject, &Scenario::default()).map_err(anyhow::Error::msg)?;
        let texts = definition.texts().into_iter().map(|(pin, text)| json!({"playbook": pin.playbook, "text": text}));
        let texts: Vec<Value> = texts.collect();
        let recorded = json!({"texts": texts, "events": ending.journal, "status": ending.status});
        std::fs::write(&file, format!("{}\n", serde_json::to_string_pretty(&recorded)?))?;
        writeln!(out, "{}", file.display())?;
    }
    Ok(true)
}

fn check(subject: &Subject, scenario: &Scenario, untroubled: &Ending) -> Result<(), String> {
    let ending = play(subject, scenario)?;
    judge(subject, scenario, &ending, untroubled)
}
