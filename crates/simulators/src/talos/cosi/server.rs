//! The State service: Get, List and Watch for those who may (talos.md 2.5, 4.1).

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use talos::proto::cosi::resource::{self as api, EventType, Resource, state_server::State};
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status};

use super::query::Filter;
use super::schema;
use super::store::{Change, Store, Subscription};
use crate::talos::roles::{Role, Roles};

type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves one boot's resources.
pub(crate) struct StateService {
    store: Store,
}

impl StateService {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    /// The second filter of Talos, after the method's own rule.
    fn check<T>(&self, request: &Request<T>, namespace: &str, kind: &str) -> Result<(), Status> {
        let Some(definition) = schema::definition(kind, self.store.line) else {
            return Err(Status::permission_denied(format!("resource type {kind:?} is not supported")));
        };
        let admin = request.extensions().get::<Roles>().is_some_and(|roles| roles.includes(Role::Admin));
        if definition.sensitive && !admin {
            return Err(Status::permission_denied("not authorized"));
        }
        if !schema::namespaces(self.store.line).any(|(name, _)| name == namespace) {
            return Err(Status::permission_denied(format!("namespace {namespace:?} is not supported")));
        }
        Ok(())
    }

    fn write_refused(&self) -> Status {
        Status::permission_denied("write access is not allowed")
    }
}

