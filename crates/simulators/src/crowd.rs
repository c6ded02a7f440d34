//! How many clusters this process simulates: what they do by themselves, changed or not, is spread over more time when there are
//! many, or a thousand idle clusters would leave no processor for the next one.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

/// So many do not notice each other.
const FEW: usize = 100;

static PRESENT: AtomicUsize = AtomicUsize::new(0);
/// As many as there ever were at once: whoever sleeps now by a long period must not be missed because others left.
static MOST: AtomicUsize = AtomicUsize::new(0);

/// One cluster; it leaves when this is dropped.
pub(crate) struct Member(());

pub(crate) fn join() -> Member {
    MOST.fetch_max(PRESENT.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    Member(())
}

impl Drop for Member {
    fn drop(&mut self) {
        PRESENT.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The least period of something that every cluster does again and again, where `alone` would do for a few.
pub(crate) fn spread(alone: Duration) -> Duration {
    spread_over(alone, MOST.load(Ordering::Relaxed))
}

fn spread_over(alone: Duration, clusters: usize) -> Duration {
    alone.mul_f64((clusters as f64 / FEW as f64).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_clusters_do_together_what_a_hundred_would() {
        let alone = Duration::from_millis(100);
        assert_eq!(
            [1, 100, 250, 1_000].map(|clusters| spread_over(alone, clusters).as_millis()),
            [100, 100, 250, 1_000]
        );
    }
}
