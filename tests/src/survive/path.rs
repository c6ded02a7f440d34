//! Names of step instances, `make.create[a.b]`: where in the playbooks they are, and what they need.

use std::sync::Arc;

use engine::library::{Definition, Link, Work};

/// A step on the way to a step instance: the call that it is in, or itself.
pub(super) struct Level<'d> {
    /// What the names of this playbook's steps begin with.
    pub(super) prefix: String,
    /// The playbook.
    pub(super) definition: &'d Arc<Definition>,
    /// The step's place in it.
    pub(super) at: usize,
}

impl Level<'_> {
    /// The name of a step of this playbook.
    pub(super) fn name(&self, place: usize) -> String {
        format!("{}{}", self.prefix, self.definition.playbook.steps[place].id.value)
    }
}

/// The steps that `path` leads through, its own last; none when there is no such step.
pub(super) fn levels<'d>(root: &'d Arc<Definition>, path: &str) -> Vec<Level<'d>> {
    let mut found = Vec::new();
    let (mut definition, mut prefix, mut rest) = (root, String::new(), path);
    loop {
        let end = rest.find(['[', '.']).unwrap_or(rest.len());
        let at = definition.playbook.steps.iter().position(|step| step.id.value == rest[..end]);
        let Some(at) = at else { return Vec::new() };
        let after = match rest[end..].strip_prefix('[') {
            Some(after) => after.find(']').map_or("", |close| &after[close + 1..]),
            None => &rest[end..],
        };
        let below = after.strip_prefix('.');
        found.push(Level { prefix: prefix.clone(), definition, at });
        let Some(below) = below else { return found };
        let Work::Call(called) = &definition.links[at].work else { return Vec::new() };
        (definition, rest) = (called, below);
        path[..path.len() - below.len()].clone_into(&mut prefix);
    }
}

/// Whether `other` is of a step that the one at `path` needs, at once or through others.
pub(super) fn is_needed(root: &Arc<Definition>, path: &str, other: &str) -> bool {
    levels(root, path).iter().any(|level| {
        let needed = all_needs(&level.definition.links, level.at);
        let mut others = needed.iter().enumerate().filter(|(place, is_needed)| **is_needed && *place != level.at);
        others.any(|(place, _)| is_below(other, &level.name(place)))
    })
}

/// Beside each step, whether it is the one at `from` or one that it needs, at once or through others.
pub(super) fn all_needs(links: &[Link], from: usize) -> Vec<bool> {
    let (mut seen, mut next) = (vec![false; links.len()], vec![from]);
    while let Some(step) = next.pop() {
        seen[step] = true;
        next.extend(links[step].needs.iter().filter(|need| !seen[**need]));
    }
    seen
}

/// Whether `path` is an instance of the step called `step`, or of one in a playbook that it calls.
pub(super) fn is_below(path: &str, step: &str) -> bool {
    path.strip_prefix(step).is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
}

/// What a path is of: everything before its last step, and that step's id.
pub(super) fn split(path: &str) -> (&str, &str) {
    let mut start = 0;
    let mut is_key = false;
    for (at, char) in path.char_indices() {
        match char {
            '[' => is_key = true,
            ']' => is_key = false,
            '.' if !is_key => start = at + 1,
            _ => {}
        }
    }
    let last = &path[start..];
    (&path[..start], &last[..last.find('[').unwrap_or(last.len())])
}

#[cfg(test)]
mod tests {
    use super::{super::Subject, *};

    #[test]
    fn a_path_is_split_at_its_last_step_even_when_keys_hold_dots() {
        assert_eq!(split("make.create[a.b]"), ("make.", "create"));
        assert_eq!(split("node[10.0.0.1].drain"), ("node[10.0.0.1].", "drain"));
        assert_eq!(split("apply"), ("", "apply"));
    }

    #[test]
    fn a_step_needs_what_comes_before_it_in_its_call_and_before_the_call() {
        let subjects = Subject::mean().unwrap();
        let roll = subjects.iter().find(|subject| subject.playbook == "roll").unwrap().definition();
        let needed = |path, other| is_needed(roll, path, other);
        assert!(needed("node[a].upgrade", "node[a].drain") && needed("node[a].upgrade", "before"));
        assert!(!needed("node[a].upgrade", "node[b].drain") && !needed("node[a].upgrade", "after"));
        assert!(!needed("node[a].upgrade", "node[a].upgrade") && !needed("before", "node[a].drain"));
        assert!(needed("after", "node[b].upgrade"));
    }
}
