//! What a simulated cluster starts with: nodes, storages, pools, users and their rights.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use super::{
    access::{Subject, Token},
    host::{Bridge, Host, HostPower},
    storage::{Storage, StorageKind},
    version::Version,
    world::{Pool, World},
};

const GIB: u64 = 1 << 30;

/// How a cluster begins.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the API is served; port 0 takes any.
    pub address: SocketAddr,
    pub version: Version,
    pub cluster: String,
    pub hosts: Vec<HostOptions>,
    pub storages: Vec<Storage>,
    pub pools: Vec<String>,
    /// Every random value the cluster makes up comes from here.
    pub seed: u64,
    pub root_password: String,
    pub users: Vec<ApiUser>,
    /// Error bodies carry `message`; false is what nodes before libpve-http-server-perl 5.2.0 answer.
    pub message_in_body: bool,
}

/// One node of a cluster.
#[derive(Clone, Debug)]
pub struct HostOptions {
    pub name: String,
    pub ip: String,
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    pub bridges: Vec<Bridge>,
}

/// A user with a privilege-separated API token and what both may do.
#[derive(Clone, Debug)]
pub struct ApiUser {
    /// `user@realm`.
    pub user: String,
    pub password: Option<String>,
    pub token: String,
    pub secret: String,
    /// A role of the cluster's own.
    pub role: String,
    pub privileges: Vec<String>,
    /// Paths the role is granted on, with propagation.
    pub paths: Vec<String>,
}

impl HostOptions {
    /// A node with 32 CPUs, 128 GiB and one VLAN-aware bridge.
    pub fn new(name: &str, ip: &str) -> Self {
        Self {
            name: name.to_owned(),
            ip: ip.to_owned(),
            cpus: 32,
            memory: 128 * GIB,
            bridges: vec![Bridge::named("vmbr0")],
        }
    }
}

impl ApiUser {
    /// The user a contractor works as, with the rights of proxmox.md 8 and no more.
    pub fn contractor(version: Version, pool: &str, secret: &str) -> Self {
        let agent = if version.is_8() { "VM.Monitor" } else { "VM.GuestAgent.Audit" };
        let privileges = [
            "VM.Allocate",
            "VM.Audit",
            "VM.Clone",
            "VM.Config.CDROM",
            "VM.Config.CPU",
            "VM.Config.Cloudinit",
            "VM.Config.Disk",
            "VM.Config.HWType",
            "VM.Config.Memory",
            "VM.Config.Network",
            "VM.Config.Options",
            "VM.PowerMgmt",
            agent,
            "Datastore.Allocate",
            "Datastore.AllocateSpace",
            "Datastore.AllocateTemplate",
            "Datastore.Audit",
            "SDN.Use",
            "SDN.Audit",
            "Sys.Audit",
            "Sys.AccessNetwork",
            "Pool.Audit",
            "Pool.Allocate",
        ];
        let paths =
            [format!("/pool/{pool}"), "/storage".to_owned(), "/sdn/zones/localnetwork".to_owned(), "/nodes".to_owned()];
        Self {
            user: "cortex@pve".to_owned(),
            password: Some(secret.to_owned()),
            token: "infrastructure".to_owned(),
            secret: secret.to_owned(),
            role: "CortexContractor".to_owned(),
            privileges: privileges.iter().map(|privilege| (*privilege).to_owned()).collect(),
            paths: paths.into(),
        }
    }

    /// `user@realm!token=secret`, what goes after `PVEAPIToken=`.
    pub fn api_token(&self) -> String {
        format!("{}!{}={}", self.user, self.token, self.secret)
    }
}

impl Default for Options {
    /// Three nodes with local, thin and shared storage, a pool `cortex` and a contractor's token.
    fn default() -> Self {
        let version = Version::default();
        let hosts = (1..=3).map(|at| HostOptions::new(&format!("pve{at}"), &format!("127.0.0.{}", 10 + at))).collect();
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            version,
            cluster: "lab".to_owned(),
            hosts,
            storages: Self::default_storages(),
            pools: vec!["cortex".to_owned()],
            seed: 1,
            root_password: "lab".to_owned(),
            users: vec![ApiUser::contractor(version, "cortex", "11111111-2222-4333-8444-555555555555")],
            message_in_body: true,
        }
    }
}

impl Options {
    /// `local` for files, `local-lvm` thin, `local-zfs`, and `shared` over NFS.
    pub fn default_storages() -> Vec<Storage> {
        vec![
            Storage::new("local", StorageKind::Dir, &["iso", "vztmpl", "backup", "import", "snippets"], 200 * GIB),
            Storage::new("local-lvm", StorageKind::LvmThin, &["images", "rootdir"], 1000 * GIB),
            Storage::new("local-zfs", StorageKind::ZfsPool, &["images", "rootdir"], 1000 * GIB),
            Storage::new("shared", StorageKind::Nfs, &["images", "iso", "import"], 4000 * GIB),
        ]
    }

    /// The world at its first moment.
    pub(crate) fn build(self) -> World {
        let mut world = World::new(self.version, &self.cluster, self.seed, &self.root_password);
        for (at, options) in self.hosts.into_iter().enumerate() {
            let host = Host {
                id: at as u32 + 1,
                ip: options.ip,
                cpus: options.cpus,
                memory: options.memory,
                bridges: options.bridges,
                power: HostPower::On { since: Instant::now() },
                reports: true,
                broadcast: None,
                maintenance: false,
            };
            world.hosts.insert(options.name, host);
        }
        world.storages = self.storages.into_iter().map(|storage| (storage.name.clone(), storage)).collect();
        world.pools = self.pools.into_iter().map(|pool| (pool, Pool::default())).collect();
        for user in self.users {
            add_user(&mut world, user);
        }
        world
    }
}

fn add_user(world: &mut World, user: ApiUser) {
    let access = &mut world.access;
    access.add_user(&user.user, user.password.as_deref());
    let token = Token { secret: user.secret, privsep: true, comment: None, expire: 0 };
    if let Some(entry) = access.users.get_mut(&user.user) {
        entry.tokens = BTreeMap::from([(user.token.clone(), token)]);
    }
    access.custom_roles.insert(user.role.clone(), user.privileges.into_iter().collect());
    access.custom_roles.insert("CortexAudit".to_owned(), BTreeSet::from(["Sys.Audit".to_owned()]));
    let full_token = format!("{}!{}", user.user, user.token);
    for subject in [Subject::User(user.user.clone()), Subject::Token(full_token)] {
        access.grant("/", subject.clone(), "CortexAudit", true);
        for path in &user.paths {
            access.grant(path, subject.clone(), &user.role, true);
        }
    }
}
