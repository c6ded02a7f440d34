//! Playbook to plan to run state: the pure heart. Journal events in, next effects out.

pub mod catalog;
pub mod event;
pub mod expression;
pub mod hash;
pub mod library;
pub mod plan;
pub mod playbook;
pub mod report;
pub mod retry;
pub mod run;
mod schema;
pub mod template;
pub mod yaml;
