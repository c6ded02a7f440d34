//! What the bus refuses: told for as long as it lasts, and asked for again where only a new connection can.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Bus, Violation};
use tokio::sync::broadcast::{self, error::TryRecvError};

/// What is refused and wanted is asked for again sooner: what is not refused again is given.
const LASTS: Duration = Duration::from_secs(30);
/// How long nothing is heard on a refused subscription before it is asked for on a new connection.
const DEAF: Duration = Duration::from_secs(15);

/// The refusals of one connection.
pub(crate) struct Refused {
    each: broadcast::Receiver<Arc<Violation>>,
    last: Option<(Arc<Violation>, Instant)>,
    deaf_since: Option<Instant>,
}

impl Refused {
    /// Those of `bus`, its last one included.
    pub(crate) fn of(bus: &Bus) -> Self {
        let mut refused = Self::new(bus.violations());
        if let Some(violation) = bus.violation().borrow().clone() {
            refused.take(violation, Instant::now());
        }
        refused
    }

    fn new(each: broadcast::Receiver<Arc<Violation>>) -> Self {
        Self { each, last: None, deaf_since: None }
    }

    /// The refusal that lasts.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Arc<Violation>> {
        loop {
            match self.each.try_recv() {
                Ok(violation) => self.take(violation, now),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        let (violation, at) = self.last.as_ref()?;
        (now.duration_since(*at) < LASTS).then(|| Arc::clone(violation))
    }

    /// Whether it is time for a new connection; then it is believed to be made.
    pub(crate) fn wants_another(&mut self, now: Instant) -> bool {
        self.deaf_since.take_if(|since| now.duration_since(*since) >= DEAF).is_some()
    }

    fn take(&mut self, violation: Arc<Violation>, now: Instant) {
        if violation.verb == "subscribe" {
            self.deaf_since.get_or_insert(now);
        }
        self.last = Some((violation, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violation(verb: &'static str) -> Arc<Violation> {
        Arc::new(Violation { verb, subject: "a.b".to_owned(), text: String::new() })
    }

    #[test]
    fn a_refusal_is_told_until_it_is_not_repeated() {
        let (told, each) = broadcast::channel(4);
        let (mut refused, start) = (Refused::new(each), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(refused.look(start), None);
        told.send(violation("publish")).unwrap();
        assert_eq!(refused.look(start), Some(violation("publish")));
        told.send(violation("publish")).unwrap();
        assert!(refused.look(at(20)).is_some() && refused.look(at(49)).is_some());
        assert_eq!(refused.look(at(50)), None);
        assert!(!refused.wants_another(at(1_000)), "what is published is asked for each time");
    }

    #[test]
    fn a_refused_subscription_is_asked_for_again_on_another_connection() {
        let (told, each) = broadcast::channel(4);
        let (mut refused, start) = (Refused::new(each), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for (seconds, wants) in [(0, false), (14, false), (15, true), (16, false), (31, true)] {
            if [0, 14, 16].contains(&seconds) {
                told.send(violation("subscribe")).unwrap();
            }
            assert!(refused.look(at(seconds)).is_some());
            assert_eq!(refused.wants_another(at(seconds)), wants, "after {seconds} s");
        }
        assert!(!refused.wants_another(at(1_000)), "nothing was refused on the last connection");
    }
}
