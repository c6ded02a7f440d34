//! Scenarios against real parts: a real `nats-server`, the real daemons, the lab.

mod bus;
mod canary;
mod kill;
mod life;
mod refusal;
mod scenario;
