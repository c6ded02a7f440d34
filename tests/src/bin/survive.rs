//! Runs every playbook through every failure, prints what was tried, and shrinks a failure to the shortest story.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Parser;
use serde_json::json;
use tests::survive::{
    Subject, deeds, fencing, machine, recorded,
    rounds::{self, Kills},
    sabotage::Part,
    soak,
    trial::{self, Tried},
};

/// Runs every playbook through every failure that a machine can think of.
#[derive(Parser)]
struct Options {
    /// The first seed of what is random, by chance if not said; it is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many random cases for each playbook, 200 if not said; with `--real` how often each daemon is killed amid a run of
    /// its own, at least, 10 if not said.
    #[arg(long)]
    cases: Option<u64>,
    /// Only playbooks with this in their name.
    #[arg(long, default_value = "")]
    playbook: String,
    /// Instead of fakes: real daemons, nats-server and lab, killed at random instants.
    #[arg(long, conflicts_with_all = ["deeds", "playbook"])]
    real: bool,
    /// With `--real`: how often a daemon is killed in the first 20 ms after its start, 40 times `--cases` if not said.
    #[arg(long)]
    starts: Option<u64>,
    /// Instead of fakes: the real actions against the lab in this process, through the life of a cluster.
    #[arg(long)]
    deeds: bool,
    /// With `--deeds`: puts only every so many steps and commits to the test.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// Instead: so many random histories in which strangers take over ids, names and tags of our machines.
    #[arg(long, value_name = "HISTORIES", conflicts_with_all = ["real", "deeds", "playbook"])]
    fencing: Option<u64>,
    /// Instead: breaks the contractor on purpose, and says which case finds each bug.
    #[arg(long, conflicts_with_all = ["real", "deeds", "playbook", "fencing"])]
    sabotage: bool,
    /// Instead: so many minutes of lives with faults; memory, file descriptors and stores of the daemons must not climb.
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["real", "deeds", "playbook", "fencing"])]
    soak: Option<u64>,
    /// With `--soak`: where to write every sample, and what climbs, as JSON.
    #[arg(long, value_name = "FILE", requires = "soak")]
    json: Option<PathBuf>,
    /// Writes the journals of each playbook version that has none yet, and does nothing else.
    #[arg(long)]
    record: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut out = io::stdout().lock();
    // With a few digits, as somebody may have to type it.
    let seed = options.seed.unwrap_or_else(|| rand::random_range(1..1_000_000));
    match run(&options, seed, &mut out) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing is left to do when even this cannot be written.
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options, seed: u64, out: &mut dyn Write) -> anyhow::Result<bool> {
    if options.record {
        return record(&recorded::folder(), out);
    }
    if options.sabotage {
        return sabotage(out);
    }
    writeln!(out, "--seed {seed}")?;
    out.flush()?;
    if options.real {
        return kill(options, seed, out);
    }
    if options.deeds {
        return live(options, seed, out);
    }
    if let Some(histories) = options.fencing {
        return fence(seed, histories, out);
    }
    if let Some(minutes) = options.soak {
        return soak(seed, minutes, options.json.as_deref(), out);
    }
    let subjects: Vec<_> =
        Subject::every()?.into_iter().filter(|subject| subject.playbook.contains(&options.playbook)).collect();
    anyhow::ensure!(!subjects.is_empty(), "no playbook has `{}` in its name", options.playbook);
    let (mut cases, started, mut failures) = (0, Instant::now(), 0);
    for subject in &subjects {
        let tried = trial::of(subject, seed..seed.saturating_add(options.cases.unwrap_or(200)));
        let tried = tried.map_err(anyhow::Error::msg)?;
        tell(&tried, out)?;
        cases += tried.cases();
        failures += tried.failures.len();
    }
    for step in trial::unreached(&subjects).map_err(anyhow::Error::msg)? {
        writeln!(out, "FAILED no case reaches {step}")?;
        failures += 1;
    }
    let stories = u32::try_from(options.cases.unwrap_or(200)).unwrap_or(u32::MAX).saturating_mul(10);
    if options.playbook.is_empty() {
        let began = Instant::now();
        if let Err(story) = machine::play_all(seed, stories, None) {
            writeln!(out, "FAILED state machine: {story}")?;
            failures += 1;
        }
        writeln!(out, "state machine: {stories} stories, {:.1} s", began.elapsed().as_secs_f64())?;
        cases += stories as usize;
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = cases as f64 / seconds * 60.0;
    writeln!(
        out,
        "{} playbooks, {cases} cases in {seconds:.1} s ({rate:.0} a minute), {failures} failed",
        subjects.len()
    )?;
    Ok(failures == 0)
}

fn tell(tried: &Tried, out: &mut dyn Write) -> io::Result<()> {
    let Tried { title, steps, groups, failures, took } = tried;
    for failure in failures {
        writeln!(out, "FAILED {title} ({}): {}\n    {}", failure.group, failure.reason, failure.story)?;
    }
    writeln!(out, "{title}: {steps} steps, {} cases, {:.1} s", tried.cases(), took.as_secs_f64())?;
    groups.iter().try_for_each(|(group, count)| writeln!(out, "    {count:5}  {group}"))
}

/// Real daemons, killed.
fn kill(options: &Options, seed: u64, out: &mut dyn Write) -> anyhow::Result<bool> {
    let rounds = options.cases.unwrap_or(10);
    let starts = options.starts.unwrap_or(rounds * 40);
    let (mut kills, started) = ([Kills::default(); 2], Instant::now());
    let mut told = Ok(());
    let survived = rounds::play(
        rounds::Options { seed, rounds, starts, patience: rounds::PATIENCE, forgets: false },
        &mut |round| {
            for (all, more) in kills.iter_mut().zip(round.kills) {
                *all += more;
            }
            told = told_round(round, out);
        },
    );
    told?;
    if let Err(error) = &survived {
        writeln!(out, "FAILED with --seed {seed}: {error:#}")?;
    }
    writeln!(out, "{} in {:.1} s", of_both(kills), started.elapsed().as_secs_f64())?;
    Ok(survived.is_ok())
}

fn told_round(round: &rounds::Round, out: &mut dyn Write) -> io::Result<()> {
    let rounds::Round { number, kills, took } = round;
    writeln!(out, "round {number}: {}, {:.1} s", of_both(*kills), took.as_secs_f64())?;
    out.flush()
}

fn of_both(kills: [Kills; 2]) -> String {
    let of = |name: &str, kills: Kills| {
        let Kills { at_work, amid_a_run, at_start, in_store } = kills;
        format!(
            "{name} killed {at_work} times at work ({amid_a_run} amid a run of its own) and {at_start} times in the first 20 ms \
             ({in_store} with its store open)"
        )
    };
    format!("{}, {}", of("infrastructure", kills[0]), of("talos", kills[1]))
}

/// The real actions against the lab.
fn live(options: &Options, seed: u64, out: &mut dyn Write) -> anyhow::Result<bool> {
    let (mut runs, started, mut failures) = (0, Instant::now(), 0);
    let mut told = Ok(());
    deeds::live(deeds::Options { every: options.every, seed, playbook: options.playbook.clone() }, &mut |tried| {
        runs += tried.runs;
        failures += tried.failures.len();
        told = told_deeds(tried, out);
    })?;
    told?;
    writeln!(out, "{runs} runs in {:.1} s, {failures} failed", started.elapsed().as_secs_f64())?;
    Ok(failures == 0)
}

fn told_deeds(tried: &deeds::Tried, out: &mut dyn Write) -> io::Result<()> {
    let deeds::Tried { playbook, steps, runs, failures, took, .. } = tried;
    failures.iter().try_for_each(|failure| writeln!(out, "FAILED {playbook}: {failure}"))?;
    writeln!(out, "{playbook}: {steps} steps, {runs} runs, {:.1} s", took.as_secs_f64())?;
    out.flush()
}

/// Bugs.
fn sabotage(out: &mut dyn Write) -> anyhow::Result<bool> {
    let (mut planted, mut missed) = (0, 0);
    for part in Part::ALL {
        for (bug, found) in part.findings()? {
            planted += 1;
            match found {
                Some(story) => writeln!(out, "{part:?}: {bug} is found: {story}")?,
                None => {
                    writeln!(out, "FAILED {part:?}: {bug} is not found")?;
                    missed += 1;
                }
            }
            out.flush()?;
        }
    }
    writeln!(out, "{planted} bugs, {missed} of them not found")?;
    Ok(missed == 0)
}

/// Strangers.
fn fence(seed: u64, histories: u64, out: &mut dyn Write) -> anyhow::Result<bool> {
    let tried = fencing::play(seed..seed.saturating_add(histories))?;
    for (reason, count) in &tried.reasons {
        writeln!(out, "{count:5}  {reason}")?;
    }
    if let Some(failing) = &tried.failure {
        writeln!(out, "FAILED seed {}: {}", failing.seed, failing.complaints.join("\n    "))?;
        writeln!(out, "    {}", failing.story)?;
    }
    let fencing::Tried { stories, runs, deeds, took, .. } = &tried;
    writeln!(out, "{stories} histories, {runs} runs, {deeds} deeds of strangers in {:.1} s", took.as_secs_f64())?;
    Ok(tried.failure.is_none())
}

/// Lives, for a while.
fn soak(seed: u64, minutes: u64, json: Option<&Path>, out: &mut dyn Write) -> anyhow::Result<bool> {
    const MIB: f64 = 1024.0 * 1024.0;
    let mut told = writeln!(out, " lives  seconds  rss MiB      fds      store MiB     streams MiB  harm");
    let mut samples = Vec::new();
    let survived = soak::play(seed, Duration::from_secs(minutes * 60), &mut |sample| {
        let [one, two] = sample.daemons;
        told = writeln!(
            out,
            "{:6} {:8.0}  {:5.1} {:5.1}  {:3} {:3}  {:6.2} {:6.2}  {:6.2}       {}{}",
            sample.lives,
            sample.after,
            one.memory as f64 / 1024.0,
            two.memory as f64 / 1024.0,
            one.descriptors,
            two.descriptors,
            one.store as f64 / MIB,
            two.store as f64 / MIB,
            sample.streams as f64 / MIB,
            sample.harm,
            if sample.met { "" } else { " (met nothing)" },
        )
        .and_then(|()| out.flush());
        samples.push(sample.clone());
    });
    told?;
    let climbs = match survived {
        Ok(climbs) => climbs,
        Err(error) => {
            writeln!(out, "FAILED with --seed {seed}: {error:#}")?;
            return Ok(false);
        }
    };
    for climb in &climbs {
        let soak::Climb { what, median, in_a_hundred_lives, allowed } = climb;
        let word = if climb.is_too_steep() { "FAILED " } else { "" };
        writeln!(out, "{word}{what}: {median:.0}, {in_a_hundred_lives:+.1} in a hundred lives ({allowed} allowed)")?;
    }
    let met = samples.iter().filter(|sample| sample.met).count();
    writeln!(out, "{} lives with --seed {seed}, {met} of them with a fault that met something", samples.len())?;
    if let Some(file) = json {
        let text = json!({ "seed": seed, "minutes": minutes, "climbs": climbs, "samples": samples });
        std::fs::write(file, text.to_string()).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    let is_harmless = met * 2 < samples.len();
    if is_harmless {
        writeln!(out, "FAILED: most faults met nothing")?;
    }
    Ok(!is_harmless && !climbs.iter().any(soak::Climb::is_too_steep))
}

/// Journals of each shipped playbook and version: later programs must still read them.
fn record(folder: &Path, out: &mut dyn Write) -> anyhow::Result<bool> {
    for file in recorded::record(folder, &Subject::shipped()?)? {
        writeln!(out, "{}", file.display())?;
    }
    Ok(true)
}
