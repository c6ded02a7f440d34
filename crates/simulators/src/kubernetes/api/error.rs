//! Errors as the API says them: a `Status` object with code, reason, message and details.

use serde_json::{Value, json};

use crate::kubernetes::resources::Resource;

/// What a request failed with. `Display` is the message that kubectl prints.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) details: Option<Value>,
}

impl ApiError {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        let mut details = json!({"name": name, "kind": resource.plural});
        if !resource.group.is_empty() {
            details["group"] = json!(resource.group);
        }
        self.details = Some(details);
        self
    }

    fn with_cause(mut self, cause: Value) -> Self {
        self.details.get_or_insert_with(|| json!({}))["causes"] = json!([cause]);
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let quoted = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        Self::new(403, "Forbidden", format!("{}{quoted} is forbidden: {why}", resource.id())).about(resource, name)
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.id())).about(resource, name)
    }

    /// An error that the lab's operator planned.
    pub(crate) fn planned(code: u16, message: &str) -> Self {
        let reason = match code {
            401 => "Unauthorized",
            403 => "Forbidden",
            409 => "Conflict",
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            504 => "Timeout",
            _ => "InternalError",
        };
        let mut error = Self::new(code, reason, message);
        error.details = (code == 429).then(|| json!({"retryAfterSeconds": 1}));
        error
    }

    /// What an unknown path answers.
    pub(crate) fn no_such_path() -> Self {
        let mut error = Self::new(404, "NotFound", "the server could not find the requested resource");
        error.details = Some(json!({}));
        error
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.id())).about(resource, name)
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.id());
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// The conflict of optimistic concurrency.
    pub(crate) fn modified(resource: &Resource, name: &str) -> Self {
        const WHY: &str = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, WHY)
    }

    pub(crate) fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// Field errors, each `(field, reason, message)`; reasons are `FieldValueRequired`, `FieldValueInvalid` and so on.
    pub(crate) fn invalid(resource: &Resource, name: &str, problems: &[FieldProblem]) -> Self {
        let texts: Vec<String> = problems.iter().map(|it| format!("{}: {}", it.field, it.message)).collect();
        let list = if let [only] = texts.as_slice() { only.clone() } else { format!("[{}]", texts.join(", ")) };
        let kind = if resource.group.is_empty() {
            resource.kind.clone()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let mut error =
            Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {list}")).about(resource, name);
        let causes: Vec<Value> =
            problems.iter().map(|it| json!({"reason": it.reason, "message": it.message, "field": it.field})).collect();
        if let Some(details) = &mut error.details {
            details["kind"] = json!(resource.kind);
            details["causes"] = json!(causes);
        }
        error
    }

    pub(crate) fn unsupported_media_type(sent: &str, supported: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {supported} (got {sent:?})"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, application/json;stream=watch";
        Self::new(406, "NotAcceptable", message)
    }

    /// An eviction that a budget forbids now; see reliability.md section 9.
    pub(crate) fn disruption_budget(budget: &str, detail: &str) -> Self {
        Self::new(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")
            .with_cause(json!({"reason": "DisruptionBudget", "message": format!(
                "The disruption budget {budget} {detail}")}))
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
            .with_cause(json!({"message": message}))
    }

    /// What every request that needs etcd answers while etcd has no quorum.
    pub(crate) fn no_quorum() -> Self {
        Self::new(500, "", "etcdserver: request timed out")
    }

    /// The `Status` object of this error.
    pub(crate) fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

/// One problem with one field of a submitted object.
pub(crate) struct FieldProblem {
    pub(crate) field: String,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl FieldProblem {
    pub(crate) fn required(field: impl Into<String>, hint: &str) -> Self {
        let message = if hint.is_empty() { "Required value".to_owned() } else { format!("Required value: {hint}") };
        Self { field: field.into(), reason: "FieldValueRequired", message }
    }

    pub(crate) fn invalid(field: impl Into<String>, value: &Value, hint: &str) -> Self {
        Self { field: field.into(), reason: "FieldValueInvalid", message: format!("Invalid value: {value}: {hint}") }
    }
}
