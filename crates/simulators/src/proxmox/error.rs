//! Errors as the API shows them: a status code, a message whose first line is the reason phrase, and
//! texts per parameter (proxmox.md 1.4).

use std::collections::BTreeMap;

/// What a call failed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) code: u16,
    pub(crate) message: String,
    pub(crate) errors: BTreeMap<String, String>,
    /// Errors of the HTTP server itself (401, 501, 59x) carry no body in the `json` format.
    pub(crate) bare: bool,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// A plain Perl `die`: status 500 with the text.
    pub(crate) fn die(message: impl Into<String>) -> Self {
        Self { code: 500, message: message.into(), errors: BTreeMap::new(), bare: false }
    }

    pub(crate) fn with_code(code: u16, message: impl Into<String>) -> Self {
        Self { code, ..Self::die(message) }
    }

    /// An answer of the HTTP server rather than of a handler: reason phrase only.
    pub(crate) fn bare(code: u16, message: impl Into<String>) -> Self {
        Self { bare: true, ..Self::with_code(code, message) }
    }

    /// One bad parameter.
    pub(crate) fn param(name: &str, text: impl Into<String>) -> Self {
        Self::params(BTreeMap::from([(name.to_owned(), text.into())]))
    }

    /// All bad parameters at once.
    pub(crate) fn params(errors: BTreeMap<String, String>) -> Self {
        Self { errors, ..Self::with_code(400, "Parameter verification failed.") }
    }

    /// A missing privilege, named as `path, Privilege`.
    pub(crate) fn permission(detail: Option<&str>) -> Self {
        let message = match detail {
            Some(detail) => format!("Permission check failed ({detail})"),
            None => "Permission check failed".to_owned(),
        };
        Self::with_code(403, message)
    }

    /// The reason phrase: only the first line survives in a status line.
    pub(crate) fn reason(&self) -> &str {
        self.message.lines().next().unwrap_or_default()
    }
}

impl From<String> for ApiError {
    fn from(message: String) -> Self {
        Self::die(message)
    }
}
