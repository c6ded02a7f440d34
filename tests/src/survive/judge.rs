//! Whether a run ended as it may, after what was done to it.

use std::collections::BTreeSet;

use engine::{
    playbook::Policy,
    report::{Status, StepStatus},
    run::Command,
};

use super::{Ending, Scenario, Subject};

/// Whether the ending is one that the scenario allows; `untroubled` is that of a run in which nothing goes wrong.
pub fn judge(subject: &Subject, scenario: &Scenario, ending: &Ending, untroubled: &Ending) -> Result<(), String> {
    let status = ending.status;
    if scenario.expected.is_some_and(|expected| expected != status) {
        return Err(format!("ends {status:?} instead of {:?}", scenario.expected));
    }
    if !status.is_terminal() && !status.needs_operator() {
        return Err(format!("does not end: {status:?}"));
    }
    if let Some(broken) = ending.broken.first() {
        return Err(broken.clone());
    }
    if let Some(twice) = ending.first_repeated_message() {
        return Err(format!("message {twice} was sent twice"));
    }
    if ending.runs != 1 {
        return Err(format!("{} runs of one message", ending.runs));
    }
    if ending.bystander.is_some_and(|status| status != Status::Succeeded) {
        return Err(format!("the run beside it ends {:?}", ending.bystander));
    }
    // What failed late and was left as it is, is known to nobody; that is what `keep` and `pause` are about.
    let is_settled = matches!(status, Status::Succeeded | Status::Undone);
    if is_settled && ending.known != ending.objects {
        return Err(format!("the inventory is wrong: {}", difference(&ending.objects, &ending.known)));
    }
    obeys(subject, scenario, ending)?;
    leaves(subject, scenario, ending, untroubled)
}

/// Whether what is left is what may be.
fn leaves(subject: &Subject, scenario: &Scenario, ending: &Ending, untroubled: &Ending) -> Result<(), String> {
    match ending.status {
        Status::Succeeded if ending.objects != untroubled.objects => {
            Err(format!("succeeds with another world: {}", difference(&untroubled.objects, &ending.objects)))
        }
        Status::Succeeded if ending.messages != untroubled.messages => Err("succeeds with other messages".to_owned()),
        Status::Undone if !ending.objects.is_empty() => Err(format!("is undone and leaves {:?}", ending.objects)),
        // Who cancels a run that is paused past its commit point takes what is there as it is.
        Status::Cancelled
            if subject.policy() == Policy::Rollback && !is_final(subject) && !ending.objects.is_empty() =>
        {
            Err(format!("is cancelled and leaves {:?}", ending.objects))
        }
        Status::Stuck => is_stuck_well(scenario, ending),
        _ => Ok(()),
    }
}

/// A stuck run names the undo that failed, and nothing is left but that and what it stood on.
fn is_stuck_well(scenario: &Scenario, ending: &Ending) -> Result<(), String> {
    let failing: Vec<_> = scenario.faults.iter().filter(|fault| fault.undo).collect();
    let named: Vec<_> = ending.report.steps.iter().filter(|step| step.status == StepStatus::UndoFailed).collect();
    if failing.is_empty() {
        return Err("is stuck for no reason".to_owned());
    }
    if named.iter().all(|step| step.reason.is_none()) {
        return Err("is stuck and does not say where and why".to_owned());
    }
    if let Some(innocent) = named.iter().find(|step| failing.iter().all(|fault| fault.step != step.step)) {
        return Err(format!("is stuck at {}, whose undo goes well", innocent.step));
    }
    Ok(())
}

/// Whether a lone command did what it is for; it is accepted unless it comes too late.
fn obeys(subject: &Subject, scenario: &Scenario, ending: &Ending) -> Result<(), String> {
    let [(_, command)] = scenario.commands.as_slice() else { return Ok(()) };
    // What goes wrong besides must not decide the end: one fault that passes may.
    let decides = |fault: &super::Fault| fault.undo || fault.kind.is_permanent() || fault.times > 1;
    if scenario.faults.len() > 1 || scenario.faults.iter().any(decides) || !scenario.crashes.is_empty() {
        return Ok(());
    }
    let by_policy = match (command, subject.policy()) {
        (Command::Undo, _) => Status::Undone,
        (_, Policy::Pause) => Status::Paused,
        (_, Policy::Rollback | Policy::Keep) => Status::Cancelled,
    };
    let allowed = match (ending.accepted.contains(&0), command) {
        (_, Command::Resume) => return Ok(()),
        (false, _) => ending.status == Status::Succeeded,
        (true, _) => ending.status == by_policy || is_final(subject) && ending.status == Status::Paused,
    };
    if allowed { Ok(()) } else { Err(format!("ends {:?} although it was told {command:?}", ending.status)) }
}

/// Whether something in it cannot be taken back.
fn is_final(subject: &Subject) -> bool {
    subject.definition().playbook.commit_point.is_some() || subject.definition().is_irreversible()
}

fn difference(expected: &BTreeSet<String>, found: &BTreeSet<String>) -> String {
    let missing: Vec<_> = expected.difference(found).collect();
    let surplus: Vec<_> = found.difference(expected).collect();
    format!("missing {missing:?}, too much {surplus:?}")
}
