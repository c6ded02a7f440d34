//! Ctrl-C, or a supervisor that has had enough: heard from the first moment on, whatever goes on then.

use std::{
    fs, io,
    sync::{Arc, OnceLock},
};

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// The work was stopped from outside.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Listens for the signals that end a program; none of them ends it by itself any more.
pub struct Interruption {
    stop: CancellationToken,
    number: Arc<OnceLock<u8>>,
}

impl Interruption {
    /// Listens from now on, on threads of `runtime`.
    ///
    /// # Errors
    /// If the system does not let it.
    pub fn listen(runtime: &Runtime) -> io::Result<Self> {
        let inside = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // A terminal that is closed; `nohup` has it ignored, and so it stays.
        let mut hang_up = if hears_hang_up() { Some(signal(SignalKind::hangup())?) } else { None };
        drop(inside);
        let heard = Self { stop: CancellationToken::new(), number: Arc::default() };
        let (stop, number) = (heard.stop.clone(), Arc::clone(&heard.number));
        runtime.spawn(async move {
            let came = tokio::select! {
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = terminate.recv() => SignalKind::terminate(),
                () = received(&mut hang_up) => SignalKind::hangup(),
            };
            let _ = number.set(u8::try_from(came.as_raw_value()).unwrap_or_default());
            stop.cancel();
        });
        Ok(heard)
    }

    /// Cancelled when a signal has come.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// The exit code by which shells know that a signal ended a program, if one came.
    pub fn exit_code(&self) -> Option<u8> {
        self.number.get().map(|number| 128 + number)
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether the end of its terminal ends this process; not if whoever started it had that ignored. Only Linux tells.
pub fn hears_hang_up() -> bool {
    const HANG_UP: u64 = 1;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0) & HANG_UP == 0
}
