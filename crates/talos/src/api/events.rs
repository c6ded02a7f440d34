//! The event stream of a machine (talos.md 3.7).

use futures::{Stream, StreamExt};
use prost::Message;

use super::{Client, Error};
use crate::proto::machine::{
    self, EventsRequest, MachineStatusEvent, PhaseEvent, SequenceEvent, ServiceStateEvent, TaskEvent,
};

/// Talos writes this in front of message names, not the usual `type.googleapis.com/`.
const TYPE_PREFIX: &str = "talos/runtime/";

/// An open event stream.
pub type EventStream = std::pin::Pin<Box<dyn Stream<Item = Result<Event, Error>> + Send>>;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Sortable id.
    pub id: String,
    /// The call that caused it, as Reboot, Reset and others returned it; empty otherwise.
    pub actor: String,
    /// What happened.
    pub happening: Happening,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Happening {
    /// The stream is open; first frame of every stream.
    Hello,
    Sequence(SequenceEvent),
    Phase(PhaseEvent),
    Task(TaskEvent),
    Service(ServiceStateEvent),
    Machine(MachineStatusEvent),
    /// Another type, by its message name.
    Other(String),
}

impl Client {
    /// Opens the event stream with `tail` old events first: negative is all of the ring, zero none.
    pub async fn events(&self, tail: i32, actor: Option<&str>) -> Result<EventStream, Error> {
        let request = EventsRequest {
            tail_events: tail,
            with_actor_id: actor.unwrap_or_default().to_owned(),
            ..EventsRequest::default()
        };
        let stream = self.machine().events(self.streaming(request)).await.map_err(self.failed("Events"))?.into_inner();
        let client = self.clone();
        Ok(stream.map(move |event| client.event(event.map_err(client.failed("Events"))?)).boxed())
    }

    fn event(&self, event: machine::Event) -> Result<Event, Error> {
        if let Some(metadata) = event.metadata.filter(|metadata| !metadata.error.is_empty()) {
            return Err(Error::forwarded("Events", metadata));
        }
        let happening = match event.data {
            None => Happening::Hello,
            Some(any) if any.type_url.is_empty() => Happening::Hello,
            Some(any) => decode(any.type_url.trim_start_matches(TYPE_PREFIX), &any.value)
                .map_err(|source| Error::Decode { what: "an event", node: self.name(), source })?,
        };
        Ok(Event { id: event.id, actor: event.actor_id, happening })
    }
}

fn decode(name: &str, value: &[u8]) -> Result<Happening, prost::DecodeError> {
    Ok(match name {
        "machine.SequenceEvent" => Happening::Sequence(SequenceEvent::decode(value)?),
        "machine.PhaseEvent" => Happening::Phase(PhaseEvent::decode(value)?),
        "machine.TaskEvent" => Happening::Task(TaskEvent::decode(value)?),
        "machine.ServiceStateEvent" => Happening::Service(ServiceStateEvent::decode(value)?),
        "machine.MachineStatusEvent" => Happening::Machine(MachineStatusEvent::decode(value)?),
        other => Happening::Other(other.to_owned()),
    })
}
