//! How a run looks from outside, and what may be asked of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::{
    RunState, path,
    settle::deadline,
    state::{Instance, Progress, Scope, StepState},
};
use crate::{
    event::{Event, Lock, LockMode, Outcome},
    expression::EvaluationError,
    library::{Definition, Work},
    playbook::{Policy, Step},
    report::{Report, Status, StepReport, StepStatus},
};

/// What may be asked of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Stop, then follow the failure policy.
    Cancel,
    /// Take back everything, even after success.
    Undo,
    /// Go on after a pause, or try failed undos again.
    Resume,
}

/// Why a run does not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has been asked before, or there is nothing to do.
    #[error("there is nothing to do: the run is {0:?} already")]
    Nothing(Status),
    /// Something in it cannot be taken back.
    #[error("the run is past its commit point: what it did cannot be taken back")]
    PastCommitPoint,
    /// Only a paused or stuck run is resumed.
    #[error("the run is {0:?}, neither paused nor stuck")]
    NotStopped(Status),
}

impl Command {
    /// The entry that records it.
    pub fn event(self, by: &str, at: Timestamp) -> Event {
        let by = by.to_owned();
        match self {
            Self::Cancel => Event::CancelRequested { by, at },
            Self::Undo => Event::UndoRequested { by, at },
            Self::Resume => Event::Resumed { by, at },
        }
    }
}

impl Definition {
    /// The locks that a run must hold before its first step, sorted; exclusive where a name is in both lists.
    pub fn locks(&self, input: &Value, about: &Value) -> Result<Vec<Lock>, EvaluationError> {
        let mut locks = BTreeMap::new();
        for (mode, template) in &self.playbook.locks {
            let name = template.resolve(&|name| match name {
                "input" => Some(input),
                "run" => Some(about),
                _ => None,
            })?;
            let name = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
            let held = locks.entry(name).or_insert(*mode);
            *held = LockMode::max(*held, *mode);
        }
        Ok(locks.into_iter().map(|(name, mode)| Lock { name, mode }).collect())
    }
}

impl RunState {
    /// Whether the run can do what it is asked now.
    pub fn accepts(&self, command: Command) -> Result<(), Refusal> {
        let status = self.status();
        match command {
            Command::Cancel if status.is_terminal() => Err(Refusal::Nothing(status)),
            Command::Cancel if self.is_stopping() && status != Status::Paused => Err(Refusal::Nothing(status)),
            Command::Undo if self.undo_requested || status == Status::Undone => Err(Refusal::Nothing(status)),
            Command::Undo if self.is_past_commit_point() => Err(Refusal::PastCommitPoint),
            Command::Resume if !status.needs_operator() => Err(Refusal::NotStopped(status)),
            Command::Cancel | Command::Undo | Command::Resume => Ok(()),
        }
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        match (self.outcome, self.is_stopping()) {
            (Some((Outcome::Succeeded, _)), _) => Status::Succeeded,
            (Some((Outcome::Undone, _)), _) => Status::Undone,
            (Some((Outcome::Kept, _)), _) => Status::Kept,
            (Some((Outcome::Cancelled, _)), _) => Status::Cancelled,
            (None, false) => self.going(),
            (None, true) => self.stopping(),
        }
    }

    /// Whether all that the run does is wait for room: it may give up its locks.
    pub fn yields(&self) -> bool {
        let mut waits = 0;
        let mut works = 0;
        self.each(&mut |instance| match instance.progress {
            Progress::Waiting { yields: true, .. } => waits += 1,
            Progress::Running { .. } if instance.called.is_some() => {}
            Progress::Running { .. } | Progress::Waiting { .. } | Progress::Retrying { .. } => works += 1,
            _ => {}
        });
        !self.is_stopping() && waits > 0 && works == 0
    }

    /// Whether it has touched the world, and so holds its locks (unless it [`yields`](Self::yields)).
    pub fn is_begun(&self) -> bool {
        let mut begun = false;
        self.each(&mut |instance| begun |= instance.is_started());
        begun
    }

    /// Whether it provably holds its locks: something of it is at work, is tried again, or was taken back. A run that is to
    /// stop may have given them up before, or never have had them again since it ended.
    pub fn is_at_work(&self) -> bool {
        let mut at_work = false;
        self.each(&mut |instance| {
            at_work |= match instance.progress {
                Progress::Waiting { yields, .. } => !yields,
                Progress::Running { .. } => instance.called.is_none(),
                Progress::Retrying { .. }
                | Progress::Undoing
                | Progress::UndoWaiting { .. }
                | Progress::UndoRetrying { .. }
                | Progress::Undone
                | Progress::UndoFailed => true,
                Progress::Pending | Progress::Succeeded | Progress::Failed => false,
            };
        });
        at_work
    }

    fn going(&self) -> Status {
        let (mut begun, mut running, mut waiting) = (false, false, false);
        self.each(&mut |instance| {
            begun |= instance.is_started();
            match instance.progress {
                Progress::Running { look: false } if instance.called.is_none() => running = true,
                Progress::Running { look: true } | Progress::Waiting { .. } | Progress::Retrying { .. } => {
                    waiting = true
                }
                _ => {}
            }
        });
        match (begun, running, waiting) {
            (false, ..) => Status::Pending,
            (true, false, true) => Status::Waiting,
            (true, ..) => Status::Running,
        }
    }

