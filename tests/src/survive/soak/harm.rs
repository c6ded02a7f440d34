//! What goes wrong in a life. Each passes by itself.

use std::{fmt, thread, time::Duration};

use anyhow::Context;
use messages::subject::Party;
use rand::{Rng, seq::IndexedRandom};
use serde_json::Value;
use simulators::faults::Fault;

use crate::{process::signal, world::World};

/// Faults of calls to the datacenter, the nodes and the clusters.
const CALLS: [&str; 19] = [
    "pve POST /nodes/*/qemu#1=error:500:got no worker upid - start worker failed",
    "pve POST /nodes/*/qemu#1=drop-reply",
    "pve GET /nodes/*/qemu/*/config#2=error:595:No route to host",
    "pve GET /cluster/resources#2=error:500",
    "pve GET /nodes/*/tasks/**#2=drop-request",
    "pve POST /nodes/*/qemu/*/status/start#1=drop-reply",
    "pve PUT /nodes/*/qemu/*/resize=drop-reply",
    "pve task qmcreate *=warnings:2",
    "talos * /machine.MachineService/ApplyConfiguration#1=drop-request",
    "talos * /machine.MachineService/ApplyConfiguration#2=drop-reply",
    "talos * /machine.MachineService/Bootstrap#1=error:9:bootstrap is not available yet",
    "talos * /machine.MachineService/Bootstrap#1=drop-reply",
    "talos * /cosi.resource.State/Get#3=drop-reply",
    "talos * /cosi.resource.State/Watch#1=drop-request",
    "talos * /cosi.resource.State/List#2=error:14:transport is closing",
    "kube GET /api/v1/nodes#1=error:429:the server has received too many requests",
    "kube PATCH /api/v1/nodes/**#1=error:409:Operation cannot be fulfilled on nodes: the object has been modified",
    "kube PATCH /api/v1/nodes/**#2=drop-reply",
    "kube GET /api/v1/nodes#3=drop-request",
];

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// A call to the lab, in its own notation.
    Call(&'static str),
    /// The broker dies and comes back.
    Broker,
    /// A daemon stands still for some seconds.
    Frozen(Party),
}

impl Harm {
    /// One life in eight loses its broker, one in eight has a daemon that stands still.
    pub(super) fn draw(random: &mut impl Rng) -> Self {
        match random.random_range(0..16) {
            0 | 1 => Self::Broker,
            2 => Self::Frozen(Party::Infrastructure),
            3 => Self::Frozen(Party::Talos),
            _ => Self::Call(CALLS.choose(random).expect("there are some")),
        }
    }

    /// Plans what is planned; faults of the life before that met nothing are taken back.
    pub(super) async fn prepare(&self, world: &World) -> anyhow::Result<()> {
        let (url, client) = (faults(world), reqwest::Client::new());
        client.delete(&url).send().await?.error_for_status()?;
        if let Self::Call(fault) = self {
            let fault = Fault::parse(fault).map_err(|error| anyhow::anyhow!("{fault}: {error}"))?;
            client.post(&url).json(&fault).send().await?.error_for_status()?;
        }
        Ok(())
    }

    /// Does what is done to a process, once there is work: at a random instant, as a power cut would.
    pub(super) fn strike(&self, world: &mut World, random: &mut impl Rng) -> anyhow::Result<()> {
        let mut moments = |longest: u64| thread::sleep(Duration::from_millis(random.random_range(0..longest)));
        match self {
            Self::Call(_) => {}
            Self::Broker => {
                moments(1500);
                world.nats.kill();
                moments(3000);
                world.nats.start_again()?;
            }
            Self::Frozen(party) => {
                let process = if *party == Party::Talos { &world.talos } else { &world.infrastructure };
                let id = process.id().with_context(|| format!("{} ended", process.name()))?;
                moments(1500);
                signal(id, "STOP")?;
                moments(5000);
                signal(id, "CONT")?;
            }
        }
        Ok(())
    }

    /// Whether it met anything.
    pub(super) async fn has_met(&self, world: &World) -> anyhow::Result<bool> {
        if !matches!(self, Self::Call(_)) {
            return Ok(true);
        }
        let rules: Vec<Value> = reqwest::get(faults(world)).await?.error_for_status()?.json().await?;
        Ok(rules.iter().all(|rule| rule["fired"].as_u64().is_some_and(|fired| fired > 0)))
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(fault) => f.write_str(fault),
            Self::Broker => f.write_str("a broker that dies"),
            Self::Frozen(party) => write!(f, "{party}-contractor standing still"),
        }
    }
}

fn faults(world: &World) -> String {
    format!("{}/v1/faults", world.facts.control)
}
