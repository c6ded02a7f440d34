//! Locks over runs: declared by playbooks, taken together before the first step, first come first served.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use engine::event::{Lock, LockMode};
use tokio::sync::watch;
use uuid::Uuid;

/// Who holds what, and who waits.
pub(super) struct Locks {
    table: Mutex<Table>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Table {
    holders: BTreeMap<Uuid, Holder>,
    /// In the order of their asking.
    queue: Vec<(Uuid, Vec<Lock>)>,
}

struct Holder {
    locks: Vec<Lock>,
    /// Paused, stuck or set aside: it keeps its locks, and shared ones may enter.
    parked: bool,
}

impl Default for Locks {
    fn default() -> Self {
        Self { table: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Locks {
    /// Takes all of `locks` for `run`, or none and says why; asking again keeps the place in the queue. One that
    /// `preempts` waits only for who is at work, and is told which paused or stuck runs it took them from.
    pub(super) fn take(&self, run: Uuid, locks: &[Lock], preempts: bool) -> Result<Vec<Uuid>, String> {
        let mut table = self.table();
        let place = table.queue.iter().position(|(waiting, _)| *waiting == run);
        let ahead = &table.queue[..place.unwrap_or(table.queue.len())];
        // Nobody overtakes who waits for the same lock; who holds already (parked, or resumed after a crash) may.
        let is_holder = table.holders.contains_key(&run);
        let before = ahead.iter().filter(|_| !is_holder && !preempts).map(|(waiting, locks)| (*waiting, locks, false));
        let at_work = |it: &&(&Uuid, &Holder)| !(preempts && it.1.parked);
        let held = table.holders.iter().filter(|it| at_work(&it)).map(|(holder, it)| (*holder, &it.locks, it.parked));
        let conflict = held.chain(before).filter(|(other, ..)| *other != run).find_map(|(other, theirs, parked)| {
            let clash = locks.iter().find(|mine| theirs.iter().any(|theirs| clashes(mine, theirs, parked)))?;
            Some(format!("lock {} is held by run {other}", clash.name))
        });
        if let Some(reason) = conflict {
            if place.is_none() {
                table.queue.push((run, locks.to_vec()));
            }
            return Err(reason);
        }
        table.queue.retain(|(waiting, _)| *waiting != run);
        let clash =
            |it: &Holder| locks.iter().any(|mine| it.locks.iter().any(|theirs| clashes(mine, theirs, it.parked)));
        let others = table.holders.iter().filter(|(holder, it)| **holder != run && clash(it));
        let preempted = others.map(|(holder, _)| *holder).collect();
        table.holders.insert(run, Holder { locks: locks.to_vec(), parked: false });
        drop(table);
        self.notify();
        Ok(preempted)
    }

    /// Takes locks that the run held before a crash, whoever else holds them; it is parked until it takes them itself.
    pub(super) fn seize(&self, run: Uuid, locks: &[Lock]) {
        self.table().holders.insert(run, Holder { locks: locks.to_vec(), parked: true });
    }

    /// The run is paused or stuck: shared locks may enter.
    pub(super) fn park(&self, run: Uuid) {
        if let Some(holder) = self.table().holders.get_mut(&run) {
            holder.parked = true;
        }
        self.notify();
    }

    /// The run does not go on: it waits for nothing any more, and what it holds is parked.
    pub(super) fn set_aside(&self, run: Uuid) {
        self.table().queue.retain(|(waiting, _)| *waiting != run);
        self.park(run);
    }

    /// The run neither holds nor waits any more.
    pub(super) fn release(&self, run: Uuid) {
        let mut table = self.table();
        table.holders.remove(&run);
        table.queue.retain(|(waiting, _)| *waiting != run);
        drop(table);
        self.notify();
    }

    /// Resolves when asking again may help.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn notify(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn clashes(mine: &Lock, theirs: &Lock, parked: bool) -> bool {
    let compatible = match (mine.mode, theirs.mode) {
        (LockMode::Shared, LockMode::Shared) => true,
        (LockMode::Shared, LockMode::Exclusive) => parked,
        (LockMode::Exclusive, _) => false,
    };
    mine.name == theirs.name && !compatible
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(name: &str, mode: LockMode) -> Vec<Lock> {
        vec![Lock { name: name.to_owned(), mode }]
    }

    #[test]
    fn exclusive_waits_in_line_and_shared_enters_what_is_parked() {
        let (locks, [a, b, c]) = (Locks::default(), [1, 2, 3].map(Uuid::from_u128));
        let (exclusive, shared) = (lock("x", LockMode::Exclusive), lock("x", LockMode::Shared));
        assert_eq!(locks.take(a, &exclusive, false), Ok(vec![]));
        assert!(locks.take(b, &exclusive, false).unwrap_err().contains(&a.to_string()));
        assert_eq!(locks.take(c, &lock("y", LockMode::Exclusive), false), Ok(vec![]));
        locks.release(c);
        assert!(locks.take(c, &shared, false).is_err());
        locks.park(a);
        assert!(locks.take(c, &shared, false).is_err(), "b asked first");
        locks.release(b);
        assert_eq!(locks.take(c, &shared, false), Ok(vec![]));
        assert!(locks.take(a, &exclusive, false).is_err(), "resumed, but c is inside");
        locks.release(c);
        assert_eq!(locks.take(a, &exclusive, false), Ok(vec![]));
        assert!(locks.take(c, &shared, false).is_err(), "no longer parked");
        assert!(locks.take(b, &exclusive, true).is_err(), "a is at work");
        locks.park(a);
        assert_eq!(locks.take(b, &exclusive, true), Ok(vec![a]), "before c, and from a");
    }
}
