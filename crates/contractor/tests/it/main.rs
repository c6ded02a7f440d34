//! The driver over a real store: what the engine's semantics promise once processes, disks and clocks take part.
#![expect(clippy::unwrap_used, reason = "what helps tests panics as tests do")]

mod bench;
mod certificates;
mod damage;
mod flows;
mod locks;
mod steps;
