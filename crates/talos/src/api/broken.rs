//! Whether a failed call was answered with an error, or its connection broke.
//!
//! gRPC has no word for that: its library makes a status of its own, `Unknown` as a rule, as if the node had said so.

use std::error::Error;

use tonic::Status;

/// How the connection broke, if that is what became of the call. A stream that was reset is none: the node is there.
pub(super) fn why(status: &Status) -> Option<String> {
    let (mut of_connection, mut last) = (false, None);
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_reset) {
            return None;
        }
        of_connection |= error.is::<hyper::Error>();
        last = Some(error);
        cause = error.source();
    }
    last.filter(|_| of_connection).map(ToString::to_string)
}
