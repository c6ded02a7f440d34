//! The real actions against the lab, through the life of a cluster: nothing that was taken back may have left a trace.
//!
//! Before a playbook does its part of the life, it is put through every harm: each of its steps fails for good *after*
//! it has acted, is cancelled while it acts, and its process dies at a commit. After each the datacenter, both inventories and
//! the cluster's nodes must be as before. Then it runs with every action and undo done twice, and must succeed. Its plan,
//! made before all that, changes nothing and tells of every step that then runs.

pub mod datacenter;
pub mod side;
pub mod trouble;

use std::time::{Duration, Instant};

use anyhow::Context;
use datacenter::{Datacenter, expect};
use engine::{
    plan::Plan,
    report::{Report, Status, StepStatus},
};
use serde_json::{Value, json};
use side::Side;

use super::plans;

/// How much of it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Every so many steps and commits are put to the test; 1 takes all.
    pub every: usize,
    /// Where counting begins, so that other seeds take others.
    pub seed: u64,
}

/// What was tried with one playbook.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The playbook.
    pub playbook: String,
    /// Its step instances.
    pub steps: usize,
    /// How many runs.
    pub runs: usize,
    /// What is wrong.
    pub failures: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// The two contractors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Party {
    Infrastructure,
    Talos,
}

struct Life<'t> {
    datacenter: Datacenter,
    options: Options,
    tell: &'t mut dyn FnMut(&Tried),
}

/// A cluster is made, grows, shrinks and goes; each playbook's part of it is put through every harm first.
///
/// # Errors
/// If the life itself does not go on. What the harms bring to light is in what is told.
pub fn live(options: Options, tell: &mut dyn FnMut(&Tried)) -> anyhow::Result<()> {
    let mut life = Life { datacenter: Datacenter::start()?, options, tell };
    let begin = life.datacenter.footprint()?;
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": "prod", "pattern": "edge", "worker_nodes": 1,
        "service_account_key": "ecdsa-p256",
    });
    let made = life.risky(Party::Infrastructure, "provision-vms", &request, "vm_provisioned")?;
    let ready = life.risky(Party::Talos, "bootstrap-cluster", &made, "cluster_ready")?;
    life.firm(Party::Infrastructure, "register-monitoring", &ready)?;
    life.firm(Party::Talos, "check-clusters", &json!({}))?;

    let up = json!({ "cluster_name": "prod", "pool": "worker", "count": 2 });
    let made = life.risky(Party::Infrastructure, "scale-pool", &up, "vm_provisioned")?;
    let joined = life.risky(Party::Talos, "join-nodes", &made, "nodes_ready")?;
    life.firm(Party::Infrastructure, "record-nodes", &joined)?;

    let down = json!({ "cluster_name": "prod", "pool": "worker", "count": 1 });
    let asked = life.risky(Party::Infrastructure, "scale-pool", &down, "scale_request")?;
    life.firm(Party::Talos, "remove-nodes", &asked)?;
    let removed = life.datacenter.talos.last("node_removed")?;
    life.firm(Party::Infrastructure, "release-vms", &removed)?;

    let gone = json!({ "cluster_name": "prod" });
    let asked = life.risky(Party::Infrastructure, "decommission-cluster", &gone, "decommission_request")?;
    life.firm(Party::Talos, "forget-cluster", &asked)?;
    let removed = life.datacenter.talos.last("cluster_removed")?;
    life.firm(Party::Infrastructure, "destroy-cluster", &removed)?;
    let left = begin.difference(&life.datacenter.footprint()?);
    anyhow::ensure!(left.is_none(), "the life of a cluster leaves something: {}", left.unwrap_or_default());
    Ok(())
}

/// What a plan does not say, as failures.
fn untold(plan: &Plan, report: &Report) -> Vec<String> {
    plans::untold(plan, report).into_iter().map(|step| format!("the plan says nothing of step {step}")).collect()
}

