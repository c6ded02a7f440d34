//! Drives the simulated Kubernetes API over TLS with kube-rs, as the contractors do.

mod access;
mod harness;
mod objects;
mod reads;
mod workloads;
