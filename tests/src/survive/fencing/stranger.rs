//! The stranger: does what a story says, and remembers how each VM was left that nobody else may touch.

use std::collections::BTreeMap;

use infrastructure_contractor::{inventory::Machine, ownership};
use serde::Serialize;
use serde_json::json;
use simulators::proxmox::{HandMade, Heard, Proxmox, VmSnapshot};

use super::story::{Deed, Guise, Part};
use crate::survive::deeds::datacenter::compare;

/// Where the stranger's own VMs begin, far from what we hand out.
const FIRST_OWN: u32 = 9000;
const HOSTS: [&str; 3] = ["pve1", "pve2", "pve3"];

/// A VM that must stay as it is.
#[derive(Clone, Debug)]
struct Held {
    /// How it was left.
    as_left: State,
    whose: Whose,
}

/// Why nobody else may touch a VM.
#[derive(Clone, Debug)]
enum Whose {
    /// It is the stranger's own.
    Stranger,
    /// It is ours, and not provably so any more: how it was before.
    Ours(BTreeMap<String, String>),
    /// It is an operator's: the template of our machines.
    Operator,
}

/// Everything that may not change about a VM.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct State {
    vm: VmSnapshot,
    /// Another process means that it was switched off and on.
    process: Option<u32>,
    volumes: Vec<String>,
    pool: bool,
}

/// Somebody with root on the hypervisors.
#[derive(Default)]
pub(super) struct Stranger {
    held: BTreeMap<u32, Held>,
    made: u32,
    /// Volumes with names of ours that the stranger's VMs use; they stay when those go.
    pub(super) lent: Vec<String>,
    /// Calls of ours that would have changed what is held.
    touched: Vec<String>,
    /// VMIDs of our machines that something was done about.
    pub(super) disturbed: Vec<u32>,
}

impl Stranger {
    /// One who keeps an eye on the template, too, if there is one.
    pub(super) fn beside(proxmox: &Proxmox, template: u32) -> Self {
        let mut stranger = Self::default();
        if let Some(as_left) = state(proxmox, template) {
            stranger.held.insert(template, Held { as_left, whose: Whose::Operator });
        }
        stranger
    }

    /// Does it; `machines` are ours, as we believe. Whether it had an effect.
    pub(super) fn does(&mut self, proxmox: &Proxmox, deed: &Deed, machines: &[Machine]) -> bool {
        match deed {
            Deed::MoveOwn { nth, to } => return self.move_own(proxmox, *nth, HOSTS[*to]),
            Deed::RemoveOwn { nth } => return self.remove_own(proxmox, *nth),
            _ => {}
        }
        let Some(machine) = of(deed, machines) else { return false };
        let done = self.does_about(proxmox, deed, machine);
        if done {
            self.disturbed.push(machine.vmid);
        }
        done
    }

    fn does_about(&mut self, proxmox: &Proxmox, deed: &Deed, machine: &Machine) -> bool {
        let vmid = machine.vmid;
        let is_ours = !self.is_foreign(vmid);
        match deed {
            Deed::Squat { guise, .. } => self.place(proxmox, vmid, machine, *guise),
            Deed::Replace { guise, .. } if is_ours && proxmox.remove_vm(vmid) => {
                self.held.remove(&vmid);
                self.place(proxmox, vmid, machine, *guise);
                true
            }
            Deed::Imitate { guise, .. } => {
                let own = self.own_id();
                self.place(proxmox, own, machine, *guise)
            }
            Deed::Restore { unique, guise, .. } => self.restore(proxmox, machine, *unique, *guise),
            Deed::Borrow { .. } => self.borrow(proxmox, machine),
            Deed::Edit { part, .. } if is_ours => self.edit(proxmox, vmid, *part),
            Deed::Mend { .. } => self.mend(proxmox, vmid),
            Deed::Move { to, .. } if is_ours && moves(proxmox, vmid, HOSTS[*to]) => {
                self.look_again(proxmox, vmid);
                true
            }
            Deed::Remove { .. } if is_ours && proxmox.remove_vm(vmid) => {
                self.held.remove(&vmid);
                true
            }
            _ => false,
        }
    }

