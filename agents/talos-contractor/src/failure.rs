//! From what went wrong outside to what the driver does about it: wait, retry or fail.

use std::time::Duration;

use contractor::action::{Failure, StepError};
use rustls::AlertDescription;
use store::ReadError;
use talos::api::{self, Code};

use crate::inventory::Node;

/// How soon a node that does not answer is asked again.
const SOON: Duration = Duration::from_millis(500);
/// How soon one is asked again where somebody has to mend something first.
const LATER: Duration = Duration::from_secs(1);

/// A whole chain of causes in one line; none of our errors repeats its source.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

/// The store could not be read: a damaged record does not mend itself.
pub fn read(error: ReadError) -> StepError {
    match error {
        ReadError::Failed(_) => StepError::retry(chain(&error)),
        _ => StepError::fail(chain(&error)),
    }
}

/// Something of our own cannot be used.
pub fn unusable(what: &str, error: &dyn std::error::Error) -> StepError {
    StepError::fail(format!("{what} cannot be used: {}", chain(error)))
}

/// A call of the Talos API failed. A node that is away or not ready yet is waited for.
pub fn reached(error: api::Error) -> StepError {
    let text = chain(&error);
    match &error {
        api::Error::Forbidden { .. } => {
            StepError::fail(text).with_hint("add the network to `allowed_targets` if it is meant to be reached")
        }
        api::Error::TimedOut { .. } => StepError::wait(text, Duration::ZERO),
        api::Error::Clock(_) => StepError::wait(format!("{text}; check the time servers of both"), LATER),
        api::Error::Stranger { .. } => StepError::wait(text, LATER),
        error if error.is_unreachable() => StepError::wait(text, SOON),
        error => match error.code() {
            // Talos's own words (talos.md 3.2).
            Some(Code::FailedPrecondition) if text.contains("time is not in sync") => {
                StepError::wait(format!("{text}; its clock was not set yet: check its time servers"), SOON)
            }
            Some(Code::FailedPrecondition | Code::Aborted | Code::ResourceExhausted) => StepError::wait(text, SOON),
            // A node that has not read its configuration yet does not know what it offers (talos.md 3).
            Some(Code::Unimplemented) if text.contains("machine type is not set") => StepError::wait(text, SOON),
            Some(Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented) => {
                StepError::fail(text)
            }
            _ => StepError::retry(text),
        },
    }
}

/// The same with the node's name in front: what a call says of itself is an address.
pub fn named(node: &Node, error: StepError) -> StepError {
    let name = &node.hostname;
    let with = |failure: Failure| Failure { message: format!("{name}: {}", failure.message), ..failure };
    match error {
        StepError::Wait { reason, after } => StepError::Wait { reason: format!("{name}: {reason}"), after },
        StepError::NoCapacity { reason, after } => StepError::NoCapacity { reason: format!("{name}: {reason}"), after },
        StepError::Retry(failure) => StepError::Retry(with(failure)),
        StepError::Fail(failure) => StepError::Fail(with(failure)),
    }
}

/// A call of the Kubernetes API failed. An API server that is away is waited for.
pub fn asked(what: &str, error: &kube::Error) -> StepError {
    let text = match error {
        // The rest of what it answers says the same again.
        kube::Error::Api(status) => format!("{what}: {}", status.message),
        error => format!("{what}: {}", chain(error)),
    };
    match error {
        kube::Error::Api(status) => match status.code {
            400 | 403 | 405 | 415 | 422 => StepError::fail(text),
            429 | 500..=599 => StepError::wait(text, Duration::from_secs(1)),
            _ => StepError::retry(text),
        },
        kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) => StepError::fail(text),
        error if is_about_dates(error) => {
            StepError::wait(format!("{text}; our clock or the node's is wrong: check the time servers of both"), LATER)
        }
        _ => StepError::wait(text, SOON),
    }
}

/// Whether TLS refused a certificate, theirs or ours, for its dates.
fn is_about_dates(error: &kube::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let within = within.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(refused) = error.downcast_ref::<rustls::Error>().or(within) {
            return match refused {
                rustls::Error::AlertReceived(alert) => *alert == AlertDescription::CertificateExpired,
                rustls::Error::InvalidCertificate(reason) => api::is_about_dates(reason),
                _ => false,
            };
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::CertificateError;

    use super::*;

    #[test]
    fn certificates_that_are_refused_for_their_dates_are_told_from_others() {
        let refused = |why: rustls::Error| {
            let error = kube::Error::Service(Box::new(io::Error::other(why)));
            match asked("reading nodes", &error) {
                StepError::Wait { reason, .. } => reason.contains("check the time servers"),
                other => panic!("{other}"),
            }
        };
        assert!(refused(rustls::Error::InvalidCertificate(CertificateError::NotValidYet)));
        assert!(refused(rustls::Error::AlertReceived(AlertDescription::CertificateExpired)));
        assert!(!refused(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)));
        assert!(!refused(rustls::Error::AlertReceived(AlertDescription::BadCertificate)));
    }
}
