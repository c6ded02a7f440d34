//! Where a lab's operator may make the Talos API of a node misbehave.

use std::net::IpAddr;
use std::time::Duration;

/// A call that is about to be served.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    pub vmid: u32,
    pub address: IpAddr,
    /// `/machine.MachineService/Reboot`
    pub path: &'a str,
}

/// What happens to a call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Fault {
    #[default]
    None,
    /// Answered after a delay.
    Delay(Duration),
    /// Refused with a gRPC code and text, without effect.
    Refuse { code: i32, text: String },
    /// Executed, and the connection breaks before the reply.
    DropReply,
    /// Never answered, without effect.
    Hang,
}

/// Decides for every call of every node; shared with the lab's control endpoint.
pub trait TalosFaults: Send + Sync {
    fn on_call(&self, call: &Call<'_>) -> Fault;
}

/// Nothing ever goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFaults;

impl TalosFaults for NoFaults {
    fn on_call(&self, _: &Call<'_>) -> Fault {
        Fault::None
    }
}
