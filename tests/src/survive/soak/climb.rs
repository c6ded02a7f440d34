//! Whether something climbs from life to life.

use anyhow::ensure;
use serde::Serialize;

use super::Sample;

/// Fewer lives say nothing.
const LEAST: usize = 30;

/// How much something grows, over the lives after the first third: in that one everything is used for the first time.
#[derive(Clone, Debug, Serialize)]
pub struct Climb {
    /// `infrastructure: resident memory in KiB`
    pub what: String,
    /// At the median of these lives.
    pub median: f64,
    /// How much it grows in a hundred lives: the median of the slopes between any two of them (Theil and Sen), which a jump up
    /// or down does not move.
    pub in_a_hundred_lives: f64,
    /// How much it may.
    pub allowed: f64,
}

impl Climb {
    /// Whether it grows by more than it may.
    pub fn is_too_steep(&self) -> bool {
        self.in_a_hundred_lives > self.allowed
    }
}

/// What each measure does.
///
/// # Errors
/// If there were too few lives.
pub(super) fn judge(samples: &[Sample]) -> anyhow::Result<Vec<Climb>> {
    let lives = &samples[samples.len() / 3..];
    ensure!(lives.len() >= LEAST, "{} lives after the first third say nothing, {LEAST} would", lives.len());
    let of = |what: String, allowed: f64, measure: &dyn Fn(&Sample) -> u64| {
        let mut values: Vec<f64> = lives.iter().map(|sample| measure(sample) as f64).collect();
        let in_a_hundred_lives = slope(&values) * 100.0;
        Climb { what, median: median(&mut values), in_a_hundred_lives, allowed }
    };
    let mut climbs = Vec::new();
    for (at, name) in ["infrastructure", "talos"].iter().enumerate() {
        climbs.push(of(format!("{name}: resident memory in KiB"), 1024.0, &|sample| sample.daemons[at].memory));
        climbs.push(of(format!("{name}: open file descriptors"), 0.5, &|sample| sample.daemons[at].descriptors));
        climbs.push(of(format!("{name}: store in bytes"), 1_048_576.0, &|sample| sample.daemons[at].store));
    }
    climbs.push(of("streams in bytes".to_owned(), 1_048_576.0, &|sample| sample.streams));
    Ok(climbs)
}

/// By how much the values grow from one to the next.
fn slope(values: &[f64]) -> f64 {
    let mut slopes = Vec::with_capacity(values.len() * values.len() / 2);
    for (at, one) in values.iter().enumerate() {
        for (behind, other) in values[at + 1..].iter().enumerate() {
            slopes.push((other - one) / (behind + 1) as f64);
        }
    }
    median(&mut slopes)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::{super::Usage, *};

    /// Memory and store of 90 lives as `of` says.
    fn lives(of: impl Fn(u64) -> (u64, u64, u64)) -> Vec<Sample> {
        let life = |at: u32| {
            let (memory, descriptors, store) = of(u64::from(at));
            let usage = Usage { memory, descriptors, store };
            let harm = String::new();
            Sample { after: f64::from(at), lives: at, harm, met: true, daemons: [usage, usage], streams: 7 }
        };
        (1..=90).map(life).collect()
    }

    fn steep(samples: &[Sample]) -> Vec<String> {
        judge(samples).unwrap().into_iter().filter(Climb::is_too_steep).map(|climb| climb.what).collect()
    }

    #[test]
    fn what_climbs_is_named_and_what_jumps_or_trembles_is_not() {
        // It trembles, and jumped once.
        let calm = |at: u64| 50_000 + at % 7 * 100 + if at > 36 { 3_000 } else { 0 };
        assert_eq!(steep(&lives(|at| (calm(at), 40 + at % 3, 1 << 20))), Vec::<String>::new());
        let memory = ["infrastructure: resident memory in KiB", "talos: resident memory in KiB"];
        assert_eq!(steep(&lives(|at| (calm(at) + at * 20, 40, 1 << 20))), memory, "20 KiB a life");
        let descriptors = ["infrastructure: open file descriptors", "talos: open file descriptors"];
        assert_eq!(steep(&lives(|at| (calm(at), 40 + at / 50, 1 << 20))), Vec::<String>::new());
        assert_eq!(steep(&lives(|at| (calm(at), 40 + at / 20, 1 << 20))), descriptors, "one in twenty lives");
        let store = ["infrastructure: store in bytes", "talos: store in bytes"];
        assert_eq!(steep(&lives(|at| (calm(at), 40, at << 14))), store, "16 KiB a life");
        assert!(judge(&lives(|_| (1, 1, 1))[..40]).is_err(), "too few");
    }
}
