//! Tasks: everything slow answers with a UPID, which is asked about at the node that runs it.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::{
    Client, Error, Result, Upid, VmId,
    error::{Advice, Kind},
    form::{self, Params},
    lenient,
};

/// Lines of a failed task's log that are kept.
const EXCERPT: u64 = 12;
/// Looks that may fail in a row before a wait gives up.
const PATIENCE: u32 = 5;

/// `GET …/tasks/U/status`.
#[derive(Clone, Debug, Deserialize)]
pub struct TaskStatus {
    /// `running` or `stopped`.
    pub status: String,
    /// Only when stopped: `OK`, `WARNINGS: n`, or the error.
    #[serde(default)]
    pub exitstatus: Option<String>,
}

/// How a task ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// Without a complaint.
    Clean,
    /// With this many warnings in its log.
    Warnings(u32),
}

impl TaskStatus {
    /// `None` while it runs; then how it ended, or the error text. Proxmox itself tests for exactly these two.
    pub fn outcome(&self) -> Option<std::result::Result<Success, &str>> {
        if self.status != "stopped" {
            return None;
        }
        let exit = self.exitstatus.as_deref().unwrap_or("unexpected status");
        Some(success(exit).ok_or(exit))
    }
}

fn success(exit: &str) -> Option<Success> {
    if exit == "OK" {
        return Some(Success::Clean);
    }
    exit.strip_prefix("WARNINGS: ").and_then(|count| count.parse().ok()).map(Success::Warnings)
}

/// A row of `/nodes/N/tasks`.
#[derive(Clone, Debug, Deserialize)]
pub struct TaskRow {
    /// Its id.
    pub upid: Upid,
    /// Unix seconds; absent while it runs.
    #[serde(default, deserialize_with = "lenient::opt_u64")]
    pub endtime: Option<u64>,
    /// How it ended, as [`TaskStatus::exitstatus`] says it; `RUNNING` or absent before.
    #[serde(default)]
    pub status: Option<String>,
}

impl TaskRow {
    /// Whether it has ended well.
    pub fn succeeded(&self) -> bool {
        self.endtime.is_some() && self.status.as_deref().is_some_and(|exit| success(exit).is_some())
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(deserialize_with = "lenient::u64")]
    n: u64,
    t: String,
}

impl Client {
    /// One look at a task.
    pub async fn task_status(&self, upid: &Upid) -> Result<TaskStatus> {
        self.get(&task_path(upid, "status"), &Params::default()).await
    }

    /// Our own recent tasks of one kind on a node that are named after one VM, newest first; tasks of others are shown to
    /// auditors only. Proxmox picks by VM before it counts: what a busy node does besides pushes none of them out.
    pub async fn recent_tasks(&self, node: &str, kind: &str, vmid: VmId) -> Result<Vec<TaskRow>> {
        let params =
            Params::default().with("source", "all").with("typefilter", kind).with("vmid", vmid).with("limit", 500);
        let rows: Vec<TaskRow> = self.get(&form::path(&["nodes", node, "tasks"]), &params).await?;
        Ok(rows.into_iter().filter(|row| row.upid.user == self.identity()).collect())
    }

    /// The last lines of a task's log.
    pub async fn task_log_tail(&self, upid: &Upid) -> Result<Vec<String>> {
        let path = task_path(upid, "log");
        let mut page = self.get_page::<Vec<Line>>(&path, &Params::default().with("limit", EXCERPT)).await?;
        if let Some(total) = page.total.filter(|total| *total > EXCERPT) {
            let params = Params::default().with("start", total - EXCERPT).with("limit", EXCERPT);
            page = self.get_page(&path, &params).await?;
        }
        page.data.sort_by_key(|line| line.n);
        Ok(page.data.into_iter().map(|line| line.t).filter(|line| !line.is_empty()).collect())
    }

    /// A task that ended with warnings is a success; what it warned of goes to our log.
    async fn tell_warnings(&self, upid: &Upid, count: u32) {
        let log = self.task_log_tail(upid).await.unwrap_or_default();
        let lines: Vec<_> = log.iter().filter(|line| line.starts_with("WARN")).map(String::as_str).collect();
        tracing::warn!(%upid, count, lines = lines.join(" | "), "a Proxmox task ended with warnings");
    }

    /// Waits until the task has ended, at most `patience`; then it is [`Kind::TimedOut`] and the task goes on.
    ///
    /// A node that cannot be reached for a moment is asked again a few times.
    pub async fn wait_for_task(&self, upid: &Upid, patience: Duration) -> Result<Success> {
        let began = Instant::now();
        let give_up = began + patience;
        let timeouts = self.timeouts();
        let mut failed = 0;
        loop {
            match self.task_status(upid).await {
                Ok(status) => {
                    failed = 0;
                    match status.outcome() {
                        Some(Ok(success)) => {
                            if let Success::Warnings(count) = success {
                                self.tell_warnings(upid, count).await;
                            }
                            return Ok(success);
                        }
                        Some(Err(exit)) => {
                            let log = self.task_log_tail(upid).await.unwrap_or_default();
                            return Err(Error::task(upid, exit, log));
                        }
                        None => {}
                    }
                }
                Err(error) if error.advice() == Advice::Fail || failed == PATIENCE => return Err(error),
                Err(error) => {
                    tracing::debug!(%upid, %error, "a task cannot be asked about for now");
                    failed += 1;
                }
            }
            // A twelfth of what it took so far: a task's end is noticed at most that late.
            let pause = (began.elapsed() / 12).clamp(timeouts.poll_least, timeouts.poll_most);
            if Instant::now() + pause > give_up {
                let context = format!("task {} {} on {}", upid.kind, upid.subject, upid.node);
                let text = format!("still running after {} s", patience.as_secs());
                return Err(Error::new(Kind::TimedOut, context, text));
            }
            sleep(pause).await;
        }
    }
}

fn task_path(upid: &Upid, what: &str) -> String {
    form::path(&["nodes", &upid.node, "tasks", &upid.to_string(), what])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ok_and_warnings_are_success() {
        let status = |status: &str, exit: Option<&str>| TaskStatus {
            status: status.to_owned(),
            exitstatus: exit.map(str::to_owned),
        };
        assert_eq!(status("running", None).outcome(), None);
        assert_eq!(status("stopped", Some("OK")).outcome(), Some(Ok(Success::Clean)));
        assert_eq!(status("stopped", Some("WARNINGS: 2")).outcome(), Some(Ok(Success::Warnings(2))));
        assert_eq!(status("stopped", Some("WARNINGS: many")).outcome(), Some(Err("WARNINGS: many")));
        assert_eq!(status("stopped", None).outcome(), Some(Err("unexpected status")));
    }
}
