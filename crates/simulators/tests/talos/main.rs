//! Talos nodes of the lab, driven over the wire.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]
#![expect(clippy::disallowed_methods, reason = "waiting for the outside world polls")]

mod access;
mod failures;
mod harness;
mod lifecycle;
mod sequences;
