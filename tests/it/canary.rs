//! No secret in anything that the system wrote or said: known secrets are looked for everywhere.

pub(crate) mod needles;

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use bus::{Outgoing, TailFrom, identity::Identity, streams};
use cortexctl::client::Submission;
use messages::subject::Party;
use needles::Needles;
use secrecy::ExposeSecret;
use serde_json::json;
use store::{RunQuery, Store};
use talos::secrets::Bundle;
use tests::world::WorldOptions;
use uuid::Uuid;

use crate::{
    command::call,
    daemons,
    scenario::{Scenario, told},
};

/// The cluster. Its name gets everywhere, so a search that does not find it in a place does not look there.
const CLUSTER: &str = "canary-in-the-mine";

/// Something that was said or written, and where.
type Said = Vec<(String, Vec<u8>)>;

#[test]
fn no_secret_is_in_events_logs_stores_or_answers() {
    let mut scenario = Scenario::start(&WorldOptions { log: "debug".into(), ..WorldOptions::default() });
    let mut said = lives(&scenario);
    let mut needles = known(&scenario);
    said.extend(asked(&scenario));
    said.push(("a refused token".to_owned(), wrong_token(&scenario).into()));
    stop(&mut scenario);
    // What the decommission destroys is known, and looked for, too.
    sealed(&scenario, &mut needles);
    let plans = daemons::plans(&scenario, CLUSTER);
    said.extend(plans.into_iter().map(|(what, told)| (format!("answer of {what}"), (told.out + &told.err).into())));
    let token = scenario.world.facts.api_token.split('=').next().unwrap().to_owned();
    let secrets = ["secrets", "kubeconfig"].map(|secret| format!("cluster/{CLUSTER}/{secret}"));
    for (party, opened) in [(Party::Infrastructure, &[token][..]), (Party::Talos, &secrets)] {
        said.push((format!("a panic of {party}"), panicked(&scenario, party, opened).into()));
    }
    for process in [&mut scenario.world.infrastructure, &mut scenario.world.talos] {
        process.start(false).unwrap();
    }
    scenario.world.wait_ready().unwrap();

    refused(&scenario);
    said.extend(ends(&scenario));
    said.extend(on_the_bus(&scenario));
    said.extend(exported(&scenario));
    stop(&mut scenario);
    scenario.world.lab.stop(Duration::from_secs(10)).unwrap();
    scenario.world.nats.stop(Duration::from_secs(10)).unwrap();
    said.extend(kept(&scenario, "infrastructure"));
    said.extend(kept(&scenario, "talos"));
    plant_into_logs(&scenario.world.folder);
    read_all(&scenario.world.folder, &mut said);

    assert!(needles.len() >= 30, "the search knows what to look for: {} secrets", needles.len());
    needles.add(CLUSTER, CLUSTER.as_bytes());
    let search = needles.search();
    let mut seen = BTreeSet::new();
    let mut leaks = Vec::new();
    for (place, text) in &said {
        for name in search.found(text) {
            match name {
                CLUSTER => drop(seen.insert(place.as_str())),
                secret => leaks.push(format!("{secret} is in {place}")),
            }
        }
    }
    assert!(leaks.is_empty(), "{leaks:#?}");
    for kind in [
        "answer of cortexctl",
        "answer of infrastructure-contractor plan",
        "answer of talos-contractor plan",
        "body on CORTEX_REQUESTS",
        "headers on CORTEX_REQUESTS",
        "body on CORTEX_HANDOFFS",
        "body on CORTEX_EVENTS",
        "body on CORTEX_DEADLETTER",
        "journal of infrastructure",
        "journal of talos",
        "export of infrastructure",
        "export of talos",
        "file infrastructure-store/",
        "file talos-store/",
        "file nats/jetstream/",
        "file nats/nats-server.log",
        "file lab.log",
        "file infrastructure-contractor.log",
        "file talos-contractor.log",
    ] {
        assert!(seen.iter().any(|place| place.starts_with(kind)), "the search does not see {kind}: {seen:#?}");
    }
}

