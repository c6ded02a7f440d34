//! What `deploy/` and `compose.yaml` refer to exists: programs, settings, files, services, images.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use contractor::config::{self, Sections};
use messages::schema::Checker;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What can be started in the image.
const PROGRAMS: [&str; 4] = ["infrastructure-contractor", "talos-contractor", "lab", "cortexctl"];

/// What every unit says, so that whoever takes over a daemon can do little with it.
const SANDBOX: [&str; 30] = [
    // A core file would hold its keys.
    "LimitCORE=0",
    "UMask=0077",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "PrivateUsers=yes",
    "DevicePolicy=closed",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RemoveIPC=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    "SystemCallErrorNumber=EPERM",
];

#[test]
fn the_example_configurations_are_accepted_and_name_every_setting() {
    check_example::<infrastructure_contractor::config::Sections>("deploy/infrastructure-contractor.toml");
    check_example::<talos_contractor::settings::Sections>("deploy/talos-contractor.toml");
}

#[test]
fn the_configurations_of_the_compose_file_are_accepted_and_pin_the_stand_ins() {
    let nothing = BTreeMap::new();
    let machines = root().join("deploy/compose/infrastructure-contractor.toml");
    config::load::<infrastructure_contractor::config::Sections>(&machines, &nothing, &[]).expect("it is accepted");
    let clusters = root().join("deploy/compose/talos-contractor.toml");
    let clusters =
        config::load::<talos_contractor::settings::Sections>(&clusters, &nothing, &[]).expect("it is accepted");
    assert_eq!(clusters.own.addons.manifests.len(), 2);
    for (name, manifest) in clusters.own.addons.manifests {
        let stand_in = read(&format!("crates/simulators/src/lab/addons/{name}.yaml"));
        assert_eq!(
            manifest.sha256,
            sha256(stand_in.as_bytes()),
            "put the new hash of {name} into deploy/compose/talos-contractor.toml"
        );
    }
}

#[test]
fn the_schemas_of_the_configurations_are_what_the_code_says() {
    check_schema::<infrastructure_contractor::config::Sections>("infrastructure-contractor");
    check_schema::<talos_contractor::settings::Sections>("talos-contractor");
}

#[test]
fn the_agents_definitions_fit_their_schema() {
    let schema: Value = serde_json::from_str(&read("schemas/agent.v1.json")).expect("the schema is JSON");
    let examples = schema["examples"].as_array().cloned().unwrap_or_default();
    let checker = Checker::new(schema).expect("the schema compiles");
    let agents = ["infrastructure-contractor", "talos-contractor"].map(|agent| {
        serde_saphyr::from_str::<Value>(&read(&format!("agents/{agent}/agent.yaml"))).expect("a definition is YAML")
    });
    for definition in examples.iter().chain(&agents) {
        assert_eq!(checker.check(definition), Ok(()), "{}", definition["agent"]);
    }
}

/// `UPDATE_SCHEMAS=1` writes them.
fn check_schema<S: Sections>(name: &str) {
    let mut schema = config::schema_of::<S>();
    let example = fs::read_to_string(root().join(format!("deploy/{name}.toml"))).expect("the example is there");
    let example: Value = toml::from_str(&example).expect("the example is TOML");
    schema["$id"] = format!("urn:cortex:schema:config:{name}:v1").into();
    schema["title"] = format!("Configuration of {name}").into();
    schema["description"] = format!("What {name} reads at its start, written as TOML.").into();
    schema["examples"] = Value::Array(vec![example.clone()]);
    assert_eq!(Checker::new(schema.clone()).expect("the schema compiles").check(&example), Ok(()));
    let text = serde_json::to_string_pretty(&schema).expect("a schema is JSON") + "\n";
    let path = root().join(format!("schemas/config/{name}.v1.json"));
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        fs::create_dir_all(path.parent().expect("it is in a folder")).expect("the folder can be made");
        fs::write(&path, &text).expect("the file can be written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "schemas/config/{name}.v1.json is not what the code says; write it with UPDATE_SCHEMAS=1"
    );
}

#[test]
fn compose_yaml_refers_to_things_that_exist() {
    let compose: Value = serde_saphyr::from_str(&read("compose.yaml")).expect("compose.yaml is YAML");
    let services = compose["services"].as_object().expect("there are services");
    for wanted in ["nats", "lab", "infrastructure-contractor", "talos-contractor"] {
        assert!(services.contains_key(wanted), "there is no service {wanted}");
    }
    for (name, service) in services {
        check_image(name, service);
        check_command(name, service);
        check_neighbours(name, service, services);
        check_volumes(name, service, &compose["volumes"]);
        for port in strings(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name} publishes {port} to everybody");
        }
    }
}

