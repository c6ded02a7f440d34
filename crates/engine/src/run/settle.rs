//! From the end of an attempt to the entry to append: who gets another attempt, and when.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{
    MAX_VALUE, RunState,
    next::{size, too_large},
    state::{Instance, Progress},
};
use crate::{
    event::{Event, Failure},
    playbook::{Retry, Step},
    retry::pause,
};

/// Undos get at least so many attempts.
const UNDO_ATTEMPTS: u32 = 5;
/// An inventory conflict is looked at again after so long.
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);
const CONFLICT: &str = "the inventory changed meanwhile";
/// Longest error message in bytes.
const MAX_MESSAGE: usize = 4_096;

/// How an attempt (or undo attempt) ended.
#[derive(Clone, Debug)]
pub enum AttemptEnd {
    /// It did what it should; an undo has no output.
    Done(Value),
    /// The world is not ready.
    Wait {
        /// What for.
        reason: String,
        /// When to look again.
        after: Duration,
        /// Whether the run may give up its locks meanwhile.
        yields: bool,
    },
    /// The inventory changed since the attempt read it: again, no attempt used.
    Conflict,
    /// It failed, and another attempt may help.
    Retry(Failure),
    /// It failed for good.
    Fail(Failure),
    /// It did not end within its timeout.
    TimedOut,
    /// A lost attempt of a run that stops left no trace.
    Lost,
}

/// What the end of an attempt adds to the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// To [`apply`](RunState::apply) and make durable, together with the attempt's effects.
    Append(Event),
    /// Only to [`note`](RunState::note).
    Note(Event),
}

impl Entry {
    /// The entry.
    pub fn event(&self) -> &Event {
        let (Self::Append(event) | Self::Note(event)) = self;
        event
    }
}

impl RunState {
    /// What to append for the end of the attempt of `step` that is on its way; none when there is no such attempt.
    pub fn settle(&self, step: &str, end: AttemptEnd, now: Timestamp) -> Option<Entry> {
        let (what, instance) = self.root.instance(step)?;
        let end = within_caps(end, what);
        match &instance.progress {
            Progress::Running { .. } => Some(self.settle_run(what, instance, (step, end), now)),
            Progress::Undoing => Some(self.settle_undo(what, instance, (step, end), now)),
            _ => None,
        }
    }

    fn settle_run(&self, what: &Step, instance: &Instance, (path, end): (&str, AttemptEnd), now: Timestamp) -> Entry {
        let (step, attempt, at) = (path.to_owned(), instance.attempt, now);
        let failed = |error, retry_at| Event::Failed { step: path.to_owned(), attempt, error, retry_at, at };
        Entry::Append(match end {
            AttemptEnd::Done(output) => Event::Succeeded { step, attempt, output, at },
            AttemptEnd::Wait { reason, after, yields } => match until(instance, what, now, after) {
                Some(until) => return wait(instance, Event::Waiting { step, attempt, reason, yields, until, at }),
                None => failed(gave_up(what, &reason), None),
            },
            AttemptEnd::Conflict => match until(instance, what, now, CONFLICT_PAUSE) {
                Some(until) => return conflict(step, attempt, (at, until)),
                None => failed(gave_up(what, CONFLICT), None),
            },
            AttemptEnd::Fail(error) => failed(error, None),
            AttemptEnd::Lost => failed(Failure::new("interrupted while the run was stopping"), None),
            AttemptEnd::TimedOut if deadline(instance, what).is_some_and(|deadline| now >= deadline) => {
                failed(gave_up(what, "the last attempt was still at it"), None)
            }
            AttemptEnd::TimedOut => self.again(what, instance, (path, timed_out(what)), (now, &failed)),
            AttemptEnd::Retry(error) => self.again(what, instance, (path, error), (now, &failed)),
        })
    }

    /// A failure with another attempt, if the step has one left within its deadline and the run goes on.
    fn again(
        &self,
        what: &Step,
        instance: &Instance,
        (path, error): (&str, Failure),
        (now, failed): (Timestamp, &dyn Fn(Failure, Option<Timestamp>) -> Event),
    ) -> Event {
        let used = instance.attempt - instance.base;
        if self.is_stopping() || used >= what.retry.attempts {
            return failed(error, None);
        }
        let retry_at = after(now, pause(&what.retry, self.opened.run, path, instance.attempt));
        let in_time = deadline(instance, what).is_none_or(|deadline| retry_at <= deadline);
        failed(error, in_time.then_some(retry_at))
    }

