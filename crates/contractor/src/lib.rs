//! What every contractor is made of: inbox to run to outbox, triggers, approvals, queries, telemetry, shutdown.

pub mod action;
pub mod agent;
mod audit;
pub mod cancel;
pub mod cli;
pub mod config;
pub mod counterpart;
pub mod credentials;
pub mod damage;
pub mod desk;
pub mod driver;
pub mod flows;
pub mod herald;
mod hooks;
pub mod http;
pub mod inbound;
pub mod intake;
pub mod outbound;
pub mod planner;
mod refused;
pub mod runtime;
pub mod telemetry;
pub mod triggers;
pub mod trust;
pub mod views;
