//! Whether a run ended as it may, after what was done to it.

use std::collections::BTreeSet;

use engine::{
    catalog::Undo,
    playbook::Policy,
    report::{Status, StepStatus},
    run::Command,
};

use super::{Ending, FaultKind, Scenario, Subject, cases::is_final, path};

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
    if let Some(status) = ending.bystanders.iter().find(|status| **status != Status::Succeeded) {
        return Err(format!("a run beside it ends {status:?}"));
    }
    comes_to_pass(scenario, ending)?;
    // What failed late and was left as it is, is known to nobody; that is what `keep` and `pause` are about.
    let is_settled = matches!(status, Status::Succeeded | Status::Undone);
    if is_settled && ending.known != ending.objects {
        return Err(format!("the inventory is wrong: {}", difference(&ending.objects, &ending.known)));
    }
    obeys(subject, scenario, ending)?;
    leaves(subject, scenario, ending, untroubled)
}

/// Whether what the scenario says did happen; a case in which it does not shows nothing.
fn comes_to_pass(scenario: &Scenario, ending: &Ending) -> Result<(), String> {
    let asked = |at: &usize| ending.asked.contains(at);
    let due = |commit: u64| scenario.made || commit <= ending.commits;
    let mut commands = scenario.commands.iter().enumerate();
    if let Some((_, (commit, command))) = commands.find(|(at, (commit, _))| due(*commit) && !asked(at)) {
        return Err(format!("nobody asks to {command:?} at commit {commit} of {}", ending.commits));
    }
    if !scenario.made {
        return Ok(());
    }
    let (lives, crashes) = (ending.lives, scenario.crashes.len());
    if lives != 1 + crashes {
        return Err(format!("{crashes} deaths, but {lives} lives"));
    }
    if scenario.bystander && ending.bystanders.len() != 2 {
        return Err(format!("{} runs beside it instead of 2", ending.bystanders.len()));
    }
    // Not every undo that is to be repeated is of a step that was reached.
    if let Some(fault) = ending.spared.iter().find(|fault| !fault.undo) {
        return Err(format!("{} is not {:?}", fault.step, fault.kind));
    }
    let hangs = scenario.faults.iter().any(|fault| fault.kind == FaultKind::Hang && !fault.undo);
    if hangs && !scenario.commands.is_empty() && ending.while_hanging.is_empty() {
        return Err("nothing hung when it was told to stop".to_owned());
    }
    Ok(())
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
        Status::Stuck => is_stuck_well(subject, scenario, ending),
        Status::Kept | Status::Paused => is_left_alone(subject, ending),
        // It was not undone then, whether it was asked to stop or failed and was given up.
        Status::Cancelled if subject.policy() != Policy::Rollback => is_left_alone(subject, ending),
        _ => Ok(()),
    }
}

/// What was done before it stopped is there, in the world and in the inventory, and nobody began to take it back.
fn is_left_alone(subject: &Subject, ending: &Ending) -> Result<(), String> {
    let status = ending.status;
    if let Some(undo) = ending.journal.iter().find(|event| event["event"] == "undo_started") {
        return Err(format!("ends {status:?}, and {} was being undone", undo["step"]));
    }
    let changes = |action: &str| subject.undo_of(action).is_some_and(|undo| undo != Undo::Nothing);
    let done = ending.report.steps.iter().filter(|step| step.status == StepStatus::Succeeded && changes(&step.does));
    for step in done.map(|step| &step.step) {
        if !ending.objects.contains(step) || !ending.known.contains(step) {
            return Err(format!("ends {status:?} without {step}, which was done"));
        }
    }
    Ok(())
}

/// A stuck run names the undo that failed, and nothing is left but that and what it stood on.
fn is_stuck_well(subject: &Subject, scenario: &Scenario, ending: &Ending) -> Result<(), String> {
    let failing: Vec<_> = scenario.faults.iter().filter(|fault| fault.undo).collect();
    let named: Vec<_> = ending.report.steps.iter().filter(|step| step.status == StepStatus::UndoFailed).collect();
    if failing.is_empty() {
        return Err("is stuck for no reason".to_owned());
    }
    if named.is_empty() {
        return Err("is stuck and does not say where".to_owned());
    }
    if let Some(silent) = named.iter().find(|step| step.reason.is_none()) {
        return Err(format!("is stuck at {} and does not say why", silent.step));
    }
    if let Some(innocent) = named.iter().find(|step| failing.iter().all(|fault| fault.step != step.step)) {
        return Err(format!("is stuck at {}, whose undo goes well", innocent.step));
    }
    let may_stay = |object: &String| {
        named.iter().any(|step| step.step == *object || path::is_needed(subject.definition(), &step.step, object))
    };
    match ending.objects.iter().find(|object| !may_stay(object)) {
        Some(object) => Err(format!("is stuck and leaves {object}, which nothing that failed stands on")),
        None => Ok(()),
    }
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
        // Whenever it comes: what is done can be taken back. One that comes after the last commit was not asked.
        (_, Command::Undo) if ending.asked.contains(&0) && !is_final(subject) => ending.status == Status::Undone,
        (false, _) => ending.status == Status::Succeeded,
        (true, _) => ending.status == by_policy || is_final(subject) && ending.status == Status::Paused,
    };
    if allowed { Ok(()) } else { Err(format!("ends {:?} although it was told {command:?}", ending.status)) }
}

fn difference(expected: &BTreeSet<String>, found: &BTreeSet<String>) -> String {
    let missing: Vec<_> = expected.difference(found).collect();
    let surplus: Vec<_> = found.difference(expected).collect();
    format!("missing {missing:?}, too much {surplus:?}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{Fault, play, trial},
        *,
    };

    #[test]
    fn a_run_that_keeps_what_it_did_may_not_have_undone_any_of_it() {
        let subjects = Subject::mean().unwrap();
        let subject = subjects.iter().find(|subject| subject.playbook == "careless").unwrap();
        let untroubled = trial::untroubled(subject).unwrap();
        let fault = Fault { step: "b".to_owned(), undo: false, kind: FaultKind::Fail, times: 1 };
        let scenario = Scenario { faults: vec![fault], ..Scenario::default() };
        let ending = play(subject, &scenario).unwrap();
        let said = |ending: &Ending| judge(subject, &scenario, ending, &untroubled);
        assert_eq!((ending.status, said(&ending)), (Status::Kept, Ok(())));

        let mut undone = ending.clone();
        undone.journal.push(json!({ "event": "undo_started", "step": "a" }));
        assert!(said(&undone).unwrap_err().contains("being undone"));
        for forget in [|of: &mut Ending| of.objects.clear(), |of: &mut Ending| of.known.clear()] {
            let mut gone = ending.clone();
            forget(&mut gone);
            assert_eq!(said(&gone), Err("ends Kept without a, which was done".to_owned()));
        }
    }
}
