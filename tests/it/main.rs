//! Scenarios against real parts: a real `nats-server`, the real daemons, the lab.

mod bus;
