//! The simulated datacenter: real servers on loopback that speak the contracts of Proxmox VE, Talos and Kubernetes.

mod crowd;
pub mod delays;
pub mod faults;
pub mod image;
pub mod kubernetes;
pub mod lab;
mod line;
pub mod machine;
pub mod pace;
pub mod proxmox;
pub mod talos;
