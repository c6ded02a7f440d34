//! Talos nodes of the lab, driven over the wire.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod access;
mod failures;
mod files;
mod harness;
mod lifecycle;
mod sequences;
mod strangers;
mod upgrades;
