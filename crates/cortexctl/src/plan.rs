//! A plan as people read it.

use messages::query::PlanView;

/// The plan of a flow, over both contractors: what each would do, and the hash that consent names.
pub fn text(plan: &PlanView) -> String {
    let mut text = String::new();
    part(plan, &mut text);
    text.push_str(&format!("plan {}\n", plan.plan_hash));
    text
}

fn part(plan: &PlanView, text: &mut String) {
    text.push_str(&format!(
        "{}-contractor: {} v{} (on failure: {})\n",
        plan.contractor, plan.playbook, plan.version, plan.on_failure
    ));
    for step in &plan.steps {
        let when = step.when.as_ref().map(|when| format!(" if {when}")).unwrap_or_default();
        if step.changes.is_empty() {
            text.push_str(&format!("    {} ({}){when}\n", step.step, step.action));
        }
        for change in &step.changes {
            let mark = match (change.destroys, change.verb.as_str()) {
                (true, _) => '-',
                (false, "wait") => '~',
                (false, _) => '+',
            };
            let details = change.details.iter().map(|(name, value)| {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                format!(" {name}={value}")
            });
            let details: String = details.collect();
            text.push_str(&format!("  {mark} {} {}{details}{when}\n", change.verb, change.object));
        }
    }
    for remark in &plan.remarks {
        text.push_str(&format!("  ! {remark}\n"));
    }
    for then in &plan.then {
        part(then, text);
    }
}
