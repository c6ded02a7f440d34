//! How fast simulated time passes: by a factor, not at all, or step by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use crate::delays::{Delays, Who};

/// A clock knob shared by every part of a lab; clones turn together.
#[derive(Clone, Debug)]
pub struct Pace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    speed: AtomicU64,
    stepping: watch::Sender<bool>,
    steps: Semaphore,
    delays: Delays,
}

impl Pace {
    /// Time passes `speed` times as fast as on real hardware; infinite means without any delay.
    pub fn new(speed: f64) -> Self {
        Self::recording(speed, Delays::default())
    }

    /// The same, and every delay is recorded.
    pub fn recording(speed: f64, delays: Delays) -> Self {
        let inner = Inner {
            speed: AtomicU64::new(valid(speed).to_bits()),
            stepping: watch::Sender::new(false),
            steps: Semaphore::new(0),
            delays,
        };
        Self { inner: Arc::new(inner) }
    }

    /// No simulated delays at all.
    pub fn instant() -> Self {
        Self::new(f64::INFINITY)
    }

    pub fn speed(&self) -> f64 {
        f64::from_bits(self.inner.speed.load(Ordering::Relaxed))
    }

    pub fn set_speed(&self, speed: f64) {
        self.inner.speed.store(valid(speed).to_bits(), Ordering::Relaxed);
    }

    /// How long a duration of the simulated world lasts here.
    pub fn scale(&self, simulated: Duration) -> Duration {
        let speed = self.speed();
        if speed.is_infinite() { Duration::ZERO } else { simulated.div_f64(speed) }
    }

    /// Whether work stops until a step is granted.
    pub fn is_stepping(&self) -> bool {
        *self.inner.stepping.borrow()
    }

    /// From now on every piece of simulated work waits for [`Self::step`].
    pub fn hold(&self) {
        self.inner.stepping.send_replace(true);
    }

    /// Lets `count` pieces of held work go on.
    pub fn step(&self, count: usize) {
        self.inner.steps.add_permits(count);
    }

    /// Ends stepping; all held work goes on.
    pub fn release(&self) {
        self.inner.stepping.send_replace(false);
    }

    /// Where delays are recorded.
    pub fn delays(&self) -> &Delays {
        &self.inner.delays
    }

    /// Lets a stretch of simulated work pass, which `who` needs for `what`.
    pub async fn pass(&self, who: Who<'_>, what: &str, simulated: Duration) {
        let mut stepping = self.inner.stepping.subscribe();
        if *stepping.borrow_and_update() {
            tokio::select! {
                permit = self.inner.steps.acquire() => {
                    if let Ok(permit) = permit {
                        permit.forget();
                    }
                }
                _ = stepping.wait_for(|stepping| !stepping) => {}
            }
            return;
        }
        let real = self.scale(simulated);
        if !real.is_zero() {
            let begun = Instant::now();
            tokio::time::sleep(real).await;
            self.inner.delays.note(who, what, begun.elapsed());
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(1.0)
    }
}

fn valid(speed: f64) -> f64 {
    if speed.is_nan() || speed <= 0.0 { 1.0 } else { speed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn speed_divides_and_infinity_removes_every_delay() {
        let pace = Pace::new(10.0);
        let before = tokio::time::Instant::now();
        pace.pass(Who::Vm(100), "qmstart", Duration::from_secs(20)).await;
        assert_eq!(before.elapsed().as_secs(), 2);
        pace.set_speed(f64::INFINITY);
        let before = tokio::time::Instant::now();
        pace.pass(Who::Vm(100), "qmstart", Duration::from_secs(3600)).await;
        assert!(before.elapsed().is_zero());
    }

    #[tokio::test]
    async fn held_work_goes_on_by_steps_or_by_release() {
        let pace = Pace::instant();
        pace.hold();
        let work = tokio::spawn({
            let pace = pace.clone();
            async move {
                pace.pass(Who::Vm(100), "qmstart", Duration::from_secs(1)).await;
                pace.pass(Who::Vm(100), "qmstart", Duration::from_secs(1)).await;
            }
        });
        pace.step(1);
        tokio::task::yield_now().await;
        assert!(!work.is_finished());
        pace.release();
        work.await.unwrap();
    }
}
