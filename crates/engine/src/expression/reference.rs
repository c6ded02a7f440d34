//! Which paths an expression mentions, and whether what is known of their shapes allows them.

use std::collections::{BTreeMap, BTreeSet};

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr};

use crate::schema::{Field, Shape};

/// The variables that an expression may mention, with what is known of their shapes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names<'a> {
    /// `input`, `item`, …
    pub(crate) variables: BTreeMap<String, Shape<'a>>,
    /// Outputs of steps, mentioned as `steps.<id>`; none when steps may not be mentioned here.
    pub(crate) steps: Option<BTreeMap<String, Shape<'a>>>,
}

/// A mention of something that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadReference {
    /// The path up to and with the part that does not exist.
    pub path: String,
    /// What exists there instead.
    pub candidates: Vec<String>,
}

/// The steps that `expression` mentions.
pub(super) fn steps(expression: &IdedExpr) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    visit(&expression.expr, &mut |expr| {
        if let Expr::Select(SelectExpr { operand, field, .. }) = expr
            && matches!(&operand.expr, Expr::Ident(name) if name == "steps")
        {
            found.insert(field.clone());
        }
        if let Expr::Call(call) = expr
            && let Some((Expr::Ident(name), Index::Field(field))) = indexed(call)
            && name == "steps"
        {
            found.insert(field.to_owned());
        }
    });
    found
}

/// Every mention in `expression` that `names` does not allow.
pub(super) fn check(expression: &IdedExpr, names: &Names<'_>) -> Vec<BadReference> {
    let mut walk = Walk { names, bound: Vec::new(), bad: Vec::new() };
    walk.shape(&expression.expr);
    walk.bad
}

/// What is known of the value's shape.
pub(super) fn shape<'a>(expression: &IdedExpr, names: &Names<'a>) -> Shape<'a> {
    Walk { names, bound: Vec::new(), bad: Vec::new() }.shape(&expression.expr)
}

struct Walk<'n, 'a> {
    names: &'n Names<'a>,
    /// Variables bound by macros around the current place.
    bound: Vec<(String, Shape<'a>)>,
    bad: Vec<BadReference>,
}

/// What an expression part stands for, as far as paths go.
enum Place<'a> {
    /// The variable `steps` itself.
    Steps,
    /// A value with what is known of it, and how it is spelled.
    Value(Shape<'a>, String),
}

impl<'a> Walk<'_, 'a> {
    fn shape(&mut self, expr: &Expr) -> Shape<'a> {
        match self.place(expr) {
            Place::Value(shape, _) => shape,
            Place::Steps => {
                self.bad("steps".to_owned(), self.step_names());
                Shape::ANY
            }
        }
    }

    fn place(&mut self, expr: &Expr) -> Place<'a> {
        match expr {
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => {
                let operand = self.place(&select.operand.expr);
                self.field(operand, &select.field)
            }
            Expr::Call(call) => match indexed(call) {
                Some((target, Index::Field(field))) => {
                    let operand = self.place(target);
                    self.field(operand, field)
                }
                Some((target, Index::Item)) => {
                    let items = self.shape(target).items();
                    for argument in &call.args {
                        self.shape(&argument.expr);
                    }
                    Place::Value(items, "[…]".to_owned())
                }
                None => {
                    for part in call.target.iter().map(|target| &**target).chain(&call.args) {
                        self.shape(&part.expr);
                    }
                    anything()
                }
            },
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            other => {
                for part in children(other) {
                    self.shape(part);
                }
                anything()
            }
        }
    }

    fn variable(&mut self, name: &str) -> Place<'a> {
        if let Some((_, shape)) = self.bound.iter().rev().find(|(bound, _)| bound == name) {
            return Place::Value(*shape, name.to_owned());
        }
        if name == "steps" && self.names.steps.is_some() {
            return Place::Steps;
        }
        let Some(shape) = self.names.variables.get(name) else {
            // Type names are values in CEL, and macros make variables that start with `@`.
            if !name.starts_with('@') && !TYPES.contains(&name) {
                let steps = self.names.steps.iter().map(|_| "steps".to_owned());
                self.bad(name.to_owned(), self.names.variables.keys().cloned().chain(steps).collect());
            }
            return anything();
        };
        Place::Value(*shape, name.to_owned())
    }

    fn field(&mut self, of: Place<'a>, name: &str) -> Place<'a> {
        match of {
            Place::Steps => match self.names.steps.as_ref().and_then(|steps| steps.get(name)) {
                Some(shape) => Place::Value(*shape, format!("steps.{name}")),
                None => {
                    self.bad(format!("steps.{name}"), self.step_names());
                    anything()
                }
            },
            Place::Value(shape, spelled) => {
                let path = format!("{spelled}.{name}");
                match shape.field(name) {
                    Field::Known(shape) => Place::Value(shape, path),
                    Field::Missing(names) => {
                        self.bad(path, names.into_iter().map(str::to_owned).collect());
                        anything()
                    }
                }
            }
        }
    }

    fn comprehension(&mut self, comprehension: &ComprehensionExpr) -> Place<'a> {
        let range = self.shape(&comprehension.iter_range.expr);
        self.shape(&comprehension.accu_init.expr);
        let before = self.bound.len();
        self.bound.push((comprehension.accu_var.clone(), Shape::ANY));
        // With two variables the first is the index or key.
        let (item, index) = match &comprehension.iter_var2 {
            Some(second) => (second, Some(&comprehension.iter_var)),
            None => (&comprehension.iter_var, None),
        };
        self.bound.push((item.clone(), range.items()));
        self.bound.extend(index.map(|index| (index.clone(), Shape::ANY)));
        for part in [&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result] {
            self.shape(&part.expr);
        }
        self.bound.truncate(before);
        anything()
    }

    fn step_names(&self) -> Vec<String> {
        self.names.steps.iter().flat_map(|steps| steps.keys().cloned()).collect()
    }

    fn bad(&mut self, path: String, candidates: Vec<String>) {
        let bad = BadReference { path, candidates };
        if !self.bad.contains(&bad) {
            self.bad.push(bad);
        }
    }
}

