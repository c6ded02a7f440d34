//! Jobs: pods until enough have succeeded or too many have failed.

use std::sync::Arc;

use serde_json::{Value, json};

use super::templates::{count, create_pod, delete, delete_pod, is_active, pods_of};
use crate::kubernetes::cluster::{Cluster, Event};
use crate::kubernetes::object::{
    Condition, condition_is_true, integer, is_terminating, now, seconds_since, set, set_condition, set_default, text,
    uid,
};

const RESOURCE: &str = "jobs.batch";

pub(super) fn sync(cluster: &Cluster) {
    for job in cluster.store.list(RESOURCE, None) {
        let finished = condition_is_true(&job, "Complete") || condition_is_true(&job, "Failed");
        if finished {
            expire(cluster, &job);
        } else if !is_terminating(&job) {
            label(cluster, &job);
            if let Some(job) = cluster.store.get(
                RESOURCE,
                crate::kubernetes::object::namespace(&job),
                crate::kubernetes::object::name(&job),
            ) {
                run(cluster, &job);
            }
        }
    }
}

/// The selector and labels that the API server generates for a job without `manualSelector`.
fn label(cluster: &Cluster, job: &Value) {
    if job["spec"]["selector"].is_object() {
        return;
    }
    cluster.change(RESOURCE, job, |it| {
        let uid = uid(it).to_owned();
        set(it, &["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"], json!(uid));
        let called = crate::kubernetes::object::name(it).to_owned();
        for (key, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &called),
            ("controller-uid", &uid),
            ("job-name", &called),
        ] {
            set(it, &["spec", "template", "metadata", "labels", key], json!(value));
        }
    });
}

fn run(cluster: &Cluster, job: &Value) {
    let pods = pods_of(cluster, job);
    let in_phase = |phase: &str| count(pods.iter().filter(|pod| text(pod, "/status/phase") == phase).count());
    let (succeeded, failed) = (in_phase("Succeeded"), in_phase("Failed"));
    let active: Vec<&Arc<Value>> = pods.iter().filter(|pod| is_active(pod)).collect();
    let completions = integer(job, "/spec/completions").unwrap_or(1);
    let suspended = job["spec"]["suspend"] == true;
    let backoff = integer(job, "/spec/backoffLimit").unwrap_or(6);
    let deadline = integer(job, "/spec/activeDeadlineSeconds");
    let late = deadline.is_some_and(|limit| {
        let elapsed = seconds_since(job, "/status/startTime").unwrap_or(0);
        elapsed as f64 * cluster.speed() >= limit as f64
    });
    let verdict = match () {
        () if succeeded >= completions => {
            Some(("Complete", "CompletionsReached", "Reached expected number of succeeded pods"))
        }
        () if failed > backoff => {
            Some(("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"))
        }
        () if late => Some(("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")),
        () => None,
    };
    if verdict.is_some() || suspended {
        active.iter().for_each(|pod| delete_pod(cluster, job, pod));
    } else {
        let parallelism = integer(job, "/spec/parallelism").unwrap_or(1).min(completions - succeeded);
        for _ in count(active.len())..parallelism {
            create_pod(cluster, job, None, |_| {});
        }
    }
    let now_active = count(pods_of(cluster, job).iter().filter(|pod| is_active(pod)).count());
    report(cluster, job, Progress { active: now_active, succeeded, failed, verdict });
}

struct Progress {
    active: i64,
    succeeded: i64,
    failed: i64,
    verdict: Option<(&'static str, &'static str, &'static str)>,
}

fn report(cluster: &Cluster, job: &Value, progress: Progress) {
    let verdict = progress.verdict;
    cluster.change(RESOURCE, job, |it| {
        if it["spec"]["suspend"] != true {
            set_default(it, &["status", "startTime"], json!(now()));
        }
        for (key, value) in [
            ("active", progress.active),
            ("succeeded", progress.succeeded),
            ("failed", progress.failed),
            ("ready", if verdict.is_some() { 0 } else { progress.active }),
        ] {
            if value > 0 || it["status"].get(key).is_some() {
                set(it, &["status", key], json!(value));
            }
        }
        if let Some((kind, reason, message)) = verdict {
            if kind == "Complete" {
                set(it, &["status", "completionTime"], json!(now()));
                set_condition(it, &Condition { kind: "SuccessCriteriaMet", status: "True", reason, message });
            } else {
                set_condition(it, &Condition { kind: "FailureTarget", status: "True", reason, message });
            }
            set_condition(it, &Condition { kind, status: "True", reason, message });
        }
    });
    if let Some((kind, reason, message)) = verdict {
        let (level, reason, message) =
            if kind == "Complete" { ("Normal", "Completed", "Job completed") } else { ("Warning", reason, message) };
        cluster.event(job, &Event { kind: level, reason, message, component: "job-controller" });
    }
}

/// Deletes a finished job after `ttlSecondsAfterFinished`, scaled by the lab's speed.
fn expire(cluster: &Cluster, job: &Value) {
    let Some(ttl) = integer(job, "/spec/ttlSecondsAfterFinished") else { return };
    let finished = ["Complete", "Failed"].iter().find_map(|kind| {
        crate::kubernetes::object::condition(job, kind).and_then(|it| seconds_since(it, "/lastTransitionTime"))
    });
    if finished.is_some_and(|seconds| seconds as f64 * cluster.speed() >= ttl as f64) && !is_terminating(job) {
        delete(cluster, RESOURCE, job);
    }
}
