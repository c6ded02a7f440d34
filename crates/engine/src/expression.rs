//! CEL, wrapped: the one place that knows the expression crate and its traps (crates.md, trap 9).

mod reference;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, LazyLock},
};

use cel::{
    Context, Env, ExecutionError, Program, extensions,
    objects::{Key, Map},
};
use serde_json::Value;

pub use self::reference::BadReference;
pub(crate) use self::reference::Names;
use crate::schema::Shape;

/// Longest expression, in bytes.
pub const MAX_SOURCE: usize = 2_000;
/// Longest list that an expression may see or give. CEL has no cost limit, so sizes are its bound.
pub const MAX_LIST: usize = 5_000;

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    env.add_extension(extensions::lists).expect("the crate's own extensions do not clash");
    env.add_extension(extensions::strings).expect("the crate's own extensions do not clash");
    Arc::new(env)
});

/// A compiled CEL expression.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    program: Arc<Program>,
    variables: BTreeSet<String>,
}

impl Expression {
    /// Compiles `source`.
    pub fn compile(source: &str) -> Result<Self, SyntaxError> {
        if source.len() > MAX_SOURCE {
            return Err(SyntaxError(format!("the expression is longer than {MAX_SOURCE} bytes")));
        }
        let program = ENVIRONMENT.compile(source).map_err(|errors| SyntaxError(first_line(&errors.to_string())))?;
        let variables = program.references().variables().into_iter().map(str::to_owned).collect();
        Ok(Self { source: source.into(), program: Arc::new(program), variables })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it mentions the variable.
    pub fn mentions(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// The names of the steps that it refers to.
    pub fn steps(&self) -> BTreeSet<String> {
        reference::steps(self.program.expression())
    }

    /// Checks every path against what is known of the variables' shapes.
    pub(crate) fn check(&self, names: &Names<'_>) -> Vec<BadReference> {
        reference::check(self.program.expression(), names)
    }

    /// What is known of its value's shape, when it is a path.
    pub(crate) fn shape<'a>(&self, names: &Names<'a>) -> Shape<'a> {
        reference::shape(self.program.expression(), names)
    }

    /// Its value, where `lookup` gives the variables that it mentions.
    pub fn evaluate<'a>(&self, lookup: &dyn Fn(&str) -> Option<&'a Value>) -> Result<Value, EvaluationError> {
        let mut context = Context::with_env(ENVIRONMENT.clone());
        for name in &self.variables {
            if let Some(value) = lookup(name) {
                context.add_variable_from_value(name.as_str(), self.to_cel(value)?);
            }
        }
        let value = self.program.execute(&context).map_err(|error| self.error(kind(&error)))?;
        self.to_json(&value)
    }

    fn to_cel(&self, value: &Value) -> Result<cel::Value, EvaluationError> {
        Ok(match value {
            Value::Null => cel::Value::Null,
            Value::Bool(bool) => cel::Value::Bool(*bool),
            // Every integer that fits is a CEL int: `input.count + 1` must not be an error.
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(int), _) => cel::Value::Int(int),
                (None, Some(uint)) => cel::Value::UInt(uint),
                (None, None) => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => cel::Value::String(Arc::new(text.clone())),
            Value::Array(items) if items.len() > MAX_LIST => return Err(self.error("list above the cap")),
            Value::Array(items) => {
                cel::Value::List(Arc::new(items.iter().map(|item| self.to_cel(item)).collect::<Result<_, _>>()?))
            }
            Value::Object(fields) => {
                let fields = fields
                    .iter()
                    .map(|(name, value)| Ok((Key::String(Arc::new(name.clone())), self.to_cel(value)?)))
                    .collect::<Result<HashMap<_, _>, _>>()?;
                cel::Value::Map(Map { map: Arc::new(fields) })
            }
        })
    }

    fn to_json(&self, value: &cel::Value) -> Result<Value, EvaluationError> {
        Ok(match value {
            cel::Value::List(items) if items.len() > MAX_LIST => return Err(self.error("list above the cap")),
            cel::Value::List(items) => {
                Value::Array(items.iter().map(|item| self.to_json(item)).collect::<Result<_, _>>()?)
            }
            cel::Value::Map(map) => {
                // CEL's maps iterate in random order; what goes into a journal or a hash must not.
                let mut fields: Vec<_> = map.map.iter().map(|(key, value)| (key.to_string(), value)).collect();
                fields.sort_by(|(left, _), (right, _)| left.cmp(right));
                let fields = fields.into_iter().map(|(key, value)| Ok((key, self.to_json(value)?)));
                Value::Object(fields.collect::<Result<_, EvaluationError>>()?)
            }
            cel::Value::Float(float) if !float.is_finite() => return Err(self.error("number is not finite")),
            other => other.json().map_err(|_| self.error("value has no JSON form"))?,
        })
    }

    fn error(&self, kind: &'static str) -> EvaluationError {
        EvaluationError { kind, expression: self.source.clone() }
    }
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "${{{}}}", self.source)
    }
}