/// A cluster is made and grown; another one fails in the step that knows the most secrets, and is kept.
fn lives(scenario: &Scenario) -> Said {
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": CLUSTER, "pattern": "edge", "worker_nodes": 1,
    });
    let made = scenario.ask("provision_cluster", &request).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    let up = json!({ "cluster_name": CLUSTER, "pool": "worker", "count": 2 });
    let grown = scenario.ask("scale_request", &up).unwrap();
    assert_eq!(grown.state, "succeeded", "{}", told(&grown));
    scenario.plan(&["talos **MachineService/ApplyConfigurationx*=error:3:this configuration is not valid"]);
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": "doomed", "pattern": "single", "failure_policy": "keep",
        "service_account_key": "ecdsa-p256",
    });
    let failed = scenario.ask("provision_cluster", &request).unwrap();
    assert_eq!(failed.state, "failed", "{}", told(&failed));
    assert!(told(&failed).contains("this configuration is not valid"), "{}", told(&failed));
    scenario.lift();
    let log = scenario.audit(Party::Talos);
    let ends: Vec<_> =
        log.iter().filter(|of| of.deed.flow == Some(failed.flow) && of.deed.did == "run_ended").collect();
    assert!(
        ends.iter().any(|of| of.deed.outcome.as_deref() == Some("kept")),
        "the log has no end that failed: {ends:?}"
    );
    let flows = [made, grown, failed];
    flows.iter().map(|view| ("flow".to_owned(), serde_json::to_vec(&scenario.flow(view.flow)).unwrap())).collect()
}

/// Both clusters are taken away: one with consent in the request, one with consent that came later.
fn ends(scenario: &Scenario) -> Said {
    let environment = scenario.world.environment(Identity::Operator);
    let gone = scenario.ask_with_consent("decommission_request", json!({ "cluster_name": CLUSTER })).unwrap();
    let flow = Uuid::now_v7();
    let body = json!({ "cluster_name": "doomed" });
    let asked = scenario.operator.submit(Party::Infrastructure, "decommission_request", flow, &body);
    let asked = scenario.runtime.block_on(asked).unwrap();
    let Submission::AwaitsApproval { plan, .. } = asked else { panic!("nobody was asked: {asked:?}") };
    call(&["flows", "approve", &flow.to_string(), "--plan-hash", &plan.plan_hash], &environment, "").ok();
    let mut said = Said::new();
    let approved = scenario.follow(flow).unwrap();
    consent_is_recorded(scenario, flow, &plan.plan_hash);
    for ended in [gone, approved] {
        assert_eq!(ended.state, "succeeded", "{}", told(&ended));
        let shown = call(&["flows", "show", &ended.flow.to_string(), "-o", "json"], &environment, "");
        said.push(("answer of cortexctl flows show".to_owned(), (shown.out + &shown.err).into()));
    }
    said
}

/// The audit log tells who asked, who approved which plan, and what came of it, in that order.
fn consent_is_recorded(scenario: &Scenario, flow: Uuid, plan: &str) {
    let log = scenario.audit(Party::Infrastructure);
    let of_flow: Vec<_> = log.iter().map(|record| &record.deed).filter(|deed| deed.flow == Some(flow)).collect();
    let one = |did: &str| {
        let found: Vec<_> = of_flow.iter().enumerate().filter(|(_, deed)| deed.did == did).collect();
        let [(at, deed)] = found.as_slice() else { panic!("not one {did}: {of_flow:?}") };
        (*at, **deed)
    };
    let key = &scenario.world.nats.setup().public_keys[&Identity::Operator][48..];
    let (awaited, asked) = one("approval_awaited");
    assert_eq!((asked.who.as_str(), asked.plan.as_deref()), ("/operator/test", Some(plan)));
    let (commanded, command) = one("command_asked");
    assert_eq!((command.object.as_deref(), command.plan.as_deref()), (Some("approve"), Some(plan)));
    let (given, approval) = one("plan_approved");
    assert!(approval.who.starts_with("/operator/") && approval.who == command.who, "{approval:?}");
    assert_eq!((approval.key.as_deref(), approval.plan.as_deref()), (Some(key), Some(plan)));
    let started = of_flow.iter().position(|deed| deed.did == "run_started" && deed.run == approval.run).unwrap();
    assert_eq!(of_flow[started].plan.as_deref(), Some(plan), "the run carries the hash that was approved");
    let ended = of_flow.iter().position(|deed| deed.did == "run_ended" && deed.run == approval.run).unwrap();
    assert_eq!(of_flow[ended].outcome.as_deref(), Some("succeeded"));
    let order = [awaited, commanded, given, started, ended];
    assert!(order.is_sorted(), "{order:?}: {of_flow:?}");
}

