//! Talos Linux from the outside: its API, its PKI and its machine configuration.
//!
//! Facts are cited as `talos.md 2.2` and so on: the sheet of facts about Talos 1.12, 1.13 and 1.14 that this crate
//! was written from.

pub mod api;
pub mod config;
pub mod kubeconfig;
pub mod pki;
pub mod proto;
mod redact;
pub mod secrets;
pub mod talosconfig;
pub mod version;
