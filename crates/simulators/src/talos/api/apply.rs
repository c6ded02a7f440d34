//! ApplyConfiguration: the order of its decisions, its texts and its effects (talos.md 3.1).

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use talos::config::{MachineConfig, validate};
use talos::proto::machine::apply_configuration_request::Mode;
use talos::proto::machine::{ApplyConfiguration, ApplyConfigurationRequest};
use talos::version::Minor;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::Api;
use crate::talos::boot::activate;
use crate::talos::config::Config;
use crate::talos::node::{Boot, Stage};
use crate::talos::publish;
use crate::talos::release::Line;
use crate::talos::roles::{Role, Roles};
use crate::talos::sequence::{Action, Request as SequenceRequest};

/// How long a TRY configuration stays without a word.
const TRY_TIMEOUT: Duration = Duration::from_secs(60);

/// Parts of `machine` whose change needs no reboot.
const IMMEDIATE: [&str; 18] = [
    "ca",
    "acceptedCAs",
    "time",
    "certSANs",
    "install",
    "network",
    "sysfs",
    "sysctls",
    "logging",
    "controlPlane",
    "kubelet",
    "kernel",
    "registries",
    "pods",
    "seccompProfiles",
    "nodeAnnotations",
    "nodeLabels",
    "nodeTaints",
];
/// The same for `machine.features`.
const IMMEDIATE_FEATURES: [&str; 5] =
    ["kubernetesTalosAPIAccess", "kubePrism", "hostDNS", "imageCache", "nodeAddressSortAlgorithm"];

impl Api {
    pub(super) async fn apply(
        &self,
        request: Request<ApplyConfigurationRequest>,
    ) -> Result<ApplyConfiguration, Status> {
        let boot = &self.boot;
        let admin = request.extensions().get::<Roles>().is_some_and(|roles| roles.includes(Role::Admin));
        let request = request.into_inner();
        let maintenance = boot.stage() == Stage::Maintenance;
        let mut mode = requested_mode(boot, &request, maintenance)?;
        let Ok(_running) = boot.applying.try_lock() else {
            return Err(Status::failed_precondition("another apply configuration is already in progress"));
        };
        if boot.state().rebooting_for_config {
            return Err(Status::failed_precondition(
                "configuration was already applied with reboot, the machine is rebooting",
            ));
        }
        if !maintenance && !admin {
            return Err(Status::permission_denied("not authorized"));
        }
        if mode != Mode::Try
            && let Some(revert) = boot.state().try_revert.take()
        {
            revert.cancel();
        }
        let (config, warnings) = checked(boot, &request.data)?;
        if !maintenance && !config.is_complete() {
            return Err(Status::invalid_argument("the applied machine configuration doesn't contain v1alpha1 config"));
        }
        if maintenance && mode == Mode::Reboot {
            mode = Mode::NoReboot;
        }
        let current = boot.active_config();
        let (mode, mut details) = resolve(boot, mode, current.as_deref(), &config, maintenance)?;
        if mode == Mode::Try {
            let timeout = timeout(&request);
            details.push_str(&format!(
                "\nThe config is applied in 'try' mode and will be automatically reverted back in {timeout:?}"
            ));
        }
        if request.dry_run {
            let mode_details = dry_run(&details, current.as_deref(), &config);
            return Ok(ApplyConfiguration { metadata: None, warnings, mode: mode.into(), mode_details });
        }
        self.take_effect(mode, config, timeout(&request));
        Ok(ApplyConfiguration { metadata: None, warnings, mode: mode.into(), mode_details: details })
    }

    fn take_effect(&self, mode: Mode, config: Config, timeout: Duration) {
        let boot = &self.boot;
        let config = Arc::new(config);
        let persist = |boot: &Boot| boot.disk.write(|saved| saved.config = Some(config.text.clone()));
        match mode {
            Mode::NoReboot | Mode::Auto => {
                if config.is_complete() {
                    persist(boot);
                }
                activate(boot, &config);
            }
            Mode::Staged => {
                persist(boot);
                if let Some(active) = boot.active_config() {
                    publish::config(boot, &active);
                }
            }
            Mode::Try => {
                let before = boot.active_config();
                activate(boot, &config);
                revert_later(boot, before, timeout);
            }
            Mode::Reboot => {
                persist(boot);
                boot.state().rebooting_for_config = true;
                let action = Action::Reboot { force: false };
                // The boot that serves this call is still there to receive it.
                let _ = boot.requests.send(SequenceRequest { action, actor: String::new(), takeover: true });
            }
        }
    }
}

