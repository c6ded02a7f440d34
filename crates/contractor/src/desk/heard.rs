//! Commands that were heard: each is carried out once, however often the broker brings it, and whatever restarts between.

use messages::{
    envelope::{Headers, header},
    query::{Refusal, RefusalKind},
};
use store::{Commit, CommitError, InboxKey, Store};

use crate::{damage::unavailable, trust::Caller};

/// Remembers a command, whose signature over these headers was found right. Its signature is what it is known by, in the
/// inbox, where it stays for longer than it may be old.
///
/// # Errors
/// A [conflict](RefusalKind::Conflict) where it was heard before, and why it cannot be remembered where it cannot.
pub(super) async fn first(store: &Store, caller: &Caller, headers: &Headers, name: &str) -> Result<(), Refusal> {
    let signature = header(headers, "cortex-signature").unwrap_or_default();
    let key = InboxKey { source: format!("command of {}", caller.source), id: signature.to_owned() };
    match store.commit(Commit { inbox: Some(key), ..Commit::default() }).await {
        Ok(_) => Ok(()),
        Err(CommitError::Duplicate { first, .. }) => Err(Refusal::new(
            RefusalKind::Conflict,
            format!("this very command was carried out before, at {}; ask again to have it done again", first.at),
        )),
        // On a full disk the commands that make room must work.
        Err(error) if error.is_transient() && name.starts_with("store.") => Ok(()),
        Err(error) => Err(unavailable(&error)),
    }
}

#[cfg(test)]
mod tests {
    use store::Options;

    use super::*;

    #[tokio::test]
    async fn a_command_is_taken_once_also_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Store::open(folder.path(), Options { min_free_bytes: 0, ..Options::default() }).unwrap();
        let ada = Caller { source: "/operator/ada".to_owned(), key: "ABCDEFGH".to_owned() };
        let signed = |signature: &str| Headers::from([("Cortex-Signature".to_owned(), signature.to_owned())]);
        let store = open();
        first(&store, &ada, &signed("a+/="), "flows.cancel").await.unwrap();
        first(&store, &ada, &signed("b"), "flows.cancel").await.unwrap();
        let again = first(&store, &ada, &signed("a+/="), "flows.cancel").await.unwrap_err();
        assert_eq!(again.kind, RefusalKind::Conflict, "{again:?}");
        store.close().await;
        let store = open();
        let again = first(&store, &ada, &signed("a+/="), "flows.cancel").await.unwrap_err();
        assert!(again.message.starts_with("this very command was carried out before, at "), "{again:?}");
        store.close().await;
    }
}
