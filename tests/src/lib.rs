//! What demo and tests share: a bus of one's own, the world built on it, and the harness over playbooks.

pub mod binaries;
pub mod critical_path;
pub mod demo;
pub mod fuzz;
pub mod guardian;
pub mod hypervisor;
pub mod interruption;
pub mod kubectl;
pub mod nats;
pub mod process;
pub mod program;
pub mod proxies;
pub mod survive;
pub mod world;
