//! Events, logs and dmesg (talos.md 3.7).

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use talos::proto::common::Data;
use talos::proto::machine::{DmesgRequest, Event, EventsRequest, LogsRequest};
use tokio::sync::broadcast;
use tonic::Status;

use super::{Api, Frames, plain};
use crate::talos::events;
use crate::talos::logs::KERNEL;

impl Api {
    pub(super) fn event_stream(&self, request: EventsRequest) -> Frames<Event> {
        let (old, live) = self.boot.events.follow(&request);
        let actor = request.with_actor_id;
        let wanted = move |event: &Arc<Event>| actor.is_empty() || event.actor_id == actor;
        let rest = stream::iter(old).chain(received(live)).filter(move |event| futures::future::ready(wanted(event)));
        let hello = stream::iter([Ok(events::hello())]);
        self.until_boot_ends(hello.chain(rest.map(|event| Ok(Event::clone(&event)))).boxed())
    }

    pub(super) fn log_stream(&self, request: &LogsRequest) -> Result<Frames<Data>, Status> {
        let id = request.id.as_str();
        let tail = usize::try_from(request.tail_lines).ok();
        let service = request.namespace == "system" || id == "kubelet";
        if !service {
            let lines = self.container_log(id).ok_or_else(|| plain(format!("container {id:?} not found")))?;
            let skip = tail.map_or(0, |tail| lines.len().saturating_sub(tail));
            let data = |line: String| Ok(Data { metadata: None, bytes: format!("{line}\n").into_bytes().into() });
            let old = stream::iter(lines.into_iter().skip(skip)).map(data);
            // What the container writes later is in the Kubernetes API's log.
            let rest = if request.follow { stream::pending().boxed() } else { stream::empty().boxed() };
            return Ok(self.until_boot_ends(old.chain(rest).boxed()));
        }
        let known = self.boot.services.state(id).is_some() || self.boot.logs.ids().iter().any(|known| known == id);
        if !known {
            return Err(plain(format!("log {id:?} was not registered")));
        }
        let lines = self.lines(id, tail, request.follow);
        Ok(lines)
    }

    pub(super) fn kernel_stream(&self, request: &DmesgRequest) -> Frames<Data> {
        // Tail means only what comes from now on.
        let tail = if request.tail && request.follow { Some(0) } else { None };
        self.lines(KERNEL, tail, request.follow)
    }

    fn lines(&self, id: &str, tail: Option<usize>, follow: bool) -> Frames<Data> {
        let data = |line: String| Ok(Data { metadata: None, bytes: format!("{line}\n").into_bytes().into() });
        let Some((old, live)) = self.boot.logs.follow(id, tail) else { return stream::empty().boxed() };
        let old = stream::iter(old).map(data);
        if !follow {
            return old.boxed();
        }
        let id = id.to_owned();
        let live = received(live).filter_map(move |(log, line)| futures::future::ready((log == id).then_some(line)));
        self.until_boot_ends(old.chain(live.map(data)).boxed())
    }

    /// Streams end when the node reboots; a power cut breaks them with the connection.
    fn until_boot_ends<T: Send + 'static>(
        &self,
        frames: Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>,
    ) -> Frames<T> {
        let stop = self.boot.stop.clone();
        frames.take_until(async move { stop.cancelled().await }).boxed()
    }
}

/// A slow reader loses what it missed.
fn received<T: Clone + Send + 'static>(receiver: broadcast::Receiver<T>) -> impl Stream<Item = T> + Send {
    stream::unfold(receiver, |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(item) => return Some((item, receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    })
}
