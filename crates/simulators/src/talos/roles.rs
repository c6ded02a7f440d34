//! Talos roles and which of them each method admits (talos.md 2.5).

/// A role as a certificate's organization or `talos-role` metadata names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Admin,
    Operator,
    Reader,
    EtcdBackup,
    ImageVerifier,
    MetaWriter,
    Impersonator,
}

impl Role {
    const ALL: [Self; 7] = [
        Self::Admin,
        Self::Operator,
        Self::Reader,
        Self::EtcdBackup,
        Self::ImageVerifier,
        Self::MetaWriter,
        Self::Impersonator,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Admin => "os:admin",
            Self::Operator => "os:operator",
            Self::Reader => "os:reader",
            Self::EtcdBackup => "os:etcd:backup",
            Self::ImageVerifier => "os:image:verifier",
            Self::MetaWriter => "os:meta:writer",
            Self::Impersonator => "os:impersonator",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// The roles of a caller; rides in the request's extensions.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Roles(Vec<Role>);

impl Roles {
    pub(crate) fn of(role: Role) -> Self {
        Self(vec![role])
    }

    /// Unknown names are ignored, as Talos ignores them.
    pub(crate) fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().filter_map(Role::parse).collect())
    }

    pub(crate) fn includes(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().map(|role| role.name())
    }

    /// Whether one of the roles may call `/package.Service/Method`.
    pub(crate) fn may_call(&self, path: &str) -> bool {
        allowed(path).iter().any(|role| self.includes(*role))
    }
}

const ADMIN: &[Role] = &[Role::Admin];
const ADMIN_READER: &[Role] = &[Role::Admin, Role::Reader];
const OPERATORS: &[Role] = &[Role::Admin, Role::Operator];
const BACKUP: &[Role] = &[Role::Admin, Role::Operator, Role::EtcdBackup];
const ETCD_READERS: &[Role] = &[Role::Admin, Role::Operator, Role::Reader, Role::EtcdBackup];
const META: &[Role] = &[Role::Admin, Role::MetaWriter];
const VERIFIERS: &[Role] = &[Role::Admin, Role::Operator, Role::Reader, Role::ImageVerifier];
const READERS: &[Role] = &[Role::Admin, Role::Operator, Role::Reader];

/// A method without a rule falls back to admin.
fn allowed(path: &str) -> &'static [Role] {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    match service {
        "machine.MachineService" => machine_method(method),
        "machine.ImageService" => match method {
            "List" => READERS,
            "Pull" => OPERATORS,
            "Verify" => VERIFIERS,
            _ => ADMIN,
        },
        "storage.StorageService" => match method {
            "Disks" => READERS,
            "BlockDeviceWipe" => ADMIN_READER,
            _ => ADMIN,
        },
        "machine.LVMService" | "machine.MDService" => ADMIN_READER,
        "cosi.resource.State" => match method {
            "Get" | "List" | "Watch" => READERS,
            _ => ADMIN,
        },
        "cluster.ClusterService" | "time.TimeService" | "inspect.InspectService" => READERS,
        _ => ADMIN,
    }
}

fn machine_method(method: &str) -> &'static [Role] {
    match method {
        "ApplyConfiguration" => ADMIN_READER,
        "EtcdAlarmDisarm" | "EtcdDefragment" | "ImagePull" | "PacketCapture" | "Reboot" | "Restart"
        | "ServiceStart" | "ServiceStop" | "ServiceRestart" | "Shutdown" => OPERATORS,
        "EtcdSnapshot" => BACKUP,
        "EtcdAlarmList" | "EtcdMemberList" | "EtcdStatus" => ETCD_READERS,
        "MetaWrite" | "MetaDelete" => META,
        "Containers" | "CPUFreqStats" | "CPUInfo" | "DiskStats" | "DiskUsage" | "Dmesg" | "Events" | "Hostname"
        | "ImageList" | "List" | "LoadAvg" | "Logs" | "LogsContainers" | "Memory" | "Mounts" | "NetworkDeviceStats"
        | "Netstat" | "Processes" | "ServiceList" | "Stats" | "SystemStat" | "Version" => READERS,
        _ => ADMIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_reaches_what_talos_lets_it_reach() {
        let check = |role, method: &str, expected| {
            let path = format!("/machine.MachineService/{method}");
            assert_eq!(Roles::of(role).may_call(&path), expected, "{role:?} {method}");
        };
        check(Role::Reader, "Version", true);
        check(Role::Reader, "ApplyConfiguration", true);
        check(Role::Reader, "Bootstrap", false);
        check(Role::Operator, "Reboot", true);
        check(Role::Operator, "Reset", false);
        check(Role::EtcdBackup, "EtcdSnapshot", true);
        check(Role::EtcdBackup, "Version", false);
        check(Role::Admin, "SomethingNew", true);
        check(Role::Impersonator, "Version", false);
    }
}
