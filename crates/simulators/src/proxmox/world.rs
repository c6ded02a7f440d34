//! The state of the simulated cluster, and the questions every call asks of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use indexmap::IndexMap;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Map, Value};

use super::{
    access::{Access, Identity},
    error::{ApiError, ApiResult},
    host::Host,
    storage::{Storage, Volumes},
    version::Version,
    vm::Vm,
};

/// Everything the cluster file system, the storages and the processes of a cluster know.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) version: Version,
    pub(crate) cluster: String,
    pub(crate) hosts: IndexMap<String, Host>,
    pub(crate) storages: IndexMap<String, Storage>,
    pub(crate) volumes: Volumes,
    pub(crate) vms: BTreeMap<u32, Vm>,
    pub(crate) pools: BTreeMap<String, Pool>,
    pub(crate) access: Access,
    /// `datacenter.cfg`.
    pub(crate) options: Map<String, Value>,
    pub(crate) ha: BTreeMap<u32, HaResource>,
    /// `/cluster/ha/rules` on 9.x.
    pub(crate) ha_rules: BTreeMap<String, Map<String, Value>>,
    /// The operator took quorum away.
    pub(crate) quorum_lost: bool,
    pub(crate) rng: StdRng,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    pub(crate) comment: Option<String>,
    pub(crate) vms: BTreeSet<u32>,
    pub(crate) storages: BTreeSet<String>,
}

/// A VM that the HA manager looks after.
#[derive(Clone, Debug)]
pub(crate) struct HaResource {
    /// `started`, `stopped`, `disabled`, `ignored`.
    pub(crate) state: String,
    pub(crate) comment: Option<String>,
    pub(crate) max_restart: u64,
    pub(crate) max_relocate: u64,
    pub(crate) failback: bool,
    /// Since when its node is gone.
    pub(crate) node_lost: Option<Instant>,
    /// The state that the manager has it in; none until its first cycle.
    pub(crate) crm: Option<&'static str>,
    /// Where it shall be moved to.
    pub(crate) target: Option<String>,
    /// The task that the manager waits for.
    pub(crate) task: Option<String>,
    /// Starts that failed here, and moves after such.
    pub(crate) restarts: u64,
    pub(crate) relocations: u64,
}

impl HaResource {
    /// With the defaults of `ha-manager add`.
    pub(crate) fn started() -> Self {
        Self {
            state: "started".to_owned(),
            comment: None,
            max_restart: 1,
            max_relocate: 1,
            failback: true,
            node_lost: None,
            crm: None,
            target: None,
            task: None,
            restarts: 0,
            relocations: 0,
        }
    }
}

