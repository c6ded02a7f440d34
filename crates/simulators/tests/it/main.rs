//! The simulators as a foreign client sees them.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without may fail it")]

mod client;
mod ha;
mod lab;
mod proxmox;
mod proxy;
