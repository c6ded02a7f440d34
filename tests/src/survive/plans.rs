//! Plans beside what then happens: whoever consents to a plan has seen every step that runs.

use std::collections::BTreeSet;

use engine::{
    plan::Plan,
    report::{Report, StepStatus},
};
use regex::Regex;

use super::{Subject, play, trial};

/// Steps that ran although the plan says nothing of them.
pub fn untold(plan: &Plan, report: &Report) -> Vec<String> {
    let ran = report.steps.iter().filter(|step| matches!(step.status, StepStatus::Succeeded | StepStatus::Failed));
    let told = |ran: &str| plan.steps.iter().any(|planned| tells(&planned.step, ran));
    ran.map(|step| step.step.clone()).filter(|step| !told(step)).collect()
}

/// What is wrong with the plan of a playbook that is run with made-up input and outputs.
///
/// # Errors
/// If there is no plan, or the run does not succeed.
pub fn wrong(subject: &Subject) -> Result<Vec<String>, String> {
    let plan = play::plan(subject)?;
    let report = trial::untroubled(subject)?.report;
    let mut found = untold(&plan, &report);
    let known: BTreeSet<&str> = subject.specs.iter().map(|spec| spec.name).collect();
    found.extend(plan.steps.iter().filter(|step| !known.contains(&*step.action)).map(|step| step.step.clone()));
    if plan.hash() != play::plan(subject)?.hash() {
        found.push("another hash the second time".to_owned());
    }
    Ok(found.into_iter().map(|what| format!("{}: {what}", subject.title())).collect())
}

/// Whether `apply[*]` tells of `apply[cp-01]`, and `make.create[*]` of the call `make` that it is part of.
fn tells(planned: &str, ran: &str) -> bool {
    let calls = planned.match_indices('.').map(|(at, _)| &planned[..at]);
    calls.chain([planned]).any(|step| {
        let any_key = regex::escape(step).replace(r"\[\*\]", r"\[[^\]]*\]");
        Regex::new(&format!("^(?:{any_key})$")).is_ok_and(|pattern| pattern.is_match(ran))
    })
}

#[test]
fn a_planned_step_tells_of_its_instances_only() {
    for (planned, ran) in
        [("a", "a"), ("a[*]", "a[x.y]"), ("a[*].b[*]", "a[x].b[y]"), ("a.b[*]", "a"), ("a[*].b", "a[x]")]
    {
        assert!(tells(planned, ran), "{planned} {ran}");
    }
    for (planned, ran) in
        [("a", "b"), ("a[*]", "a"), ("a", "a[x]"), ("a[x]", "a[y]"), ("a[*]", "a[x].b"), ("ab.c", "a")]
    {
        assert!(!tells(planned, ran), "{planned} {ran}");
    }
}
