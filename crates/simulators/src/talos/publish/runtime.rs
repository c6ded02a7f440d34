//! Stage, versions, platform, configuration and time.

use base64::Engine as _;
use prost::Message as _;
use serde_json::{Value, json};
use talos::proto::resource::config::{MachineConfigSpec, MachineTypeSpec};

use crate::talos::config::Config;
use crate::talos::cosi::yaml::Yaml;
use crate::talos::cosi::{kinds, named};
use crate::talos::node::{Boot, Stage, stage_name};
use crate::talos::release::Line;

/// Publishes the stage and what keeps the node from being ready.
pub(crate) fn machine_status(boot: &Boot, stage: Stage, ready: bool, unmet: &[(String, String)]) {
    let number = u64::try_from(stage as i32).unwrap_or(0);
    let unmet: Vec<Value> = unmet.iter().map(|(name, reason)| json!({"name": name, "reason": reason})).collect();
    let spec = json!({
        "stage": named(stage_name(stage), number),
        "status": {"ready": ready, "unmetConditions": unmet},
    });
    boot.cosi.put(kinds::MACHINE_STATUSES, "machine", &spec);
}

/// Publishes what the image and the platform say.
pub(super) fn platform(boot: &Boot) {
    let version = if boot.release.line >= Line::V1_13 {
        json!({"version": boot.release.tag(), "name": "Talos"})
    } else {
        json!({"version": boot.release.tag()})
    };
    boot.cosi.put(kinds::VERSIONS, "version", &version);
    if boot.release.line >= Line::V1_14 {
        boot.cosi.put(kinds::BOOT_IDS, "boot-id", &json!({"bootID": boot.boot_id.to_string()}));
    }
    let instance = boot.machine.network.as_ref().map(|_| format!("i-{}", boot.machine.smbios_uuid.simple()));
    let hostname = boot.machine.network.as_ref().and_then(|network| network.hostname.clone());
    let metadata = json!({"platform": boot.image.platform, "hostname": hostname, "instanceId": instance});
    boot.cosi.put(kinds::PLATFORM_METADATAS, "platformmetadata", &metadata);
    let security =
        json!({"secureBoot": boot.machine.secure_boot, "bootedWithUKI": true, "moduleSignatureEnforced": true});
    boot.cosi.put(kinds::SECURITY_STATES, "securitystate", &security);
    let cmdline = kernel_command_line(boot);
    boot.cosi.put(kinds::KERNEL_CMDLINES, "cmdline", &json!({"cmdline": cmdline}));
    boot.cosi.put(kinds::BOOTED_ENTRIES, "bootedentry", &json!({"bootedEntry": format!("Talos-{}.efi", boot.release)}));
    extensions(boot);
    meta_keys(boot);
}

/// What the kernel was started with.
pub(crate) fn kernel_command_line(boot: &Boot) -> String {
    format!(
        "talos.platform={} console=tty1 console=ttyS0 init_on_alloc=1 slab_nomerge pti=on consoleblank=0 nvme_core.io_timeout=4294967295 printk.devkmsg=on selinux=1",
        boot.image.platform
    )
}

fn extensions(boot: &Boot) {
    let names = boot.extensions();
    let version = boot.release.tag().to_owned();
    let layers = names.iter().map(|name| (name.as_str(), version.as_str(), "Sidero Labs"));
    let schematic = boot.image.schematic.as_deref().map(|id| ("schematic", id, "Image Factory"));
    for (index, (name, version, author)) in layers.chain(schematic).enumerate() {
        let short = name.rsplit('/').next().unwrap_or(name);
        let image = if name == "schematic" {
            String::new()
        } else {
            format!("{index:03}.ghcr.io-{}-{version}.sqsh", name.replace('/', "-"))
        };
        let spec = json!({
            "image": image,
            "metadata": {
                "name": short, "version": version, "author": author, "description": "",
                "compatibility": {"talos": {"version": ">= v1.0.0"}},
            },
        });
        boot.cosi.put(kinds::EXTENSION_STATUSES, &index.to_string(), &spec);
    }
}

/// Publishes META as it is on the disk.
pub(crate) fn meta_keys(boot: &Boot) {
    let meta = boot.disk.read(|saved| saved.meta.clone());
    let ids: Vec<String> = meta.keys().map(|key| format!("0x{key:02x}")).collect();
    for (key, value) in &meta {
        boot.cosi.put(kinds::META_KEYS, &format!("0x{key:02x}"), &json!({"value": value}));
    }
    boot.cosi.retain(kinds::META_KEYS, &ids);
}

/// Publishes the configuration, active and persistent, and what only depends on it.
pub(crate) fn config(boot: &Boot, config: &Config) {
    let persistent = boot.disk.read(|saved| saved.config.clone());
    for (id, text) in [("v1alpha1", Some(config.text.clone())), ("persistent", persistent)] {
        let Some(text) = text else { continue };
        let spec = MachineConfigSpec { yaml_marshalled: text.clone().into_bytes() };
        boot.cosi.put_as(kinds::MACHINE_CONFIGS, id, spec.encode_to_vec(), &Yaml::Text(text));
    }
    if let Some(machine_type) = config.machine_type() {
        let spec = MachineTypeSpec { machine_type: i32::try_from(machine_type.number()).unwrap_or(0) };
        boot.cosi.put_as(
            kinds::MACHINE_TYPES,
            "machine-type",
            spec.encode_to_vec(),
            &Yaml::Text(machine_type.name().into()),
        );
    }
    let info = json!({"clusterId": config.cluster_id(), "clusterName": config.cluster_name()});
    boot.cosi.put(kinds::INFOS, "current", &info);
    boot.cosi.put(kinds::IDENTITIES, "local", &json!({"nodeId": boot.node_id()}));
    let version = boot.cosi.version(kinds::HOSTNAME_STATUSES, "hostname").unwrap_or_default();
    let nodename = json!({"nodename": boot.name(), "hostnameVersion": version, "skipNodeRegistration": false});
    boot.cosi.put(kinds::NODENAMES, "nodename", &nodename);
    let addresses = boot.network().addresses();
    boot.cosi.put(kinds::NODE_IPS, "kubelet", &json!({"addresses": addresses.iter().take(1).collect::<Vec<_>>()}));
    super::kubernetes::kube_prism(boot, config);
    super::kubelet::kubelet(boot, config);
}

/// Publishes whether the clock is in sync, and how often it has jumped.
pub(crate) fn time(boot: &Boot, synced: bool, epoch: u64) {
    boot.cosi.put(kinds::TIME_STATUSES, "node", &json!({"synced": synced, "epoch": epoch, "syncDisabled": false}));
}

/// Phase of an unattended install (1.14): 0 pending, 1 installing, 2 installed, 3 waiting for the reboot.
pub(crate) fn unattended_install(boot: &Boot, phase: u64) {
    let Some(image) = boot.active_config().and_then(|config| config.install_image()) else { return };
    let name = ["pending", "installing", "installed", "waiting-for-reboot", "failed"];
    let name = name.get(usize::try_from(phase).unwrap_or(0)).copied().unwrap_or("pending");
    boot.cosi.put(
        kinds::UNATTENDED_INSTALLS,
        "unattended-install",
        &json!({"image": image, "phase": named(name, phase)}),
    );
}

/// Standard base64 of a PEM text, as YAML shows it.
pub(super) fn pem(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}
