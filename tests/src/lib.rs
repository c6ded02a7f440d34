//! What demo and tests share: a bus of one's own, and the world built on it.

pub mod binaries;
pub mod demo;
pub mod nats;
pub mod process;
pub mod world;
