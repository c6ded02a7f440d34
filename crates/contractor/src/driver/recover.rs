//! Back to work after a restart: every unfinished run is read from its journal, with the playbook texts it pinned.

use std::sync::{Arc, PoisonError};

use engine::{
    event::{Event, Opened},
    hash,
    library::Definition,
    run::RunState,
};
use store::{ReadError, RunQuery};
use uuid::Uuid;

use super::Shared;

/// Why a run cannot be read.
pub(super) enum Unreadable {
    /// The store cannot.
    Store(ReadError),
    /// Its journal makes no sense to this program.
    Journal(String),
}

/// Every unfinished run goes on, of which there may be none. One that cannot be read holds up no other.
pub(super) fn resume_all(shared: &Arc<Shared>) -> Result<(), ReadError> {
    let mut rows = shared.parts.journal.rows(&RunQuery::unfinished())?;
    rows.sort_by_key(|row| (row.started_at, row.run));
    let mut states = Vec::new();
    for row in rows {
        match load(shared, row.run) {
            Ok(Some(state)) => states.push(state),
            Ok(None) => {}
            Err(Unreadable::Store(error @ ReadError::Failed(_))) => return Err(error),
            Err(Unreadable::Store(error)) => shared.note_unreadable(row.run, error.to_string()),
            Err(Unreadable::Journal(reason)) => shared.note_unreadable(row.run, reason),
        }
    }
    // Who held locks holds them again before anybody can ask.
    let (yielding, holding): (Vec<_>, Vec<_>) =
        states.iter().filter(|state| state.is_begun()).partition(|it| it.yields());
    for state in holding {
        shared.locks.seize(state.opened().run, &state.opened().locks);
    }
    for state in yielding {
        // Whether it gets them now or stands first in line, its task asks again.
        let _ = shared.locks.take(state.opened().run, &state.opened().locks, false);
    }
    for state in states {
        shared.set_going(state, None);
    }
    Ok(())
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
