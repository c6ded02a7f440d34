//! A machine's clock: how far off it is, whether a time server has set it, and what hangs on it (talos.md 3.2, 6.1).

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::sync::watch;

use super::node::Boot;
use super::publish;

/// How a clock goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockSetting {
    /// How far it is ahead of the right time; negative is behind.
    #[serde(default)]
    pub ahead_seconds: i64,
    /// Whether a time server answers. One that is wrong itself sets the clock wrong.
    pub synced: bool,
}

impl Default for ClockSetting {
    fn default() -> Self {
        Self { ahead_seconds: 0, synced: true }
    }
}

/// A machine's clock; clones are the same clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock(Arc<watch::Sender<ClockSetting>>);

impl Clock {
    pub(crate) fn set(&self, setting: ClockSetting) {
        self.0.send_replace(setting);
    }

    pub(crate) fn now(&self) -> Timestamp {
        let ahead = SignedDuration::from_secs(self.0.borrow().ahead_seconds);
        Timestamp::now().checked_add(ahead).unwrap_or(Timestamp::MAX)
    }

    pub(crate) fn settings(&self) -> watch::Receiver<ClockSetting> {
        self.0.subscribe()
    }

    /// Waits until the clock shows another time than before.
    pub(crate) async fn jump(&self) {
        let mut settings = self.settings();
        let before = settings.borrow_and_update().ahead_seconds;
        // Without a sender the machine is gone.
        let _ = settings.wait_for(|setting| setting.ahead_seconds != before).await;
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

/// Keeps the time status of a boot in step with the clock. A clock that was set once stays set until the next boot.
pub(crate) async fn follow(boot: &Boot) {
    let mut settings = boot.clock.settings();
    let (mut epoch, mut before) = (0, settings.borrow().ahead_seconds);
    loop {
        let setting = *settings.borrow_and_update();
        let first = setting.synced && !*boot.synced.borrow();
        if first || before != setting.ahead_seconds {
            epoch += 1;
            before = setting.ahead_seconds;
        }
        boot.synced.send_if_modified(|synced| first && !std::mem::replace(synced, true));
        publish::time(boot, *boot.synced.borrow(), epoch);
        if settings.changed().await.is_err() {
            return;
        }
    }
}

/// Waits for the clock to be set, as services do whose certificates depend on it.
pub(crate) async fn until_set(boot: &Boot) {
    // Without a sender the boot is over, and with it whoever waits.
    let _ = boot.synced.subscribe().wait_for(|synced| *synced).await;
}

/// Whether a node takes the certificates that the other one made: not those from the future.
pub(crate) fn accepts(boot: &Boot, other: &Boot) -> bool {
    let made = other.state().certified;
    made.is_none_or(|made| made <= boot.clock.now())
}
