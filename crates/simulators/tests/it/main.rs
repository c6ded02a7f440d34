//! The simulators as a foreign client sees them.

mod client;
mod lab;
mod proxmox;
