//! The operator's command line: talks to the contractors over NATS, never to the files of a running one.

pub mod cli;
pub mod client;
pub mod commands;
pub mod document;
pub mod moxxie;
pub mod output;
pub mod plan;
pub mod status;
pub mod watch;