    /// The VMID that a deed is about.
    pub(super) fn target(&self, deed: &Deed, machines: &[Machine]) -> Option<u32> {
        match deed {
            Deed::MoveOwn { nth, .. } | Deed::RemoveOwn { nth } => self.nth_own(*nth),
            _ => of(deed, machines).map(|machine| machine.vmid),
        }
    }

    /// Hears every call: one that would change what is held is remembered, whatever becomes of it. A change of a configuration
    /// counts although its digest may stop it: nobody comes between a look of ours and the call that follows it, so whoever
    /// needs the digest here has not looked.
    pub(super) fn hears(&mut self, heard: &Heard<'_>) {
        let Some(held) = vmid_in(heard.path).and_then(|vmid| self.held.get(&vmid)) else { return };
        let is_copied = matches!(held.whose, Whose::Operator) && heard.path.ends_with("/clone");
        if heard.method != "GET" && !is_copied {
            self.touched.push(format!("{} {}", heard.method, heard.path));
        }
    }

    /// What was done to what nobody may touch.
    pub(super) fn complaints(&self, proxmox: &Proxmox) -> Vec<String> {
        let mut found: Vec<String> = self.touched.iter().map(|call| format!("a VM that is not ours: {call}")).collect();
        for (vmid, held) in &self.held {
            let whose = match held.whose {
                Whose::Stranger => "foreign",
                Whose::Ours(_) => "unproven",
                Whose::Operator => "an operator's",
            };
            match state(proxmox, *vmid) {
                None => found.push(format!("{whose} VM {vmid} is gone")),
                Some(now) if now != held.as_left => {
                    let mut changes = Vec::new();
                    compare("", &json!(held.as_left), &json!(now), &mut changes);
                    found.push(format!("{whose} VM {vmid}: {}", changes.join("; ")));
                }
                Some(_) => {}
            }
        }
        found
    }

    /// VMIDs of VMs that we made and still are.
    pub(super) fn ours(&self, proxmox: &Proxmox) -> Vec<u32> {
        let is_ours = |vmid: &u32| self.held.get(vmid).is_none_or(|held| matches!(held.whose, Whose::Ours(_)));
        proxmox.snapshot().vms.into_keys().filter(is_ours).collect()
    }

    /// Gives way: puts back what was changed about ours, and removes everything of the stranger's own.
    pub(super) fn gives_way(&mut self, proxmox: &Proxmox) {
        let held: Vec<u32> = self.held.keys().copied().collect();
        for vmid in held {
            if self.is_foreign(vmid) {
                proxmox.remove_vm(vmid);
                self.held.remove(&vmid);
            } else {
                self.mend(proxmox, vmid);
            }
        }
    }

    pub(super) fn is_foreign(&self, vmid: u32) -> bool {
        self.held.get(&vmid).is_some_and(|held| matches!(held.whose, Whose::Stranger))
    }

    fn own_id(&mut self) -> u32 {
        self.made += 1;
        FIRST_OWN + self.made
    }

    fn place(&mut self, proxmox: &Proxmox, vmid: u32, machine: &Machine, guise: Guise) -> bool {
        let mut config = plain(vmid);
        let mut set = |key: &str, value: String| _ = config.insert(key.to_owned(), value);
        if guise.name {
            set("name", machine.hostname.to_string());
        }
        if guise.tags {
            set("tags", ownership::tags(machine).join(";"));
        }
        if guise.description {
            set("description", ownership::description(machine));
        }
        if guise.uuid {
            set("smbios1", format!("uuid={}", machine.smbios_uuid));
        }
        if let Some(mac) = machine.mac().filter(|_| guise.mac) {
            set("net0", format!("virtio={mac},bridge=vmbr0"));
        }
        self.make(proxmox, vmid, &machine.host, config, guise)
    }

