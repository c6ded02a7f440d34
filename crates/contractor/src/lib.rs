//! What every contractor is made of: inbox to run to outbox, triggers, approvals, queries, telemetry, shutdown.

pub mod action;
pub mod driver;
