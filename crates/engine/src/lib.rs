//! Playbook to plan to run state: the pure heart. Journal events in, next effects out.

pub mod catalog;
pub mod event;
pub mod hash;
pub mod library;
pub mod plan;
pub mod report;
