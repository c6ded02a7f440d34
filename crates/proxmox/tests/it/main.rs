//! The client against servers that answer by script.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without may fail it")]

mod requests;
mod script;
mod wire;
