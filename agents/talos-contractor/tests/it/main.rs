//! talos-contractor's actions and playbooks against simulated Talos nodes and Kubernetes APIs, over a real store.

mod bench;
mod kubernetes;
mod life;
mod playbooks;
mod surface;
mod world;
