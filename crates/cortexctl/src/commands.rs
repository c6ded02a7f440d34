//! One command group per file.

pub mod audit;
pub mod bus;
pub mod clusters;
pub mod completions;
pub mod credentials;
pub mod deadletter;
pub mod events;
pub mod flows;
pub mod inventory;
pub mod playbooks;
pub mod quarantine;
pub mod runs;
pub mod schema;
pub mod store;
