//! The operator's command line as a process: what it prints where, in which format, and its exit code.

mod stores;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bus::identity::Identity;
use cortexctl::client::Submission;
use messages::{catalogue, subject::Party};
use serde_json::{Value, json};
use tests::{binaries, nats::NatsServer, world::WorldOptions};
use uuid::Uuid;

use crate::{
    command::{Environment, Told, call},
    contract, daemons,
    scenario::Scenario,
};

/// The request body of Moxxie's own description.
const MOXXIE: &str = r#"{
    "name": "talos-prod", "type": "TALOS", "bootMethod": "PXE", "talosVersion": "1.9.2", "kubernetesVersion": "1.32.0",
    "nodeGroups": [
        { "name": "controlplane", "role": "CONTROL_PLANE", "count": 3, "template": { "cores": 4, "memoryMB": 8192,
          "disks": [{ "interfaceType": "SCSI", "slot": 0, "sizeGB": 100, "ssd": true }] } },
        { "name": "workers", "role": "WORKER", "count": 3, "template": { "cores": 8, "memoryMB": 16384,
          "disks": [{ "interfaceType": "SCSI", "slot": 0, "sizeGB": 200, "ssd": true }] } }
    ],
    "security": { "encryptionEnabled": true, "secureBootEnabled": true },
    "network": { "cni": "cilium", "serviceSubnet": "10.96.0.0/12", "podSubnet": "10.244.0.0/16" }
}"#;

