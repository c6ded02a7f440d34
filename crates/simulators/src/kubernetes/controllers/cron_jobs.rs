//! CronJobs: a Job per scheduled minute, for the five-field schedules and `@hourly` and its like.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{
    condition_is_true, controller_reference, format_time, integer, is_controlled_by, is_terminating, name, namespace,
    set, text, uid,
};

const RESOURCE: &str = "cronjobs.batch";
const JOBS: &str = "jobs.batch";

/// Starts what is due in this minute. Schedules follow the real clock, whatever the lab's speed.
pub(super) fn sync(cluster: &Cluster) {
    let now = Timestamp::now();
    for cron in cluster.store.list(RESOURCE, None) {
        let due = is_due(text(&cron, "/spec/schedule"), now) && cron["spec"]["suspend"] != true;
        let minute = now.as_second() / 60;
        let started = format!("{}-{minute}", name(&cron));
        if due && !is_terminating(&cron) && cluster.store.get(JOBS, namespace(&cron), &started).is_none() {
            start(cluster, &cron, &started, minute * 60);
        }
        report(cluster, &cron);
    }
}

fn start(cluster: &Cluster, cron: &Value, job_name: &str, at: i64) {
    let at = format_time(Timestamp::from_second(at).unwrap_or_default());
    if text(cron, "/status/lastScheduleTime") == at {
        return;
    }
    let active = cluster
        .store
        .list(JOBS, Some(namespace(cron)))
        .into_iter()
        .filter(|job| is_controlled_by(job, uid(cron)) && !is_finished(job))
        .collect::<Vec<_>>();
    match text(cron, "/spec/concurrencyPolicy") {
        "Forbid" if !active.is_empty() => return,
        "Replace" => active.iter().for_each(|job| super::templates::delete(cluster, JOBS, job)),
        _ => {}
    }
    let mut job = cron["spec"]["jobTemplate"].clone();
    job["apiVersion"] = json!("batch/v1");
    job["kind"] = json!("Job");
    set(&mut job, &["metadata", "name"], json!(job_name));
    set(&mut job, &["metadata", "namespace"], json!(namespace(cron)));
    set(&mut job, &["metadata", "ownerReferences"], json!([controller_reference(cron)]));
    cluster.ensure(JOBS, job);
    cluster.change(RESOURCE, cron, |it| set(it, &["status", "lastScheduleTime"], json!(at)));
}

fn is_finished(job: &Value) -> bool {
    condition_is_true(job, "Complete") || condition_is_true(job, "Failed")
}

fn report(cluster: &Cluster, cron: &Value) {
    let mut jobs: Vec<_> = cluster
        .store
        .list(JOBS, Some(namespace(cron)))
        .into_iter()
        .filter(|job| is_controlled_by(job, uid(cron)))
        .collect();
    jobs.sort_by_key(|job| name(job).to_owned());
    let active: Vec<Value> = jobs
        .iter()
        .filter(|job| !is_finished(job))
        .map(|job| json!({"apiVersion": "batch/v1", "kind": "Job", "name": name(job), "namespace": namespace(job), "uid": uid(job)}))
        .collect();
    cluster.change(RESOURCE, cron, |it| {
        if active.is_empty() {
            crate::kubernetes::object::remove(it, &["status", "active"]);
        } else {
            set(it, &["status", "active"], Value::Array(active));
        }
    });
    for (kind, limit, default) in
        [("Complete", "/spec/successfulJobsHistoryLimit", 3), ("Failed", "/spec/failedJobsHistoryLimit", 1)]
    {
        let keep = usize::try_from(integer(cron, limit).unwrap_or(default)).unwrap_or(0);
        let done: Vec<_> = jobs.iter().filter(|job| condition_is_true(job, kind)).collect();
        for job in &done[..done.len().saturating_sub(keep)] {
            super::templates::delete(cluster, JOBS, job);
        }
    }
}

/// True when a schedule names this minute, in UTC.
fn is_due(schedule: &str, at: Timestamp) -> bool {
    let schedule = match schedule {
        "@hourly" => "0 * * * *",
        "@daily" | "@midnight" => "0 0 * * *",
        "@weekly" => "0 0 * * 0",
        "@monthly" => "0 0 1 * *",
        "@yearly" | "@annually" => "0 0 1 1 *",
        other => other,
    };
    let time = at.to_zoned(TimeZone::UTC);
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else { return false };
    let day_of_week = i64::from(time.weekday().to_sunday_zero_offset());
    let days =
        (field(day, i64::from(time.day())), field(weekday, day_of_week) || (day_of_week == 0 && field(weekday, 7)));
    let day_matches = match (day.starts_with('*'), weekday.starts_with('*')) {
        (false, false) => days.0 || days.1,
        _ => days.0 && days.1,
    };
    field(minute, i64::from(time.minute()))
        && field(hour, i64::from(time.hour()))
        && field(month, i64::from(time.month()))
        && day_matches
}

fn field(pattern: &str, value: i64) -> bool {
    pattern.split(',').any(|part| {
        let (range, step) = part.split_once('/').map_or((part, 1), |(range, step)| (range, step.parse().unwrap_or(1)));
        let (low, high) = match range.split_once('-') {
            _ if range == "*" => (0, 59),
            Some((low, high)) => (low.parse().unwrap_or(-1), high.parse().unwrap_or(-1)),
            None => {
                let only = range.parse().unwrap_or(-1);
                (only, if part.contains('/') { 59 } else { only })
            }
        };
        value >= low && value <= high && (value - low) % step.max(1) == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_name_minutes() {
        let at: Timestamp = "2026-11-20T13:45:10Z".parse().expect("time");
        for (schedule, due) in [
            ("* * * * *", true),
            ("*/15 * * * *", true),
            ("*/10 * * * *", false),
            ("45 13 20 11 *", true),
            ("45 13 * * 5", true),
            ("45 13 * * 1-4", false),
            ("@hourly", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_due(schedule, at), due, "{schedule}");
        }
    }
}
