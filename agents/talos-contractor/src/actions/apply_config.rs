//! `talos.apply_config`: gives a machine in maintenance mode its configuration, after it has proven which machine it is.

use std::time::Duration;

use contractor::action::{Action, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use futures::future::join_all;
use jiff::Timestamp;
use messages::name::{ClusterName, NodeName};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{InventoryChange, SecretPut, Versioned};
use talos::{
    api::{
        self, ApplyMode, Client, ResetOptions,
        cosi::{self, AddressStatus, Disk, LinkStatus, SystemDisk},
    },
    config::MachineConfig,
    pki::Role,
    proto::talos::resource::definitions::{block::DiskSpec, network::LinkStatusSpec},
};
use tokio::time::{sleep, timeout};

use crate::{
    failure::{named, reached, read},
    inventory::{self, Cluster, ClusterState, ConfigHistory, Node, json as record},
    machine_config::{self, Hardware},
    proof,
    reach::{self, Deps, Missed, control_planes, known_cluster, known_node},
    told, waiting,
};

/// How long the node is given to come back with its own certificate before it is told what it waits for.
const SWITCH: Duration = Duration::from_secs(3);
/// How long a node is given to go down for its reset, and how often it is looked at meanwhile.
const RESET: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(200);
/// After so many looks in a row a node in maintenance mode is one that has not taken its configuration.
const IDLE: u32 = 10;
/// Smaller disks cannot hold Talos, bytes.
const SMALLEST_DISK: u64 = 5 << 30;

/// Applies the first configuration of a node.
pub struct ApplyConfig(pub Deps);

/// Which node.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    pub node: NodeName,
    /// Output of `talos.ensure_secrets`, so that this step comes after it.
    #[serde(default)]
    pub secrets: Option<Value>,
}

/// What the node was given.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub node: NodeName,
    /// SHA-256 of the configuration.
    pub digest: String,
    /// What the node warned about.
    pub warnings: Vec<String>,
}

impl Action for ApplyConfig {
    const NAME: &'static str = "talos.apply_config";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let cluster = known_cluster(cx, &input.cluster)?.value;
        let node = known_node(cx, &input.cluster, &input.node)?.value;
        if let Some(done) = self.taken(cx, &cluster, &node).await? {
            return Ok(done);
        }
        let connected = self.0.connector().maintenance(node.ip, None).await;
        let client = match connected {
            Ok(client) => client,
            Err(error) => {
                let sent = cx.last_checkpoint.is_some() && matches!(error, api::Error::Connect { .. });
                let error = named(&node, reached(error));
                return Err(if sent { self.booting(cx, &node, error).await } else { error });
            }
        };
        prove(&client, &node, self.0.settings().accept_unproven_nodes).await?;
        let hardware = inspect(&client, &node).await?;
        let (_, bundle) = reach::bundle(&cx.store, &input.cluster)?;
        let factory = &self.0.settings().image_factory;
        let config = machine_config::generate(factory, &cluster, &node, &hardware, &bundle)?;
        // From here on the node may have the cluster's keys, whatever becomes of the answer.
        cx.checkpoint(json!({ "configuration": "sent" })).await?;
        let applied = client.apply_configuration(&config.to_yaml(), ApplyMode::Auto).await;
        let applied = applied.map_err(|error| named(&node, reached(error)))?;
        if !applied.warnings.is_empty() {
            cx.checkpoint(json!({ "configuration": "taken", "warnings": applied.warnings })).await?;
        }
        cx.progress("configuration taken; waiting for the node to come back with its own certificate");
        if let Err(error) = waiting::for_node(&self.0, cx, &node, Role::Reader, SWITCH).await {
            return Err(self.booting(cx, &node, error).await);
        }
        self.done(cx, &node, &config, applied.warnings)
    }

    async fn find(&self, cx: &StepContext, input: &Input) -> Result<Option<Done<Output>>, StepError> {
        let cluster = known_cluster(cx, &input.cluster)?.value;
        let node = known_node(cx, &input.cluster, &input.node)?.value;
        self.taken(cx, &cluster, &node).await
    }

    async fn undo(&self, cx: &StepContext, input: &Input, _: Option<&Output>) -> Result<Effects, StepError> {
        let mut effects = Effects::default();
        let cluster = inventory::cluster(&cx.store, &input.cluster).map_err(read)?;
        let key = inventory::node_key(&input.cluster, &input.node);
        let Some(node) = cx.store.get::<Node>(&key).map_err(read)? else { return Ok(effects) };
        // The machine is given back wiped if it can be reached; its owner destroys it either way.
        let client = match &cx.last_checkpoint {
            // It may be booting, and would come back with the cluster's keys.
            Some(_) => self.back(cx, &node.value).await,
            None => self.0.node(&cx.store, &node.value, Role::Admin).await.ok(),
        };
        let active = cluster.filter(|cluster| cluster.value.state == ClusterState::Active);
        // A voter that is wiped and stays a member costs the cluster its quorum.
        if active.is_some() && node.value.is_control_plane() && cx.last_checkpoint.is_some() {
            let mut others = control_planes(&cx.store, &input.cluster)?;
            others.retain(|other| other.hostname != node.value.hostname);
            super::reset_node::remove_member(&self.0, cx, &others, &node.value).await?;
        }
        if let Some(client) = client {
            let partitions = vec!["STATE".to_owned(), "EPHEMERAL".to_owned()];
            let options = ResetOptions { graceful: false, reboot: true, partitions };
            if let Err(error) = client.reset(&options).await {
                tracing::info!(node = %input.node, %error, "the node could not be reset");
            }
        }
        // A cluster that stands would keep the node as one that is not ready; one in the making goes as a whole.
        if let Some(cluster) = active {
            self.left(cx, &node.value).await?;
            super::delete_node::delete(&self.0, cx, &cluster.value, &input.node).await?;
        }
        effects.inventory.push(InventoryChange::delete(inventory::config_key(&input.cluster, &input.node)));
        let name = inventory::machine_config_name(&input.cluster, &input.node);
        effects.secrets.push(SecretPut { name, plain: None });
        Ok(effects)
    }

    async fn preview(&self, _: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let object = format!("configuration to node {}", input["node"].as_str().unwrap_or("?"));
        Ok(vec![Change { verb: "apply".to_owned(), object, details: [].into(), destroys: false }])
    }
}

