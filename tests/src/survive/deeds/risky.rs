//! Playbooks that roll back: every harm to every step, then its part of the life.

use std::{collections::BTreeSet, time::Instant};

use anyhow::Context;
use engine::report::{Report, Status};
use serde_json::Value;

use super::{
    Deed, Life, Party, Tried,
    datacenter::expect,
    death::{Hour, Last},
    done,
    footprint::Footprint,
    untold,
};

/// Entries that every run of a playbook has; how often it waits and tries again depends on what is faster.
const STEADY: [&str; 6] = ["expanded ", "skipped ", "started ", "checkpointed ", "succeeded ", "finished "];

impl Life<'_> {
    /// Every harm to every step, then its part of the life. Returns what it hands over.
    pub(super) fn risky(
        &mut self,
        (party, playbook): (Party, &str),
        input: &Value,
        emits: &str,
    ) -> anyhow::Result<Value> {
        let (began, deed) = (Instant::now(), Deed { party, playbook, input });
        let mut tried = Tried::of(playbook);
        let after = if self.is_tried(playbook) { Some(self.harmed(deed, &mut tried)?) } else { None };
        let report = self.twice(deed)?;
        let found = expect(&report, Status::Succeeded).and_then(|()| match &after {
            Some(after) => self.datacenter.differs(&|now| after.difference_but_ids(now)),
            None => Ok(None),
        });
        tried.note("every action twice", found);
        tried.called = self.side(party).called(&report);
        tried.steps = done(&report).len();
        tried.ended(began, self.tell);
        anyhow::ensure!(report.status == Status::Succeeded, "{playbook} does not come to its end");
        self.side(party).last(emits)
    }

    /// All harms, each taken back. Returns how it is after the run in which nothing goes wrong.
    pub(super) fn harmed(&mut self, deed: Deed<'_>, tried: &mut Tried) -> anyhow::Result<Footprint> {
        let before = self.datacenter.calm()?;
        let plan = self.plan(deed, &before)?;
        let _ = self.side(deed.party).commits();
        let first = self.side(deed.party).run(deed.playbook, deed.input)?;
        expect(&first, Status::Succeeded).with_context(|| format!("{}, untroubled", deed.playbook))?;
        let hours = hours(&self.side(deed.party).commits());
        tried.failures.extend(untold(&plan, &first));
        let after = self.datacenter.calm()?;
        let undone = self.take_back(deed, &first);
        // Images that its machines needed are there for others now.
        let before = before.with_images_of(&self.datacenter.footprint()?, after.hosts())?;
        let left = |life: &Self, report: anyhow::Result<Report>, status| {
            expect(&report?, status)?;
            life.datacenter.differs(&|now| before.difference(now))
        };
        tried.note("undone after its end", left(self, undone, Status::Undone));
        for step in self.sample(done(&first).into_iter().collect()) {
            self.side(deed.party).trouble.fail(&step);
            let report = self.side(deed.party).run(deed.playbook, deed.input);
            self.side(deed.party).trouble.clear();
            tried.note(&format!("{step} fails, every undo twice"), left(self, report, Status::Undone));
            let report = self.side(deed.party).run_and_cancel(deed.playbook, deed.input, &step);
            tried.note(&format!("cancelled at {step}"), left(self, report, Status::Cancelled));
        }
        for hour in self.sample(hours) {
            let report = self.dies(deed, (&hour, Last::Durable), &after);
            tried.note(&format!("dies after `{hour}`, then undone"), left(self, report, Status::Undone));
            if hour.starts_with("succeeded ") {
                let report = self.dies(deed, (&hour, Last::Lost), &after);
                tried.note(&format!("dies before `{hour}`, then undone"), left(self, report, Status::Undone));
            }
        }
        Ok(after)
    }

    /// The process dies with that entry, the next one goes on, and what it did is taken back.
    fn dies(&mut self, deed: Deed<'_>, (entry, last): (&str, Last), after: &Footprint) -> anyhow::Result<Report> {
        let hour = Hour::Entry(entry.to_owned());
        let side = self.side_mut(deed.party);
        let (report, died) = side.run_through_death(deed.playbook, deed.input, hour, last)?;
        expect(&report, Status::Succeeded)?;
        let differs = self.datacenter.differs(&|now| after.difference_but_ids(now))?;
        let undone = self.take_back(deed, &report)?;
        anyhow::ensure!(died, "the process does not die");
        anyhow::ensure!(differs.is_none(), "it makes another world: {}", differs.unwrap_or_default());
        Ok(undone)
    }

    /// Every action and undo runs twice.
    fn twice(&self, deed: Deed<'_>) -> anyhow::Result<Report> {
        let side = self.side(deed.party);
        side.trouble.repeat_all();
        let report = side.run(deed.playbook, deed.input);
        side.trouble.clear();
        report
    }
}

/// One entry of each commit that every run has, all different.
fn hours(commits: &[Vec<String>]) -> Vec<String> {
    let is_steady = |entry: &&String| STEADY.iter().any(|kind| entry.starts_with(kind));
    let mut known = BTreeSet::new();
    let mut first =
        |commit: &Vec<String>| commit.iter().filter(is_steady).find(|it| known.insert((*it).clone())).cloned();
    commits.iter().filter_map(&mut first).collect()
}
