//! Machines in which nothing runs: they are on until they are switched off or asked to end.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crate::machine::{Guest, Machine, Machines, Power, PowerListener, PowerOff};

/// For tests of the hypervisor alone.
#[derive(Default)]
pub struct InertMachines {
    on: Mutex<BTreeMap<u32, Machine>>,
    listener: Mutex<Option<PowerListener>>,
}

impl InertMachines {
    /// The machine that was powered on last under a VMID.
    pub fn machine(&self, vmid: u32) -> Option<Machine> {
        self.on.lock().unwrap_or_else(PoisonError::into_inner).get(&vmid).cloned()
    }
}

impl Machines for InertMachines {
    fn power_on(&self, machine: Machine) {
        self.on.lock().unwrap_or_else(PoisonError::into_inner).insert(machine.vmid, machine);
    }

    fn power_off(&self, vmid: u32, how: PowerOff) {
        let was_on = self.on.lock().unwrap_or_else(PoisonError::into_inner).remove(&vmid).is_some();
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let (true, PowerOff::Request, Some(listener)) = (was_on, how, listener) {
            listener(vmid, Power::Off);
        }
    }

    fn guest(&self, _vmid: u32) -> Option<Guest> {
        None
    }

    fn set_power_listener(&self, listener: PowerListener) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }
}
