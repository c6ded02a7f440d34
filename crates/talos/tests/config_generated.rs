//! Generated configurations have the text of those Talos's own generator wrote, secrets apart.
//!
//! `generated/` holds that generator's output for cluster `demo` with every secret replaced by its kind.

#![expect(clippy::unwrap_used, reason = "helpers of a test, which may panic")]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::ExposeSecret;
use talos::config::generate::{ClusterInput, Install, InstallDisk, NodeInput, Role};
use talos::config::{MachineConfig, Mode, generate};
use talos::secrets::Bundle;
use talos::version::Minor;

const SERVICE_ACCOUNT_KEY: &str = "-----BEGIN RSA PRIVATE KEY-----\nbm90IGEga2V5\n-----END RSA PRIVATE KEY-----\n";

fn bundle(minor: Minor) -> Bundle {
    let mut bundle =
        Bundle::generate(minor, SERVICE_ACCOUNT_KEY.to_owned().into(), jiff::Timestamp::UNIX_EPOCH).unwrap();
    // A random token may be all digits, which is quoted; these never are.
    bundle.bootstrap_token = "abcdef.0123456789abcdef".to_owned().into();
    bundle.trustd_token = "ghijkl.0123456789abcdef".to_owned().into();
    bundle
}

/// The inputs the samples were made from.
fn sample(minor: Minor, role: Role) -> (ClusterInput, NodeInput) {
    let (talos, kubernetes, image) = match minor {
        Minor::V1_12 => ("1.12.11", "1.35.4", "ghcr.io/siderolabs/installer:v1.12".to_owned()),
        Minor::V1_13 => ("1.13.9", "1.36.3", "ghcr.io/siderolabs/installer:v1.13.9".to_owned()),
        Minor::V1_14 => {
            let empty = talos::config::installer::Schematic::default();
            ("1.14.0-rc.1", "1.37.0-rc.0", empty.installer("factory.talos.dev", "metal", "1.14.0-rc.1"))
        }
    };
    let endpoint = "https://192.168.1.10:6443";
    let cluster = ClusterInput::new("demo", endpoint, talos.parse().unwrap(), kubernetes.parse().unwrap());
    let install = Install { disk: InstallDisk::Path("/dev/sda".to_owned()), image, wipe: false };
    (cluster, NodeInput::new(role, install))
}

/// Replaces each secret by its kind.
fn masked(text: &str, bundle: &Bundle) -> String {
    let mut text = text.to_owned();
    for authority in [&bundle.os, &bundle.kubernetes, &bundle.etcd, &bundle.aggregator] {
        for pem in [authority.crt.as_str(), authority.key.expose_secret()] {
            text = text.replace(&STANDARD.encode(pem), &format!("<base64 {}>", label(pem)));
        }
    }
    text = text.replace(&STANDARD.encode(SERVICE_ACCOUNT_KEY), "<base64 RSA PRIVATE KEY>");
    for token in [&bundle.bootstrap_token, &bundle.trustd_token] {
        text = text.replace(token.expose_secret(), "<token>");
    }
    let secretbox = bundle.secretbox_encryption_secret.as_ref().unwrap().expose_secret();
    let text = text
        .replace(&bundle.cluster_id, "<id>")
        .replace(bundle.cluster_secret.expose_secret(), "<secret>")
        .replace(secretbox, "<secretbox>");
    mask_blocks(&text)
}

fn label(pem: &str) -> &str {
    pem.strip_prefix("-----BEGIN ").unwrap().split("-----").next().unwrap()
}

/// Replaces PEM blocks of any indentation.
fn mask_blocks(text: &str) -> String {
    let mut masked = String::new();
    let mut is_inside = false;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        // The first block of a list stands on a line of its own, too: `- |` ends the line before.
        if line.trim_start().starts_with("-----BEGIN ") {
            is_inside = true;
            masked += &format!("{}<PEM {}>\n", " ".repeat(indent), label(line.trim_start()));
        } else if !is_inside {
            masked += &format!("{line}\n");
        }
        is_inside = is_inside && !line.trim_start().starts_with("-----END ");
    }
    masked
}

fn generated(minor: Minor, role: Role) -> (MachineConfig, Bundle) {
    let bundle = bundle(minor);
    let (cluster, node) = sample(minor, role);
    (generate(&cluster, &node, &bundle).unwrap(), bundle)
}

#[test]
fn every_sample_of_talos_is_reproduced_to_the_byte() {
    let samples = [
        (Minor::V1_12, Role::ControlPlane, include_str!("generated/1.12-controlplane.yaml")),
        (Minor::V1_12, Role::Worker, include_str!("generated/1.12-worker.yaml")),
        (Minor::V1_13, Role::ControlPlane, include_str!("generated/1.13-controlplane.yaml")),
        (Minor::V1_13, Role::Worker, include_str!("generated/1.13-worker.yaml")),
        (Minor::V1_14, Role::ControlPlane, include_str!("generated/1.14-controlplane.yaml")),
        (Minor::V1_14, Role::Worker, include_str!("generated/1.14-worker.yaml")),
    ];
    for (minor, role, expected) in samples {
        let (config, bundle) = generated(minor, role);
        let text = masked(config.to_yaml().expose_secret(), &bundle);
        assert!(text == expected, "{minor} {role}\n{}", difference(expected, &text));
    }
}

fn difference(expected: &str, got: &str) -> String {
    let lines = expected.lines().zip(got.lines()).enumerate();
    let first = lines.filter(|(_, (left, right))| left != right).map(|(at, pair)| format!("line {}: {pair:?}", at + 1));
    first.take(5).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_generated_can_be_read_again_and_is_valid() {
    for minor in Minor::ALL {
        for role in [Role::ControlPlane, Role::Worker] {
            let (config, _) = generated(minor, role);
            let again = MachineConfig::parse(config.to_yaml().expose_secret(), minor).unwrap();
            assert!(again == config, "{minor} {role} reads back the same");
            for mode in [Mode::Metal, Mode::Cloud] {
                assert_eq!(config.validate(mode), Ok(Vec::new()), "{minor} {role} {mode}");
            }
        }
    }
}

#[test]
fn a_redacted_configuration_holds_no_secret() {
    for minor in Minor::ALL {
        let (config, bundle) = generated(minor, Role::ControlPlane);
        let text = config.to_redacted_yaml();
        let keys = [&bundle.os, &bundle.kubernetes, &bundle.etcd, &bundle.aggregator].map(|authority| &authority.key);
        let secrets = [&bundle.bootstrap_token, &bundle.trustd_token, &bundle.cluster_secret];
        let secretbox = bundle.secretbox_encryption_secret.as_ref().unwrap();
        for secret in keys.into_iter().chain(secrets).chain([secretbox, &bundle.service_account_key]) {
            let secret = secret.expose_secret();
            assert!(!text.contains(secret) && !text.contains(&STANDARD.encode(secret)), "{minor}: {text}");
        }
        assert!(!text.contains("PRIVATE KEY"), "{minor}: {text}");
        assert!(!format!("{config:?}").contains("crt"), "Debug names documents only");
        assert!(MachineConfig::parse(&text, minor).is_ok(), "what is shown can still be read");
    }
}