#[test]
fn compose_yaml_fits_the_schema_of_the_compose_specification() {
    let schema = read("tests/compose-spec/compose-spec.json");
    let source = read("tests/compose-spec/README.md");
    assert!(source.contains(&sha256(schema.as_bytes())), "it is no longer what its README says");
    let checker = Checker::new(serde_json::from_str(&schema).expect("it is JSON")).expect("the schema compiles");
    let compose: Value = serde_saphyr::from_str(&read("compose.yaml")).expect("compose.yaml is YAML");
    assert_eq!(checker.check(&compose), Ok(()));
    // A check that could not fail would be none.
    for (service, field, wrong) in [
        ("nats", "imagee", json!("nats:2.15.1")),
        ("lab", "ports", json!({ "4222": "4222" })),
        ("nats", "depends_on", json!({ "keys": { "condition": "service_complete" } })),
        ("lab", "healthcheck", json!({ "retries": "many", "every": "2s" })),
        ("cortexctl", "volumes", json!([true])),
    ] {
        let mut compose = compose.clone();
        compose["services"][service][field] = wrong;
        let violations = checker.check(&compose).expect_err(field);
        let place = format!("/services/{service}");
        assert!(violations.iter().all(|violation| violation.path.starts_with(&place)), "{field}: {violations:?}");
    }
}

#[test]
fn the_image_holds_programs_of_the_workspace() {
    let dockerfile = read("Dockerfile");
    let copied: BTreeSet<&str> = dockerfile
        .lines()
        .filter(|line| line.starts_with("COPY --from=build"))
        .filter_map(|line| line.split_whitespace().nth(2)?.strip_prefix("/source/target/release/"))
        .collect();
    assert_eq!(copied, PROGRAMS.into_iter().collect());
    let toolchain = format!("FROM rust:{}-", env!("CARGO_PKG_RUST_VERSION"));
    assert!(dockerfile.contains(&toolchain), "the image is built by the Rust of Cargo.toml: {toolchain}");
}

#[test]
fn the_units_start_programs_with_configurations_that_ship() {
    let mut started = 0;
    for entry in fs::read_dir(root().join("deploy/systemd")).expect("there are units").flatten() {
        let path = entry.path();
        let Some(unit) = path.file_stem().filter(|_| path.extension().is_some_and(|it| it == "service")) else {
            continue;
        };
        let unit = unit.to_string_lossy();
        let text = fs::read_to_string(&path).expect("a unit can be read");
        let setting = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        assert_eq!(setting("User"), Some(&*unit), "each daemon has a user of its own");
        let settings: BTreeSet<_> = text.lines().collect();
        let missing: Vec<_> = SANDBOX.iter().filter(|line| !settings.contains(*line)).collect();
        assert_eq!(missing, Vec::<&&str>::new(), "{unit} may do more than its work");
        let users = read("deploy/systemd/cortex.sysusers.conf");
        assert!(users.contains(&format!("\nu {unit} ")), "nobody makes the user of {unit}");
        if let Some(daemon) = setting("ExecStart").and_then(|line| line.split('/').find(|it| it.starts_with(&*unit))) {
            assert_eq!(daemon, format!("{unit} --config "));
            assert!(root().join(format!("deploy/{unit}.toml")).is_file(), "no example configuration of {unit}");
            started += 1;
        }
    }
    assert_eq!(started, 2, "a unit for each contractor");
}

#[test]
fn the_image_gives_memory_back_as_the_units_do() {
    for unit in ["infrastructure-contractor", "talos-contractor"] {
        let text = read(&format!("deploy/systemd/{unit}.service"));
        let setting = text.lines().find_map(|line| line.strip_prefix("Environment=GLIBC_TUNABLES="));
        let setting = setting.unwrap_or_else(|| panic!("{unit} keeps what it frees"));
        assert!(read("Dockerfile").contains(&format!("\nENV GLIBC_TUNABLES={setting}\n")), "as in {unit}");
    }
}

/// `systemd-analyze` grades what a unit can still do; where it is installed and can do so without a running systemd.
#[test]
fn the_units_can_do_little_beside_their_work() {
    let units = ["cortex-nats", "infrastructure-contractor", "talos-contractor"];
    let graded = |threshold: &str| {
        let mut call = std::process::Command::new("systemd-analyze");
        call.args(["security", "--offline=true", "--no-pager", &format!("--threshold={threshold}")]);
        call.args(units.map(|unit| root().join(format!("deploy/systemd/{unit}.service")))).output()
    };
    // Everything passes with the worst grade that there is, unless the tool is missing or older than 250.
    if !graded("100").is_ok_and(|output| output.status.success()) {
        println!("not tried: the grades of systemd-analyze, which is not installed or cannot give them here");
        return;
    }
    let output = graded("20").expect("it ran a moment ago");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "a unit is graded above 2.0 of 10:\n{said}");
}

