//! Scenarios against real parts: a real `nats-server`, the real daemons, the lab.
#![expect(clippy::unwrap_used, reason = "what helps tests panics as tests do")]

mod address_faults;
mod architecture;
mod broker;
mod bus;
mod canary;
mod clock_faults;
mod command;
mod contract;
mod cortexctl;
mod credentials;
mod daemons;
mod damage;
mod damaged_files;
mod demo;
mod deploy;
mod disk;
mod failure;
mod fencing;
mod fuzz;
mod growth;
mod hostile;
mod identities;
mod kill;
mod knobs;
mod kubectl;
mod kubernetes_faults;
mod life;
mod proxmox_faults;
mod proxmox_hands;
mod refusal;
mod rotation;
mod scenario;
mod survive;
mod talos_faults;
