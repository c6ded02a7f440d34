//! A typed client of the Proxmox VE API, versions 8.4 and 9.x, written against `reference/proxmox.md`.
//!
//! ```text
//! Client ── request.rs ── auth.rs (token | ticket) ── transport.rs (allowed targets, TLS pin, keep-alive, fail-over)
//!   ├ cluster.rs nodes.rs storage.rs qemu.rs pools.rs access.rs      one file per branch of the API tree
//!   └ tasks.rs                                                       everything slow answers with a UPID
//! ```
//! Errors are told apart by the text of the status line (`error.rs`): Proxmox has no error codes.

mod auth;
mod lenient;
mod request;
mod transport;

pub mod access;
pub mod cluster;
pub mod coalesced;
pub mod config;
pub mod error;
pub mod form;
pub mod new_vm;
pub mod nodes;
pub mod options;
pub mod pools;
pub mod property;
pub mod qemu;
pub mod storage;
pub mod targets;
pub mod tasks;
pub mod trust;
pub mod upid;
pub mod version;

pub use error::Error;
pub use qemu::VmId;
pub use request::Client;
pub use upid::Upid;

/// What every call of this crate answers.
pub type Result<T> = std::result::Result<T, Error>;
