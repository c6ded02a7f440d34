//! A clock in a hurry.

use std::time::{Duration, Instant};

use contractor::driver::Clock;
use futures::future::BoxFuture;
use jiff::Timestamp;

/// How much faster the driver's clock runs, so that pauses between attempts take no time.
const HURRY: i32 = 200;

/// A clock that runs faster than real time.
pub(super) struct Hurry {
    base: Timestamp,
    since: Instant,
}

impl Default for Hurry {
    fn default() -> Self {
        Self { base: Timestamp::now(), since: Instant::now() }
    }
}

impl Clock for Hurry {
    fn now(&self) -> Timestamp {
        self.base.saturating_add(self.since.elapsed() * HURRY.unsigned_abs()).unwrap_or(Timestamp::MAX)
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'_, ()> {
        let left = Duration::try_from(deadline.duration_since(self.now())).unwrap_or_default();
        Box::pin(tokio::time::sleep(left / HURRY.unsigned_abs()))
    }
}