/// The mode as this release understands it.
fn requested_mode(boot: &Boot, request: &ApplyConfigurationRequest, maintenance: bool) -> Result<Mode, Status> {
    let mode = Mode::try_from(request.mode);
    if boot.release.line >= Line::V1_14 {
        let Ok(mode) = mode else {
            return Err(Status::invalid_argument(format!("unsupported apply configuration mode: {}", request.mode)));
        };
        if mode == Mode::Reboot && !maintenance {
            return Err(Status::unimplemented("apply configuration mode \"reboot\" is not supported"));
        }
        return Ok(if mode == Mode::Auto { Mode::NoReboot } else { mode });
    }
    let mode = mode.map_err(|_| Status::invalid_argument(format!("unsupported mode: {}", request.mode)))?;
    if boot.release.line == Line::V1_12 && maintenance && !matches!(mode, Mode::Try | Mode::Reboot | Mode::Auto) {
        let name = mode.as_str_name();
        return Err(Status::unimplemented(format!(
            "apply configuration --mode='{name}' is not supported in maintenance mode"
        )));
    }
    Ok(mode)
}

/// Parses strictly and validates, for the platform this node runs on.
fn checked(boot: &Boot, data: &[u8]) -> Result<(Config, Vec<String>), Status> {
    let refused = |text: String| Status::invalid_argument(text);
    let text = std::str::from_utf8(data).map_err(|error| refused(format!("failed to parse config: {error}")))?;
    let minor = match boot.release.line {
        Line::V1_12 => Minor::V1_12,
        Line::V1_13 => Minor::V1_13,
        Line::V1_14 => Minor::V1_14,
    };
    let strict = MachineConfig::parse(text, minor).map_err(|error| refused(error.talos_text()))?;
    let mode = if boot.image.platform == "metal" { validate::Mode::Metal } else { validate::Mode::Cloud };
    let warnings =
        strict.validate(mode).map_err(|invalid| refused(format!("configuration validation failed: {invalid}")))?;
    let config = Config::parse(text).map_err(refused)?;
    check_kubernetes(boot, &config).map_err(|text| refused(format!("configuration validation failed: {text}")))?;
    Ok((config, warnings.iter().map(ToString::to_string).collect()))
}

/// The running Talos takes only images of the Kubernetes versions it supports (talos.md 1.3).
fn check_kubernetes(boot: &Boot, config: &Config) -> Result<(), String> {
    let supported = boot.release.line.kubernetes_minors();
    for component in ["kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        let Some(tag) = config.image(component).and_then(|image| crate::talos::config::tag_of(&image)) else {
            continue;
        };
        let minor = tag.trim_start_matches('v').split('.').nth(1).and_then(|minor| minor.parse::<u64>().ok());
        let Some(minor) = minor else { continue };
        let version = tag.trim_start_matches('v');
        let host = boot.release.tag().trim_start_matches('v');
        if minor > *supported.end() {
            return Err(format!(
                "1 error occurred:\n\t* {component} image is not valid: version of Kubernetes {version} is too new to be used with Talos {host}\n\n"
            ));
        }
        if minor < *supported.start() {
            return Err(format!(
                "1 error occurred:\n\t* {component} image is not valid: version of Kubernetes {version} is too old to be used with Talos {host}\n\n"
            ));
        }
    }
    Ok(())
}

/// The mode that is used, with the sentence that tells so.
fn resolve(
    boot: &Boot,
    mode: Mode,
    current: Option<&Config>,
    next: &Config,
    maintenance: bool,
) -> Result<(Mode, String), Status> {
    let without = "Applied configuration without a reboot".to_owned();
    if maintenance {
        return Ok((if mode == Mode::Auto { Mode::NoReboot } else { mode }, without));
    }
    let reasons = current.map(|current| reboot_reasons(current, next)).unwrap_or_default();
    let reason = || format!("this config change can't be applied in immediate mode\ndiff: {}", reasons.join(", "));
    match mode {
        Mode::NoReboot | Mode::Try if !reasons.is_empty() && boot.release.line < Line::V1_14 => {
            Err(Status::invalid_argument(reason()))
        }
        Mode::NoReboot | Mode::Try => Ok((mode, without)),
        Mode::Auto if reasons.is_empty() => Ok((Mode::NoReboot, without)),
        Mode::Auto => Ok((Mode::Reboot, format!("Applied configuration with a reboot: {}", reason()))),
        Mode::Reboot => Ok((mode, "Applied configuration with a reboot".to_owned())),
        Mode::Staged => Ok((mode, "Staged configuration to be applied after the next reboot".to_owned())),
    }
}

