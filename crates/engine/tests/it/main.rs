//! The engine without a driver: runs are played against a world that is a set of names.

mod crash;
mod hostile;
mod machine;
mod schema;
mod semantics;
mod simulation;
