//! What operators write: playbooks, expressions, machine configurations and their patches, credentials.

use std::sync::LazyLock;

use contractor::{action::Actions, credentials::Dates, runtime::message_schema};
use engine::{
    expression::Expression,
    library::{Definition, Library, World},
    playbook::Playbook,
    yaml::Place,
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use talos::{
    config::{MachineConfig, Mode, Patch},
    kubeconfig,
    secrets::Bundle,
    talosconfig::TalosConfig,
    version::Minor,
};

use talos_contractor::background::CONDITIONS;

use super::{Target, Verdict, filled, wire::CANARY};

pub(super) static PLAYBOOK: Target = Target {
    name: "playbook",
    promise: "every problem has its file and line; what loads is pinned by its texts and comes back from them",
    check: playbook,
    words: &[
        "playbook: ",
        "version: 1",
        "steps:",
        "  - { id: a, action: talos.check_health, with: { cluster: x } }",
        "needs: [a]",
        "for_each: \"${input.nodes}\"",
        "when: \"",
        "on_failure: rollback",
        "commit_point: a",
        "parallel: \"20%\"",
        "deadline: 1h",
        "${steps.a}",
        "${item}",
        "call: make-vms",
    ],
};

pub(super) static EXPRESSION: Target = Target {
    name: "expression",
    promise: "no expression panics or runs for long, and no error of one shows a value",
    check: expression,
    words: &[
        "input.",
        "steps.a",
        "size(",
        ".map(x, ",
        ".filter(x, ",
        " ? 1 : 2",
        " + ",
        " == ",
        " in ",
        "input.secret",
        "[0]",
        "matches('(a+)+$')",
        "'",
        "int(",
        "||",
        "&&",
        "!",
    ],
};

pub(super) static MACHINE_CONFIG: Target = Target {
    name: "machine-config",
    promise: "what is read prints to a text that reads and prints the same; redacted it reads, too",
    check: machine_config,
    words: WORDS,
};

pub(super) static PATCH: Target = Target {
    name: "patch",
    promise: "a patch that is allowed leaves type, authorities, tokens, ids, endpoint and name as they are; a refusal names a path",
    check: patch,
    words: WORDS,
};

pub(super) static CREDENTIALS: Target = Target {
    name: "credentials",
    promise: "talosconfigs and secrets that are read print to what reads the same; no error shows a key",
    check: credentials,
    words: &[
        "contexts:",
        "context: ",
        "ca: ",
        "crt: ",
        "key: ",
        "certs:",
        "users:",
        "LS0t",
        "-----BEGIN CERTIFICATE-----",
    ],
};

const WORDS: &[&str] = &[
    "machine:\n",
    "cluster:\n",
    "---\n",
    "apiVersion: v1alpha1\nkind: HostnameConfig\n",
    "$patch: delete\n",
    "$patch: replace\n",
    "  type: worker\n",
    "  token: x\n",
    "  ca: null\n",
    "  id: x\n",
    "  controlPlane: { endpoint: https://x:6443 }\n",
    "<<: *a\n",
    "&a ",
    "!!binary ",
    "- op: replace\n  path: /machine/type\n  value: worker\n",
];

static TALOS: LazyLock<Actions> = LazyLock::new(|| {
    let deps = talos_contractor::reach::Deps::new(
        talos_contractor::settings::TalosSettings::default(),
        talos_contractor::settings::AddonSettings::default(),
        talos::api::AllowedTargets::loopback(),
    );
    talos_contractor::actions::actions(&deps)
});

fn playbook(input: &[u8]) -> Result<Verdict, String> {
    const FILE: &str = "fuzzed.yaml";
    let Ok(text) = std::str::from_utf8(input) else { return Ok(Verdict::Refused) };
    let placed = |problems: &engine::yaml::Problems| {
        let lost = problems.0.iter().find(|of| of.file != FILE || of.message.is_empty());
        match (problems.0.is_empty(), lost) {
            (true, _) => Err("it is refused without a reason".to_owned()),
            (_, Some(problem)) => Err(format!("a problem names no file: {problem:?}")),
            _ => Ok(()),
        }
    };
    if let Err(problems) = Playbook::parse(FILE, text) {
        placed(&problems)?;
        return Ok(Verdict::Refused);
    }
    let world = World { catalog: &*TALOS, messages: &message_schema, conditions: CONDITIONS };
    match Library::load(&[(FILE.to_owned(), text.to_owned())], &world) {
        Err(problems) => placed(&problems)?,
        Ok(library) => {
            let definition = library.iter().next().ok_or("it loads, and there is no playbook")?;
            let texts = definition.texts().into_iter().map(|(_, text)| (FILE.to_owned(), text.to_owned()));
            let restored = Definition::restore(&texts.collect::<Vec<_>>(), &*TALOS);
            let restored = restored.map_err(|problems| format!("it does not come back from its text: {problems}"))?;
            if restored.hash() != definition.hash() {
                return Err("it comes back from its text with another hash".to_owned());
            }
        }
    }
    Ok(Verdict::TAKEN)
}

fn expression(input: &[u8]) -> Result<Verdict, String> {
    static INPUT: LazyLock<Value> = LazyLock::new(|| {
        json!({
            "secret": format!("{CANARY}-of-the-input"), "count": 3, "nodes": [{ "hostname": "a", "role": "worker" }],
            "text": "x", "big": u64::MAX, "none": null, "half": 0.5,
        })
    });
    let Ok(text) = std::str::from_utf8(input) else { return Ok(Verdict::Refused) };
    // A template is text with expressions in it, or nothing but one.
    let _ = engine::template::Template::compile_text(text, Place::default());
    let expression = match Expression::compile(text) {
        Ok(expression) => expression,
        Err(_) => return Ok(Verdict::Refused),
    };
    let lookup = |name: &str| ["input", "item", "steps"].contains(&name).then_some(&*INPUT);
    match expression.evaluate(&lookup) {
        Err(error) if error.to_string().contains(CANARY) && !text.contains(CANARY) => {
            Err(format!("a value is told: {error}"))
        }
        _ => Ok(Verdict::TAKEN),
    }
}

fn machine_config(input: &[u8]) -> Result<Verdict, String> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(Verdict::Refused) };
    let mut verdict = Verdict::Refused;
    for minor in [Minor::V1_12, Minor::V1_13, Minor::V1_14] {
        let config = match MachineConfig::parse(text, minor) {
            Ok(config) => config,
            Err(error) if error.to_string().is_empty() => return Err("it is refused without a reason".to_owned()),
            Err(_) => continue,
        };
        verdict = Verdict::TAKEN;
        let printed = config.to_yaml();
        let again = MachineConfig::parse(printed.expose_secret(), minor)
            .map_err(|error| format!("{minor}: what it prints to does not read: {error}"))?;
        if again.to_yaml().expose_secret() != printed.expose_secret() {
            let (once, twice) = (printed.expose_secret(), again.to_yaml());
            let differs = once.lines().zip(twice.expose_secret().lines()).find(|(once, twice)| once != twice);
            return Err(format!("{minor}: it prints to what prints otherwise, first in {differs:?}"));
        }
        let _ = config.validate(Mode::Cloud);
        MachineConfig::parse(&config.to_redacted_yaml(), minor)
            .map_err(|error| format!("{minor}: redacted it does not read: {error}"))?;
    }
    Ok(verdict)
}

