//! What the actions work with.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, anyhow};
use contractor::{
    credentials::{Certificate, Dates},
    herald::{Context as About, Herald},
};
use jiff::Timestamp;
use messages::{event::DomainEvent, subject::Party};
use proxmox::{
    Client,
    coalesced::Coalesced,
    options::{Credentials, Options, Timeouts},
    targets::AllowedTargets,
    trust::Trust,
};
use store::{Commit, InventoryChange, Known, Outgoing, ReadError, Reader, Store};
use uuid::Uuid;

use crate::{
    claims::{Claims, Proposals},
    config::Sections,
    inventory::{Machine, Quarantine, Vm, quarantined_address_key, quarantined_vmid_key},
    monitoring::Monitoring,
    world::World,
};

/// Everything that an action may touch besides its context; a cheap clone.
#[derive(Clone)]
pub struct Deps {
    /// The hypervisors.
    pub proxmox: Client,
    /// For quarantines, which must outlive the step that found their reason.
    pub store: Store,
    /// Our part of the configuration.
    pub sections: Arc<Sections>,
    /// Where connections may go.
    pub allowed: AllowedTargets,
    /// What plans that were shown hold for a while.
    pub(crate) proposals: Proposals,
    /// What reservations have chosen that are not in the inventory yet.
    pub(crate) claims: Claims,
    /// What Prometheus knows of the clusters.
    pub(crate) monitoring: Arc<Monitoring>,
    world: Arc<Coalesced<World, proxmox::Error>>,
    machines: Arc<Mutex<Known<Vm>>>,
}

impl Deps {
    /// Reads credential and CA files and makes the clients; connects to nothing.
    pub fn new(sections: Sections, allowed_targets: &[String], store: Store) -> anyhow::Result<Self> {
        let allowed = AllowedTargets::new(allowed_targets.iter().filter_map(|text| text.parse().ok()));
        let proxmox = client(&sections, allowed.clone())?;
        let (proposals, claims) = (Proposals::default(), Claims::default());
        let (world, machines) = (Arc::default(), Arc::default());
        let monitoring = Arc::new(Monitoring::new(sections.monitoring.folder.clone()));
        let sections = Arc::new(sections);
        Ok(Self { proxmox, store, sections, allowed, proposals, claims, monitoring, world, machines })
    }

    /// All machines of the inventory as they are now. What has not changed since the last look is not read again: with many
    /// machines, that would cost more than anything else of a reservation.
    pub(crate) fn machines(&self, reader: &Reader) -> Result<Vec<Arc<Vm>>, ReadError> {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        *machines = reader.scan_again("vm/", std::mem::take(&mut *machines))?;
        Ok(machines.values().map(|known| Arc::clone(&known.value)).collect())
    }

    /// The hypervisors as they are now; those who ask at the same time share the look.
    pub(crate) async fn world(&self) -> Result<Arc<World>, proxmox::Error> {
        self.world.read(async || World::look(&self.proxmox).await.map(Arc::new)).await
    }

    /// Keeps the VMID and the address of a machine from use, until an operator lifts it.
    pub(crate) async fn quarantine(&self, machine: &Machine, reason: &str) {
        let keys = vec![quarantined_vmid_key(machine.vmid), quarantined_address_key(machine.ip)];
        self.keep_from_use(keys, Some(machine), reason).await;
    }

    /// Keeps a VMID from use, until an operator lifts it.
    pub(crate) async fn quarantine_vmid(&self, vmid: u32, reason: &str) {
        self.keep_from_use(vec![quarantined_vmid_key(vmid)], None, reason).await;
    }

    /// Keeps a machine's address from use, until an operator lifts it.
    pub(crate) async fn quarantine_address(&self, machine: &Machine, reason: &str) {
        self.keep_from_use(vec![quarantined_address_key(machine.ip)], Some(machine), reason).await;
    }

    /// Told once, with the commit that keeps it from use.
    async fn keep_from_use(&self, mut keys: Vec<String>, machine: Option<&Machine>, reason: &str) {
        let reader = self.store.reader();
        keys.retain(|key| !matches!(reader.get::<Quarantine>(key), Ok(Some(_))));
        if keys.is_empty() {
            return;
        }
        let row = Quarantine { reason: reason.to_owned(), since: Timestamp::now() };
        let row = crate::reservation::json(&row);
        let mut outgoing: Vec<_> = keys.iter().filter_map(|key| told("vm_quarantined", key, machine, reason)).collect();
        outgoing.extend(machine.and_then(|of| told("ownership_mismatch", of.hostname.as_str(), machine, reason)));
        let inventory = keys.into_iter().map(|key| InventoryChange::put(key, row.clone())).collect();
        if let Err(error) = self.store.commit(Commit { inventory, outgoing, ..Commit::default() }).await {
            tracing::error!(%error, reason, "a quarantine could not be recorded");
        }
    }
}

fn told(event: &str, object: &str, machine: Option<&Machine>, reason: &str) -> Option<Outgoing> {
    // No flow of its own: nobody listens for its changes.
    let herald = Herald::new(Party::Infrastructure, tokio::sync::mpsc::unbounded_channel().0);
    let flow = machine.map(|machine| machine.flow);
    let cluster = machine.map(|machine| machine.cluster.to_string());
    let body = DomainEvent {
        event_type: event.to_owned(),
        object: object.trim_start_matches("quarantine/").to_owned(),
        flow,
        message: Some(reason.to_owned()),
        facts: BTreeMap::new(),
    };
    let made = herald.event(Uuid::now_v7(), event, &About { flow, cluster, ..About::default() }, &body);
    made.map_err(|error| tracing::error!(error = error.message, event, "an event could not be made")).ok()
}

/// The certificates that the hypervisors have shown.
pub fn server_certificates(client: &Client) -> Vec<Certificate> {
    let shown = client.server_certificates().into_iter();
    let read = shown.filter_map(|(endpoint, der)| {
        let mend = "renew that node's certificate; a fingerprint changes with it: put the new one beside the old into \
                    proxmox.fingerprints before";
        let object = format!("the Proxmox API at {endpoint}");
        Some(Certificate { object, cluster: None, file: None, dates: Dates::of(&der)?, mend: mend.to_owned() })
    });
    read.collect()
}

/// A Proxmox client from the configuration.
pub fn client(sections: &Sections, allowed_targets: AllowedTargets) -> anyhow::Result<Client> {
    let section = &sections.proxmox;
    let file = &section.credential_file;
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let credentials = Credentials::parse(&text).map_err(|reason| anyhow!("{}: {reason}", file.display()))?;
    let trust = match &section.ca_file {
        Some(file) => {
            let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            Trust::authorities_from_pem(&pem).map_err(|reason| anyhow!("{}: {reason}", file.display()))?
        }
        None => {
            let pins = section.fingerprints.iter().map(|text| text.parse().map_err(|reason: String| anyhow!(reason)));
            Trust::Fingerprints(pins.collect::<Result<_, _>>()?)
        }
    };
    let endpoints = section.endpoints.iter().map(|text| text.parse().map_err(|reason: String| anyhow!(reason)));
    let options = Options {
        endpoints: endpoints.collect::<Result<_, _>>()?,
        credentials,
        trust,
        allowed_targets,
        timeouts: Timeouts::default(),
    };
    Client::new(options).map_err(|reason| anyhow!(reason))
}