#[test]
fn wrong_input_is_named_before_anything_is_asked() {
    let nowhere = [("CORTEX_NATS_URL".to_owned(), "tls://127.0.0.1:1".to_owned())];
    let create = |input: &str| call(&["cluster", "create", "-f", "-"], &nowhere, input);
    create("").ended(2).warns(&["standard input: it is empty; expected an object in YAML or JSON"]);
    create("- a\n").ended(2).warns(&["it is a list; expected an object"]);
    create("cluster_name: a\ncluster_name: b\n").ended(2).warns(&["line 2", "duplicate"]);
    create(r#"{"cluster_name":"a","cluster_name":"b"}"#).ended(2).warns(&["line 1, column 34: duplicate key"]);
    create("request_type: provision_cluster\ncluster_name: a\npatern: ha\nworker_nodes: many\n").ended(2).warns(&[
        "/patern: expected a field that the schema knows, got an unknown field; did you mean \"pattern\"?",
        "/worker_nodes: expected integer, got string of 4 characters",
    ]);
    create(MOXXIE).ended(2).warns(&[
        "/bootMethod: machines boot an imported disk image, never the network; nearest supported: IMAGE, or leave it out",
        "/talosVersion: supported are 1.12 to 1.14; nearest supported: 1.13.9",
        "/security/encryptionEnabled: ",
        "/security/secureBootEnabled: ",
    ]);
    call(&["cluster", "create", "-f", "/no/such/file"], &nowhere, "").ended(2).warns(&["/no/such/file: No such file"]);
    call(&["cluster", "create"], &nowhere, "").ended(2).warns(&["--name"]);
    call(&["cluster", "explode"], &nowhere, "").ended(2).warns(&["unrecognized subcommand 'explode'"]);
    call(&["events", "tail", "--type", "step_startd"], &nowhere, "").ended(2).warns(&["did you mean step_started?"]);
    call(&["events", "tail", "--since", "soon"], &nowhere, "").ended(2).warns(&["--since takes a sequence, a time"]);
    call(&["talosconfig", "a", "--role", "os:god"], &nowhere, "").ended(2).warns(&["os:reader"]);
    call(&["store", "verify", "--folder", "/no/such"], &nowhere, "").ended(2).warns(&["/no/such is no folder"]);
    call(&["flows", "show", "x"], &nowhere, "").ended(2);
    let plain = call(&["cluster", "list", "--server", "nats://10.20.0.5:4222"], &nowhere, "");
    plain.ended(2).warns(&["--server nats://10.20.0.5:4222: it would not be encrypted; expected tls://, or --ca"]);
    // What is typed right and cannot be done.
    call(&["cluster", "list", "--seed", "/no/such.nk"], &nowhere, "").ended(1).warns(&["/no/such.nk"]);
}

#[test]
fn what_needs_no_bus_needs_none() {
    let nowhere = [("CORTEX_NATS_URL".to_owned(), "tls://127.0.0.1:1".to_owned())];
    let listed = call(&["schema", "list", "-o", "json"], &nowhere, "").json();
    assert_eq!(listed.as_array().unwrap().len(), catalogue::all().len());
    let shown = call(&["schema", "show", "vm_provisioned"], &nowhere, "").json();
    assert_eq!(shown["$id"], "urn:cortex:schema:handoff:vm_provisioned:v1");
    call(&["schema", "show", "vm_provisioned", "-o", "yaml"], &nowhere, "").ok().says(&["title: vm_provisioned"]);
    call(&["schema", "show", "vm_provisiond"], &nowhere, "").ended(2).warns(&["did you mean vm_provisioned?"]);
    let validate = |input: &str, format: &str| call(&["schema", "validate", "-", "-o", format], &nowhere, input);
    let good = r#"{"request_type":"provision_cluster","cluster_name":"a"}"#;
    assert_eq!(validate(good, "json").json(), json!([]));
    let bad = validate(r#"{"request_type":"provision_cluster","cluster_name":7}"#, "json");
    assert_eq!(serde_json::from_str::<Value>(&bad.ended(1).out).unwrap()[0]["path"], "/cluster_name");
    validate("{}", "table").ended(2).warns(&["does not say which message it is"]);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        call(&["completions", shell], &nowhere, "").ok().says(&["cortexctl", "deadletter"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.yaml");
    std::fs::write(&broken, "playbook: x\nversion: 1\nsetps: []\n").unwrap();
    let broken = broken.display().to_string();
    call(&["playbooks", "check", "--offline", &broken], &nowhere, "").ended(1).says(&["broken.yaml:3", "steps"]);
}

#[test]
fn a_bus_that_was_not_set_up_differs_and_is_made_by_its_admin_only() {
    let folder = tempfile::tempdir().unwrap();
    let server = NatsServer::start(folder.path()).unwrap();
    let as_one = |identity: Identity, arguments: &[&str]| call(arguments, &environment(&server, identity), "");
    let check = as_one(Identity::Operator, &["bus", "check", "-o", "json"]);
    let differences: Value = serde_json::from_str(&check.ended(4).out).unwrap();
    assert_eq!(differences.as_array().unwrap().len(), 8, "four streams and four consumers: {differences}");
    // Refused at once, by name, and not as a server that does not answer.
    let begun = Instant::now();
    as_one(Identity::Operator, &["bus", "init"]).ended(1).warns(&["the bus refuses subject $JS.API.STREAM."]);
    assert!(begun.elapsed() < Duration::from_secs(5), "a refusal looked like a server that is slow");
    as_one(Identity::Admin, &["bus", "init"]).ok().says(&["stream CORTEX_HANDOFFS created"]);
    as_one(Identity::Admin, &["bus", "init"]).ok().warns(&["everything was as it should be"]);
    as_one(Identity::Operator, &["bus", "check"]).ok().warns(&["--monitor"]);
    let made = folder.path().join("made").display().to_string();
    let keys = as_one(Identity::Operator, &["bus", "configure", &made, "-o", "json"]).json();
    assert_eq!(keys.as_array().unwrap().len(), Identity::ALL.len());
    let config = std::fs::read_to_string(folder.path().join("made/nats-server.conf")).unwrap();
    assert!(config.contains("sync_interval: always"), "{config}");
}

#[test]
fn a_server_that_does_not_sync_every_write_differs() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = NatsServer::start_monitored(folder.path()).unwrap();
    let monitor = format!("127.0.0.1:{}", server.listen().port() + 1);
    call(&["bus", "init"], &environment(&server, Identity::Admin), "").ok();
    let check = |server: &NatsServer| {
        call(&["bus", "check", "--monitor", &monitor, "-o", "json"], &environment(server, Identity::Operator), "")
    };
    assert_eq!(check(&server).ok().json(), json!([]));

    let config = server.setup().config.clone();
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("sync_interval: always", "sync_interval: \"2m\"")).unwrap();
    server.start_again().unwrap();
    let differences: Value = serde_json::from_str(&check(&server).ended(4).out).unwrap();
    let [difference] = differences.as_array().unwrap().as_slice() else { panic!("{differences}") };
    assert_eq!((&difference["setting"], &difference["actual"]), (&json!("sync_interval"), &json!("120s")));
    let nobody = call(&["bus", "check", "--monitor", "127.0.0.1:1"], &environment(&server, Identity::Operator), "");
    nobody.ended(1).warns(&["monitoring at 127.0.0.1:1"]);
}

fn environment(server: &NatsServer, identity: Identity) -> Vec<(String, String)> {
    let setup = server.setup();
    vec![
        ("CORTEX_NATS_URL".to_owned(), server.url()),
        ("CORTEX_NATS_SEED".to_owned(), setup.keys[&identity].display().to_string()),
        ("CORTEX_NATS_CA".to_owned(), setup.root_ca.display().to_string()),
        ("CORTEX_NATS_IDENTITY".to_owned(), identity.to_string()),
    ]
}

/// One world for everything, as its start is what takes long.
#[test]
fn an_operator_makes_looks_at_scales_and_takes_away_a_cluster() {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let operator = scenario.world.environment(Identity::Operator);
    let run = |arguments: &[&str]| call(arguments, &operator, "");
    // Somebody else was faster: the id is put into quarantine, and another one is taken.
    scenario
        .plan(&["pve POST /nodes/*/qemu#1=error:500:unable to create VM 100 - VM 100 already exists on node 'pve2'"]);
    dry_run_and_create(&scenario, &operator);
    look(&run);
    follow(&operator);
    credentials(&scenario, &operator);
    scale(&run);
    approvals(&scenario, &run);
    dead_letters(&scenario, &run);
    contract::answers(&scenario);
    quarantine(&run);
    daemons::beside_running_ones(&scenario);
    stores::exports(&scenario, &run);
    run(&["store", "verify", "--of", "talos"]).ok().says(&["problems: []"]);
    run(&["store", "compact", "--of", "talos"]).ok().says(&["before:", "after:"]);
    let folder = scenario.world.folder.join("talos-store").display().to_string();
    run(&["store", "verify", "--folder", &folder]).ended(1);

    run(&["cluster", "decommission", "web"]).ended(3).warns(&[
        "infrastructure-contractor:",
        "talos-contractor:",
        "--yes",
    ]);
    let gone = run(&["cluster", "decommission", "web", "--yes", "--watch", "--reason", "test"]);
    gone.ok().warns(&["release", "decommission_request succeeded"]);
    assert_eq!(run(&["cluster", "list", "-o", "json"]).json(), json!([]));
    run(&["cluster", "show", "web"]).ended(1).warns(&["neither contractor knows a cluster web"]);
    contract::events(&run);
    stores::wait_for_heads(&scenario);

    scenario.world.talos.stop(Duration::from_secs(20)).unwrap();
    let key = scenario.world.folder.join("talos.age").display().to_string();
    run(&["store", "verify", "--folder", &folder, "--key-file", &key]).ok().says(&["problems: []"]);
    stores::tampered_log(&scenario, &folder, &run);
    run(&["store", "compact", "--folder", &folder]).ok();
    let export = scenario.world.folder.join("export").display().to_string();
    let exported = run(&["store", "export", "--folder", &folder, &export, "-o", "json"]).json();
    let again = |file: &str| run(&["store", "export", "--folder", &folder, file]);
    again(&export).ended(1).warns(&["something is there"]);
    again(&format!("{folder}/new")).ended(1).warns(&["in the folder of the store"]);
    let copy = scenario.world.folder.join("copy").display().to_string();
    assert_eq!(run(&["store", "import", "--folder", &copy, &export, "-o", "json"]).json(), exported);
    run(&["store", "import", "--folder", &copy, &export]).ended(1).warns(&["holds a store already", "--replace FILE"]);
    run(&["store", "accept-loss", "--folder", &copy]).ok().warns(&["store verify --folder"]);
    run(&["store", "accept-loss", "--folder", "/no/such"]).ended(1).warns(&["/no/such is not a store"]);
    let new_key = format!("{key}.new");
    let verify = |key: &str| run(&["store", "verify", "--folder", &folder, "--key-file", key]);
    let rekey = ["store", "rekey", "--folder", &folder, "--key-file", &key, "--new-key-file", &new_key];
    run(&rekey).ok().says(&["secrets:", "age1"]).warns(&["store.key_file"]);
    verify(&key).ended(1).warns(&["the store's secrets are sealed for age1"]);
    verify(&new_key).ok().says(&["problems: []"]);
    std::fs::rename(&new_key, &key).unwrap();
    changed_bus(&mut scenario);
}

/// A contractor does not make what is missing: it says what differs and ends.
fn changed_bus(scenario: &mut Scenario) {
    let admin = scenario.world.environment(Identity::Admin);
    let delete = "$JS.API.CONSUMER.DELETE.CORTEX_HANDOFFS.handoffs-talos";
    scenario.runtime.block_on(async {
        let bus = scenario.world.nats.connect(Identity::Admin).await.unwrap();
        bus.request(delete, &Default::default(), Default::default(), Duration::from_secs(10)).await.unwrap();
    });
    call(&["bus", "check"], &admin, "").ended(4).says(&["consumer handoffs-talos of CORTEX_HANDOFFS is missing"]);
    let talos = &mut scenario.world.talos;
    talos.start(false).unwrap();
    let give_up = Instant::now() + Duration::from_secs(60);
    let status = loop {
        match talos.ended() {
            Some(status) => break status,
            None => assert!(Instant::now() < give_up, "{}", talos.log()),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(!status.success());
    assert!(talos.log().contains("consumer handoffs-talos of CORTEX_HANDOFFS is missing"), "{}", talos.log());
    call(&["bus", "init"], &admin, "").ok().says(&["consumer handoffs-talos of CORTEX_HANDOFFS created"]);
    scenario.world.talos.start(false).unwrap();
    scenario.world.wait_ready().unwrap();
}

fn dry_run_and_create(scenario: &Scenario, operator: &Environment) {
    let request = "request_type: provision_cluster\ncluster_name: web\npattern: edge\nworker_nodes: 1\n";
    let dry = call(&["cluster", "create", "-f", "-", "--dry-run"], operator, request);
    dry.ok().says(&[
        "infrastructure-contractor: provision-vms",
        "+ create ",
        "talos-contractor: bootstrap-cluster",
        "+ apply configuration to node web-cp-1",
        "+ apply configuration to node web-worker-1",
        "local_path",
    ]);
    assert!(!dry.out.contains("cilium") && !dry.out.contains("longhorn"), "what is not chosen is not planned");
    assert_eq!(scenario.machines(), 0, "a dry run makes nothing");
    let made = call(&["cluster", "create", "-f", "-", "--watch", "-o", "json"], operator, request);
    assert_eq!(made.json()["state"], "succeeded");
    made.warns(&["bootstrap", "succeeded after"]);
    call(&["cluster", "create", "-f", "-"], operator, request).ended(1).warns(&["/cluster_name"]);
}

fn look(run: &dyn Fn(&[&str]) -> Told) {
    let listed = run(&["cluster", "list", "-o", "json"]).json();
    assert_eq!((&listed[0]["cluster"], &listed[0]["state"]), (&json!("web"), &json!("active")));
    run(&["cluster", "list"]).ok().says(&["CLUSTER", "web", "active"]);
    assert!(run(&["cluster", "show", "web", "-o", "json"]).json()["talos"]["configs"]["web-cp-1"].is_array());
    run(&["cluster", "status", "web"]).ok().says(&[
        "healthy",
        "https://127.",
        "pve1",
        "running",
        " MiB",
        "etcd",
        "kube-apiserver",
        "nodes are Ready",
    ]);
    let status = run(&["cluster", "status", "web", "-o", "json"]).json();
    assert_eq!(status["cluster"]["nodes"].as_array().unwrap().len(), 2);
    assert!(status["machines"]["vms"][0]["memory_used_mib"].is_u64(), "{status}");
    assert_eq!(run(&["nodes", "--cluster", "web", "-o", "json"]).json().as_array().unwrap().len(), 2);
    run(&["vms", "-o", "yaml"]).ok().says(&["name: web-cp-1"]);
    let flows = run(&["flows", "list", "--state", "succeeded", "-o", "json"]).json();
    let flow = flows[0]["flow"].as_str().unwrap();
    run(&["flows", "show", flow]).ok().says(&["talos bootstrap-cluster (succeeded)", "infrastructure provision-vms"]);
    run(&["flows", "watch", flow]).ok().says(&["succeeded"]);
    run(&["flows", "resume", flow]).ended(1).warns(&["paused or stuck"]);
    run(&["flows", "cancel", flow]).ended(1).warns(&["at work"]);
    run(&["flows", "cancel", &Uuid::nil().to_string()]).ended(1).warns(&["neither contractor knows flow"]);
    let runs = run(&["runs", "list", "--flow", flow, "-o", "json"]).json();
    assert_eq!(runs.as_array().unwrap().len(), 3, "{runs}");
    run(&["runs", "show", runs[0]["run"].as_str().unwrap()]).ok().says(&["STEP", "ACTION"]);
    run(&["runs", "list", "--state", "lost"])
        .ended(1)
        .warns(&["argument `state`", "expected one of `pending`, `running`"]);
    run(&["playbooks", "list"]).ok().says(&["bootstrap-cluster", "handoff vm_provisioned", "scale-pool"]);
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../playbooks/");
    let (scale, add_on) = (format!("{shipped}scale-pool.yaml"), format!("{shipped}install-cni-cilium.yaml"));
    run(&["playbooks", "check", &scale, &add_on]).ok().warns(&["would load"]);
    let text = std::fs::read_to_string(&add_on).unwrap();
    assert_eq!(run(&["playbooks", "show", "install-cni-cilium"]).ok().out, text, "of talos-contractor");
    let shown = run(&["playbooks", "show", "scale-pool", "-o", "json"]).json();
    assert_eq!((&shown["contractor"], &shown["version"]), (&json!("infrastructure"), &json!(2)));
    run(&["playbooks", "show", "nothing"]).ended(1).warns(&["no contractor has a playbook nothing"]);
    let told = run(&["events", "tail", "--cluster", "web", "--type", "flow_succeeded", "-o", "json"]).json();
    assert_eq!(told["body"]["flow"], flow);
    let next = (told["sequence"].as_u64().unwrap() + 1).to_string();
    let rest = run(&["events", "tail", "--since", &next, "-o", "json"]);
    let first = rest.ok().out.lines().next().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert!(first.is_none_or(|first| first["sequence"].as_u64() >= next.parse().ok()), "it goes on where it was");
}

/// Following ends with whoever reads: nothing is left behind, nothing is complained about.
fn follow(operator: &Environment) {
    let mut child = Command::new(binaries::path("cortexctl").unwrap())
        .args(["events", "tail", "--follow", "--since", "1", "-o", "json"])
        .envs(operator.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["sequence"], 1);
    drop(lines);
    // Something that is told after nobody reads any more.
    call(&["kubeconfig", "web"], operator, "").ok();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

fn credentials(scenario: &Scenario, operator: &Environment) {
    let run = |arguments: &[&str]| call(arguments, operator, "");
    run(&["kubeconfig", "web"]).ok().says(&["client-key-data: "]);
    run(&["kubeconfig", "nowhere"]).ended(1).warns(&["there is no cluster nowhere"]);
    run(&["talosconfig", "web", "--role", "os:reader", "--ttl", "1h"]).ok().says(&["context: web"]);
    let config = scenario.world.folder.join("kubeconfig");
    let mut with_config = operator.to_vec();
    with_config.push(("KUBECONFIG".to_owned(), config.display().to_string()));
    let merge = || call(&["kubeconfig", "web", "--merge"], &with_config, "");
    std::fs::write(&config, "clusters: [").unwrap();
    merge().ended(1).warns(&["nothing was changed"]);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "clusters: [");
    std::fs::write(&config, "clusters: [{name: other, cluster: {server: https://x}}]\n").unwrap();
    merge().ok().warns(&["merged into"]);
    let merged: Value = serde_saphyr::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    assert_eq!(merged["clusters"].as_array().unwrap().len(), 2);
    let issued = run(&["events", "tail", "--type", "credential_issued", "-o", "json"]);
    let issued: Vec<Value> = issued.ok().out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(issued.len(), 4 + 1, "each credential that leaves is told: {issued:?}");
    assert_eq!(issued[2]["body"]["facts"]["role"], "os:reader");
}

fn scale(run: &dyn Fn(&[&str]) -> Told) {
    let up = ["cluster", "scale", "web", "--pool", "worker", "--count", "2"];
    let dry = run(&[&up[..], &["--dry-run"]].concat());
    dry.ok().says(&[
        "infrastructure-contractor: scale-pool",
        "+ scale pool worker of web from=1 to=2",
        "web-worker-2",
        "talos-contractor: join-nodes",
        "+ register node web-worker-2 of cluster web",
        "+ apply configuration to node web-worker-2",
    ]);
    let same: Value = run(&[&up[..], &["--dry-run", "-o", "json"]].concat()).json();
    assert_eq!(same["needs_approval"], false);
    assert_eq!(same["then"][0]["contractor"], "talos");
    run(&[&up[..], &["--watch"]].concat()).ok().warns(&["scale_request succeeded"]);

    let down = ["cluster", "scale", "web", "--pool", "worker", "--count", "1"];
    run(&[&down[..], &["--dry-run"]].concat()).ok().says(&[
        "infrastructure-contractor: scale-pool",
        "- destroy 1 of 2 machines",
        "talos-contractor: remove-nodes",
        "- remove 1 of 2 nodes of pool worker",
    ]);
    run(&down).ended(3).warns(&["talos-contractor: remove-nodes", "--yes"]);
    run(&[&down[..], &["--yes", "--watch"]].concat()).ok().warns(&["scale_request succeeded"]);
    run(&["cluster", "scale", "web", "--pool", "nothing", "--count", "1"]).ended(1).warns(&["/pool", "worker"]);
    run(&["cluster", "scale", "web", "--pool", "cp", "--count", "3"]).ended(1).warns(&["a pool of workers"]);
}

/// What was put into quarantine when the cluster was made is given back to use.
fn quarantine(run: &dyn Fn(&[&str]) -> Told) {
    let listed = run(&["quarantine", "list", "-o", "json"]).json();
    let what = listed[0]["what"].as_str().unwrap_or_else(|| panic!("nothing is in quarantine: {listed}"));
    assert!(
        what.starts_with("vmid/") && listed[0]["reason"].as_str().unwrap().contains("is somebody else's"),
        "{listed}"
    );
    run(&["quarantine", "lift", what]).ok().warns(&[&format!("{what} may be used again")]);
    assert_eq!(run(&["quarantine", "list", "-o", "json"]).json(), json!([]));
    run(&["quarantine", "lift", what]).ended(1).warns(&["nothing of that name is in quarantine"]);
}

/// A request that waits for consent is seen, refused another plan's hash, and withdrawn.
fn approvals(scenario: &Scenario, run: &dyn Fn(&[&str]) -> Told) {
    let (flow, body) = (Uuid::now_v7(), json!({ "cluster_name": "web" }));
    let asked = scenario.operator.submit(Party::Infrastructure, "decommission_request", flow, &body);
    assert!(matches!(scenario.runtime.block_on(asked).unwrap(), Submission::AwaitsApproval { .. }));
    let flow = flow.to_string();
    run(&["flows", "show", &flow]).ended(3).says(&["awaiting_approval", "- forget cluster web", "flows approve"]);
    run(&["flows", "watch", &flow]).ended(3);
    run(&["flows", "list", "--state", "awaiting_approval"]).ok().says(&[&flow]);
    let other = "0".repeat(64);
    run(&["flows", "approve", &flow, "--plan-hash", &other]).ended(4).warns(&["void", "approve its hash"]);
    run(&["flows", "cancel", &flow]).ok();
    run(&["flows", "show", &flow]).ended(1).says(&["cancelled", "withdrawn by /operator/"]);
    run(&["cluster", "status", "web"]).ok();
}

fn dead_letters(scenario: &Scenario, run: &dyn Fn(&[&str]) -> Told) {
    let bad = json!({ "request_type": "provision_cluster", "cluster_name": "UPPER" });
    let publish = scenario.operator.publish(Party::Infrastructure, "provision_cluster", Uuid::now_v7(), &bad);
    scenario.runtime.block_on(publish).unwrap();
    let give_up = Instant::now() + Duration::from_secs(60);
    let letter = loop {
        let letters = run(&["deadletter", "list", "-o", "json"]).json();
        let letters = letters.as_array().unwrap().clone();
        let by_us = letters.iter().find(|letter| letter["at"] == "infrastructure").cloned();
        let by_server = letters.iter().any(|letter| letter["at"] == "nats-server");
        match by_us {
            Some(letter) if by_server => break letter,
            _ => assert!(Instant::now() < give_up, "{letters:?}"),
        }
    };
    let sequence = letter["sequence"].to_string();
    run(&["deadletter", "show", &sequence]).ok().says(&["/cluster_name", "cluster_name: UPPER"]);
    run(&["deadletter", "retry", &sequence]).ok().warns(&["published again as flow"]);
    run(&["deadletter", "show", "4000000"]).ended(1).warns(&["no message 4000000"]);

    // A handoff comes again as it was signed; this one was taken, so its taker says so.
    let handoffs = run(&["events", "tail", "--type", "flow_succeeded", "-o", "json"]);
    assert!(handoffs.ok().out.lines().count() >= 3);
    let redeliver = |at: Party, sequence: u64| {
        let asked = scenario.operator.command::<Value>(at, "redeliver", json!({ "sequence": sequence }));
        scenario.runtime.block_on(asked).map_err(|error| error.to_string())
    };
    assert_eq!(redeliver(Party::Talos, 1).unwrap()["duplicate"], true);
    assert!(redeliver(Party::Infrastructure, 1).unwrap_err().contains("takes no handoff vm_provisioned"));
    assert!(redeliver(Party::Talos, 4_000_000).unwrap_err().contains("has no message 4000000"));
}