    fn settle_undo(&self, what: &Step, instance: &Instance, (path, end): (&str, AttemptEnd), now: Timestamp) -> Entry {
        let (step, attempt, at) = (path.to_owned(), instance.undo_attempt, now);
        let (error, may_retry) = match end {
            AttemptEnd::Done(_) => return Entry::Append(Event::UndoSucceeded { step, attempt, at }),
            AttemptEnd::Wait { reason, after, .. } => match until(instance, what, now, after) {
                Some(until) => {
                    return wait(instance, Event::Waiting { step, attempt, reason, yields: false, until, at });
                }
                None => (gave_up(what, &reason), false),
            },
            AttemptEnd::Conflict => match until(instance, what, now, CONFLICT_PAUSE) {
                Some(until) => return conflict(step, attempt, (at, until)),
                None => (gave_up(what, CONFLICT), false),
            },
            AttemptEnd::Fail(error) => (error, false),
            AttemptEnd::Lost => (Failure::new("interrupted"), true),
            AttemptEnd::TimedOut => (timed_out(what), true),
            AttemptEnd::Retry(error) => (error, true),
        };
        let retry = Retry { attempts: what.retry.attempts.max(UNDO_ATTEMPTS), ..what.retry };
        let again = may_retry && attempt - instance.base < retry.attempts;
        let seed = format!("undo {path}");
        let retry_at = again.then(|| after(now, pause(&retry, self.opened.run, &seed, attempt)));
        Entry::Append(Event::UndoFailed { step, attempt, error, retry_at, at })
    }
}

/// A wait is worth an entry when its reason is news.
fn wait(instance: &Instance, event: Event) -> Entry {
    let known = instance.reason.as_ref().map(|reason| reason.message.as_str());
    match &event {
        Event::Waiting { reason, .. } if known == Some(reason) => Entry::Note(event),
        _ => Entry::Append(event),
    }
}

fn conflict(step: String, attempt: u32, (at, until): (Timestamp, Timestamp)) -> Entry {
    Entry::Note(Event::Waiting { step, attempt, reason: CONFLICT.to_owned(), yields: false, until, at })
}

/// When to look again; none past the deadline. There is always a look at the deadline, or at once when it is long past.
fn until(instance: &Instance, what: &Step, now: Timestamp, pause: Duration) -> Option<Timestamp> {
    let until = after(now, pause);
    match deadline(instance, what) {
        Some(deadline) if now >= deadline => None,
        Some(deadline) => Some(until.min(deadline)),
        None => Some(until),
    }
}

pub(super) fn deadline(instance: &Instance, what: &Step) -> Option<Timestamp> {
    instance.since.map(|since| after(since, what.deadline))
}

fn after(at: Timestamp, pause: Duration) -> Timestamp {
    let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
    at.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

fn gave_up(what: &Step, reason: &str) -> Failure {
    Failure::new(format!("gave up after {}: {reason}", text(what.deadline)))
}

fn timed_out(what: &Step) -> Failure {
    Failure::new(format!("no end within {}", text(what.timeout)))
}

fn text(duration: Duration) -> String {
    SignedDuration::try_from(duration).map_or_else(|_| "ever".to_owned(), |duration| format!("{duration:#}"))
}

fn within_caps(end: AttemptEnd, what: &Step) -> AttemptEnd {
    match end {
        AttemptEnd::Done(output) if size(&output) > MAX_VALUE => {
            AttemptEnd::Fail(too_large(&format!("the output of `{}`", what.does.name())))
        }
        AttemptEnd::Wait { reason, after, yields } => AttemptEnd::Wait { reason: clipped(reason), after, yields },
        AttemptEnd::Retry(error) => AttemptEnd::Retry(clipped_failure(error)),
        AttemptEnd::Fail(error) => AttemptEnd::Fail(clipped_failure(error)),
        other => other,
    }
}

fn clipped_failure(error: Failure) -> Failure {
    Failure { message: clipped(error.message), hint: error.hint.map(clipped) }
}

fn clipped(mut text: String) -> String {
    if text.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
