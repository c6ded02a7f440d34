//! COSI: the resources of one boot of a node, their encodings, and the State service that serves them (talos.md 4).

pub(crate) mod encode;
pub(crate) mod kinds;
mod query;
pub(crate) mod schema;
mod server;
mod store;
pub(crate) mod yaml;

pub(crate) use self::encode::named;
pub(crate) use self::server::StateService;
pub(crate) use self::store::Store;
