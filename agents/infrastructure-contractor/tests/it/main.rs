//! infrastructure-contractor's playbooks, driven for real against the simulated Proxmox VE.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without may fail it")]

mod definition;
mod half_clone;
mod life;
mod look_alike;
mod playbooks;
mod rights;
mod shell;
mod template;
mod trouble;
mod world;