fn patch(input: &[u8]) -> Result<Verdict, String> {
    static BASES: LazyLock<Vec<MachineConfig>> = LazyLock::new(|| {
        let texts = [
            (include_str!("../../../crates/talos/tests/generated/1.12-controlplane.yaml"), Minor::V1_12),
            (include_str!("../../../crates/talos/tests/generated/1.13-worker.yaml"), Minor::V1_13),
            (include_str!("../../../crates/talos/tests/generated/1.14-controlplane.yaml"), Minor::V1_14),
        ];
        let read = |(text, minor)| MachineConfig::parse(&filled(text), minor).expect("a generated configuration reads");
        texts.map(read).into()
    });
    let Ok(text) = std::str::from_utf8(input) else { return Ok(Verdict::Refused) };
    let mut verdict = Verdict::Refused;
    for base in BASES.iter() {
        let Ok(patch) = Patch::parse(text, base.minor()) else { continue };
        if let Err(forbidden) = patch.check_allowed() {
            if forbidden.path.is_empty() || forbidden.reason.is_empty() {
                return Err(format!("a refusal names no path or no reason: {forbidden:?}"));
            }
            continue;
        }
        let Ok(patched) = base.patched(&patch) else { continue };
        verdict = Verdict::TAKEN;
        if let Some(path) = touched(base, &patched) {
            return Err(format!("{}: it changes {path}, and is allowed", base.minor()));
        }
        let printed = patched.to_yaml();
        MachineConfig::parse(printed.expose_secret(), base.minor())
            .map_err(|error| format!("{}: the patched configuration does not read: {error}", base.minor()))?;
    }
    Ok(verdict)
}

