//! `pods/<name>/log`: what the simulated containers wrote.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;

use super::error::ApiError;
use super::handler::{Answer, Context};
use super::list;
use super::request::ObjectRequest;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::kubelet::containers::log_lines;
use crate::kubernetes::object::{items, name, namespace, text};

/// Answers with the log of one container, and what follows when asked to.
///
/// # Errors
/// 400 when the container must be named, does not exist or has not started.
pub(crate) fn answer(cx: &Context, request: &ObjectRequest) -> Result<Answer, ApiError> {
    let pod = list::find(cx, request)?;
    let container = choose_container(&pod, request.query.get("container"))?;
    let started = items(&pod, "/status/containerStatuses")
        .iter()
        .chain(items(&pod, "/status/initContainerStatuses"))
        .find(|status| text(status, "/name") == container)
        .is_some_and(|status| status["state"].get("waiting").is_none());
    if !started {
        return Err(ApiError::bad_request(format!(
            "container {container:?} in pod {:?} is waiting to start: ContainerCreating",
            name(&pod)
        )));
    }
    if request.query.flag("previous") {
        return Err(ApiError::bad_request(format!(
            "previous terminated container {container:?} in pod {:?} not found",
            name(&pod)
        )));
    }
    let stamps = request.query.flag("timestamps");
    let lines: Vec<(Timestamp, String)> = log_lines(&pod, &container);
    let since: Option<i64> = request.query.number("sinceSeconds");
    let oldest = since.map(|seconds| Timestamp::now().as_second() - seconds);
    let mut chosen: Vec<String> = lines
        .iter()
        .filter(|(at, _)| oldest.is_none_or(|oldest| at.as_second() >= oldest))
        .map(|(at, line)| if stamps { format!("{at:.9} {line}\n") } else { format!("{line}\n") })
        .collect();
    if let Some(tail) = request.query.number::<usize>("tailLines") {
        chosen.drain(..chosen.len().saturating_sub(tail));
    }
    if !request.query.flag("follow") {
        return Ok(Answer::Text(200, chosen.concat()));
    }
    let follow = Follow {
        cluster: Arc::clone(&cx.cluster),
        place: (namespace(&pod).to_owned(), name(&pod).to_owned(), crate::kubernetes::object::uid(&pod).to_owned()),
        container,
        stamps,
        seen: lines.len(),
        ready: chosen.into_iter().map(Bytes::from).collect(),
    };
    Ok(Answer::TextStream(Box::pin(futures::stream::unfold(follow, Follow::next))))
}

fn choose_container(pod: &Value, asked: Option<&str>) -> Result<String, ApiError> {
    let all: Vec<&str> = items(pod, "/spec/containers").iter().map(|it| text(it, "/name")).collect();
    let initial: Vec<&str> = items(pod, "/spec/initContainers").iter().map(|it| text(it, "/name")).collect();
    match (asked, all.as_slice()) {
        (Some(asked), _) if all.contains(&asked) || initial.contains(&asked) => Ok(asked.to_owned()),
        (Some(asked), _) => Err(ApiError::bad_request(format!("container {asked} is not valid for pod {}", name(pod)))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            name(pod),
            all.join(" ")
        ))),
    }
}

/// A log that is being followed: it ends when the pod is gone or finished.
struct Follow {
    cluster: Arc<Cluster>,
    place: (String, String, String),
    container: String,
    stamps: bool,
    seen: usize,
    ready: VecDeque<Bytes>,
}

impl Follow {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        let mut writes = self.cluster.store.writes();
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some((line, self));
            }
            let (in_namespace, pod_name, uid) = &self.place;
            let pod = self.cluster.store.get("pods", in_namespace, pod_name)?;
            let lines = log_lines(&pod, &self.container);
            for (at, line) in lines.iter().skip(self.seen) {
                let line = if self.stamps { format!("{at:.9} {line}\n") } else { format!("{line}\n") };
                self.ready.push_back(Bytes::from(line));
            }
            self.seen = self.seen.max(lines.len());
            let over = crate::kubernetes::object::uid(&pod) != uid
                || matches!(text(&pod, "/status/phase"), "Succeeded" | "Failed");
            if self.ready.is_empty() {
                if over {
                    return None;
                }
                let _ = tokio::time::timeout(Duration::from_secs(1), writes.changed()).await;
            }
        }
    }
}
