//! Which privilege each option of a VM needs, what is root's alone, and how options are stored (proxmox.md 3.1, 3.2).

use crate::proxmox::{
    access::Identity,
    disks,
    drive::{self, Drive, Net},
    error::{ApiError, ApiResult},
    formats,
    params::split_list,
    permission,
    world::World,
};

/// Who asks, for which VM, and in which pool it will be.
pub(super) struct Asker<'a> {
    pub(super) identity: &'a Identity,
    pub(super) host: &'a str,
    pub(super) vmid: u32,
    pub(super) pool: Option<&'a str>,
}

/// Parameters of calls that are not options of a VM.
pub(super) const NOT_OPTIONS: &[&str] = &[
    "node",
    "vmid",
    "pool",
    "storage",
    "archive",
    "start",
    "unique",
    "force",
    "bwlimit",
    "live-restore",
    "import-working-storage",
    "ha-managed",
    "delete",
    "revert",
    "digest",
    "skiplock",
    "background_delay",
    "cdrom",
];

impl Asker<'_> {
    /// Privileges on the pool suffice for a VM that is, or will be, in it.
    pub(super) fn check(&self, world: &World, privilege: &str) -> ApiResult<()> {
        let in_pool = self.pool.is_some_and(|pool| world.may(self.identity, &format!("/pool/{pool}"), &[privilege]));
        if in_pool { Ok(()) } else { world.check(self.identity, &format!("/vms/{}", self.vmid), &[privilege]) }
    }

    /// The privilege that setting, changing or deleting an option needs.
    pub(super) fn check_option(&self, world: &World, key: &str, value: &str) -> ApiResult<()> {
        if drive::is_drive(key) || key.starts_with("unused") {
            let cdrom = Drive::parse(key, value).is_some_and(|drive| drive.is_cdrom());
            return self.check(world, if cdrom { "VM.Config.CDROM" } else { "VM.Config.Disk" });
        }
        let base = key.trim_end_matches(|c: char| c.is_ascii_digit());
        if let Some(text) = root_only(base, key, value).filter(|_| !self.identity.is_root()) {
            return Err(ApiError::die(text));
        }
        match base {
            "cores" | "sockets" | "vcpus" | "cpu" | "cpulimit" | "cpuunits" | "smp" | "numa" | "affinity" => {
                self.check(world, "VM.Config.CPU")
            }
            "memory" | "balloon" | "shares" => self.check(world, "VM.Config.Memory"),
            "acpi" | "hotplug" | "kvm" | "machine" | "scsihw" | "smbios" | "tablet" | "vga" | "watchdog" | "audio"
            | "arch" | "rng" | "serial" | "usb" | "hostpci" => self.check(world, "VM.Config.HWType"),
            "boot" | "bootdisk" => self.check(world, "VM.Config.Disk"),
            "cicustom" | "cipassword" | "citype" | "ciuser" | "ciupgrade" | "nameserver" | "searchdomain"
            | "sshkeys" | "ipconfig" => self.check(world, "VM.Config.Cloudinit"),
            "net" => self.check(world, "VM.Config.Network"),
            "startup" => world.check(self.identity, "/", &["Sys.Modify"]),
            _ => self.check(world, "VM.Config.Options"),
        }
    }

    /// What a NIC needs on its bridge, or on the VLAN of it.
    pub(super) fn check_net(&self, world: &World, value: &str) -> ApiResult<()> {
        let Some(net) = Net::parse(value) else { return Ok(()) };
        let Some(bridge) = net.bridge() else { return Ok(()) };
        let tag = net.tag().map(|tag| format!("/{tag}")).unwrap_or_default();
        world.check(self.identity, &format!("/sdn/zones/localnetwork/{bridge}{tag}"), &["SDN.Use"])
    }

    /// Storage rights and content types of a drive.
    pub(super) fn check_drive(&self, world: &World, drive: &Drive) -> ApiResult<()> {
        let slot = &drive.slot;
        if drive.file == "none" {
            return Ok(());
        }
        if drive.file == "cdrom" {
            return world.check(self.identity, "/", &["Sys.Console"]);
        }
        if drive.file.starts_with('/') {
            return self.only_root("Only root can pass arbitrary filesystem paths.");
        }
        let Some((storage, volume)) = drive.volume() else { return Ok(()) };
        if drive.is_cloudinit() && volume == "cloudinit" {
            return self.check_new_disk(world, storage);
        }
        if drive.wants_new().is_some() && !drive.is_cdrom() {
            self.check_new_disk(world, storage)?;
        } else {
            let known = world.storage(storage, self.host).map_err(ApiError::die)?;
            permission::check_volume(world, self.identity, &drive.file, Some(self.vmid))?;
            if let Some(volume) = world.volumes.get(known, self.host, volume)
                && !matches!(volume.content_type, "images" | "iso")
            {
                return Err(ApiError::param(slot, "content type needs to be 'images' or 'iso'"));
            }
        }
        drive.options.get("import-from").map_or(Ok(()), |source| self.check_import(world, slot, source))
    }

    fn check_new_disk(&self, world: &World, storage: &str) -> ApiResult<()> {
        world.check(self.identity, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        let known = world.storage(storage, self.host).map_err(ApiError::die)?;
        if known.holds("images") {
            return Ok(());
        }
        Err(ApiError::param("storage", format!("storage '{storage}' does not support vm images")))
    }

    fn check_import(&self, world: &World, slot: &str, source: &str) -> ApiResult<()> {
        let Some((storage, volume)) = formats::parse_volume_id(source).filter(|_| !source.starts_with('/')) else {
            return self.only_root("Only root can pass arbitrary filesystem paths.");
        };
        world.storage(storage, self.host).map_err(ApiError::die)?;
        let kind = match volume.split_once('/') {
            Some((folder @ ("iso" | "vztmpl" | "import" | "snippets" | "backup"), _)) => folder,
            _ => "images",
        };
        if !matches!(kind, "images" | "import") {
            let text = format!("{source} has wrong type '{kind}' - needs to be 'images' or 'import'");
            return Err(ApiError::param(slot, text));
        }
        if let Some(owner) = crate::proxmox::config::owner(source) {
            world.check(self.identity, &format!("/vms/{owner}"), &["VM.Clone"])?;
        } else {
            permission::check_volume(world, self.identity, source, None)?;
        }
        if disks::find(world, self.host, source).is_none() {
            return Err(ApiError::die(format!("volume '{source}' does not exist")));
        }
        Ok(())
    }

    fn only_root(&self, text: &str) -> ApiResult<()> {
        if self.identity.is_root() { Ok(()) } else { Err(ApiError::die(text)) }
    }
}

