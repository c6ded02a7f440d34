//! Playbook to plan to run state: the pure heart. Journal events in, next effects out.

pub mod catalog;
