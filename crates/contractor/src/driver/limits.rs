//! Semaphores of this process that actions name: so many at once per host, per storage, per template.
//!
//! Who finds one full waits in line. A permit that goes back calls the first of its line only: with a thousand runs in it,
//! calling all of them each time would cost more than what they do.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Permits in use by name, and who waits for one.
#[derive(Clone, Default)]
pub(super) struct Limits(Arc<Mutex<BTreeMap<String, Limit>>>);

#[derive(Default)]
struct Limit {
    used: usize,
    line: VecDeque<Waiting>,
}

struct Waiting {
    most: usize,
    called: Arc<Notify>,
}

/// Permits that go back when this is dropped.
pub(super) struct Permits {
    of: Limits,
    names: Vec<String>,
}

/// One run's places in the lines.
pub(super) struct Places {
    of: Limits,
    called: Arc<Notify>,
    /// The limits that it found full since it last began to ask.
    full: BTreeSet<String>,
    /// Those before.
    former: BTreeSet<String>,
}

impl Limits {
    /// For a run that is in no line yet.
    pub(super) fn places(&self) -> Places {
        Places { of: self.clone(), called: Arc::default(), full: BTreeSet::new(), former: BTreeSet::new() }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Limit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// From here on it asks anew for everything that it wants.
    pub(super) fn begin(&mut self) {
        self.former.append(&mut self.full);
    }

    /// One permit of each, or none: it is in line then, and is told why.
    pub(super) fn take(&mut self, limits: &[(String, usize)]) -> Result<Permits, String> {
        let mut table = self.of.table();
        let full = limits.iter().find(|(name, most)| table.get(name).is_some_and(|limit| limit.used >= *most));
        if let Some((name, most)) = full {
            let line = &mut table.entry(name.clone()).or_default().line;
            if !line.iter().any(|waiting| Arc::ptr_eq(&waiting.called, &self.called)) {
                line.push_back(Waiting { most: *most, called: Arc::clone(&self.called) });
            }
            self.full.insert(name.clone());
            return Err(format!("limit {name}: {most} at work already"));
        }
        for (name, _) in limits {
            table.entry(name.clone()).or_default().used += 1;
        }
        Ok(Permits { of: self.of.clone(), names: limits.iter().map(|(name, _)| name.clone()).collect() })
    }

    /// It has asked for all that it wants: it leaves the lines of what it does not want any more, or has. Whoever comes
    /// after it is called where it was called and has no use for that.
    pub(super) fn end(&mut self) {
        let former = std::mem::take(&mut self.former);
        self.leave_lines(former.difference(&self.full));
    }

    /// It wants nothing any more.
    pub(super) fn leave(&mut self) {
        self.begin();
        self.end();
    }

    /// Resolves when asking again may help.
    pub(super) async fn called(&self) {
        self.called.notified().await;
    }

    fn leave_lines<'a>(&self, names: impl Iterator<Item = &'a String>) {
        let mut table = self.of.table();
        for name in names {
            if let Some(limit) = table.get_mut(name) {
                limit.line.retain(|waiting| !Arc::ptr_eq(&waiting.called, &self.called));
            }
            call_next(&mut table, name);
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        let mut table = self.of.table();
        for name in &self.names {
            if let Some(limit) = table.get_mut(name) {
                limit.used -= 1;
            }
            call_next(&mut table, name);
        }
    }
}

/// Calls the first in line if there is room for it, and forgets a limit that nobody has and nobody wants.
fn call_next(table: &mut BTreeMap<String, Limit>, name: &str) {
    let Some(limit) = table.get_mut(name) else { return };
    if let Some(next) = limit.line.pop_front_if(|next| limit.used < next.most) {
        next.called.notify_one();
    }
    if limit.used == 0 && limit.line.is_empty() {
        table.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn is_called(places: &Places) -> bool {
        places.called().now_or_never().is_some()
    }

    /// Asks for one permit of each.
    fn ask(places: &mut Places, names: &[&str]) -> Option<Permits> {
        places.begin();
        let limits: Vec<_> = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
        let taken = places.take(&limits);
        places.end();
        taken.ok()
    }

    #[test]
    fn a_permit_that_goes_back_calls_the_first_in_line_only() {
        let limits = Limits::default();
        let [mut a, mut b, mut c] = [(); 3].map(|()| limits.places());
        let held = ask(&mut a, &["x"]).unwrap();
        assert!(ask(&mut b, &["x"]).is_none() && ask(&mut c, &["x"]).is_none());
        assert!(ask(&mut b, &["x"]).is_none(), "asking again keeps the place");
        drop(held);
        assert!(is_called(&b) && !is_called(&c));
        let held = ask(&mut b, &["x"]).unwrap();
        assert!(!is_called(&c));
        drop(held);
        assert!(is_called(&c));
        drop(ask(&mut c, &["x"]).unwrap());
        assert!(limits.table().is_empty(), "nothing is kept of what nobody wants");
    }

    #[test]
    fn whoever_has_no_use_for_its_call_passes_it_on() {
        let limits = Limits::default();
        let [mut a, mut b, mut c, mut d, mut e] = [(); 5].map(|()| limits.places());
        let (x, y) = (ask(&mut a, &["x"]).unwrap(), ask(&mut a, &["y"]).unwrap());
        for waiting in [&mut b, &mut c, &mut d] {
            assert!(ask(waiting, &["x", "y"]).is_none());
        }
        assert!(ask(&mut e, &["x"]).is_none());
        drop(x);
        assert!(is_called(&b));
        assert!(ask(&mut b, &["x", "y"]).is_none(), "it stands in the other line now");
        assert!(is_called(&c));
        // One that ends without another word, and one that goes on without what it waited for.
        drop(c);
        assert!(is_called(&d));
        d.leave();
        assert!(is_called(&e));
        drop(ask(&mut e, &["x"]).unwrap());
        drop(y);
        assert!(is_called(&b) && ask(&mut b, &["x", "y"]).is_some());
        drop((b, d));
        assert!(limits.table().is_empty());
    }
}
