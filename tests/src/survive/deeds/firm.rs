//! Playbooks that stop where they fail, or keep what they did: they go on when told to, or another run of them does.

use std::{collections::BTreeSet, time::Instant};

use anyhow::{Context, ensure};
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

/// What befalls each step of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    /// It fails for good once, after it has acted, twice.
    Failure,
    /// It is cancelled while it acts.
    Cancel,
    /// The process dies at each of its commits.
    Death,
    /// The process dies before each of its commits, which is lost.
    Loss,
}

impl Harm {
    pub(super) const ALL: [Self; 4] = [Self::Failure, Self::Cancel, Self::Death, Self::Loss];
}

/// What is left when it was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stays {
    /// No trace.
    Nothing,
    /// Everything: what it makes is there for all, and goes with the cluster.
    All,
}

impl Life<'_> {
    /// Every step is harmed, and it comes to its end all the same. What can be taken back is, after each kind of harm.
    pub(super) fn firm(&mut self, (party, playbook): (Party, &str), input: &Value, stays: Stays) -> anyhow::Result<()> {
        let (began, deed) = (Instant::now(), Deed { party, playbook, input });
        let mut tried = Tried::of(playbook);
        let before = self.datacenter.calm()?;
        let plan = self.plan(deed, &before)?;
        let is_final = self.side(party).is_irreversible(playbook);
        let may_return = self.is_tried(playbook) && !is_final;
        let after = if may_return { Some(self.taken_back(deed, (before, stays), &mut tried)?) } else { None };
        let report = self.harm(deed, if is_final { self.harm } else { Harm::Failure });
        let found = match (&report, &after) {
            (Ok(_), Some(after)) => self.datacenter.differs(&|now| after.difference_but_ids(now)),
            _ => Ok(None),
        };
        tried.note("harmed and done", found);
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                tried.failures.push(format!("{error:#}"));
                tried.ended(began, self.tell);
                return Err(error.context(format!("{playbook} does not come to its end")));
            }
        };
        tried.failures.extend(untold(&plan, &report));
        tried.called = self.side(party).called(&report);
        tried.steps = done(&report).len();
        tried.ended(began, self.tell);
        Ok(())
    }

    /// It is run and taken back, after no harm and after each. Returns how it is after the run without.
    fn taken_back(
        &mut self,
        deed: Deed<'_>,
        (before, stays): (Footprint, Stays),
        tried: &mut Tried,
    ) -> anyhow::Result<Footprint> {
        let first = self.side(deed.party).run(deed.playbook, deed.input)?;
        expect(&first, Status::Succeeded).with_context(|| format!("{}, untroubled", deed.playbook))?;
        let after = self.datacenter.calm()?;
        let rest = if stays == Stays::All { &after } else { &before };
        let undo = |life: &Self, report: &Report| {
            expect(&life.take_back(deed, report)?, Status::Undone)?;
            life.datacenter.differs(&|now| rest.difference(now))
        };
        tried.note("undone after its end", undo(self, &first));
        for harm in Harm::ALL {
            let found = self.harm(deed, harm).and_then(|report| {
                match self.datacenter.differs(&|now| after.difference_but_ids(now))? {
                    None => undo(self, &report),
                    Some(differs) => Ok(Some(format!("it makes another world: {differs}"))),
                }
            });
            tried.note(&format!("{harm:?} at each step, then undone"), found);
        }
        Ok(after)
    }

    /// Runs it to a good end through a harm to each step; the harm must come to pass.
    fn harm(&mut self, deed: Deed<'_>, harm: Harm) -> anyhow::Result<Report> {
        match harm {
            Harm::Failure => self.failing(deed),
            Harm::Cancel => {
                let (report, cancelled) = self.side(deed.party).run_and_cancel_each(deed.playbook, deed.input)?;
                expect(&report, Status::Succeeded)?;
                ensure!(cancelled == done(&report), "only {cancelled:?} were cancelled");
                Ok(report)
            }
            Harm::Death | Harm::Loss => {
                let last = if harm == Harm::Loss { Last::Lost } else { Last::Durable };
                let hour = Hour::New(BTreeSet::new());
                let side = self.side_mut(deed.party);
                let (report, died) = side.run_through_death(deed.playbook, deed.input, hour, last)?;
                expect(&report, Status::Succeeded)?;
                ensure!(died, "the process does not die");
                Ok(report)
            }
        }
    }

    /// Every step fails once after it has acted, twice, and every undo runs twice.
    fn failing(&self, deed: Deed<'_>) -> anyhow::Result<Report> {
        let side = self.side(deed.party);
        side.trouble.fail_each_once();
        side.trouble.repeat_all();
        let ended = self.through_failures(deed);
        let failed = side.trouble.failed();
        side.trouble.clear();
        let report = ended?;
        expect(&report, Status::Succeeded)?;
        ensure!(failed == done(&report), "only {failed:?} have failed");
        Ok(report)
    }

    /// Each time it must have stopped as its policy says, at steps that have failed only now.
    fn through_failures(&self, deed: Deed<'_>) -> anyhow::Result<Report> {
        let side = self.side(deed.party);
        let (mut report, mut known) = (side.run(deed.playbook, deed.input)?, BTreeSet::new());
        loop {
            let failed = side.trouble.failed();
            if failed.len() == known.len() {
                return Ok(report);
            }
            let why = report.failure.as_ref().and_then(|failure| failure.step.clone()).unwrap_or_default();
            ensure!(failed.contains(&why) && !known.contains(&why), "it stops because of `{why}`, not of {failed:?}");
            known = failed;
            report = match report.status {
                Status::Paused => side.resume(&report)?,
                // One that keeps what it did, or takes it back, is not resumed; its trigger comes again.
                Status::Kept | Status::Undone => side.run(deed.playbook, deed.input)?,
                status => anyhow::bail!("it goes on as {status:?} although {why} has failed"),
            };
        }
    }
}
