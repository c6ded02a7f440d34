//! What simulated containers write to their logs.

use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

use crate::kubernetes::object::{items, name, now, text};

/// How many lines a long-running container has at most.
const LINES: i64 = 200;

/// The log of one container: a start line, one line about every ten seconds since, and an end line when it finished.
pub(crate) fn log_lines(pod: &Value, container: &str) -> Vec<(Timestamp, String)> {
    let Some(status) = items(pod, "/status/containerStatuses")
        .iter()
        .chain(items(pod, "/status/initContainerStatuses"))
        .find(|status| text(status, "/name") == container)
    else {
        return Vec::new();
    };
    let state = &status["state"];
    let started = match text(state, "/running/startedAt") {
        "" => text(state, "/terminated/startedAt"),
        at => at,
    };
    let Ok(started) = started.parse::<Timestamp>() else { return Vec::new() };
    let finished: Option<Timestamp> = text(state, "/terminated/finishedAt").parse().ok();
    let image = text(status, "/image");
    let mut lines = vec![(started, format!("{container} from {image} started in pod {}", name(pod)))];
    let end = finished.unwrap_or_else(Timestamp::now);
    let ticks = ((end.as_second() - started.as_second()) / 10).clamp(0, LINES);
    for tick in 1..=ticks {
        if let Ok(at) = started.checked_add((tick * 10).seconds()) {
            lines.push((at, format!("{container} is alive, tick {tick}")));
        }
    }
    if let Some(at) = finished {
        let code = state["terminated"]["exitCode"].as_i64().unwrap_or(0);
        lines.push((at, format!("{container} finished with exit code {code}")));
    }
    lines
}

/// How long the containers of a pod run: for ever, or as long as their command says.
///
/// What belongs to a Job or must not restart ends: after `sleep`'s argument when the command has one, else after two seconds.
pub(super) fn run_time(pod: &Value) -> Option<Duration> {
    if text(pod, "/spec/restartPolicy") == "Always" {
        return None;
    }
    let command = command_line(pod);
    let mut words = command.split([' ', ';', '"', '&']).skip_while(|word| *word != "sleep").skip(1);
    match words.next() {
        Some("infinity") => None,
        Some(seconds) => Some(Duration::from_secs_f64(seconds.trim_end_matches('s').parse().unwrap_or(2.0))),
        None => Some(Duration::from_secs(2)),
    }
}

/// What the containers of a finished pod exit with: `exit N` and `false` in their command count, everything else works.
pub(super) fn exit_code(pod: &Value) -> i64 {
    let command = command_line(pod);
    if let Some((_, after)) = command.split_once("exit ") {
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        return digits.parse().unwrap_or(0);
    }
    i64::from(command.split(' ').any(|word| word == "false"))
}

/// True when the pod's command resolves names before it is ready.
pub(super) fn asks_dns(pod: &Value) -> bool {
    ["nslookup", "getent hosts", "dig "].iter().any(|tool| command_line(pod).contains(tool))
}

fn command_line(pod: &Value) -> String {
    let container = &pod["spec"]["containers"][0];
    let words = items(container, "/command").iter().chain(items(container, "/args"));
    words.filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

fn image_id(image: &str) -> String {
    use sha2::Digest as _;
    format!("{}@sha256:{}", image.split('@').next().unwrap_or(image), hex::encode(sha2::Sha256::digest(image)))
}

fn container_id(pod: &Value, container: &str, restarts: i64) -> String {
    use sha2::Digest as _;
    let seed = format!("{}/{container}/{restarts}", crate::kubernetes::object::uid(pod));
    format!("containerd://{}", hex::encode(sha2::Sha256::digest(seed)))
}

/// The statuses of containers that were just started, `more` restarts after what they had.
pub(super) fn running(pod: &Value, more: i64) -> Vec<Value> {
    let former = |container: &str| {
        items(pod, "/status/containerStatuses").iter().find(|it| text(it, "/name") == container).cloned()
    };
    items(pod, "/spec/containers")
        .iter()
        .map(|container| {
            let (called, image) = (text(container, "/name"), text(container, "/image"));
            let before = former(called);
            let restarts = before.as_ref().map_or(0, |it| it["restartCount"].as_i64().unwrap_or(0)) + more;
            let last = if more > 0 {
                let started = before.as_ref().map_or("", |it| text(it, "/state/running/startedAt"));
                json!({"terminated": {"exitCode": 255, "reason": "Unknown", "startedAt": started, "finishedAt": now()}})
            } else {
                json!({})
            };
            json!({
                "name": called, "image": image, "imageID": image_id(image), "ready": false, "started": false,
                "restartCount": restarts, "containerID": container_id(pod, called, restarts),
                "state": {"running": {"startedAt": now()}}, "lastState": last,
            })
        })
        .collect()
}

/// The statuses of init containers, which all have completed by the time the others start.
pub(super) fn completed_initial(pod: &Value) -> Vec<Value> {
    items(pod, "/spec/initContainers")
        .iter()
        .map(|container| {
            let (called, image) = (text(container, "/name"), text(container, "/image"));
            json!({
                "name": called, "image": image, "imageID": image_id(image), "ready": true, "started": false,
                "restartCount": 0, "containerID": container_id(pod, called, 0), "lastState": {},
                "state": {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now()}},
            })
        })
        .collect()
}

/// Marks every running container as ended.
pub(super) fn terminate(pod: &mut Value, code: i64) {
    let at = now();
    for status in pod.pointer_mut("/status/containerStatuses").and_then(Value::as_array_mut).into_iter().flatten() {
        let started = text(status, "/state/running/startedAt").to_owned();
        if started.is_empty() {
            continue;
        }
        let reason = if code == 0 { "Completed" } else { "Error" };
        status["state"] = json!({"terminated": {
            "exitCode": code, "reason": reason, "startedAt": started, "finishedAt": at,
            "containerID": status["containerID"]}});
        status["ready"] = json!(false);
        status["started"] = json!(false);
    }
}
