//! Watches: the changes after a revision, one JSON document per line.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::error::ApiError;
use super::handler::Context;
use super::list::{Filter, convert};
use super::negotiation::Shape;
use super::request::ObjectRequest;
use super::table;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::set;
use crate::kubernetes::resources::Resource;
use crate::kubernetes::storage::Change;

/// How often a quiet watch that allows it is told the current revision.
const BOOKMARK_EVERY: Duration = Duration::from_secs(10);
/// How long a watch lasts when the client does not say, as `--min-request-timeout` does.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

struct Watch {
    cluster: Arc<Cluster>,
    resource: Arc<Resource>,
    id: String,
    filter: Filter,
    shape: Shape,
    include_object: Option<String>,
    /// Everything up to here was sent or did not match.
    revision: u64,
    ready: VecDeque<Bytes>,
    bookmarks: bool,
    columns_sent: bool,
    ends: Instant,
    over: bool,
}

/// Starts a watch.
///
/// # Errors
/// 400 for bad selectors or versions. A version that is too old is an `ERROR` event of the stream, as in the real server.
pub(crate) fn start(
    cx: &Context,
    request: &ObjectRequest,
) -> Result<impl Stream<Item = Bytes> + Send + use<>, ApiError> {
    let query = &request.query;
    let mut filter = Filter::of(request)?;
    if filter.name.is_none() {
        filter.name = filter.fields.single_name().map(str::to_owned);
    }
    super::revisions::wanted(request, cx.cluster.store.revision())?;
    let from: u64 = query.number("resourceVersion").unwrap_or(0);
    let seconds: Option<u64> = query.number("timeoutSeconds");
    let mut watch = Watch {
        cluster: Arc::clone(&cx.cluster),
        resource: Arc::clone(&request.resource),
        id: request.resource.id(),
        filter,
        shape: cx.wanted.shape,
        include_object: query.get("includeObject").map(str::to_owned),
        revision: from,
        ready: VecDeque::new(),
        bookmarks: query.flag("allowWatchBookmarks"),
        columns_sent: false,
        ends: Instant::now() + seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs),
        over: false,
    };
    let initial = query.get("sendInitialEvents").map_or(from == 0, |value| value == "true");
    if initial {
        watch.send_initial(query.flag("sendInitialEvents"));
    }
    let writes = cx.cluster.store.writes();
    Ok(futures::stream::unfold((watch, writes), |(mut watch, mut writes)| async move {
        loop {
            if let Some(next) = watch.ready.pop_front() {
                return Some((next, (watch, writes)));
            }
            if watch.over || Instant::now() >= watch.ends {
                return None;
            }
            writes.borrow_and_update();
            watch.collect();
            if !watch.ready.is_empty() {
                continue;
            }
            let pause = BOOKMARK_EVERY.min(watch.ends.saturating_duration_since(Instant::now()));
            if let Err(_quiet) = tokio::time::timeout(pause, writes.changed()).await
                && watch.bookmarks
            {
                watch.bookmark(false);
            }
        }
    }))
}

impl Watch {
    /// Sends what exists now as `ADDED`; with `marked_end` a bookmark says that this was all.
    fn send_initial(&mut self, marked_end: bool) {
        let (revision, objects) = self.cluster.store.list_at(&self.id, self.filter.namespace.as_deref());
        for object in &objects {
            if self.filter.matches(object) {
                self.send("ADDED", object);
            }
        }
        self.revision = revision;
        if marked_end && self.bookmarks {
            self.bookmark(true);
        }
    }

    /// Turns the changes since the last look into events.
    fn collect(&mut self) {
        match self.cluster.store.changes_after(self.revision) {
            Ok(changes) => {
                for change in changes {
                    self.revision = change.revision;
                    if *change.resource == *self.id {
                        self.event(&change);
                    }
                }
            }
            Err(oldest) => {
                let status = ApiError::expired(self.revision, oldest).to_status();
                self.line("ERROR", &status);
                self.over = true;
            }
        }
    }

    /// An object that begins or ceases to match is added or deleted, whatever happened to it.
    fn event(&mut self, change: &Change) {
        let before = change.before.as_ref().filter(|it| self.filter.matches(it)).cloned();
        let after = change.after.as_ref().filter(|it| self.filter.matches(it)).cloned();
        match (before, after) {
            (None, Some(object)) => self.send("ADDED", &object),
            (Some(_), Some(object)) => self.send("MODIFIED", &object),
            (Some(last), None) => {
                let mut last = (*last).clone();
                set(&mut last, &["metadata", "resourceVersion"], json!(change.revision.to_string()));
                self.send("DELETED", &Arc::new(last));
            }
            (None, None) => {}
        }
    }

    fn send(&mut self, kind: &str, object: &Arc<Value>) {
        let shown = match self.shape {
            Shape::Table => {
                let include = self.include_object.as_deref();
                let mut made = table::of(&self.resource, std::slice::from_ref(object), include);
                if std::mem::replace(&mut self.columns_sent, true) {
                    made["columnDefinitions"] = Value::Null;
                }
                made["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
                made
            }
            Shape::Metadata => table::partial(object),
            _ => convert(&self.resource, object),
        };
        self.line(kind, &shown);
    }

    fn bookmark(&mut self, end_of_initial: bool) {
        let mut metadata = json!({"resourceVersion": self.revision.to_string(), "creationTimestamp": null});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.shape {
            Shape::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": null, "rows": [{
                    "cells": [], "object": {
                        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}}]}),
            _ => json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata}),
        };
        self.line("BOOKMARK", &object);
    }

    fn line(&mut self, kind: &str, object: &Value) {
        let mut line = json!({"type": kind, "object": object}).to_string();
        line.push('\n');
        self.ready.push_back(Bytes::from(line));
    }
}
