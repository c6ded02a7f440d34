//! Histories in which strangers take over ids, names, tags and addresses of our machines while our flows act: not one VM
//! that is not provably ours may be stopped, changed or destroyed, and each flow that cannot go on says what differs.
//!
//! The stranger acts between two looks of ours, never between a look and the act that follows it: Proxmox has no call
//! that proves and acts at once, so whoever acts on a proof must do it in the next call.

mod field;
mod hurry;
mod story;
mod stranger;

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use field::{Field, Played};
use infrastructure_contractor::config::Method;
pub use story::Story;

/// How often a failing history is played again to find the shortest that fails.
const SHRINKS: usize = 80;

/// What was tried.
#[derive(Debug, Default)]
pub struct Tried {
    /// Histories.
    pub stories: usize,
    /// Runs in them.
    pub runs: usize,
    /// Deeds of strangers that had an effect.
    pub deeds: usize,
    /// What runs said that did not go well, counted.
    pub reasons: BTreeMap<String, usize>,
    /// The first history that fails.
    pub failure: Option<Failing>,
    /// How long it took.
    pub took: Duration,
}

/// A history that fails.
#[derive(Debug)]
pub struct Failing {
    /// Its seed.
    pub seed: u64,
    /// The shortest part of it that fails still.
    pub story: Story,
    /// What is wrong in it.
    pub complaints: Vec<String>,
}

/// Plays the histories of these seeds, until one fails.
///
/// # Errors
/// If the datacenter does not start, or a run cannot be made.
pub fn play(seeds: Range<u64>) -> anyhow::Result<Tried> {
    play_as(seeds, false)
}

/// The same with a contractor that is careless: it takes machines away by their numbers.
///
/// # Errors
/// See [`play`].
pub fn play_carelessly(seeds: Range<u64>) -> anyhow::Result<Tried> {
    play_as(seeds, true)
}

fn play_as(seeds: Range<u64>, careless: bool) -> anyhow::Result<Tried> {
    let began = Instant::now();
    let (imports, clones) = (Field::start(Method::Import, careless)?, Field::start(Method::Clone, careless)?);
    let mut tried = Tried::default();
    for seed in seeds {
        let story = Story::of(seed);
        let field = match story.method {
            Method::Import => &imports,
            Method::Clone => &clones,
        };
        let played = field.play(&story)?;
        tried.count(&played);
        if !played.complaints.is_empty() {
            tried.failure = Some(shortest(field, seed, story, played.complaints));
            break;
        }
    }
    tried.took = began.elapsed();
    Ok(tried)
}

impl Tried {
    fn count(&mut self, played: &Played) {
        self.stories += 1;
        self.runs += played.runs;
        self.deeds += played.deeds;
        for reason in &played.reasons {
            *self.reasons.entry(reason.clone()).or_default() += 1;
        }
    }
}

fn shortest(field: &Field, seed: u64, story: Story, complaints: Vec<String>) -> Failing {
    let mut failing = Failing { seed, story, complaints };
    let mut left = SHRINKS;
    loop {
        let found = failing.story.shorter().into_iter().find_map(|shorter| {
            left = left.checked_sub(1)?;
            let played = field.play(&shorter).ok()?;
            (!played.complaints.is_empty()).then_some((shorter, played.complaints))
        });
        let Some((story, complaints)) = found else { return failing };
        (failing.story, failing.complaints) = (story, complaints);
    }
}
