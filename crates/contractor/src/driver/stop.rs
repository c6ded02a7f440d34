//! How a run's task ends before its run does.

use super::{
    CommandError,
    orders::does_not_go_on,
    run::{Message, RunTask},
};

/// Why it ends.
pub(super) enum Stop {
    /// The daemon stops.
    Shutdown,
    /// The journal is not ours any more, or cannot be written.
    Journal(String),
}

impl RunTask {
    /// The daemon stops: attempts that are on their way and end in time are recorded; the next start resumes the rest.
    pub(super) async fn drain(&mut self) {
        while !self.in_hand.is_empty() {
            match self.inbox.recv().await {
                Some(message @ (Message::Ended { .. } | Message::Checkpoint { .. })) => {
                    if self.hear(message).await.is_err() {
                        return;
                    }
                }
                // Who does not wait for the answer does not want it.
                Some(Message::Order { reply, .. }) => drop(reply.send(Err(CommandError::Stopping))),
                None => return,
            }
        }
    }

    /// Nothing more of the run can be recorded, so it does not go on. It keeps its locks, as what it made is half done:
    /// nobody enters while its last attempts act, and then only who may enter a stuck run's.
    pub(super) async fn set_aside(mut self, reason: String) {
        let run = self.state.opened().run;
        let refusal = does_not_go_on(&reason);
        self.shared.note_unreadable(run, reason);
        self.places.leave();
        self.in_hand.values().filter(|in_hand| !in_hand.undo).for_each(|in_hand| in_hand.cancel.cancel());
        while !self.in_hand.is_empty() {
            match self.inbox.recv().await {
                Some(Message::Ended { step, undo, .. }) => {
                    if self.in_hand.get(&step).is_some_and(|in_hand| in_hand.undo == undo) {
                        self.in_hand.remove(&step);
                    }
                }
                Some(Message::Order { reply, .. }) => {
                    drop(reply.send(Err(CommandError::Refused(refusal.clone()))));
                }
                // The attempt hears that it is not durable, and ends.
                Some(Message::Checkpoint { .. }) => {}
                None => break,
            }
        }
        self.shared.locks.set_aside(run);
        self.shared.forget(run);
    }
}
