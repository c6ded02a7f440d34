//! infrastructure-contractor owns machines: it places, creates, fences and destroys virtual machines on Proxmox VE and
//! hands out addresses.
//!
//! ```text
//! config ── deps ── actions (one file each)
//!                     ├ decide: sense, placement, addresses, reservation, schematic   pure, over one look at the world
//!                     └ act:    fence (ownership proof first), proxmox
//! ```

pub mod accept;
pub mod actions;
pub mod addresses;
pub mod app;
pub mod check;
pub mod config;
pub mod deps;
pub mod inventory;
pub mod ownership;
pub mod placement;
pub mod playbooks;
pub mod queries;
pub mod schematic;
pub mod sense;
pub mod world;

mod blueprint;
mod claims;
mod failure;
mod fence;
mod fetch;
mod foresight;
mod half_clone;
mod look_alike;
mod monitoring;
mod own_task;
mod probe;
mod reservation;
#[cfg(test)]
mod sample;
mod teardown;

pub use actions::actions;
pub use deps::Deps;
