//! talos-contractor's actions and playbooks against simulated Talos nodes and Kubernetes APIs, over a real store.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without may fail it")]

mod bench;
mod certificates;
mod control_planes;
mod key_pool;
mod kubernetes;
mod life;
mod playbooks;
mod pressure;
mod rack;
mod sense;
mod surface;
mod world;