/// Something is refused, so that there is a dead letter.
fn refused(scenario: &Scenario) {
    let subject = "cortex.request.infrastructure.provision_cluster";
    let body = json!({ "request_type": "provision_cluster", "cluster_name": CLUSTER, "pattern": "huge" });
    scenario.runtime.block_on(async {
        let mut letters = scenario.operator.bus().tail(streams::DEADLETTER, TailFrom::Now, &[]).await.unwrap();
        let message = Outgoing {
            subject: subject.to_owned(),
            // A dead letter tells of headers, not of bodies.
            headers: [("Nats-Msg-Id", Uuid::now_v7().to_string()), ("cortex-causation-id", CLUSTER.to_owned())]
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
            body: body.to_string().into_bytes().into(),
        };
        scenario.operator.bus().publish(&message).await.unwrap();
        while letters.next().await.unwrap().subject != "cortex.deadletter.infrastructure" {}
    });
}

/// Every message of every stream, as only the administrator may read them all.
fn on_the_bus(scenario: &Scenario) -> Said {
    let mut said = Said::new();
    scenario.runtime.block_on(async {
        let admin = scenario.world.nats.connect(Identity::Admin).await.unwrap();
        for stream in [streams::REQUESTS, streams::HANDOFFS, streams::EVENTS, streams::DEADLETTER] {
            let mut tail = admin.tail(stream, TailFrom::Start, &[]).await.unwrap();
            assert!(tail.pending > 0, "{stream} is empty");
            let mut left = tail.pending;
            while left > 0 {
                let recorded = tail.next().await.unwrap();
                left = recorded.pending;
                let headers = recorded.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
                let headers = recorded.subject.clone() + "\n" + &headers.collect::<String>();
                said.push((format!("headers on {stream}"), headers.into()));
                said.push((format!("body on {stream}, {}", recorded.subject), recorded.body.to_vec()));
            }
        }
        admin.close().await;
    });
    said
}

/// What leaves by `store export`.
fn exported(scenario: &Scenario) -> Said {
    let environment = scenario.world.environment(Identity::Operator);
    let export = |party: Party| {
        let file = scenario.world.folder.join(format!("{party}.export"));
        call(&["store", "export", "--of", &party.to_string(), &file.display().to_string()], &environment, "").ok();
        (format!("export of {party}"), fs::read(file).unwrap())
    };
    [Party::Infrastructure, Party::Talos].map(export).to_vec()
}

fn stop(scenario: &mut Scenario) {
    for process in [&mut scenario.world.infrastructure, &mut scenario.world.talos] {
        assert!(keeps_no_core(process.id().unwrap()), "{} would leave a core file", process.name());
        process.stop(Duration::from_secs(20)).unwrap();
    }
}

/// The store of a contractor that does not run, with the key that opens its secrets.
fn store(scenario: &Scenario, name: &str) -> Store {
    let folder = &scenario.world.folder;
    let options = store::Options { key_file: Some(folder.join(format!("{name}.age"))), ..store::Options::default() };
    Store::open(&folder.join(format!("{name}-store")), options).unwrap()
}

/// Runs and audit log as the store gives them back: on the disk both are compressed when they are old.
fn kept(scenario: &Scenario, name: &str) -> Said {
    let store = store(scenario, name);
    let reader = store.reader();
    let mut said = Said::new();
    for run in reader.runs(&RunQuery::default()).unwrap() {
        let journal = serde_json::to_vec(&reader.journal(run.run, 0).unwrap()).unwrap();
        said.push((format!("journal of {name}, run {}", run.run), journal));
    }
    let audit = reader.audit(0, usize::MAX).unwrap();
    said.push((format!("audit log of {name}"), serde_json::to_vec(&audit).unwrap()));
    store.close_blocking();
    said
}

