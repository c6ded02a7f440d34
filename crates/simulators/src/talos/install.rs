//! Installing Talos from an ISO to a disk, and which image an installer reference stands for (talos.md 3.5, 10).

use std::sync::Arc;

use serde_json::Value;
use talos::proto::machine::sequence_event::Action as SequenceAction;

use super::config::{Config, tag_of};
use super::disk::device_names;
use super::node::{Boot, Stage};
use super::publish;
use super::release::{Line, Release};
use super::sequence::{begin_phase, end_phase, publish_sequence};
use crate::machine::{ImageRef, Machine};

/// Installs to the disk that the configuration names; the node must reboot afterwards.
///
/// # Errors
/// The text of a failed task: no such disk, an image this Talos cannot install.
pub(crate) async fn run(boot: &Arc<Boot>, config: &Config) -> Result<(), String> {
    let unattended = boot.release.line >= Line::V1_14 && config.document("UnattendedInstallConfig").is_some();
    publish_sequence(boot, "install", SequenceAction::Start, None, "");
    if unattended {
        publish::unattended_install(boot, 1);
    } else {
        begin_phase(boot, "install", "install", "");
        boot.set_stage(Stage::Installing);
    }
    let index = target(&boot.machine, config)?;
    let image = config.install_image().unwrap_or_else(|| format!("ghcr.io/siderolabs/installer:{}", boot.release));
    let image = image_of(&image, &boot.image)?;
    let release = image.talos_version.as_deref().and_then(Release::parse);
    if let Some(reason) = release.and_then(|release| release.refuses_host(&boot.release)) {
        return Err(format!("pre-flight checks failed: {reason}"));
    }
    boot.logs.kernel(&format!("installing Talos to disk /dev/{}", device_names(&boot.machine)[index]));
    boot.work("install", 25.0).await;
    boot.disk.write(|saved| saved.config = Some(config.text.clone()));
    boot.disk.install(&device_names(&boot.machine)[index], &boot.machine.disks[index].content, image);
    if unattended {
        publish::unattended_install(boot, 3);
    } else {
        end_phase(boot, "install", "install", "");
        begin_phase(boot, "kexec", "kexecPrepare", "");
    }
    boot.set_stage(Stage::Rebooting);
    publish_sequence(boot, "install", SequenceAction::Stop, None, "");
    boot.work("kexec", 2.0).await;
    Ok(())
}

/// Index of the disk to install to.
fn target(machine: &Machine, config: &Config) -> Result<usize, String> {
    let names = device_names(machine);
    if let Some(selector) = config.install_selector() {
        return machine
            .disks
            .iter()
            .position(|disk| matches(selector, disk))
            .ok_or_else(|| "no disk found matching provided parameters".to_owned());
    }
    match config.install_disk() {
        Some(path) => {
            let name = path.trim_start_matches("/dev/");
            names
                .iter()
                .position(|known| known == name)
                .ok_or_else(|| format!("failed to find disk: {path} does not exist"))
        }
        None => (!names.is_empty()).then_some(0).ok_or_else(|| "no disk found".to_owned()),
    }
}

fn matches(selector: &Value, disk: &crate::machine::Disk) -> bool {
    let text = |field: &str| selector.get(field).and_then(Value::as_str);
    let serial = text("serial").is_none_or(|wanted| disk.serial.as_deref() == Some(wanted));
    let size = text("size").is_none_or(|wanted| size_matches(wanted, disk.size_bytes));
    let kind = text("type").is_none_or(|wanted| if disk.rotational { wanted == "hdd" } else { wanted == "ssd" });
    let model = text("model").is_none_or(|wanted| wanted.trim_end_matches('*').starts_with("QEMU"));
    serial && size && kind && model && !disk.read_only
}

/// `10GB`, `>= 10GB`, `< 1TB`: decimal units, as Talos reads them.
fn size_matches(wanted: &str, actual: u64) -> bool {
    let wanted = wanted.trim();
    let operator: String = wanted.chars().take_while(|c| "<>=".contains(*c)).collect();
    let rest = wanted[operator.len()..].trim();
    let digits: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let unit = match rest[digits.len()..].trim() {
        "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        _ => 1.0,
    };
    let Ok(bytes) = digits.parse::<f64>().map(|number| number * unit) else { return false };
    let actual = actual as f64;
    match operator.as_str() {
        ">" => actual > bytes,
        ">=" => actual >= bytes,
        "<" => actual < bytes,
        "<=" => actual <= bytes,
        _ => (actual - bytes).abs() < 1.0,
    }
}

/// The disk image an installer reference writes: version from the tag, schematic from a factory path.
///
/// # Errors
/// When the tag names no Talos that the lab can boot.
pub(crate) fn image_of(reference: &str, running: &ImageRef) -> Result<ImageRef, String> {
    let version = tag_of(reference).filter(|tag| Release::parse(tag).is_some());
    let version = version.ok_or_else(|| format!("failed to pull image \"{reference}\": not found"))?;
    let bare = reference.rsplit_once(':').map_or(reference, |(name, _)| name);
    let mut parts = bare.rsplit('/');
    let last = parts.next().unwrap_or_default();
    let schematic = (last.len() == 64 && last.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| last.to_owned());
    let installer = if schematic.is_some() { parts.next().unwrap_or_default() } else { last };
    let platform = installer.strip_suffix("-installer").unwrap_or(&running.platform);
    Ok(ImageRef {
        file_name: format!("{platform}-amd64.raw"),
        talos_version: Some(version),
        schematic,
        platform: platform.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installer_reference_names_version_schematic_and_platform() {
        let running =
            ImageRef { file_name: String::new(), talos_version: None, schematic: None, platform: "nocloud".into() };
        let schematic = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";
        let image = image_of(&format!("factory.talos.dev/metal-installer/{schematic}:v1.13.9"), &running).unwrap();
        assert_eq!((image.schematic.as_deref(), &*image.platform), (Some(schematic), "metal"));
        let image = image_of("ghcr.io/siderolabs/installer:v1.12.11", &running).unwrap();
        assert_eq!((image.talos_version.as_deref(), &*image.platform), (Some("v1.12.11"), "nocloud"));
        assert!(image_of("ghcr.io/siderolabs/installer:v1.2.0", &running).is_err());
    }

    #[test]
    fn sizes_compare_in_decimal_units() {
        assert!(size_matches(">= 10GB", 10_000_000_000) && !size_matches("> 10GB", 10_000_000_000));
        assert!(size_matches("<= 1TB", 32 << 30));
    }
}