impl ApplyConfig {
    /// Whether the node already speaks with a certificate of this cluster: then it has taken its configuration.
    async fn taken(&self, cx: &StepContext, cluster: &Cluster, node: &Node) -> Result<Option<Done<Output>>, StepError> {
        let credentials = self.0.credentials(&cx.store, &node.cluster, Role::Reader)?;
        let client = match self.0.connector().secure(node.ip, &credentials).await {
            Ok(client) => client,
            // By its certificate it is a node of this cluster at this address: it has what it needs but the right time.
            Err(error @ api::Error::Clock(_)) => return Err(named(node, reached(error))),
            Err(_) => return Ok(None),
        };
        prove(&client, node, self.0.settings().accept_unproven_nodes).await?;
        let hardware = inspect(&client, node).await?;
        let (_, bundle) = reach::bundle(&cx.store, &cluster.name)?;
        let factory = &self.0.settings().image_factory;
        let config = machine_config::generate(factory, cluster, node, &hardware, &bundle)?;
        let told = cx.last_checkpoint.as_ref().and_then(|last| Vec::deserialize(&last["warnings"]).ok());
        self.done(cx, node, &config, told.unwrap_or_default()).map(Some)
    }

    /// Why a node that has its configuration is not back yet. A worker gets its certificate from a control plane, so the
    /// reason may be there.
    async fn booting(&self, cx: &StepContext, node: &Node, error: StepError) -> StepError {
        let StepError::Wait { reason, after } = error else { return error };
        let planes = control_planes(&cx.store, &node.cluster).unwrap_or_default();
        if node.is_control_plane() || planes.is_empty() {
            return StepError::wait(reason, after);
        }
        let states = planes.iter().map(|plane| async move {
            format!("{} is {}", plane.hostname, waiting::state_of(&self.0, cx, plane).await)
        });
        let states = join_all(states).await.join(", ");
        StepError::wait(format!("{reason}; its certificate comes from a control plane: {states}"), after)
    }

    /// A node that was sent its configuration, once it is up; none if it stays away, stays in maintenance mode, or does
    /// not let us in.
    async fn back(&self, cx: &StepContext, node: &Node) -> Option<Client> {
        let mut idle = 0;
        let look = async {
            loop {
                let waits = match self.0.try_node(&cx.store, node, Role::Admin).await {
                    Ok(client) => return Some(client),
                    // Another machine, or one with another time: whoever owns the right one destroys it.
                    Err(Missed::Wrong(_)) => true,
                    // It takes a moment from the answer until it leaves maintenance mode.
                    Err(Missed::Away(_)) => {
                        let open = self.0.connector().maintenance(node.ip, None).await;
                        matches!(open, Ok(_) | Err(api::Error::Stranger { .. }))
                    }
                };
                idle = if waits { idle + 1 } else { 0 };
                if idle > IDLE {
                    return None;
                }
                sleep(LOOK).await;
            }
        };
        timeout(RESET, look).await.ok().flatten()
    }