/// Paths of the v1alpha1 document whose change needs a reboot.
fn reboot_reasons(current: &Config, next: &Config) -> Vec<String> {
    let machine = |config: &Config| config.main().get("machine").cloned().unwrap_or(Value::Null);
    let (before, after) = (machine(current), machine(next));
    let mut reasons = differing(&before, &after, &["features"], &IMMEDIATE, "machine");
    let features = |machine: &Value| machine.get("features").cloned().unwrap_or(Value::Null);
    reasons.extend(differing(&features(&before), &features(&after), &[], &IMMEDIATE_FEATURES, "machine.features"));
    let top = |config: &Config| config.main().clone();
    reasons.extend(differing(&top(current), &top(next), &["machine", "cluster", "debug"], &[], ""));
    reasons
}

fn differing(before: &Value, after: &Value, elsewhere: &[&str], immediate: &[&str], path: &str) -> Vec<String> {
    let keys = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = keys(before);
    all.extend(keys(after));
    all.sort();
    all.dedup();
    all.retain(|key| !elsewhere.contains(&key.as_str()) && !immediate.contains(&key.as_str()));
    all.retain(|key| before.get(key) != after.get(key));
    all.into_iter().map(|key| if path.is_empty() { key } else { format!("{path}.{key}") }).collect()
}

fn dry_run(details: &str, current: Option<&Config>, next: &Config) -> String {
    let before = current.map_or("", |config| config.text.as_str());
    let diff = if before == next.text {
        "No changes.".to_owned()
    } else {
        format!("Config diff:\n\n{}", unified(before, &next.text))
    };
    format!("Dry run summary:\n{details} (skipped in dry-run).\n{diff}")
}

/// A unified diff with three lines around the one changed region.
fn unified(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let same_start = old.iter().zip(&new).take_while(|(left, right)| left == right).count();
    let limit = old.len().min(new.len()) - same_start;
    let same_end = old.iter().rev().zip(new.iter().rev()).take(limit).take_while(|(left, right)| left == right).count();
    let from = same_start.saturating_sub(3);
    let tail = same_end.min(3);
    let (old_end, new_end) = (old.len() - same_end, new.len() - same_end);
    // An empty side begins at line zero.
    let start = |from: usize, end: usize| if from == end { from } else { from + 1 };
    let mut out = format!(
        "--- a\n+++ b\n@@ -{},{} +{},{} @@\n",
        start(from, old_end + tail),
        old_end + tail - from,
        start(from, new_end + tail),
        new_end + tail - from
    );
    let mut push = |mark: char, lines: &[&str]| lines.iter().for_each(|line| out.push_str(&format!("{mark}{line}\n")));
    push(' ', &old[from..same_start]);
    push('-', &old[same_start..old_end]);
    push('+', &new[same_start..new_end]);
    push(' ', &old[old_end..old_end + tail]);
    out
}

fn timeout(request: &ApplyConfigurationRequest) -> Duration {
    request.try_mode_timeout.and_then(|timeout| Duration::try_from(timeout).ok()).unwrap_or(TRY_TIMEOUT)
}

fn revert_later(boot: &Arc<Boot>, before: Option<Arc<Config>>, timeout: Duration) {
    let cancelled = CancellationToken::new();
    boot.state().try_revert = Some(cancelled.clone());
    let owner = Arc::clone(boot);
    boot.spawn(async move {
        tokio::select! {
            () = cancelled.cancelled() => {}
            () = owner.world.idle(timeout) => {
                if let Some(before) = before {
                    activate(&owner, &before);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_talos_cannot_apply_live_needs_a_reboot() {
        let config =
            |body: &str| Config::parse(&format!("version: v1alpha1\nmachine:\n  type: worker\n{body}")).unwrap();
        let base = config("  token: a\n");
        assert!(reboot_reasons(&base, &config("  token: a\n  nodeLabels:\n    x: y\n")).is_empty());
        assert_eq!(reboot_reasons(&base, &config("  token: b\n")), ["machine.token"]);
        assert_eq!(
            reboot_reasons(&base, &config("  token: a\n  features:\n    rbac: true\n")),
            ["machine.features.rbac"]
        );
    }

    #[test]
    fn a_diff_shows_the_changed_region() {
        assert_eq!(unified("a\nb\nc\n", "a\nx\nc\n"), "--- a\n+++ b\n@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n");
        assert_eq!(unified("", "a\n"), "--- a\n+++ b\n@@ -0,0 +1,1 @@\n+a\n");
    }
}
