//! The HTTP side of the simulated API server.

pub(crate) mod authentication;
pub(crate) mod authorization;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod discovery;
pub(crate) mod error;
pub(crate) mod handler;
pub(crate) mod health;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod modify;
pub(crate) mod negotiation;
pub(crate) mod openapi;
pub(crate) mod protobuf;
pub(crate) mod request;
pub(crate) mod reviews;
pub(crate) mod server;
pub(crate) mod subresources;
pub(crate) mod table;
pub(crate) mod tokens;
pub(crate) mod typed;
pub(crate) mod validation;
pub(crate) mod watch;
