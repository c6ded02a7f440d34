//! The event ring of one boot: what `Events` streams, gone with the next reboot (talos.md 3.7).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message;
use talos::proto::machine::{self, Event};
use tokio::sync::broadcast;

/// Events kept, and how many of the oldest are not given out.
const RING: usize = 1000;
const GAP: usize = 10;

/// A message that travels as an event.
pub(crate) trait Payload: Message {
    const NAME: &'static str;
}

macro_rules! payloads {
    ($($name:ident),*) => {$(impl Payload for machine::$name { const NAME: &'static str = stringify!($name); })*};
}
payloads!(
    SequenceEvent,
    PhaseEvent,
    TaskEvent,
    ServiceStateEvent,
    AddressEvent,
    MachineStatusEvent,
    ConfigLoadErrorEvent,
    ConfigValidationErrorEvent,
    RestartEvent
);

/// The events of one boot; a cheap handle.
#[derive(Clone)]
pub(crate) struct EventLog {
    ring: Arc<Mutex<VecDeque<Stamped>>>,
    sender: broadcast::Sender<Arc<Event>>,
}

#[derive(Clone)]
struct Stamped {
    at: SystemTime,
    event: Arc<Event>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self { ring: Arc::default(), sender: broadcast::channel(RING).0 }
    }
}

impl EventLog {
    /// Appends an event; `actor` marks what an API call caused.
    pub(crate) fn publish<P: Payload>(&self, payload: &P, actor: &str) {
        let data =
            prost_types::Any { type_url: format!("talos/runtime/machine.{}", P::NAME), value: payload.encode_to_vec() };
        let event = Arc::new(Event { metadata: None, data: Some(data), id: xid(), actor_id: actor.to_owned() });
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() == RING {
            ring.pop_front();
        }
        ring.push_back(Stamped { at: SystemTime::now(), event: Arc::clone(&event) });
        // Nobody listening is fine.
        let _ = self.sender.send(event);
    }

    /// The old events that a request asks for, and all that come after.
    pub(crate) fn follow(
        &self,
        request: &machine::EventsRequest,
    ) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let available: Vec<&Stamped> = ring.iter().skip(ring.len().saturating_sub(RING - GAP)).collect();
        let old: Vec<&Stamped> = if !request.tail_id.is_empty() {
            available.into_iter().filter(|stamped| stamped.event.id > request.tail_id).collect()
        } else if request.tail_seconds > 0 {
            let age = Duration::from_secs(u64::from(request.tail_seconds.unsigned_abs()));
            let since = SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH);
            available.into_iter().filter(|stamped| stamped.at >= since).collect()
        } else if request.tail_events < 0 {
            available
        } else {
            let count = usize::try_from(request.tail_events).unwrap_or(0);
            let skip = available.len().saturating_sub(count);
            available.into_iter().skip(skip).collect()
        };
        (old.into_iter().map(|stamped| Arc::clone(&stamped.event)).collect(), self.sender.subscribe())
    }
}

/// The empty first frame, which tells that the stream is open.
pub(crate) fn hello() -> Event {
    Event { metadata: None, data: Some(prost_types::Any::default()), id: xid(), actor_id: String::new() }
}

/// A sortable id of twenty characters: time, process and counter in base 32.
pub(crate) fn xid() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    let mut raw = [0u8; 12];
    raw[..4].copy_from_slice(&seconds.to_be_bytes()[4..]);
    raw[4..7].copy_from_slice(b"lab");
    raw[7..9].copy_from_slice(&std::process::id().to_be_bytes()[2..]);
    raw[9..].copy_from_slice(&COUNTER.fetch_add(1, Ordering::Relaxed).to_be_bytes()[1..]);
    let bit = |index: usize| raw.get(index / 8).is_some_and(|byte| byte >> (7 - index % 8) & 1 == 1);
    let digit =
        |position: usize| (0..5).fold(0usize, |value, offset| value << 1 | usize::from(bit(position * 5 + offset)));
    (0..20).map(|position| char::from(DIGITS[digit(position)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sees_the_tail_it_asked_for() {
        let log = EventLog::default();
        for phase in 0..1005 {
            log.publish(&machine::PhaseEvent { phase: phase.to_string(), action: 0 }, "");
        }
        let tail = |tail_events| log.follow(&machine::EventsRequest { tail_events, ..Default::default() }).0.len();
        assert_eq!((tail(0), tail(5), tail(-1)), (0, 5, 990));
        let (all, _) = log.follow(&machine::EventsRequest { tail_events: -1, ..Default::default() });
        let after = machine::EventsRequest { tail_id: all[979].id.clone(), ..Default::default() };
        assert_eq!(log.follow(&after).0.len(), 10);
        assert_eq!(all[0].data.as_ref().unwrap().type_url, "talos/runtime/machine.PhaseEvent");
    }

    #[test]
    fn ids_are_twenty_characters_and_grow() {
        let ids: Vec<_> = (0..100).map(|_| xid()).collect();
        assert!(ids.iter().all(|id| id.len() == 20));
        assert!(ids.is_sorted());
    }
}