    fn restore(&mut self, proxmox: &Proxmox, machine: &Machine, unique: bool, guise: Guise) -> bool {
        let Some(ours) = proxmox.snapshot().vms.remove(&machine.vmid) else { return false };
        let vmid = self.own_id();
        let mut config = plain(vmid);
        config.extend(ours.config.into_iter().filter(|(key, _)| !ours.disks.contains_key(key) && key != "lock"));
        if unique {
            config.insert("net0".to_owned(), format!("virtio=BC:24:11:00:{:02X}:01,bridge=vmbr0", vmid % 256));
        }
        self.make(proxmox, vmid, &ours.host, config, guise)
    }

    fn borrow(&mut self, proxmox: &Proxmox, machine: &Machine) -> bool {
        let own = self.own_id();
        let mut config = plain(own);
        let volume = format!("{}:vm-{}-disk-7", machine.storage, machine.vmid);
        config.insert("scsi1".to_owned(), format!("{volume},size=8G"));
        self.lent.push(volume);
        self.make(proxmox, own, &machine.host, config, Guise { on: true, ..Guise::default() })
    }

    fn make(
        &mut self,
        proxmox: &Proxmox,
        vmid: u32,
        host: &str,
        config: BTreeMap<String, String>,
        guise: Guise,
    ) -> bool {
        let pool = guise.in_pool.then(|| "cortex".to_owned());
        let made = HandMade { host: host.to_owned(), config, running: guise.on, pool };
        let placed = proxmox.place_vm(vmid, &made);
        if placed && let Some(as_left) = state(proxmox, vmid) {
            self.held.insert(vmid, Held { as_left, whose: Whose::Stranger });
        }
        placed
    }

    fn edit(&mut self, proxmox: &Proxmox, vmid: u32, part: Part) -> bool {
        let Some(before) = proxmox.snapshot().vms.remove(&vmid) else { return false };
        let change: &[(&str, Option<&str>)] = match part {
            Part::Name => &[("name", Some("renamed"))],
            Part::Tags => &[("tags", Some("somebody"))],
            Part::Description => &[("description", Some("mine now"))],
            Part::Mac => &[("net0", Some("virtio=BC:24:11:0F:0F:0F,bridge=vmbr0"))],
            Part::Uuid => &[("smbios1", Some("uuid=00000000-0000-4000-8000-00000000000f"))],
            Part::Memory => &[("balloon", Some("0"))],
            Part::Protection => &[("protection", Some("1"))],
            Part::All => &[
                ("name", Some("renamed")),
                ("tags", None),
                ("description", None),
                ("net0", Some("virtio=BC:24:11:0F:0F:0F,bridge=vmbr0")),
                ("smbios1", Some("uuid=00000000-0000-4000-8000-00000000000f")),
            ],
        };
        if !proxmox.edit_vm(vmid, change) {
            return false;
        }
        let is_half_cloned = !before.config.contains_key("ipconfig0");
        let breaks = match is_half_cloned {
            true => part.breaks_the_proof_of_a_half_clone(),
            false => part.breaks_the_proof(),
        };
        if breaks && let Some(as_left) = state(proxmox, vmid) {
            let earlier = self.held.remove(&vmid).and_then(Held::ours_before);
            let whose = Whose::Ours(earlier.unwrap_or(before.config));
            self.held.insert(vmid, Held { as_left, whose });
        } else {
            self.look_again(proxmox, vmid);
        }
        true
    }

    fn mend(&mut self, proxmox: &Proxmox, vmid: u32) -> bool {
        let Some(before) = self.held.get(&vmid).cloned().and_then(Held::ours_before) else { return false };
        let keys = ["name", "tags", "description", "net0", "smbios1"];
        let changes: Vec<_> = keys.iter().map(|key| (*key, before.get(*key).map(String::as_str))).collect();
        let mended = proxmox.edit_vm(vmid, &changes);
        if mended {
            self.held.remove(&vmid);
        }
        mended
    }

