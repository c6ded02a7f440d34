//! Worker tasks: UPIDs, their logs and how they end (proxmox.md 2).

use std::{collections::VecDeque, fmt};

use tokio_util::sync::CancellationToken;

use super::access::Identity;

/// A unique process id as PVE writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Upid {
    pub(crate) host: String,
    pub(crate) pid: u32,
    pub(crate) pstart: u64,
    /// Unix seconds.
    pub(crate) started: i64,
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) user: String,
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, pid, pstart, started, kind, id, user } = self;
        write!(f, "UPID:{host}:{pid:08X}:{pstart:08X}:{started:08X}:{kind}:{id}:{user}:")
    }
}

impl Upid {
    /// Either hex case is taken; the trailing colon is part of the format.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let ["UPID", host, pid, pstart, started, kind, id, user, ""] = parts[..] else { return None };
        Some(Self {
            host: host.to_owned(),
            pid: u32::from_str_radix(pid, 16).ok()?,
            pstart: u64::from_str_radix(pstart, 16).ok()?,
            started: i64::from_str_radix(started, 16).ok()?,
            kind: kind.to_owned(),
            id: id.to_owned(),
            user: user.to_owned(),
        })
    }
}

/// A worker, running or ended.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) upid: Upid,
    pub(crate) owner: Identity,
    pub(crate) log: Vec<String>,
    pub(crate) end: Option<TaskEnd>,
    /// The operator asked it to stop; it ends with an error in its own time.
    pub(crate) interrupt: CancellationToken,
    /// Its node lost power; it just stops existing.
    pub(crate) kill: CancellationToken,
}

/// How a worker ended.
#[derive(Clone, Debug)]
pub(crate) struct TaskEnd {
    /// Unix seconds.
    pub(crate) at: i64,
    /// `OK`, `WARNINGS: n`, or the error's first line.
    pub(crate) status: String,
}

/// All tasks the cluster remembers, newest last.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    all: VecDeque<Task>,
}

/// PVE rotates its task index by size; a lab keeps the last thousands.
const REMEMBERED: usize = 20_000;

impl Tasks {
    pub(crate) fn push(&mut self, task: Task) {
        if self.all.len() >= REMEMBERED {
            self.all.pop_front();
        }
        self.all.push_back(task);
    }

    pub(crate) fn get(&self, upid: &Upid) -> Option<&Task> {
        self.all.iter().rev().find(|task| task.upid == *upid)
    }

    pub(crate) fn get_mut(&mut self, upid: &Upid) -> Option<&mut Task> {
        self.all.iter_mut().rev().find(|task| task.upid == *upid)
    }

    /// Newest first.
    pub(crate) fn newest(&self) -> impl Iterator<Item = &Task> {
        self.all.iter().rev()
    }

    /// Ends a task once; later ends are ignored.
    pub(crate) fn finish(&mut self, upid: &Upid, at: i64, result: Result<usize, String>) {
        let Some(task) = self.get_mut(upid).filter(|task| task.end.is_none()) else { return };
        let (line, status) = match result {
            Ok(0) => ("TASK OK".to_owned(), "OK".to_owned()),
            Ok(warnings) => (format!("TASK WARNINGS: {warnings}"), format!("WARNINGS: {warnings}")),
            Err(error) => {
                let error = error.trim_end().replace('\n', " ");
                (format!("TASK ERROR: {error}"), error)
            }
        };
        task.log.push(line);
        task.end = Some(TaskEnd { at, status });
    }

    pub(crate) fn forget_ended(&mut self) {
        self.all.retain(|task| task.end.is_none());
    }

    /// The node of these tasks lost power: the log has no last line that tells how they ended.
    pub(crate) fn kill_on(&mut self, host: &str, at: i64) {
        for task in self.all.iter_mut().filter(|task| task.upid.host == host && task.end.is_none()) {
            task.kill.cancel();
            task.end = Some(TaskEnd { at, status: "unexpected status".to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_upid_round_trips_and_has_nine_fields() {
        let text = "UPID:pve1:0000A1B2:0123ABCD:691F0000:qmcreate:100:cortex@pve!infra:";
        let upid = Upid::parse(text).unwrap();
        assert_eq!(upid.to_string(), text);
        assert_eq!(text.split(':').count(), 9);
        assert_eq!(Upid::parse(&text.to_lowercase().replace("upid", "UPID")).unwrap().pid, upid.pid);
        assert!(Upid::parse("UPID:pve1:1:2:3:a:b:c").is_none());
    }
}
