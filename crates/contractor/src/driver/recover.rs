//! Back to work after a restart: every unfinished run is read from its journal, with the playbook texts it pinned.

use std::sync::{Arc, PoisonError};

use engine::{
    event::{Event, Opened},
    hash,
    library::Definition,
    run::RunState,
};
use store::ReadError;
use uuid::Uuid;

use super::{Shared, locks::Locks};

/// Why a run cannot be read.
pub(super) enum Unreadable {
    /// The store cannot.
    Store(ReadError),
    /// Its journal makes no sense to this program.
    Journal(String),
}

/// Every unfinished run goes on, of which there may be none. One that cannot be read holds up no other.
pub(super) fn resume_all(shared: &Arc<Shared>) -> Result<(), ReadError> {
    let mut states = Vec::new();
    for (run, row) in shared.parts.journal.unfinished()? {
        let holds_nothing = row.as_ref().is_ok_and(|row| row.summary.state == store::RunState::Pending);
        match row.map_err(Unreadable::Store).and_then(|_| load(shared, run)) {
            Ok(Some(state)) => states.push(state),
            Ok(None) => {}
            Err(Unreadable::Store(error @ ReadError::Failed(_))) => return Err(error),
            Err(Unreadable::Store(error)) => set_aside(shared, run, holds_nothing, error.to_string()),
            Err(Unreadable::Journal(reason)) => set_aside(shared, run, holds_nothing, reason),
        }
    }
    states.sort_by_key(|state| (state.opened().at, state.opened().run));
    take_locks(&shared.locks, &states);
    for state in states {
        shared.set_going(state, None);
    }
    Ok(())
}

/// Who held locks holds them again before anybody can ask. One that stops, and of which nothing is at work, may have stood in
/// line for them again: two such would wait for each other for ever if both were believed to hold.
fn take_locks(locks: &Locks, states: &[RunState]) {
    let holds = |state: &&RunState| {
        !state.yields() && (!state.is_stopping() || state.status().needs_operator() || state.is_at_work())
    };
    let (holding, others): (Vec<_>, Vec<_>) = states.iter().filter(|state| state.is_begun()).partition(holds);
    for state in &holding {
        locks.seize(state.opened().run, &state.opened().locks);
    }
    let at_work = holding.into_iter().filter(|state| !state.status().needs_operator());
    for state in at_work.chain(others) {
        // Whether it gets them now or stands first in line, its task asks again. A run that was resumed while shared ones
        // were inside stands in line.
        let opened = state.opened();
        let _ = locks.take(opened.run, &opened.locks, state.definition().playbook.preempts && !state.yields());
    }
}

/// A run that cannot be read does not go on, and keeps its locks: what it made is half done.
fn set_aside(shared: &Shared, run: Uuid, holds_nothing: bool, reason: String) {
    let first = shared.parts.journal.first_event(run);
    let first = first.ok().flatten().and_then(|first| serde_json::from_value(first).ok());
    match first {
        _ if holds_nothing => {}
        Some(Event::Opened(opened)) => shared.locks.seize(run, &opened.locks),
        _ => tracing::error!(%run, "which locks the run holds cannot be read: others may take them"),
    }
    shared.note_unreadable(run, reason);
}

/// A run as its journal says.
pub(super) fn load(shared: &Shared, run: Uuid) -> Result<Option<RunState>, Unreadable> {
    let rows = shared.parts.journal.events(run).map_err(Unreadable::Store)?;
    let entry = |(index, row)| {
        serde_json::from_value(row).map_err(|error| Unreadable::Journal(format!("entry {index}: {error}")))
    };
    let events = rows.into_iter().enumerate().map(entry).collect::<Result<Vec<Event>, _>>()?;
    let Some(Event::Opened(opened)) = events.first() else { return Ok(None) };
    let definition = definition(shared, opened)?;
    RunState::replay(definition, &events).map(Some).map_err(|error| Unreadable::Journal(error.to_string()))
}

/// The playbook that a run pinned: the library's when it is the same, else from the texts kept with the run.
fn definition(shared: &Shared, opened: &Opened) -> Result<Arc<Definition>, Unreadable> {
    if let Some(known) = shared.parts.playbooks.get(&opened.playbook).filter(|known| known.pins == opened.pins) {
        return Ok(known.clone());
    }
    let hash = hash::of(&opened.pins);
    let mut restored = shared.restored.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = restored.get(&hash) {
        return Ok(known.clone());
    }
    let mut texts = Vec::new();
    for pin in &opened.pins {
        let text = shared.parts.journal.definition(&pin.hash).map_err(Unreadable::Store)?;
        let missing = || Unreadable::Journal(format!("the text of playbook {} is not in the store", pin.playbook));
        texts.push((pin.playbook.clone(), text.ok_or_else(missing)?));
    }
    let definition = Definition::restore(&texts, &shared.parts.actions);
    let definition = definition.map_err(|problems| Unreadable::Journal(problems.to_string()))?;
    restored.insert(hash, definition.clone());
    Ok(definition)
}
