//! What a failed Proxmox call means for a step: wait, retry, or fail with the line that mends it.

use std::time::Duration;

use contractor::action::StepError;
use proxmox::{
    Client, Error,
    error::{Advice, Kind},
};
use store::ReadError;

/// The step's error for a failed call or task.
pub(crate) fn of(client: &Client, error: &Error) -> StepError {
    let reason = error.to_string();
    match (error.advice(), &error.kind) {
        (Advice::Wait, Kind::StorageFull | Kind::HostFull) => StepError::no_capacity(reason, Duration::from_secs(30)),
        (Advice::Wait, Kind::Locked(_) | Kind::LockTimeout) => StepError::wait(reason, Duration::from_secs(3)),
        (Advice::Wait, _) => StepError::wait(reason, Duration::from_secs(5)),
        (Advice::Retry, _) => StepError::retry(reason),
        (Advice::Fail, kind) => match hint(client, kind) {
            Some(hint) => StepError::fail(reason).with_hint(hint),
            None => StepError::fail(reason),
        },
    }
}

/// The inventory could not be read: nothing that an attempt more would mend.
pub(crate) fn read(error: ReadError) -> StepError {
    StepError::fail(format!("the inventory cannot be read: {error}"))
}

fn hint(client: &Client, kind: &Kind) -> Option<String> {
    match kind {
        Kind::Permission { path, privileges } if !path.is_empty() => {
            Some(crate::check::grant(client.identity(), path, privileges))
        }
        Kind::Authentication => Some("give the contractor a valid API token in proxmox.credential_file".to_owned()),
        Kind::Untrusted => {
            Some("compare the fingerprint with `pvenode cert info` on that node, then pin it".to_owned())
        }
        Kind::TargetRefused => Some("add the network to allowed_targets if it is meant to be reached".to_owned()),
        _ => None,
    }
}
