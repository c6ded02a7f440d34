//! Keys that others may read and certificates near their end, as the real daemons deal with them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use bus::TailFrom;
use cortexctl::watch::Told;
use messages::event::CertificateExpiring;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::Value;
use tests::{
    binaries,
    world::{World, WorldOptions},
};

use crate::scenario::Scenario;

/// Longer than any certificate of a bus lives.
const ALWAYS: &str = "\n[certificates]\nwarn_before = \"876000h\"\n";

#[test]
fn open_keys_stop_a_daemon_and_certificates_near_their_end_are_told_of() {
    let options = WorldOptions { more: [ALWAYS.to_owned(), ALWAYS.to_owned()], ..WorldOptions::default() };
    let mut scenario = Scenario::start(&options);
    let told = scenario.runtime.block_on(async {
        let wait = async {
            let kind = "certificate_expiring";
            let mut tail = scenario.operator.events(TailFrom::Start, None, Some(kind)).await.unwrap();
            let mut told = BTreeMap::new();
            while !["bus.ca_file", "the broker"].iter().all(|object| told.contains_key(*object)) {
                let recorded = tail.next().await.unwrap();
                if Told::read(&recorded).is_some_and(|told| told.kind == kind) {
                    let event: CertificateExpiring = serde_json::from_slice(&recorded.body).unwrap();
                    told.insert(event.object.clone(), event);
                }
            }
            told
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the events come")
    });
    assert_eq!(told["bus.ca_file"].subject, "CN=cortex bus CA");
    assert!(told["bus.ca_file"].days_left > 30, "{told:?}");
    assert_ne!(told["the broker"].fingerprint, told["bus.ca_file"].fingerprint, "what it shows is its own");
    let url = &scenario.world.health[0];
    let warnings = wait_for(|| {
        let (status, body) = get(&scenario, &format!("{url}/healthz"));
        let body: Value = serde_json::from_str(&body).unwrap();
        let warnings = body["warnings"].to_string();
        (status == 200 && warnings.contains("certificate CN=cortex bus CA expires in")).then_some(warnings)
    });
    assert!(warnings.contains("bus.ca_file"), "{warnings}");
    let (_, metrics) = get(&scenario, &format!("{url}/metrics"));
    for wanted in ["contractor_certificates_ending 2", "contractor_certificate_end_seconds{setting=\"bus.ca_file\"}"] {
        assert!(metrics.contains(wanted), "{wanted} is not among the metrics");
    }

    let folder = scenario.world.folder.clone();
    let (token, key) = (folder.join("proxmox-token"), folder.join("infrastructure.age"));
    scenario.world.infrastructure.stop(Duration::from_secs(20)).unwrap();
    set_mode(&token, 0o644);
    set_mode(&key, 0o640);
    for command in ["check", "run"] {
        let (ended_well, said) = infrastructure(&folder, command);
        assert!(!ended_well, "{command} takes a token that everybody may read");
        for wanted in [
            format!(
                "proxmox.credential_file {}: it holds a secret and is open to everybody (mode 0644)",
                token.display()
            ),
            format!("store.key_file {}: it holds a secret and is open to its group (mode 0640)", key.display()),
            format!("chmod 600 {}", token.display()),
            format!("chmod 600 {}", key.display()),
        ] {
            assert_eq!(said.matches(&wanted).count(), 1, "{command} does not say once `{wanted}`:\n{said}");
        }
    }
    set_mode(&token, 0o600);
    set_mode(&key, 0o600);
    refuses_an_authority_that_has_expired(&scenario.world);
    let (ended_well, said) = infrastructure(&folder, "check");
    assert!(ended_well, "{said}");
    scenario.world.infrastructure.start(false).unwrap();
    scenario.world.wait_ready().unwrap();
}

/// It says which certificate has expired, where it stands and what to do, and does not start.
fn refuses_an_authority_that_has_expired(world: &World) {
    let (ca, sound) = (&world.nats.setup().root_ca, fs::read(&world.nats.setup().root_ca).unwrap());
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "an old CA");
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2025, 3, 1));
    let old = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    fs::write(ca, old.pem()).unwrap();
    for command in ["check", "run"] {
        let (ended_well, said) = infrastructure(&world.folder, command);
        assert!(!ended_well, "{command} takes an authority that has expired");
        let wanted = format!("bus.ca_file {}: certificate CN=an old CA expired at 2025-03-01T00:00:00Z", ca.display());
        assert!(said.contains(&wanted), "{command} does not say `{wanted}`:\n{said}");
        assert!(said.contains("put a renewed certificate there"), "{command} does not say what to do:\n{said}");
    }
    fs::write(ca, sound).unwrap();
}

/// Whether the command ended well, and everything that it said.
fn infrastructure(folder: &Path, command: &str) -> (bool, String) {
    let output = Command::new(binaries::path("infrastructure-contractor").unwrap())
        .arg("--config")
        .arg(folder.join("infrastructure-contractor.toml"))
        .arg(command)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn get(scenario: &Scenario, url: &str) -> (u16, String) {
    scenario.runtime.block_on(async {
        let answer = reqwest::get(url).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    })
}

fn wait_for<T>(look: impl Fn() -> Option<T>) -> T {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up, "not within a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
}
