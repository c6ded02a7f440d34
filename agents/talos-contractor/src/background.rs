//! What this contractor does by itself: the condition of pods without room, the pool of ready keys.

use std::time::Duration;

use contractor::agent::Workplace;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    key_pool,
    pressure::{Pools, Pressure},
    reach::Deps,
};

/// The condition that `scale-on-pressure` names.
pub const UNSCHEDULABLE_PODS: &str = "unschedulable_pods";
/// Every condition that is watched here.
pub const CONDITIONS: &[&str] = &[UNSCHEDULABLE_PODS];
/// The shortest and the longest pause between two looks at a condition: as long as its hold time, in these bounds.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Keeps the pool of service-account keys filled.
pub async fn keep_keys(at: Workplace, size: usize, stop: CancellationToken) {
    const AGAIN: Duration = Duration::from_secs(60);
    loop {
        tokio::select! {
            () = key_pool::refill(&at.store, size) => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Starts a playbook for a cluster whose pods have found no room for a while.
pub async fn follow_pressure(at: Workplace, deps: Deps, mut pressure: Pressure<impl Pools>, stop: CancellationToken) {
    let pause = pressure.hold().clamp(PAUSE.0, PAUSE.1);
    loop {
        tokio::select! {
            () = pressure.look(&at, &deps, Timestamp::now()) => {}
            () = stop.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}
