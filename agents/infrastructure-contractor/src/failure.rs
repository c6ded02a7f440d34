//! What a failed Proxmox call means for a step: wait, retry, or fail with the line that mends it.

use std::time::Duration;

use contractor::action::StepError;
use proxmox::{
    Error,
    error::{Advice, Kind, Missing},
};
use rand::Rng;
use store::ReadError;

/// What to do about a credential that is refused.
const NO_CREDENTIAL: &str =
    "give the contractor a valid API token or password in proxmox.credential_file and start it again";

/// The step's error for a failed call or task.
pub(crate) fn of(error: &Error) -> StepError {
    let reason = error.to_string();
    match (error.advice(), &error.kind) {
        (Advice::Wait, Kind::StorageFull | Kind::HostFull) => StepError::no_capacity(reason, about(30)),
        (Advice::Wait, Kind::Locked(_) | Kind::LockTimeout) => StepError::wait(reason, about(3)),
        (Advice::Wait, _) => StepError::wait(reason, about(5)),
        // A credential that has expired: nothing was done, and taking back what was done needs a valid one, too.
        (Advice::Fail, Kind::Authentication) => StepError::wait(format!("{reason}; {NO_CREDENTIAL}"), about(15)),
        // It was proven to be there a moment ago: somebody moved or removed it since. The next look says which.
        (Advice::Retry, _) | (Advice::Fail, Kind::NotFound(Missing::Vm)) => StepError::retry(reason),
        (Advice::Fail, kind) => match hint(kind) {
            Some(hint) => StepError::fail(reason).with_hint(hint),
            None => StepError::fail(reason),
        },
    }
}

/// Half to one and a half times as many seconds: what failed together, on one lock or one dead host, comes back apart.
fn about(seconds: u64) -> Duration {
    Duration::from_secs(seconds).mul_f64(rand::rng().random_range(0.5..1.5))
}

/// The inventory could not be read: nothing that an attempt more would mend.
pub(crate) fn read(error: ReadError) -> StepError {
    StepError::fail(format!("the inventory cannot be read: {error}"))
}

fn hint(kind: &Kind) -> Option<String> {
    match kind {
        Kind::Permission { .. } => {
            Some("run `infrastructure-contractor check`: it prints the line that gives what is missing".to_owned())
        }
        Kind::Untrusted => {
            Some("compare the fingerprint with `pvenode cert info` on that node, then pin it".to_owned())
        }
        Kind::TargetRefused => Some("add the network to allowed_targets if it is meant to be reached".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proxmox::Error;

    use super::*;

    fn lock() -> StepError {
        let text = "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout";
        of(&Error::answered("PUT /x".into(), 500, text.into(), BTreeMap::new()))
    }

    #[test]
    fn a_busy_lock_is_waited_for_and_those_who_wait_come_back_apart() {
        let waits: BTreeSet<Duration> = (0..20)
            .map(|_| match lock() {
                StepError::Wait { after, .. } => after,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(waits.len() > 10, "{waits:?}");
        assert!(waits.iter().all(|after| (1500..4500).contains(&after.as_millis())), "{waits:?}");
    }
}