/// Every secret that talos-contractor keeps sealed.
fn sealed(scenario: &Scenario, needles: &mut Needles) {
    let store = store(scenario, "talos");
    let reader = store.reader();
    let mut bundles = 0;
    for (name, _) in reader.secret_names("").unwrap() {
        let secret = reader.secret(&name).unwrap().unwrap();
        let text = std::str::from_utf8(secret.plain.expose_secret()).unwrap();
        if let Ok(bundle) = Bundle::from_yaml(text) {
            of_bundle(&name, &bundle, needles);
            bundles += 1;
        } else if text.starts_with("-----BEGIN") {
            needles.add_key(&name, text);
        } else {
            of_credential(&name, text, needles);
        }
    }
    assert_eq!(bundles, 2, "one for each cluster");
    store.close_blocking();
}

fn of_bundle(name: &str, bundle: &Bundle, needles: &mut Needles) {
    for (what, pair) in [
        ("Talos", &bundle.os),
        ("Kubernetes", &bundle.kubernetes),
        ("etcd", &bundle.etcd),
        ("aggregation layer", &bundle.aggregator),
    ] {
        needles.add_key(&format!("{name}: key of the {what} authority"), pair.key.expose_secret());
    }
    needles.add_key(&format!("{name}: service-account key"), bundle.service_account_key.expose_secret());
    for (what, token) in [("bootstrap", &bundle.bootstrap_token), ("trustd", &bundle.trustd_token)] {
        needles.add(&format!("{name}: {what} token"), token.expose_secret().as_bytes());
    }
    needles.add_encoded(&format!("{name}: cluster secret"), bundle.cluster_secret.expose_secret());
    let secretbox = bundle.secretbox_encryption_secret.as_ref().unwrap();
    needles.add_encoded(&format!("{name}: secretbox key"), secretbox.expose_secret());
}

/// The private keys of a kubeconfig, talosconfig or machine configuration.
fn of_credential(name: &str, text: &str, needles: &mut Needles) {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let field = |line: &str| {
        let line = line.trim();
        let key = line.strip_prefix("client-key-data: ").or(line.strip_prefix("key: "))?;
        Some(key.trim_matches(['"', '\'']).to_owned())
    };
    // A worker's configuration has authorities without their keys.
    let keys: Vec<String> = text.lines().filter_map(field).filter(|key| !key.is_empty()).collect();
    assert!(!keys.is_empty() || name.contains("-worker-"), "{name} holds no key that this test knows of");
    for key in keys {
        let pem = BASE64_STANDARD.decode(key).unwrap();
        needles.add_key(name, std::str::from_utf8(&pem).unwrap());
    }
}

/// The Proxmox token, keys of stores, bus and its TLS, and the credentials of the cluster as its operator gets them.
fn known(scenario: &Scenario) -> Needles {
    let mut needles = Needles::default();
    let folder = &scenario.world.folder;
    let token = scenario.world.facts.api_token.clone();
    needles.add("the Proxmox token", token.split_once('=').unwrap().1.as_bytes());
    for daemon in ["infrastructure", "talos"] {
        let key = fs::read_to_string(folder.join(format!("{daemon}.age"))).unwrap();
        let key = key.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
        needles.add(&format!("the store key of {daemon}"), key.as_bytes());
    }
    let setup = scenario.world.nats.setup();
    for (identity, file) in &setup.keys {
        needles.add(&format!("the seed of {identity}"), fs::read_to_string(file).unwrap().trim().as_bytes());
    }
    for file in secret_files(folder).iter().filter(|file| file.extension().is_some_and(|ending| ending == "key")) {
        needles.add_key(&format!("{}", file.display()), &fs::read_to_string(file).unwrap());
    }
    let environment = scenario.world.environment(Identity::Operator);
    for what in ["kubeconfig", "talosconfig"] {
        let told = call(&[what, CLUSTER], &environment, "");
        of_credential(&format!("the key of a {what}"), &told.ok().out, &mut needles);
    }
    needles
}

/// Files that are there to hold a secret; those of the bus' identities, its TLS and the stores' keys.
fn secret_files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        ["infrastructure.age", "talos.age", "proxmox-token", "wrong-token"].map(|name| folder.join(name)).to_vec();
    found.extend(["ca.key", "server.key"].map(|name| folder.join("nats").join(name)));
    found.extend(fs::read_dir(folder.join("nats/keys")).unwrap().flatten().map(|entry| entry.path()));
    found
}