/// The file as it is, and with every `#setting` uncommented, fits the daemon's schema; no setting is left out.
fn check_example<S: Sections>(path: &str) {
    if let Err(error) = config::load::<S>(&root().join(path), &BTreeMap::new(), &[]) {
        panic!("{path}: {error}");
    }
    let everything: String = read(path)
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| rest.starts_with(char::is_alphabetic) || rest.starts_with('[') || rest.starts_with('"'))
                .unwrap_or(line)
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let value: Value = toml::from_str(&everything).unwrap_or_else(|error| panic!("{path}, uncommented: {error}"));
    let schema = config::schema_of::<S>();
    let violations = Checker::new(schema.clone()).expect("the schema compiles").check(&value);
    assert_eq!(violations, Ok(()), "{path}, uncommented");
    let mut missing = Vec::new();
    compare(&schema, &schema, &value, String::new(), &mut missing);
    assert!(missing.is_empty(), "{path} says nothing of {}", missing.join(", "));
}

/// Collects the settings of `schema` that `value` does not show.
fn compare(root: &Value, schema: &Value, value: &Value, at: String, missing: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let target = root.pointer(name.trim_start_matches('#')).expect("a reference of the schema leads somewhere");
        return compare(root, target, value, at, missing);
    }
    if let (Some(items), Some(first)) = (schema.get("items"), value.get(0)) {
        return compare(root, items, first, format!("{at}[]"), missing);
    }
    if let (Some(entries), Some(first)) = (
        schema.get("additionalProperties").filter(|it| it.is_object()),
        value.as_object().and_then(|it| it.values().next()),
    ) {
        return compare(root, entries, first, format!("{at}.*"), missing);
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        match value.get(name) {
            Some(value) => compare(root, inner, value, at, missing),
            None => missing.push(at),
        }
    }
}

fn check_image(name: &str, service: &Value) {
    let image = service["image"].as_str().unwrap_or_else(|| panic!("{name} has no image"));
    if service.get("build").is_some() {
        return assert!(root().join("Dockerfile").is_file(), "{name} is built, and there is no Dockerfile");
    }
    let version = image.strip_prefix("nats:").unwrap_or_else(|| panic!("{name}: {image} is not known here"));
    let version = version.split('-').next().unwrap_or_default();
    let numbers: Vec<u64> = version.split('.').filter_map(|number| number.parse().ok()).collect();
    let [major, minor, patch] = numbers[..] else { panic!("{name}: pin a whole version, not {version}") };
    assert!((major, minor, patch) >= bus::MINIMUM_SERVER, "{name}: {version} is too old");
}

fn check_command(name: &str, service: &Value) {
    let words = [strings(&service["entrypoint"]), strings(&service["command"])].concat();
    let script = if words.first().is_some_and(|word| word == "sh") {
        let script = words.last().expect("sh has a script");
        script
            .split("exec ")
            .nth(1)
            .unwrap_or_else(|| panic!("{name}: the shell stays in the way of signals"))
            .to_owned()
    } else {
        words.join(" ")
    };
    let program = script.split_whitespace().next().unwrap_or_default();
    assert!(PROGRAMS.contains(&program) || program == "nats-server", "{name} starts {program:?}");
    for file in script.split_whitespace().filter_map(|word| word.strip_prefix("/etc/cortex/")) {
        assert!(root().join("deploy/compose").join(file).is_file(), "{name} reads {file}, and there is none");
    }
}

fn check_neighbours(name: &str, service: &Value, services: &serde_json::Map<String, Value>) {
    for (other, how) in service["depends_on"].as_object().into_iter().flatten() {
        let neighbour = services.get(other).unwrap_or_else(|| panic!("{name} waits for {other}, and there is none"));
        if how["condition"] == "service_healthy" {
            assert!(
                neighbour.get("healthcheck").is_some(),
                "{name} waits for the health of {other}, which has no check"
            );
        }
    }
    if let Some(network) = service["network_mode"].as_str().filter(|mode| *mode != "none") {
        let other =
            network.strip_prefix("service:").unwrap_or_else(|| panic!("{name}: network {network} is not known"));
        assert!(services.contains_key(other), "{name} shares the network of {other}, and there is none");
    }
}

fn check_volumes(name: &str, service: &Value, declared: &Value) {
    for volume in strings(&service["volumes"]) {
        let source = volume.split(':').next().unwrap_or_default();
        let known = match source.strip_prefix("./") {
            Some(path) => root().join(path).exists(),
            None => declared.as_object().is_some_and(|volumes| volumes.contains_key(source)),
        };
        assert!(known, "{name} mounts {source}, and there is none");
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    crate::architecture::root()
}
