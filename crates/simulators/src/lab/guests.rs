//! What runs in the lab's VMs: Talos nodes, or nothing.

use std::sync::Arc;

use super::{LabOptions, Registry};
use crate::{
    faults::Faults,
    machine::{Guest, Machine, Machines, PowerListener, PowerOff},
    pace::Pace,
    proxmox::InertMachines,
    talos::{self, Nodes},
};

/// The guests of a lab.
pub enum Guests {
    Talos(Box<Nodes>),
    Inert(InertMachines),
}

/// The knobs are those of the hypervisor: one clock and one plan of faults for the whole lab.
pub(super) fn make(options: &LabOptions, pace: &Pace, faults: &Faults, registry: &Registry) -> Arc<Guests> {
    if !options.guests {
        return Arc::new(Guests::Inert(InertMachines::default()));
    }
    let registry = registry.clone();
    Arc::new(Guests::Talos(Box::new(Nodes::new(talos::Options {
        pace: pace.clone(),
        seed: options.seed,
        faults: faults.clone(),
        schematics: Arc::new(move |id| registry.extensions(id)),
    }))))
}

impl Guests {
    /// The kernel log of a guest.
    pub fn console(&self, vmid: u32) -> Vec<String> {
        match self {
            Self::Talos(nodes) => nodes.console(vmid),
            Self::Inert(_) => Vec::new(),
        }
    }

    /// The nodes, if there are any: what is not a matter of power.
    pub fn nodes(&self) -> Option<&Nodes> {
        match self {
            Self::Talos(nodes) => Some(nodes),
            Self::Inert(_) => None,
        }
    }

    fn machines(&self) -> &dyn Machines {
        match self {
            Self::Talos(nodes) => &**nodes,
            Self::Inert(machines) => machines,
        }
    }
}

impl Machines for Guests {
    fn power_on(&self, machine: Machine) {
        self.machines().power_on(machine);
    }

    fn power_off(&self, vmid: u32, how: PowerOff) {
        self.machines().power_off(vmid, how);
    }

    fn guest(&self, vmid: u32) -> Option<Guest> {
        self.machines().guest(vmid)
    }

    fn set_frozen(&self, vmid: u32, frozen: bool) {
        self.machines().set_frozen(vmid, frozen);
    }

    fn set_power_listener(&self, listener: PowerListener) {
        self.machines().set_power_listener(listener);
    }
}
