//! What the contractors say to each other and to everybody else: types, schemas, envelope, subjects.
//!
//! Pure: no network, no clock, no storage. The Rust types are the one source of truth; `schemas/` is written from
//! them and a test fails on any byte of difference.

pub mod asyncapi;
pub mod catalogue;
pub mod envelope;
pub mod event;
pub mod handoff;
pub mod json;
pub mod name;
pub mod query;
pub mod request;
pub mod schema;
pub mod service;
pub mod signature;
pub mod subject;
