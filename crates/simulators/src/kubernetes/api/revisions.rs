//! What a read asks about resource versions: any, not older than, or exactly that one.

use serde_json::json;

use super::error::ApiError;
use super::request::ObjectRequest;

/// The revision that a list must show exactly; `None` when the newest will do.
///
/// # Errors
/// 400 for what is no version, 422 for options that exclude each other, 504 for a version that does not exist yet.
pub(crate) fn wanted(request: &ObjectRequest, current: u64) -> Result<Option<u64>, ApiError> {
    let query = &request.query;
    let (version, matching) = (query.get("resourceVersion"), query.get("resourceVersionMatch"));
    let revision = version.map(parse).transpose()?;
    if request.verb == "watch" {
        return check_watch(request).map(|()| None);
    }
    if query.get("sendInitialEvents").is_some() {
        return Err(forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    let continued = query.get("continue").is_some();
    match (matching, revision) {
        (None, _) if continued && revision.is_some_and(|it| it != 0) => {
            Err(ApiError::bad_request("specifying resource version is not allowed when using continue"))
        }
        (None, Some(revision)) if revision > current => Err(too_large(revision, current)),
        // Pages of a list that was asked for at a version are of exactly that one.
        (None, Some(revision))
            if revision > 0 && request.verb == "list" && query.get("limit").is_some_and(|it| it != "0") =>
        {
            Ok(Some(revision))
        }
        (None, _) => Ok(None),
        (Some(_), _) if continued => {
            Err(forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"))
        }
        (Some(_), None) => Err(forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        (Some("Exact"), Some(0)) => Err(forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        )),
        (Some("Exact" | "NotOlderThan"), Some(revision)) if revision > current => Err(too_large(revision, current)),
        (Some("Exact"), revision) => Ok(revision),
        (Some("NotOlderThan"), _) => Ok(None),
        (Some(other), _) => {
            let why = format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\"");
            Err(invalid("resourceVersionMatch", &why))
        }
    }
}

fn check_watch(request: &ObjectRequest) -> Result<(), ApiError> {
    let query = &request.query;
    match (query.get("sendInitialEvents").is_some(), query.get("resourceVersionMatch")) {
        (false, None) | (true, Some("NotOlderThan")) => Ok(()),
        (false, Some(_)) => Err(forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        )),
        (true, _) => Err(forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        )),
    }
}

fn parse(version: &str) -> Result<u64, ApiError> {
    version.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "invalid resource version {version:?}: strconv.ParseUint: parsing {version:?}: invalid syntax"
        ))
    })
}

fn forbidden(field: &str, why: &str) -> ApiError {
    invalid(field, &format!("Forbidden: {why}"))
}

fn invalid(field: &str, why: &str) -> ApiError {
    ApiError::new(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: {why}"))
}

fn too_large(wanted: u64, current: u64) -> ApiError {
    let mut error = ApiError::new(504, "Timeout", format!("Too large resource version: {wanted}, current: {current}"));
    error.details = Some(json!({
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1}));
    error
}