    fn move_own(&mut self, proxmox: &Proxmox, nth: usize, host: &str) -> bool {
        let Some(vmid) = self.nth_own(nth) else { return false };
        let moved = moves(proxmox, vmid, host);
        if moved {
            self.look_again(proxmox, vmid);
        }
        moved
    }

    fn remove_own(&mut self, proxmox: &Proxmox, nth: usize) -> bool {
        let Some(vmid) = self.nth_own(nth) else { return false };
        let removed = proxmox.remove_vm(vmid);
        if removed {
            self.held.remove(&vmid);
        }
        removed
    }

    fn nth_own(&self, nth: usize) -> Option<u32> {
        let own: Vec<u32> = self.held.keys().copied().filter(|vmid| self.is_foreign(*vmid)).collect();
        own.get(nth % own.len().max(1)).copied()
    }

    /// The stranger has changed a VM that is held already.
    fn look_again(&mut self, proxmox: &Proxmox, vmid: u32) {
        if let (Some(held), Some(now)) = (self.held.get_mut(&vmid), state(proxmox, vmid)) {
            held.as_left = now;
        }
    }
}

impl Held {
    /// How a VM of ours was before it was changed.
    fn ours_before(self) -> Option<BTreeMap<String, String>> {
        match self.whose {
            Whose::Ours(before) => Some(before),
            Whose::Stranger | Whose::Operator => None,
        }
    }
}

/// Moves a VM to a host on which it is not; whether it could.
fn moves(proxmox: &Proxmox, vmid: u32, host: &str) -> bool {
    let elsewhere = proxmox.snapshot().vms.get(&vmid).is_some_and(|vm| vm.host != host);
    elsewhere && proxmox.move_vm(vmid, host)
}

/// `100` of `/nodes/pve1/qemu/100/config`.
pub(super) fn vmid_in(path: &str) -> Option<u32> {
    let mut parts = path.trim_matches('/').split('/');
    let is_of_a_vm = parts.next() == Some("nodes") && parts.next().is_some() && parts.next() == Some("qemu");
    parts.next().filter(|_| is_of_a_vm)?.parse().ok()
}

/// The machine of ours that a deed is about.
fn of<'m>(deed: &Deed, machines: &'m [Machine]) -> Option<&'m Machine> {
    match deed {
        Deed::Squat { of, .. }
        | Deed::Replace { of, .. }
        | Deed::Imitate { of, .. }
        | Deed::Restore { of, .. }
        | Deed::Borrow { of }
        | Deed::Edit { of, .. }
        | Deed::Mend { of }
        | Deed::Move { of, .. }
        | Deed::Remove { of } => machines.get(of % machines.len().max(1)),
        Deed::MoveOwn { .. } | Deed::RemoveOwn { .. } => None,
    }
}

fn state(proxmox: &Proxmox, vmid: u32) -> Option<State> {
    let mut snapshot = proxmox.snapshot();
    let vm = snapshot.vms.remove(&vmid)?;
    // What every host sees is at no host.
    let there = [vm.host.as_str(), ""].into_iter().filter_map(|place| snapshot.volumes.remove(place)).flatten();
    let own = |volume: &String| vm.disks.values().any(|disk| disk.split(',').next() == Some(volume));
    let volumes = there.filter(own).collect();
    let pool = snapshot.pools.values().any(|members| members.contains(&vmid));
    Some(State { vm, process: proxmox.vm_process(vmid), volumes, pool })
}

/// A VM that has nothing of ours.
fn plain(vmid: u32) -> BTreeMap<String, String> {
    let pairs = [
        ("name", format!("stranger-{vmid}")),
        ("memory", "1024".to_owned()),
        ("cores", "1".to_owned()),
        ("smbios1", format!("uuid=00000000-0000-4000-8000-{vmid:012}")),
        ("net0", format!("virtio=BC:24:11:EE:{:02X}:{:02X},bridge=vmbr0", vmid / 256 % 256, vmid % 256)),
        ("scsi0", format!("local-lvm:vm-{vmid}-disk-0,size=8G")),
        ("boot", "order=scsi0".to_owned()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
