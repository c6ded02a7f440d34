//! Drives the simulated Kubernetes API over TLS with kube-rs, as the contractors do.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod access;
mod harness;
mod objects;
mod reads;
mod workloads;
