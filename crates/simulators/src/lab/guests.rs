//! What runs in the lab's VMs.

use std::sync::Arc;

use super::{LabOptions, Registry};
use crate::{
    faults::Faults,
    machine::{Guest, Machine, Machines, PowerListener, PowerOff},
    proxmox::InertMachines,
};

/// The guests of a lab.
pub enum Guests {
    Inert(InertMachines),
}

pub(super) fn make(_options: &LabOptions, _faults: &Faults, _registry: &Registry) -> Arc<Guests> {
    Arc::new(Guests::Inert(InertMachines::default()))
}

impl Guests {
    /// The kernel log of a guest.
    pub fn console(&self, _vmid: u32) -> Vec<String> {
        match self {
            Self::Inert(_) => Vec::new(),
        }
    }

    fn machines(&self) -> &dyn Machines {
        match self {
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

    fn set_power_listener(&self, listener: PowerListener) {
        self.machines().set_power_listener(listener);
    }
}