/// The text is not CEL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SyntaxError(pub String);

/// An expression had no value. Names the kind and the expression, never the operands: they may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} in `{expression}`")]
pub struct EvaluationError {
    kind: &'static str,
    expression: Arc<str>,
}

impl EvaluationError {
    /// Whether a name or field that it mentions does not exist.
    pub fn is_absence(&self) -> bool {
        matches!(self.kind, NO_SUCH_FIELD | NO_SUCH_NAME)
    }
}

const NO_SUCH_FIELD: &str = "no such field";
const NO_SUCH_NAME: &str = "no such name";

fn kind(error: &ExecutionError) -> &'static str {
    match error {
        ExecutionError::NoSuchKey(_) => NO_SUCH_FIELD,
        ExecutionError::UndeclaredReference(_) => NO_SUCH_NAME,
        ExecutionError::NoSuchOverload(_) | ExecutionError::UnexpectedType { .. } => {
            "no such operation for these types"
        }
        ExecutionError::ValuesNotComparable(..) => "values that cannot be compared",
        ExecutionError::IndexOutOfBounds(_) => "index out of bounds",
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero",
        ExecutionError::Overflow(..) => "overflow",
        ExecutionError::FunctionError { .. } => "function failed",
        _ => "not evaluable",
    }
}

fn first_line(text: &str) -> String {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("not an expression").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn evaluate(source: &str, input: &Value) -> Result<Value, EvaluationError> {
        Expression::compile(source).unwrap().evaluate(&|name| (name == "input").then_some(input))
    }

    #[test]
    fn integers_are_ints_and_maps_are_sorted() {
        let input = json!({"count": 2, "nodes": ["a", "b"], "z": 1.5});
        assert_eq!(evaluate("input.count + 1", &input), Ok(json!(3)));
        assert_eq!(evaluate("size(input.nodes) == input.count", &input), Ok(json!(true)));
        assert_eq!(evaluate("input.nodes.map(n, n + '!').join(',')", &input), Ok(json!("a!,b!")));
        assert_eq!(evaluate("{'b': 1, 'a': input.z}", &input).unwrap().to_string(), r#"{"a":1.5,"b":1}"#);
    }

    #[test]
    fn an_error_names_the_expression_and_no_value() {
        let input = json!({"password": "hunter2", "n": 1});
        for source in ["input.password + 1", "input.password < input.n", "input[input.password]", "nothing.x"] {
            let error = evaluate(source, &input).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains(source), "{error}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        assert!(Expression::compile(&format!("'{}'", "x".repeat(MAX_SOURCE))).is_err());
        let error = evaluate("input.map(x, x)", &json!(vec![0; MAX_LIST + 1])).unwrap_err();
        assert!(error.to_string().contains("cap"), "{error}");
        assert_eq!(Expression::compile("1 +").unwrap_err().0.lines().count(), 1);
    }
}
