//! Journal, inventory, inbox, outbox and sealed secrets on sled, behind one `commit`.
//!
//! One thread owns every write. A [`Commit`] is applied as one atomic batch, up to 64 of them share one fsync, and
//! [`Store::commit`] resolves after it: whatever the store has acknowledged survives `kill -9` and power loss.

mod apply;
mod archive;
mod audit;
mod commit;
mod draft;
mod export;
mod export_file;
mod folder;
mod keys;
mod opening;
mod outbox;
mod reader;
mod record;
mod rekey;
mod retention;
mod rows;
mod seal;
mod shared;
mod store;
mod verify;
mod view;
mod writer;

pub use audit::{AuditHead, AuditProblem, AuditRecord, AuditVerified, Deed};
pub use commit::{
    Commit, CommitError, Committed, Definition, InboxKey, InventoryChange, Lane, Outgoing, Precondition, RunAppend,
    RunId, RunSummary, SecretPut,
};
pub use export::{Exported, TransferError};
pub use opening::{Loss, OpenError, accept_loss};
pub use reader::{Each, Entry, Known, ReadError, Reader, Secret, Versioned};
pub use rekey::{Recovery, Rekey, RekeyError, Rekeyed, rekey};
pub use retention::{Pruned, Retention};
pub use rows::{InboxRow, OutboxRow, ParkedRow, RunQuery, RunRow, RunState};
pub use seal::{KeyError, create_key_file};
pub use store::{Compacted, Options, Store, import};
pub use verify::Verified;