#[tonic::async_trait]
impl State for StateService {
    async fn get(&self, request: Request<api::GetRequest>) -> Result<Response<api::GetResponse>, Status> {
        let asked = request.get_ref();
        self.check(&request, &asked.namespace, &asked.r#type)?;
        let found = self.store.get(&asked.namespace, &asked.r#type, &asked.id);
        let Some(resource) = found else {
            let text = format!("resource {}({}/{}@undefined) doesn't exist", asked.r#type, asked.namespace, asked.id);
            return Err(Status::not_found(text));
        };
        Ok(Response::new(api::GetResponse { resource: Some(Resource::clone(&resource)) }))
    }

    async fn list(&self, request: Request<api::ListRequest>) -> Result<Response<Frames<api::ListResponse>>, Status> {
        self.check(&request, &request.get_ref().namespace, &request.get_ref().r#type)?;
        let asked = request.into_inner();
        let options = asked.options.unwrap_or_default();
        let filter = Filter::new(options.label_query, options.id_query);
        let found = self.store.list(&asked.namespace, &asked.r#type);
        let frames: Vec<_> = found
            .into_iter()
            .filter(|resource| filter.accepts(resource))
            .map(|resource| Ok(api::ListResponse { resource: Some(Resource::clone(&resource)) }))
            .collect();
        Ok(Response::new(stream::iter(frames).boxed()))
    }

    async fn watch(&self, request: Request<api::WatchRequest>) -> Result<Response<Frames<api::WatchResponse>>, Status> {
        self.check(&request, &request.get_ref().namespace, &request.get_ref().r#type)?;
        let watch = Watch::new(request.into_inner());
        let bookmark = match &watch.bookmark {
            Some(bytes) => Some(position(bytes).ok_or_else(invalid_bookmark)?),
            None => None,
        };
        let subscription =
            self.store.subscribe(&watch.namespace, &watch.kind, bookmark).ok_or_else(invalid_bookmark)?;
        let first = watch.first_frames(&self.store, &subscription);
        let changes = stream::unfold((watch, subscription.changes), |(watch, mut changes)| async move {
            loop {
                match changes.recv().await {
                    Ok(change) => {
                        if let Some(event) = watch.event(&change) {
                            return Some((Ok(frame(event)), (watch, changes)));
                        }
                    }
                    Err(RecvError::Lagged(_)) => {
                        return Some((
                            Err(Status::aborted("buffer overrun: watch channel is too slow")),
                            (watch, changes),
                        ));
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        Ok(Response::new(stream::iter(first.into_iter().map(Ok)).chain(changes).boxed()))
    }

    async fn create(&self, _: Request<api::CreateRequest>) -> Result<Response<api::CreateResponse>, Status> {
        Err(self.write_refused())
    }

    async fn update(&self, _: Request<api::UpdateRequest>) -> Result<Response<api::UpdateResponse>, Status> {
        Err(self.write_refused())
    }

    async fn destroy(&self, _: Request<api::DestroyRequest>) -> Result<Response<api::DestroyResponse>, Status> {
        Err(self.write_refused())
    }

    async fn teardown(&self, _: Request<api::TeardownRequest>) -> Result<Response<api::TeardownResponse>, Status> {
        Err(self.write_refused())
    }

    async fn teardown_and_destroy(
        &self,
        _: Request<api::TeardownAndDestroyRequest>,
    ) -> Result<Response<api::TeardownAndDestroyResponse>, Status> {
        Err(self.write_refused())
    }
}

/// A watch as its caller asked for it.
struct Watch {
    namespace: String,
    kind: String,
    id: Option<String>,
    filter: Filter,
    bootstrap: bool,
    bootstrap_bookmark: bool,
    tail: usize,
    aggregated: bool,
    bookmark: Option<Vec<u8>>,
    api_version: i32,
}

impl Watch {
    fn new(request: api::WatchRequest) -> Self {
        let options = request.options.unwrap_or_default();
        Self {
            namespace: request.namespace,
            kind: request.r#type,
            id: request.id,
            filter: Filter::new(options.label_query, options.id_query),
            bootstrap: options.bootstrap_contents,
            bootstrap_bookmark: options.bootstrap_bookmark,
            tail: usize::try_from(options.tail_events).unwrap_or(0),
            aggregated: options.aggregated,
            bookmark: options.start_from_bookmark,
            api_version: request.api_version,
        }
    }

    /// The empty frame, then what the options ask for from before.
    fn first_frames(&self, store: &Store, subscription: &Subscription) -> Vec<api::WatchResponse> {
        let mut events = Vec::new();
        let marker = |event: EventType| api::Event {
            event_type: event.into(),
            bookmark: Some(subscription.position.to_be_bytes().to_vec()),
            ..api::Event::default()
        };
        if let Some(id) = &self.id {
            if self.bookmark.is_none() && self.tail == 0 {
                let current = subscription.existing.iter().find(|resource| id_of(resource) == id);
                events.push(self.current(id, current, subscription.position));
            }
        } else if self.bootstrap {
            let wanted = subscription.existing.iter().filter(|resource| self.filter.accepts(resource));
            events.extend(wanted.map(|resource| event_of(EventType::Created, resource, None, subscription.position)));
            if self.api_version >= 1 {
                events.push(marker(EventType::Bootstrapped));
            }
        } else if self.bootstrap_bookmark && self.api_version >= 1 {
            events.push(marker(EventType::Noop));
        }
        if self.tail > 0 {
            let changes = store.tail(&self.namespace, &self.kind, self.tail);
            events.extend(changes.iter().filter_map(|change| self.event(change)));
        }
        events.extend(subscription.missed.iter().filter_map(|change| self.event(change)));
        let mut frames = vec![api::WatchResponse::default()];
        if self.aggregated && !events.is_empty() {
            frames.push(api::WatchResponse { event: events });
        } else {
            frames.extend(events.into_iter().map(frame));
        }
        frames
    }

    fn current(&self, id: &str, current: Option<&Arc<Resource>>, position: u64) -> api::Event {
        if let Some(resource) = current {
            return event_of(EventType::Created, resource, None, position);
        }
        let metadata = api::Metadata {
            namespace: self.namespace.clone(),
            r#type: self.kind.clone(),
            id: id.to_owned(),
            version: "undefined".into(),
            phase: "running".into(),
            ..api::Metadata::default()
        };
        let tombstone = Arc::new(Resource { metadata: Some(metadata), spec: None });
        event_of(EventType::Destroyed, &tombstone, None, position)
    }

    /// The change as this watcher sees it; a resource that leaves the query looks destroyed.
    fn event(&self, change: &Change) -> Option<api::Event> {
        if !change.is_of(&self.namespace, &self.kind) {
            return None;
        }
        if self.id.as_ref().is_some_and(|id| id_of(&change.resource) != id) {
            return None;
        }
        let now = self.filter.accepts(&change.resource);
        let before = change.old.as_ref().is_some_and(|old| self.filter.accepts(old));
        let event = match (change.event, before, now) {
            (EventType::Updated, false, true) => EventType::Created,
            (EventType::Updated, true, false) => EventType::Destroyed,
            (event, _, true) => event,
            _ => return None,
        };
        let old = change.old.as_ref().filter(|_| event == EventType::Updated);
        Some(event_of(event, &change.resource, old, change.position))
    }
}

fn event_of(event: EventType, resource: &Arc<Resource>, old: Option<&Arc<Resource>>, position: u64) -> api::Event {
    api::Event {
        resource: Some(Resource::clone(resource)),
        event_type: event.into(),
        old: old.map(|old| Resource::clone(old)),
        error: None,
        bookmark: Some(position.to_be_bytes().to_vec()),
    }
}

fn frame(event: api::Event) -> api::WatchResponse {
    api::WatchResponse { event: vec![event] }
}

fn id_of(resource: &Resource) -> &str {
    resource.metadata.as_ref().map_or("", |metadata| &metadata.id)
}

fn position(bookmark: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bookmark.try_into().ok()?))
}

fn invalid_bookmark() -> Status {
    Status::failed_precondition("invalid watch bookmark")
}