    fn stopping(&self) -> Status {
        let mut running = false;
        self.each(&mut |instance| {
            running |= matches!(instance.progress, Progress::Running { .. }) && instance.called.is_none();
        });
        match self.policy() {
            _ if running => Status::Running,
            Policy::Pause if !self.given_up => Status::Paused,
            Policy::Pause | Policy::Keep => Status::Running,
            Policy::Rollback => {
                // Stuck is when nothing is left to do and yet it is not clean.
                let next = self.next(Timestamp::MIN);
                let idle = next.effects.is_empty() && next.wake.is_none();
                if idle { Status::Stuck } else { Status::Undoing }
            }
        }
    }

    /// How it looks now.
    pub fn report(&self) -> Report {
        let mut steps = Vec::new();
        report_scope(&self.root, "", &mut steps);
        if self.outcome.is_some() {
            steps.iter_mut().for_each(stop);
        }
        let mut counts = BTreeMap::new();
        for step in &steps {
            *counts.entry(step.status).or_insert(0) += 1;
        }
        let waits = |step: &&StepReport| matches!(step.status, StepStatus::Waiting | StepStatus::Retrying);
        Report {
            run: self.opened.run,
            flow: self.opened.flow,
            cause: self.opened.cause.clone(),
            playbook: self.opened.playbook.clone(),
            version: self.opened.version,
            subject: self.opened.subject.clone(),
            status: self.status(),
            waits_for: steps.iter().find(waits).and_then(|step| step.reason.clone()),
            failure: self.failure.clone(),
            counts,
            events: self.events,
            opened_at: self.opened.at,
            finished_at: self.outcome.map(|(_, at)| at),
            steps,
        }
    }

    /// In words: who cancels it, and what it waits for.
    pub(super) fn cancelled_by(&self, by: &str) -> String {
        let mut waits = None;
        self.each(&mut |instance| {
            let at_work = matches!(
                instance.progress,
                Progress::Running { .. } | Progress::Waiting { .. } | Progress::Retrying { .. }
            );
            if let Some(reason) = instance.reason.as_ref().filter(|_| at_work && instance.called.is_none()) {
                waits.get_or_insert_with(|| reason.message.clone());
            }
        });
        let waits = waits.map(|reason| format!(" while it waited: {reason}")).unwrap_or_default();
        format!("cancelled by {by}{waits}")
    }

    fn each(&self, see: &mut dyn FnMut(&Instance)) {
        fn walk(scope: &Scope, see: &mut dyn FnMut(&Instance)) {
            for instance in scope.steps.iter().flat_map(StepState::instances) {
                see(instance);
                if let Some(called) = &instance.called {
                    walk(called, see);
                }
            }
        }
        walk(&self.root, see);
    }
}

/// How a step looks that was on its way when the run ended.
fn stop(step: &mut StepReport) {
    if matches!(step.status, StepStatus::Running | StepStatus::Waiting | StepStatus::Retrying) {
        step.status = StepStatus::Stopped;
        (step.reason, step.hint, step.next_at, step.deadline, step.ended_at) = (None, None, None, None, None);
    }
}

fn report_scope(scope: &Scope, prefix: &str, steps: &mut Vec<StepReport>) {
    for (step, link, state) in scope.parts() {
        let path = format!("{prefix}{}", step.id.value);
        let whole = |status, reason: Option<String>| StepReport {
            step: path.clone(),
            does: step.does.name().to_owned(),
            status,
            attempt: 0,
            reason,
            hint: None,
            next_at: None,
            deadline: None,
            started_at: None,
            ended_at: None,
        };
        match state {
            StepState::Pending(_) => steps.push(whole(StepStatus::Pending, None)),
            StepState::Skipped => steps.push(whole(StepStatus::Skipped, None)),
            StepState::Broken(error) => steps.push(whole(StepStatus::Failed, Some(error.message.clone()))),
            StepState::Expanded(instances) => {
                for instance in instances {
                    let path = path::instance(&path, instance.key.as_deref());
                    match (&link.work, &instance.called) {
                        (Work::Call(_), Some(called)) => report_scope(called, &format!("{path}."), steps),
                        _ => steps.push(report_instance(step, instance, path)),
                    }
                }
            }
        }
    }
}

fn report_instance(step: &Step, instance: &Instance, path: String) -> StepReport {
    let (status, next_at) = match &instance.progress {
        Progress::Pending => (StepStatus::Pending, None),
        Progress::Running { look: false } => (StepStatus::Running, None),
        Progress::Running { look: true } => (StepStatus::Waiting, None),
        Progress::Waiting { until, .. } => (StepStatus::Waiting, Some(*until)),
        Progress::Retrying { until } => (StepStatus::Retrying, Some(*until)),
        Progress::Succeeded => (StepStatus::Succeeded, None),
        Progress::Failed => (StepStatus::Failed, None),
        Progress::Undoing => (StepStatus::Undoing, None),
        Progress::UndoWaiting { until } | Progress::UndoRetrying { until } => (StepStatus::Undoing, Some(*until)),
        Progress::Undone => (StepStatus::Undone, None),
        Progress::UndoFailed => (StepStatus::UndoFailed, None),
    };
    let is_open = !matches!(status, StepStatus::Succeeded | StepStatus::Undone | StepStatus::Pending);
    StepReport {
        step: path,
        does: step.does.name().to_owned(),
        status,
        attempt: if instance.undo_attempt > 0 { instance.undo_attempt } else { instance.attempt },
        reason: instance.reason.as_ref().map(|reason| reason.message.clone()),
        hint: instance.reason.as_ref().and_then(|reason| reason.hint.clone()),
        next_at,
        deadline: is_open.then(|| deadline(instance, step)).flatten(),
        started_at: instance.started_at,
        ended_at: instance.ended_at,
    }
}
