//! Foreign bytes against everything that reads them: kept inputs are replayed, and random changes of them tried.
//!
//! A target is a function that takes any bytes, never panics, and holds what it states: what was read prints to what
//! reads the same; what is refused names its field; nothing gets past a guard. Inputs lie in `tests/corpus/<target>/`.

mod config;
mod judge;
mod mutate;
mod outside;
mod wire;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};

pub use judge::Failure;
use judge::Judge;
use mutate::Mutator;

/// What a target says of an input that broke no promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was read, by readers with these names where the target has several.
    Taken(Vec<&'static str>),
    /// It was refused, as it should be: by every reader.
    Refused,
}

impl Verdict {
    /// Read by the only reader.
    const TAKEN: Self = Self::Taken(Vec::new());

    /// Read by these, or refused where there are none.
    fn by(readers: Vec<&'static str>) -> Self {
        if readers.is_empty() { Self::Refused } else { Self::Taken(readers) }
    }

    fn is_taken(&self) -> bool {
        matches!(self, Self::Taken(_))
    }

    /// Whether this is what the name of a kept input says: `good-…` is taken, by the reader that the name goes on with;
    /// `bad-…` is refused; others may be either.
    fn fits(&self, name: &str) -> bool {
        match (name.split_once('-'), self) {
            (Some(("good", of)), Self::Taken(by)) => by.is_empty() || by.iter().any(|reader| of.starts_with(reader)),
            (Some(("good", _)), Self::Refused) => false,
            (Some(("bad", _)), _) => !self.is_taken(),
            _ => true,
        }
    }
}

/// Something that reads foreign bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name; that of its folder in the corpus.
    pub name: &'static str,
    /// What it promises.
    pub promise: &'static str,
    /// Reads an input; the error is a promise that was broken.
    pub check: fn(&[u8]) -> Result<Verdict, String>,
    /// Words that its format is made of.
    pub words: &'static [&'static str],
}

/// Every target.
pub const TARGETS: [&Target; 11] = [
    &wire::ENVELOPE,
    &wire::BODY,
    &config::PLAYBOOK,
    &config::EXPRESSION,
    &config::MACHINE_CONFIG,
    &config::PATCH,
    &config::CREDENTIALS,
    &outside::UPID,
    &outside::PROXMOX,
    &outside::TALOS,
    &outside::CERTIFICATE,
];

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Of everything random.
    pub seed: u64,
    /// At most so many changed inputs for each target.
    pub cases: u64,
    /// And no longer than this.
    pub time: Duration,
}

/// What was tried with one target.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    /// Kept inputs.
    pub kept: usize,
    /// Changed ones.
    pub changed: u64,
    /// How many of all were read.
    pub taken: u64,
    /// How long it took.
    pub took: Duration,
}

/// Replays the kept inputs of a target, then changes them at random.
///
/// # Errors
/// The shortest input found that breaks a promise; or the corpus cannot be read.
pub fn run(target: &Target, options: Options) -> anyhow::Result<Tried> {
    let began = Instant::now();
    let corpus = corpus(target)?;
    ensure!(!corpus.is_empty(), "there are no kept inputs of {}", target.name);
    let mut tried = Tried { kept: corpus.len(), ..Tried::default() };
    let judge = Judge::of(target);
    for (name, input) in &corpus {
        let verdict = judge.judge(input).map_err(|broken| Failure::kept(target, name, input, &broken))?;
        tried.taken += u64::from(verdict.is_taken());
        ensure!(verdict.fits(name), "{}/{name} was {verdict:?}, which its name says it should not be", target.name);
    }
    let inputs: Vec<&[u8]> = corpus.values().map(Vec::as_slice).collect();
    while tried.changed < options.cases && began.elapsed() < options.time {
        // Each case has its own seed, so that one can be played again without those before it.
        let seed = options.seed.wrapping_add(tried.changed);
        let input = changed(target, &inputs, seed);
        tried.changed += 1;
        match judge.judge(&input) {
            Ok(verdict) => tried.taken += u64::from(verdict.is_taken()),
            Err(broken) => return Err(Failure::found(&judge, seed, &input, broken).into()),
        }
    }
    tried.took = began.elapsed();
    Ok(tried)
}

/// One kept input, changed a few times.
fn changed(target: &Target, inputs: &[&[u8]], seed: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut input = inputs[random.random_range(0..inputs.len())].to_vec();
    let mutator = Mutator { words: target.words, others: inputs };
    // Few changes mostly: what is damaged too much is refused at its first byte.
    for _ in 0..=random.random_range(0..4_u32) {
        mutator.change(&mut input, &mut random);
    }
    input
}

/// The kept inputs of a target by name; those that ship with the project belong to it, too.
fn corpus(target: &Target) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut found = read_folder(&root().join("tests/corpus").join(target.name), "")?;
    match target.name {
        "playbook" => found.extend(read_folder(&root().join("playbooks"), "good-shipped-")?),
        "machine-config" => {
            let generated = read_folder(&root().join("crates/talos/tests/generated"), "good-")?;
            let filled =
                generated.into_iter().map(|(name, text)| (name, filled(&String::from_utf8_lossy(&text)).into()));
            found.extend(filled);
        }
        _ => {}
    }
    Ok(found)
}

/// The kept generated configurations name the kind of each secret in its place; here they get some base64.
fn filled(text: &str) -> String {
    let mut parts = text.split('<');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |before, part| before + "eA==" + part.split_once('>').map_or(part, |(_, after)| after))
}

fn read_folder(folder: &Path, prefix: &str) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            found.insert(format!("{prefix}{}", entry.file_name().to_string_lossy()), fs::read(entry.path())?);
        }
    }
    Ok(found)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_who_takes_its_input() {
        let config = Verdict::Taken(vec!["config", "nodes"]);
        for name in ["good-config", "good-config-2", "good-nodes", "odd-config", "odd"] {
            assert!(config.fits(name), "{name}");
        }
        for name in ["good-storage", "bad-config"] {
            assert!(!config.fits(name), "{name}");
        }
        assert!(Verdict::Refused.fits("bad-config") && Verdict::Refused.fits("odd-config"));
        assert!(!Verdict::Refused.fits("good-config") && Verdict::TAKEN.fits("good-anything"));
    }
}