    /// Waits until a node that is being reset speaks for the cluster no more: its kubelet would make the node again.
    async fn left(&self, cx: &StepContext, node: &Node) -> Result<(), StepError> {
        let gone = async {
            while self.0.node(&cx.store, node, Role::Reader).await.is_ok() {
                sleep(LOOK).await;
            }
        };
        let still = || StepError::retry(format!("{} still runs {RESET:?} after its reset", node.hostname));
        timeout(RESET, gone).await.map_err(|_| still())
    }

    fn done(
        &self,
        cx: &StepContext,
        node: &Node,
        config: &MachineConfig,
        warnings: Vec<String>,
    ) -> Result<Done<Output>, StepError> {
        let (cluster, hostname) = (&node.cluster, &node.hostname);
        let digest = config.digest();
        let key = inventory::config_key(cluster, hostname);
        let known = cx.store.get::<ConfigHistory>(&key).map_err(read)?;
        let mut effects = Effects::default();
        let now = Timestamp::now();
        effects.inventory.push(match known {
            Some(Versioned { revision, value }) => {
                InventoryChange::update(key, revision, record(&value.with(&digest, now, cx.flow)))
            }
            None => InventoryChange::create(key, record(&ConfigHistory::default().with(&digest, now, cx.flow))),
        });
        let plain = SecretSlice::from(config.to_yaml().expose_secret().as_bytes().to_vec());
        let name = inventory::machine_config_name(cluster, hostname);
        effects.secrets.push(SecretPut { name, plain: Some(plain) });
        effects.events.push(told::event("config_applied", cluster, hostname.as_str(), json!({ "digest": digest })));
        Ok(Done::with_effects(Output { node: hostname.clone(), digest, warnings }, effects))
    }
}

/// Compares the machine's SMBIOS UUID with the handoff's: the configuration holds the cluster's keys, and nobody
/// vouches for whoever answers in maintenance mode.
async fn prove(client: &Client, node: &Node, accept_unproven: bool) -> Result<(), StepError> {
    if node.smbios_uuid.is_none() && !accept_unproven {
        return Err(StepError::fail(format!("the handoff names no SMBIOS UUID of {}", node.hostname))
            .with_hint("name it as `smbios_uuid`, or set `talos.accept_unproven_nodes` if the network is trusted"));
    }
    let found = proof::found(client).await.map_err(|error| named(node, reached(error)))?;
    proof::same(node, found)
}

/// Finds the disk and the link that the configuration will name.
async fn inspect(client: &Client, node: &Node) -> Result<Hardware, StepError> {
    let system = client.get::<SystemDisk>(cosi::SYSTEM_DISK).await.map_err(reached)?;
    let disks = client.list::<Disk>().await.map_err(reached)?;
    let usable = |disk: &DiskSpec| !disk.readonly && !disk.cdrom && disk.size >= SMALLEST_DISK;
    let is_system = |id: &str| system.as_ref().is_some_and(|system| system.spec.disk_id == id);
    let disk = disks.iter().find(|disk| is_system(&disk.id)).or_else(|| {
        let candidates = disks.iter().filter(|disk| usable(&disk.spec));
        candidates.min_by(|left, right| left.spec.dev_path.cmp(&right.spec.dev_path))
    });
    let disk = disk.ok_or_else(|| {
        let names: Vec<_> = disks.iter().map(|disk| format!("{} ({})", disk.id, disk.spec.pretty_size)).collect();
        StepError::fail(format!("{} has no disk to install to; it has {}", node.hostname, names.join(", ")))
    })?;
    Ok(Hardware { disk: machine_config::select(&disk.spec), link: link(client, node).await? })
}

async fn link(client: &Client, node: &Node) -> Result<String, StepError> {
    let links = client.list::<LinkStatus>().await.map_err(reached)?;
    if let Some(mac) = &node.mac {
        let found = links.iter().find(|link| hardware_address(&link.spec).eq_ignore_ascii_case(mac));
        return found.map(|link| link.id.clone()).ok_or_else(|| {
            StepError::fail(format!("{} has no network interface with the MAC address {mac}", node.hostname))
        });
    }
    let addresses = client.list::<AddressStatus>().await.map_err(reached)?;
    let addresses: Vec<_> = addresses
        .into_iter()
        .filter_map(|address| Some((address.spec.link_name.clone(), address.spec.address?.to_address()?)))
        .collect();
    machine_config::holds(&addresses, node.ip)
        .map(str::to_owned)
        .ok_or_else(|| StepError::fail(format!("no network interface of {} holds {}", node.hostname, node.ip)))
}

fn hardware_address(link: &LinkStatusSpec) -> String {
    let octets: Vec<_> = link.hardware_addr.iter().map(|octet| format!("{octet:02x}")).collect();
    octets.join(":")
}