impl World {
    pub(crate) fn new(version: Version, cluster: &str, seed: u64, root_password: &str) -> Self {
        Self {
            version,
            cluster: cluster.to_owned(),
            hosts: IndexMap::new(),
            storages: IndexMap::new(),
            volumes: Volumes::default(),
            vms: BTreeMap::new(),
            pools: BTreeMap::new(),
            access: Access::new(root_password, version),
            options: Map::new(),
            ha: BTreeMap::new(),
            ha_rules: BTreeMap::new(),
            quorum_lost: false,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    pub(crate) fn is_quorate(&self) -> bool {
        let online = self.hosts.values().filter(|host| host.is_online()).count();
        !self.quorum_lost && online * 2 > self.hosts.len()
    }

    /// Writers to the cluster file system need a majority.
    pub(crate) fn check_quorum(&self) -> ApiResult<()> {
        if self.is_quorate() { Ok(()) } else { Err(ApiError::die("cluster not ready - no quorum?")) }
    }

    /// The node whose pveproxy answers at the cluster's address.
    pub(crate) fn entry_host(&self) -> Option<&str> {
        self.hosts.iter().find(|(_, host)| host.is_online()).map(|(name, _)| name.as_str())
    }

    pub(crate) fn host(&self, name: &str) -> ApiResult<&Host> {
        self.hosts.get(name).ok_or_else(|| ApiError::die(format!("no such cluster node '{name}'")))
    }

    /// A VM on the node that was asked; VMs elsewhere do not exist there.
    pub(crate) fn vm(&self, host: &str, vmid: u32) -> ApiResult<&Vm> {
        let found = self.vms.get(&vmid).filter(|vm| vm.host == host);
        found.ok_or_else(|| ApiError::die(missing_config(host, vmid)))
    }

    pub(crate) fn vm_mut(&mut self, host: &str, vmid: u32) -> ApiResult<&mut Vm> {
        let found = self.vms.get_mut(&vmid).filter(|vm| vm.host == host);
        found.ok_or_else(|| ApiError::die(missing_config(host, vmid)))
    }

    /// A storage that exists, is enabled and belongs to the node.
    pub(crate) fn storage(&self, name: &str, host: &str) -> Result<&Storage, String> {
        let storage = self.storages.get(name).ok_or_else(|| format!("storage '{name}' does not exist"))?;
        if !storage.is_on(host) {
            return Err(format!("storage '{name}' is not available on node '{host}'"));
        }
        if storage.disabled {
            return Err(format!("storage '{name}' is disabled"));
        }
        Ok(storage)
    }

    /// Storages and volume names of a volume id on a node.
    pub(crate) fn volume_size(&self, host: &str, volume_id: &str) -> Option<u64> {
        let (name, volume) = super::formats::parse_volume_id(volume_id)?;
        Some(self.volumes.get(self.storages.get(name)?, host, volume)?.size)
    }

    /// The pool a VM is in.
    pub(crate) fn pool_of(&self, vmid: u32) -> Option<&str> {
        self.pools.iter().find(|(_, pool)| pool.vms.contains(&vmid)).map(|(name, _)| name.as_str())
    }

    /// What an identity may do at a path, pools included.
    pub(crate) fn privileges(&self, identity: &Identity, path: &str) -> BTreeMap<String, bool> {
        let pools: Vec<String> = match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
            Some(("vms", id)) => {
                id.parse().ok().and_then(|id| self.pool_of(id)).map(str::to_owned).into_iter().collect()
            }
            Some(("storage", name)) => {
                let pools = self.pools.iter().filter(|(_, pool)| pool.storages.contains(name));
                pools.map(|(pool, _)| pool.clone()).collect()
            }
            _ => Vec::new(),
        };
        self.access.privileges(identity, path, &pools)
    }

    /// Whether an identity has one of several privileges at a path.
    pub(crate) fn may(&self, identity: &Identity, path: &str, any: &[&str]) -> bool {
        let has = self.privileges(identity, path);
        any.iter().any(|privilege| has.contains_key(*privilege))
    }

    /// All of these privileges; the first that is missing is named.
    pub(crate) fn check(&self, identity: &Identity, path: &str, all: &[&str]) -> ApiResult<()> {
        let has = self.privileges(identity, path);
        match all.iter().find(|privilege| !has.contains_key(**privilege)) {
            Some(missing) => Err(ApiError::permission(Some(&format!("{path}, {missing}")))),
            None => Ok(()),
        }
    }

    /// One of these privileges.
    pub(crate) fn check_any(&self, identity: &Identity, path: &str, any: &[&str]) -> ApiResult<()> {
        if self.may(identity, path, any) {
            return Ok(());
        }
        Err(ApiError::permission(Some(&format!("{path}, {}", any.join("|")))))
    }

    /// Which node has a VM or claims the id, for the text of a refused create.
    pub(crate) fn taken(&self, vmid: u32) -> Option<String> {
        self.vms.get(&vmid).map(|vm| format!("VM {vmid} already exists on node '{}'", vm.host))
    }

    /// A MAC with the prefix of the datacenter.
    pub(crate) fn random_mac(&mut self) -> String {
        let prefix = self.options.get("mac_prefix").and_then(Value::as_str).unwrap_or("BC:24:11").to_uppercase();
        let missing = 6 - prefix.split(':').count();
        let rest = (0..missing).map(|_| format!(":{:02X}", self.rng.random::<u8>())).collect::<String>();
        prefix + &rest
    }

    pub(crate) fn random_uuid(&mut self) -> uuid::Uuid {
        uuid::Builder::from_random_bytes(self.rng.random()).into_uuid()
    }

    /// The range `nextid` draws from.
    pub(crate) fn id_range(&self) -> (u32, u32) {
        let next_id = self.options.get("next-id").and_then(Value::as_str).unwrap_or_default();
        let part = |key: &str, default| {
            let found = next_id.split(',').find_map(|part| part.trim().strip_prefix(key));
            found.and_then(|value| value.parse().ok()).unwrap_or(default)
        };
        (part("lower=", 100), part("upper=", 1_000_000))
    }
}

/// The text for a VM whose configuration is loaded but not there.
pub(crate) fn missing_config(host: &str, vmid: u32) -> String {
    format!("Configuration file 'nodes/{host}/qemu-server/{vmid}.conf' does not exist")
}

/// The text for a missing VM in calls that look at the process first.
pub(crate) fn missing_vm(host: &str, vmid: u32) -> String {
    format!("unable to find configuration file for VM {vmid} on node '{host}'")
}
