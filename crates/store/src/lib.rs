//! Journal, inventory, inbox, outbox and sealed secrets on sled, behind one `commit`.
//!
//! One thread owns every write. A [`Commit`] is applied as one atomic batch, up to 64 of them share one fsync, and
//! [`Store::commit`] resolves after it: whatever the store has acknowledged survives `kill -9` and power loss.

mod commit;
mod reader;
mod rows;
mod seal;
mod store;

pub use commit::{
    Commit, CommitError, Committed, Definition, InboxKey, InventoryChange, Lane, Outgoing, Precondition, RunAppend,
    RunId, RunSummary, SecretPut,
};
pub use reader::{Entry, ReadError, Reader, Secret, Versioned};
pub use rows::{InboxRow, OutboxRow, ParkedRow, RunQuery, RunRow, RunState};
pub use seal::{KeyError, KeyFile, create_key_file};
pub use store::{OpenError, Options, Store};
