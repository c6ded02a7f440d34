//! Messages over NATS JetStream; queries, commands and discovery over NATS services.
//!
//! The stream is a transport: the sender's outbox and the receiver's inbox are the record. A publish that timed out may
//! have landed and is repeated with the same id; a message is acknowledged after the receiver's commit.

mod admin;
mod api;
mod certificates;
mod connect;
mod consume;
pub mod identity;
mod link;
pub mod persons;
mod plain;
mod publish;
pub mod rotation;
pub mod server_config;
mod service;
mod shown;
pub mod streams;
mod tail;

pub use admin::{AdminError, Difference, Waiting, check, check_consumers, init, waiting};
pub use connect::{Bus, ConnectError, MINIMUM_SERVER, Options};
pub use consume::{AckError, ConsumeError, Deliveries, Delivery};
pub use link::{Link, Violation};
pub use plain::{host_of, leaves_in_plain};
pub use publish::{Outgoing, PublishError, Published};
pub use service::{Call, Discovered, DiscoveredEndpoint, Reply, RequestError, Service, ServiceError, ServiceSpec};
pub use tail::{Recorded, Tail, TailError, TailFrom};