/// What those say that nobody told the cluster's name.
fn plant_into_logs(folder: &Path) {
    for log in ["lab.log", "nats/nats-server.log"] {
        let mut file = fs::File::options().append(true).open(folder.join(log)).unwrap();
        writeln!(file, "{CLUSTER}").unwrap();
    }
}

/// What health, metrics and every kind of command answer, refusals included.
fn asked(scenario: &Scenario) -> Said {
    let mut said = Said::new();
    for url in &scenario.world.health {
        for page in ["healthz", "readyz", "metrics"] {
            let url = format!("{url}/{page}");
            let text = scenario.runtime.block_on(async { reqwest::get(&url).await.unwrap().text().await.unwrap() });
            assert!(!text.is_empty(), "{url} says nothing");
            said.push((url, text.into()));
        }
    }
    let environment = scenario.world.environment(Identity::Operator);
    for line in [
        "cluster list",
        "cluster show CLUSTER",
        "cluster status CLUSTER",
        "nodes",
        "vms",
        "flows list",
        "runs list",
        "audit list",
        "audit verify",
        "playbooks list",
        "deadletter list",
        "quarantine list",
        "store verify --of talos",
        "events tail",
        "cluster show nobody",
        "kubeconfig nobody",
        "talosconfig CLUSTER --ttl 90000h",
        "flows show 0192f0c1-7b1a-7c3e-9d52-6f0a7c1b2d3e",
    ] {
        let word = |word| if word == "CLUSTER" { CLUSTER } else { word };
        let arguments: Vec<&str> = line.split(' ').map(word).chain(["-o", "json"]).collect();
        let told = call(&arguments, &environment, "");
        assert!(!told.out.is_empty() || !told.err.is_empty(), "{line} says nothing");
        said.push((format!("answer of cortexctl {line}"), (told.out + &told.err).into()));
    }
    said
}

/// What `check` says of a token that Proxmox refuses; the token itself is as secret as the right one.
fn wrong_token(scenario: &Scenario) -> String {
    use std::os::unix::fs::PermissionsExt;
    let folder = &scenario.world.folder;
    let file = folder.join("wrong-token");
    fs::write(&file, scenario.world.facts.api_token.replacen('=', "=wrong", 1)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let output = std::process::Command::new(tests::binaries::path("infrastructure-contractor").unwrap())
        .arg("--config")
        .arg(folder.join("infrastructure-contractor.toml"))
        .arg("--set")
        .arg(format!("proxmox.credential_file={}", file.display()))
        .arg("check")
        .env("RUST_BACKTRACE", "full")
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(said.contains("Proxmox cannot be used"), "the token is refused: {said}");
    said
}

/// The standard error and backtrace of a daemon when it panics with every secret open, of which these are some.
fn panicked(scenario: &Scenario, party: Party, opened: &[String]) -> String {
    let output = std::process::Command::new(tests::binaries::path("panicking").unwrap())
        .arg("--config")
        .arg(scenario.world.folder.join(format!("{party}-contractor.toml")))
        .env("PANICKING", party.to_string())
        .env("RUST_BACKTRACE", "full")
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!output.status.success(), "a task that died ends the daemon");
    for wanted in [opened, &["secrets open".to_owned(), "stack backtrace".to_owned()]].concat() {
        assert!(said.contains(&wanted), "{party} did not panic with its secrets open, `{wanted}` is missing: {said}");
    }
    said
}

/// Core files can be made on this machine or not: the daemon's own limit forbids them.
fn keeps_no_core(process: u32) -> bool {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    line.split_whitespace().skip(4).take(2).eq(["0", "0"])
}

/// Everything below `folder` that is not there to hold a secret, by its path.
fn read_all(folder: &Path, into: &mut Said) {
    let secret = secret_files(folder);
    let mut open = vec![folder.to_owned()];
    while let Some(place) = open.pop() {
        for entry in fs::read_dir(&place).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if !secret.contains(&path) {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                into.push((format!("file {name}"), fs::read(&path).unwrap()));
            }
        }
    }
}