/// What identifies cluster and node, written down apart from the guard's own list.
const IDENTITY: [&str; 15] = [
    "machine.type",
    "machine.token",
    "machine.ca",
    "machine.acceptedCAs",
    "cluster.id",
    "cluster.secret",
    "cluster.token",
    "cluster.ca",
    "cluster.aggregatorCA",
    "cluster.serviceAccount",
    "cluster.etcd.ca",
    "cluster.secretboxEncryptionSecret",
    "cluster.controlPlane.endpoint",
    "cluster.clusterName",
    "machine.network.hostname",
];
const IDENTITY_DOCUMENTS: [&str; 7] = [
    "HostnameConfig",
    "DiscoveryIdentityConfig",
    "KubeClusterConfig",
    "KubeAPIServerCAConfig",
    "KubeAggregatorCAConfig",
    "KubeEtcdEncryptionConfig",
    "KubeServiceAccountConfig",
];

/// The first part of the identity that differs.
fn touched(before: &MachineConfig, after: &MachineConfig) -> Option<String> {
    let at = |config: &MachineConfig, path: &str| {
        let keys: Vec<&str> = path.split('.').collect();
        config.main()?.root().get(keys[0])?.at(&keys[1..]).map(talos::config::yaml::document)
    };
    let all = |config: &MachineConfig, kind: &str| {
        let documents = config.documents().iter().filter(|document| document.id().kind == kind);
        documents
            .map(|document| document.root().clone().into())
            .map(|value| talos::config::yaml::document(&value))
            .collect()
    };
    let field = IDENTITY.iter().find(|path| at(before, path) != at(after, path));
    let kind = IDENTITY_DOCUMENTS.iter().find(|kind| {
        let (before, after): (Vec<String>, Vec<String>) = (all(before, kind), all(after, kind));
        before != after
    });
    field.or(kind).map(ToString::to_string)
}

fn credentials(input: &[u8]) -> Result<Verdict, String> {
    let _ = Dates::read(input);
    let Ok(text) = std::str::from_utf8(input) else { return Ok(Verdict::Refused) };
    // `hunter2`, as it stands in base64 in the kept inputs. The name of a context is told, and is no key.
    let leaks = |told: &str| {
        let told = told.split(" of context `").next().unwrap_or_default();
        [CANARY, "aHVudGVyMg"].iter().any(|part| told.contains(part))
    };
    let mut verdict = Verdict::Refused;
    match TalosConfig::from_yaml(text) {
        Ok(config) => {
            verdict = Verdict::TAKEN;
            let printed = config.to_yaml().map_err(|error| format!("a talosconfig does not print: {error}"))?;
            let again = TalosConfig::from_yaml(printed.expose_secret());
            let again = again.map_err(|error| format!("a printed talosconfig does not read: {error}"))?;
            let twice = again.to_yaml().map_err(|error| error.to_string())?;
            if twice.expose_secret() != printed.expose_secret() {
                return Err("a talosconfig prints to what prints otherwise".to_owned());
            }
        }
        Err(error) if leaks(&error.to_string()) => return Err(format!("a key is told: {error}")),
        Err(_) => {}
    }
    match Bundle::from_yaml(text) {
        Ok(bundle) => {
            verdict = Verdict::TAKEN;
            let printed = bundle.to_yaml().map_err(|error| format!("secrets do not print: {error}"))?;
            let again = Bundle::from_yaml(printed.expose_secret());
            let again = again.map_err(|error| format!("printed secrets do not read: {error}"))?;
            let twice = again.to_yaml().map_err(|error| error.to_string())?;
            if twice.expose_secret() != printed.expose_secret() {
                return Err("secrets print to what prints otherwise".to_owned());
            }
        }
        Err(error) if leaks(&error.to_string()) => return Err(format!("a key is told: {error}")),
        Err(_) => {}
    }
    if kubeconfig::certificate_of(text).is_some() {
        verdict = Verdict::TAKEN;
    }
    Ok(verdict)
}