const TYPES: [&str; 11] =
    ["bool", "bytes", "double", "duration", "dyn", "int", "list", "map", "string", "timestamp", "uint"];

fn anything<'a>() -> Place<'a> {
    Place::Value(Shape::ANY, "…".to_owned())
}

enum Index<'e> {
    Field(&'e str),
    Item,
}

/// `target[index]` and `target[?index]`.
fn indexed(call: &CallExpr) -> Option<(&Expr, Index<'_>)> {
    if !matches!(call.func_name.as_str(), "_[_]" | "_[?_]") {
        return None;
    }
    let mut parts = call.target.iter().map(|target| &**target).chain(&call.args);
    let (target, index) = (parts.next()?, parts.next()?);
    Some((
        &target.expr,
        match &index.expr {
            Expr::Literal(LiteralValue::String(name)) => Index::Field(name.inner()),
            _ => Index::Item,
        },
    ))
}

fn visit(expr: &Expr, seen: &mut dyn FnMut(&Expr)) {
    seen(expr);
    for part in children(expr) {
        visit(part, seen);
    }
}

fn children(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::Call(call) => {
            call.target.iter().map(|target| &target.expr).chain(call.args.iter().map(|arg| &arg.expr)).collect()
        }
        Expr::Comprehension(it) => {
            [&it.iter_range, &it.accu_init, &it.loop_cond, &it.loop_step, &it.result].map(|part| &part.expr).to_vec()
        }
        Expr::List(list) => list.elements.iter().map(|element| &element.expr).collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Struct(it) => it.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Select(select) => vec![&select.operand.expr],
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&Expr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value.expr],
        EntryExpr::MapEntry(entry) => vec![&entry.key.expr, &entry.value.expr],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::expression::Expression;

    fn problems(source: &str) -> Vec<String> {
        let node: Value =
            json!({"type": "object", "properties": {"name": {"type": "string"}, "ip": {"type": "string"}}});
        let input = json!({"type": "object", "properties": {"nodes": {"type": "array", "items": node}}});
        let names = Names {
            variables: BTreeMap::from([("input".to_owned(), Shape::of(&input))]),
            steps: Some(BTreeMap::from([("create".to_owned(), Shape::of(&node))])),
        };
        let bad = Expression::compile(source).unwrap().check(&names);
        bad.into_iter().map(|bad| format!("{} [{}]", bad.path, bad.candidates.join(" "))).collect()
    }

    #[test]
    fn paths_are_checked_through_macros_and_indexes() {
        for fine in [
            "steps.create.name",
            "input.nodes.map(n, n.name)",
            "input.nodes[0].ip",
            "input['nodes'].filter(n, n.ip != '').size() > 1",
            "has(input.nodes) ? int('1') : 2",
            "{'a': [steps.create.ip]}",
        ] {
            assert_eq!(problems(fine), [""; 0], "{fine}");
        }
        assert_eq!(problems("steps.creat.name"), ["steps.creat [create]"]);
        assert_eq!(problems("steps.create.nme"), ["steps.create.nme [ip name]"]);
        assert_eq!(problems("input.nodes.map(n, n.nme)"), ["n.nme [ip name]"]);
        assert_eq!(problems("input.nodes[0].x + 1"), ["[…].x [ip name]"]);
        assert_eq!(problems("inptu.nodes"), ["inptu [input steps]"]);
        assert_eq!(problems("size(steps)"), ["steps [create]"]);
    }

    #[test]
    fn mentioned_steps_are_found() {
        let steps = Expression::compile("[steps.a.x, steps['b']].exists(v, v == steps.c)").unwrap().steps();
        assert_eq!(steps, ["a", "b", "c"].map(str::to_owned).into());
    }
}