/// Options that nobody but root may set, with the text.
fn root_only(base: &str, key: &str, value: &str) -> Option<String> {
    match base {
        "args" | "lock" | "hookscript" => Some(format!("only root can set '{key}' config")),
        "hostpci" if !value.contains("mapping=") => {
            Some(format!("only root can set '{key}' config for non-mapped devices"))
        }
        "usb" if value.contains("host=") && !value.contains("spice") => {
            Some(format!("only root can set '{key}' config for real devices"))
        }
        "serial" if value != "socket" && !value.is_empty() => {
            Some(format!("only root can set '{key}' config for real devices"))
        }
        _ => None,
    }
}

/// Brings one option into the form it is stored in; drives are stored by whoever makes them.
pub(super) fn normalise(world: &mut World, key: &str, value: &str) -> String {
    match key {
        "tags" => normalise_tags(world, value),
        key if drive::is_net(key) => match Net::parse(value) {
            Some(mut net) => {
                if net.mac.is_none() {
                    net.mac = Some(world.random_mac());
                }
                net.print()
            }
            None => value.to_owned(),
        },
        "description" => value.trim_end().to_owned(),
        _ => value.to_owned(),
    }
}

/// Lower case, unique and sorted, unless the datacenter says otherwise.
fn normalise_tags(world: &World, value: &str) -> String {
    let style = world.options.get("tag-style").map(serde_json::Value::to_string).unwrap_or_default();
    let sensitive = style.contains("case-sensitive=1") || style.contains("\"case-sensitive\":1");
    let mut tags: Vec<String> = Vec::new();
    for tag in split_list(value) {
        let tag = if sensitive { tag } else { tag.to_lowercase() };
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    if !style.contains("ordering=config") && !style.contains("\"ordering\":\"config\"") {
        tags.sort();
    }
    tags.join(";")
}

/// `order=` may only name devices that exist.
pub(super) fn check_boot_order(value: &str, exists: impl Fn(&str) -> bool) -> ApiResult<()> {
    let Some(order) = value.split(',').find_map(|part| part.strip_prefix("order=")) else { return Ok(()) };
    match order.split(';').filter(|device| !device.is_empty()).find(|device| !exists(device)) {
        Some(missing) => Err(ApiError::die(format!("invalid bootorder: device '{missing}' does not exist'"))),
        None => Ok(()),
    }
}
