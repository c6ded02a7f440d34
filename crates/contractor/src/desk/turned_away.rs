//! Commands that are turned away: forged, stale, come again, or not the sender's to give.
//!
//! The audit log has them, and a flood of them does not fill it: what claims to come from one entry of the pinned keys is
//! recorded once a minute, and once more with how often it came besides.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use messages::{envelope::header, query::Refusal, service::Service};
use store::{Commit, Deed};

use super::Desk;
use crate::intake::chain;

/// For how long refusals are counted rather than recorded.
pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// What stands for every source that no key is pinned for: anybody may make up as many as they like.
const NOBODY: &str = "a source that no key is pinned for";

/// What was turned away within the minute.
#[derive(Debug, Default)]
pub(super) struct TurnedAway(Mutex<BTreeMap<String, Tally>>);

#[derive(Debug)]
struct Tally {
    last: Deed,
    more: u64,
}

impl TurnedAway {
    /// The deed itself if it is to be recorded now; it is counted otherwise.
    fn count(&self, root: Option<&str>, deed: Deed) -> Option<Deed> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let root = root.unwrap_or(NOBODY);
        if let Some(tally) = all.get_mut(root) {
            tally.last = deed;
            tally.more += 1;
            return None;
        }
        all.insert(root.to_owned(), Tally { last: deed.clone(), more: 0 });
        Some(deed)
    }

    /// Ends the minute: what was only counted, in one deed for each entry of the pinned keys.
    fn counted(&self) -> Vec<Deed> {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let counted = all.into_values().filter(|tally| tally.more > 0);
        let told = counted.map(|Tally { last, more }| {
            let reason = last.outcome.unwrap_or_default();
            Deed { outcome: Some(format!("{more} more within a minute, the last: {reason}")), ..last }
        });
        told.collect()
    }
}

impl Desk {
    /// Notes that a command was turned away, for the audit log.
    pub(super) async fn turn_away(&self, call: &bus::Call, service: &Service, refusal: &Refusal) {
        let claimed = header(&call.headers, "ce-source").unwrap_or_default();
        let deed = Deed {
            who: if claimed.is_empty() { "nobody named".to_owned() } else { claimed.chars().take(200).collect() },
            did: "command_refused".to_owned(),
            object: Some(service.name.to_owned()),
            outcome: Some(refusal.message.chars().take(400).collect()),
            ..Deed::default()
        };
        let root = self.intake.gate.trust.root_of(claimed);
        if let Some(deed) = self.turned_away.count(root, deed) {
            self.record(vec![deed]).await;
        }
    }

    /// Records what was only counted so far.
    pub(super) async fn end_minute(&self) {
        let deeds = self.turned_away.counted();
        if !deeds.is_empty() {
            self.record(deeds).await;
        }
    }

    async fn record(&self, deeds: Vec<Deed>) {
        if let Err(error) = self.store.commit(Commit { audit: deeds, ..Commit::default() }).await {
            tracing::warn!(error = chain(&error), "the audit log does not have that commands were turned away");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_two_records_a_minute_for_each_pinned_entry() {
        let turned_away = TurnedAway::default();
        let deed = |who: String, outcome: &str| Deed {
            who,
            did: "command_refused".into(),
            outcome: Some(outcome.into()),
            ..Deed::default()
        };
        let mut recorded = 0;
        for number in 0..1_000 {
            let stranger = deed(format!("/made-up-{number}"), "no key is pinned");
            recorded += usize::from(turned_away.count(None, stranger).is_some());
            let forged = deed("/operator/eve".into(), &format!("forgery {number}"));
            recorded += usize::from(turned_away.count(Some("/operator/*"), forged).is_some());
        }
        assert_eq!(recorded, 2, "the first of each");
        let told: Vec<_> = turned_away.counted().into_iter().map(|deed| (deed.who, deed.outcome.unwrap())).collect();
        let more = "999 more within a minute, the last: ";
        assert_eq!(
            told,
            [
                ("/operator/eve".to_owned(), format!("{more}forgery 999")),
                ("/made-up-999".to_owned(), format!("{more}no key is pinned")),
            ]
        );
        assert_eq!(turned_away.counted(), Vec::new(), "a minute is told once");
        assert!(turned_away.count(None, deed("/again".into(), "no")).is_some(), "the next minute begins anew");
    }
}