impl Life<'_> {
    fn side(&self, party: Party) -> &Side {
        match party {
            Party::Infrastructure => &self.datacenter.infrastructure,
            Party::Talos => &self.datacenter.talos,
        }
    }

    fn side_mut(&mut self, party: Party) -> &mut Side {
        match party {
            Party::Infrastructure => &mut self.datacenter.infrastructure,
            Party::Talos => &mut self.datacenter.talos,
        }
    }

    /// A playbook that rolls back: every harm to every step, then its part of the life. Returns what it hands over.
    fn risky(&mut self, party: Party, playbook: &str, input: &Value, emits: &str) -> anyhow::Result<Value> {
        let began = Instant::now();
        let before = self.datacenter.footprint()?;
        let plan = self.plan(party, playbook, input)?;
        let first = self.side(party).run(playbook, input)?;
        expect(&first, Status::Succeeded).with_context(|| format!("{playbook}, untroubled"))?;
        let machines = self.datacenter.machines();
        let undone = self.side(party).undo(&first)?;
        let mut tried = Tried {
            playbook: playbook.to_owned(),
            steps: first.steps.iter().filter(|step| step.status == StepStatus::Succeeded).count(),
            runs: 1,
            failures: untold(&plan, &first),
            took: Duration::ZERO,
        };
        let mut note = |life: &Self, what: String, report: anyhow::Result<Report>, status| {
            tried.runs += 1;
            let told = report.and_then(|report| expect(&report, status));
            let left = life.datacenter.footprint().map(|now| before.difference(&now));
            match (told, left) {
                (Err(error), _) | (Ok(()), Err(error)) => tried.failures.push(format!("{what}: {error:#}")),
                (Ok(()), Ok(Some(left))) => tried.failures.push(format!("{what}: {left}")),
                (Ok(()), Ok(None)) => {}
            }
        };
        note(self, "undone after its end".to_owned(), Ok(undone), Status::Undone);
        let steps = first.steps.iter().filter(|step| step.status == StepStatus::Succeeded);
        for step in self.sample(steps.map(|step| step.step.clone()).collect()) {
            self.side(party).trouble.fail(&step);
            let report = self.side(party).run(playbook, input);
            self.side(party).trouble.clear();
            note(self, format!("{step} fails, every undo twice"), report, Status::Undone);
            let report = self.side(party).run_and_cancel(playbook, input, &step);
            note(self, format!("cancelled at {step}"), report, Status::Cancelled);
        }
        for commit in self.sample((1..first.events).collect()) {
            let report = self.side_mut(party).run_through_death(playbook, input, commit);
            let report = report.and_then(|report| {
                expect(&report, Status::Succeeded)?;
                let found = self.datacenter.machines();
                anyhow::ensure!(found == machines, "machines are {found:?} instead of {machines:?}");
                self.side(party).undo(&report)
            });
            note(self, format!("dies after commit {commit}, then undone"), report, Status::Undone);
        }
        let (report, found) = self.twice(party, playbook, input)?;
        if let Err(error) = expect(&report, Status::Succeeded) {
            tried.failures.push(format!("every action twice: {error:#}"));
        } else if found != machines {
            tried.failures.push(format!("every action twice: machines are {found:?} instead of {machines:?}"));
        }
        tried.took = began.elapsed();
        (self.tell)(&tried);
        anyhow::ensure!(report.status == Status::Succeeded, "{playbook} does not come to its end");
        self.side(party).last(emits)
    }

    /// What it would do; finding that out changes nothing.
    fn plan(&self, party: Party, playbook: &str, input: &Value) -> anyhow::Result<Plan> {
        let before = self.datacenter.footprint()?;
        let plan = self.side(party).plan(playbook, input)?;
        let changed = before.difference(&self.datacenter.footprint()?);
        anyhow::ensure!(changed.is_none(), "the plan of {playbook} changed {}", changed.unwrap_or_default());
        Ok(plan)
    }

    /// Every action and undo runs twice; returns the machines that there are then.
    fn twice(&self, party: Party, playbook: &str, input: &Value) -> anyhow::Result<(Report, Vec<String>)> {
        self.side(party).trouble.repeat_all();
        let report = self.side(party).run(playbook, input);
        self.side(party).trouble.clear();
        Ok((report?, self.datacenter.machines()))
    }

    /// A playbook that stops where it fails: every step fails once after it has acted, and goes on when told to.
    fn firm(&mut self, party: Party, playbook: &str, input: &Value) -> anyhow::Result<()> {
        let began = Instant::now();
        let plan = self.plan(party, playbook, input)?;
        let side = self.side(party);
        side.trouble.fail_each_once();
        side.trouble.repeat_all();
        let (mut report, mut runs) = (side.run(playbook, input)?, 1);
        while report.status == Status::Paused {
            report = side.resume(&report)?;
            runs += 1;
        }
        side.trouble.clear();
        // One that keeps what it did is not resumed; its trigger comes again.
        if report.status == Status::Kept {
            report = side.run(playbook, input)?;
            runs += 1;
        }
        let failed = expect(&report, Status::Succeeded).err().map(|error| format!("{error:#}"));
        let is_over = failed.is_some();
        let tried = Tried {
            playbook: playbook.to_owned(),
            steps: report.steps.len(),
            runs,
            failures: failed.into_iter().chain(untold(&plan, &report)).collect(),
            took: began.elapsed(),
        };
        (self.tell)(&tried);
        anyhow::ensure!(!is_over, "{playbook} does not come to its end");
        Ok(())
    }

    fn sample<T>(&self, all: Vec<T>) -> Vec<T> {
        let every = self.options.every.max(1);
        let skip = usize::try_from(self.options.seed).unwrap_or(0) % every;
        all.into_iter().skip(skip).step_by(every).collect()
    }
}
