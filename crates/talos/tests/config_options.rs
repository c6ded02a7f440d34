//! What each option of the generator adds, and what patches of users may and may not do.

#![expect(clippy::unwrap_used, reason = "helpers of a test, which may panic")]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::ExposeSecret;
use talos::config::generate::{
    ClusterInput, Cni, Discovery, DiskSelector, Install, InstallDisk, Link, LinkName, NodeInput, RegistryMirror, Role,
    SizeMatch,
};
use talos::config::installer::{FACTORY, Schematic};
use talos::config::yaml::{self, Value};
use talos::config::{MachineConfig, Mode, Patch, PatchError, Scope, ScopedPatch, generate};
use talos::secrets::Bundle;
use talos::version::Minor;

fn bundle(minor: Minor) -> Bundle {
    let key = "-----BEGIN RSA PRIVATE KEY-----\nbm90IGEga2V5\n-----END RSA PRIVATE KEY-----\n";
    Bundle::generate(minor, key.to_owned().into(), jiff::Timestamp::UNIX_EPOCH).unwrap()
}

fn cluster(minor: Minor) -> ClusterInput {
    let talos = minor.newest().trim_start_matches('v').parse().unwrap();
    ClusterInput::new("prod", "https://10.0.0.100:6443", talos, minor.default_kubernetes().parse().unwrap())
}

/// A cluster that asks for everything at once.
fn demanding_cluster(minor: Minor) -> ClusterInput {
    let mut cluster = cluster(minor);
    cluster.additional_sans = vec!["10.0.0.100".to_owned(), "api.example.com".to_owned()];
    cluster.cni = Cni::None;
    cluster.kube_proxy = false;
    cluster.schedule_on_control_planes = true;
    cluster.discovery = Discovery::Disabled;
    cluster.vip = Some("10.0.0.100".parse().unwrap());
    cluster.time_servers = vec!["ntp.example.com".to_owned()];
    cluster.nameservers = vec!["10.0.0.2".parse().unwrap()];
    cluster.registry_mirrors = vec![RegistryMirror {
        registry: "docker.io".to_owned(),
        endpoints: vec!["http://127.0.0.2:8080".to_owned()],
        skip_fallback: true,
        override_path: false,
    }];
    cluster.kubelet.rotate_server_certificates = true;
    cluster.kubelet.node_ip_subnets = vec!["10.0.0.0/8".to_owned()];
    cluster.longhorn = true;
    cluster
}

fn demanding_node(role: Role) -> NodeInput {
    let schematic = Schematic::with_extensions(["siderolabs/iscsi-tools", "siderolabs/util-linux-tools"]);
    let selector = DiskSelector {
        serial: Some("os-*".to_owned()),
        size: Some(SizeMatch::AtLeast(10_000_000_000)),
        ..DiskSelector::default()
    };
    let mut node = NodeInput::new(
        role,
        Install {
            disk: InstallDisk::Selector(selector),
            image: schematic.installer(FACTORY, "nocloud", "v1.13.9"),
            wipe: false,
        },
    );
    node.hostname = Some("prod-cp-1".to_owned());
    node.labels.insert("topology.kubernetes.io/zone".to_owned(), "pve1".to_owned());
    node.taints.insert("dedicated".to_owned(), "storage:NoSchedule".to_owned());
    node.provider_id = Some("proxmox://lab/101".to_owned());
    node.link = Some(Link {
        name: LinkName::Mac("BC:24:11:00:00:01".to_owned()),
        mtu: Some(9000),
        addresses: vec!["10.0.0.11/24".parse().unwrap()],
        gateway: Some("10.0.0.1".parse().unwrap()),
    });
    node
}

fn demanding(minor: Minor, role: Role) -> MachineConfig {
    generate(&demanding_cluster(minor), &demanding_node(role), &bundle(minor)).unwrap()
}

/// The texts of a path in a document, `*` for every element of a list; the main document is `v1alpha1`.
fn text(config: &MachineConfig, kind: &str, path: &[&str]) -> Option<String> {
    let mut value = Value::Mapping(config.document(kind)?.root().clone());
    for key in path {
        value = match value {
            Value::Sequence(items) => items.get(key.parse::<usize>().ok()?)?.clone(),
            other => other.at(&[key])?.clone(),
        };
    }
    value.text().map(str::to_owned)
}

fn check(config: &MachineConfig, kind: &str, path: &[&str], expected: &str) {
    assert_eq!(text(config, kind, path).as_deref(), Some(expected), "{kind} {path:?}");
}

#[test]
fn options_become_sections_up_to_1_13() {
    for minor in [Minor::V1_12, Minor::V1_13] {
        let config = demanding(minor, Role::ControlPlane);
        assert_eq!(config.validate(Mode::Metal), Ok(Vec::new()));
        let main = |path: &[&str], expected: &str| check(&config, "v1alpha1", path, expected);
        main(&["cluster", "network", "cni", "name"], "none");
        main(&["cluster", "proxy", "disabled"], "true");
        main(&["cluster", "allowSchedulingOnControlPlanes"], "true");
        main(&["cluster", "discovery", "enabled"], "false");
        main(&["cluster", "apiServer", "certSANs", "1"], "api.example.com");
        main(&["machine", "certSANs", "0"], "10.0.0.100");
        main(&["machine", "install", "diskSelector", "serial"], "os-*");
        main(&["machine", "install", "diskSelector", "size"], ">= 10000000000");
        main(&["machine", "kubelet", "extraArgs", "rotate-server-certificates"], "true");
        main(&["machine", "kubelet", "extraArgs", "provider-id"], "proxmox://lab/101");
        main(&["machine", "kubelet", "extraMounts", "0", "destination"], "/var/lib/longhorn");
        main(&["machine", "kubelet", "nodeIP", "validSubnets", "0"], "10.0.0.0/8");
        main(&["machine", "features", "kubePrism", "port"], "7445");
        main(&["machine", "nodeLabels", "topology.kubernetes.io/zone"], "pve1");
        main(&["machine", "nodeTaints", "dedicated"], "storage:NoSchedule");
        check(&config, "ResolverConfig", &["nameservers", "0", "address"], "10.0.0.2");
    }
}

#[test]
fn options_become_documents_from_1_14_on() {
    let config = demanding(Minor::V1_14, Role::ControlPlane);
    assert_eq!(config.validate(Mode::Metal), Ok(Vec::new()));
    assert!(config.document("KubeFlannelCNIConfig").is_none(), "no CNI of Talos's own");
    assert!(config.document("DiscoveryServiceConfig").is_none());
    check(&config, "KubeProxyConfig", &["enabled"], "false");
    check(&config, "KubeAPIServerConfig", &["certExtraSANs", "1"], "api.example.com");
    check(&config, "KubeNodeConfig", &["taints", "dedicated"], "storage:NoSchedule");
    let control_plane = text(&config, "KubeNodeConfig", &["taints", "node-role.kubernetes.io/control-plane"]);
    assert_eq!(control_plane, None, "workloads may run on control planes");
    check(&config, "KubeNodeConfig", &["nodeIP", "validSubnets", "0"], "10.0.0.0/8");
    check(&config, "KubeletConfig", &["extraArgs", "provider-id"], "proxmox://lab/101");
    check(&config, "UserVolumeConfig", &["volumeType"], "directory");
    let expression = "disk.size >= 10000000000u && glob(\"os-*\", disk.serial)";
    check(&config, "UnattendedInstallConfig", &["provisioning", "diskSelector", "match"], expression);
    check(&config, "ResolverConfig", &["hostDNS", "enabled"], "true");
    check(&config, "ResolverConfig", &["nameservers", "0", "address"], "10.0.0.2");
}

#[test]
fn host_network_documents_are_the_same_in_every_line() {
    for minor in Minor::ALL {
        let config = demanding(minor, Role::ControlPlane);
        check(&config, "HostnameConfig", &["hostname"], "prod-cp-1");
        check(&config, "HostnameConfig", &["auto"], "off");
        check(&config, "LinkAliasConfig", &["selector", "match"], "mac(link.permanent_addr) == \"bc:24:11:00:00:01\"");
        check(&config, "LinkConfig", &["addresses", "0", "address"], "10.0.0.11/24");
        check(&config, "LinkConfig", &["routes", "0", "gateway"], "10.0.0.1");
        check(&config, "Layer2VIPConfig", &["name"], "10.0.0.100");
        check(&config, "Layer2VIPConfig", &["link"], "net0");
        check(&config, "TimeSyncConfig", &["ntp", "servers", "0"], "ntp.example.com");
        check(&config, "RegistryMirrorConfig", &["endpoints", "0", "url"], "http://127.0.0.2:8080");
        assert!(demanding(minor, Role::Worker).document("Layer2VIPConfig").is_none(), "a VIP is for control planes");
    }
}

#[test]
fn workers_get_no_private_key_but_the_tokens() {
    for minor in Minor::ALL {
        let bundle = bundle(minor);
        let config = generate(&demanding_cluster(minor), &demanding_node(Role::Worker), &bundle).unwrap();
        let yaml = config.to_yaml();
        let text = yaml.expose_secret();
        for authority in [&bundle.os, &bundle.kubernetes, &bundle.etcd, &bundle.aggregator] {
            let key = authority.key.expose_secret();
            assert!(!text.contains(key) && !text.contains(&STANDARD.encode(key)));
        }
        assert!(!text.contains(bundle.service_account_key.expose_secret()));
        assert!(text.contains(bundle.trustd_token.expose_secret()));
    }
}

#[test]
fn a_kubernetes_that_the_talos_does_not_run_is_refused() {
    let mut cluster = cluster(Minor::V1_13);
    cluster.kubernetes_version = "1.37.0".parse().unwrap();
    let refused = generate(&cluster, &demanding_node(Role::Worker), &bundle(Minor::V1_13)).unwrap_err();
    let text = "version of Kubernetes 1.37.0 is too new to be used with Talos 1.13.9, which runs 1.31 to 1.36";
    assert_eq!(refused.to_string(), text);
    let config = demanding(Minor::V1_13, Role::Worker);
    assert!(config.check_versions(&"1.13.9".parse().unwrap()).is_ok());
    assert!(config.check_versions(&"1.12.11".parse().unwrap()).is_err(), "a node of 1.12 does not run 1.36");
}

#[test]
fn what_identifies_the_cluster_may_not_be_patched() {
    let forbidden = [
        ("machine: {type: worker}", "machine.type"),
        ("machine: {ca: {key: eA==}}", "machine.ca"),
        ("cluster: {token: abc}", "cluster.token"),
        ("cluster: {controlPlane: {endpoint: 'https://evil:6443'}}", "cluster.controlPlane.endpoint"),
        ("cluster: {id: x}", "cluster.id"),
        ("cluster: {etcd: {ca: {crt: eA==, key: eA==}}}", "cluster.etcd.ca"),
        ("cluster: {$patch: delete}", "cluster.id"),
        ("machine: {ca: {$patch: delete}}", "machine.ca"),
        ("apiVersion: v1alpha1\nkind: HostnameConfig\nhostname: other\n", "HostnameConfig"),
        ("apiVersion: v1alpha1\nkind: HostnameConfig\n$patch: delete\n", "HostnameConfig"),
        (r#"[{"op": "replace", "path": "/machine/token", "value": "x"}]"#, "machine.token"),
        (r#"[{"op": "copy", "from": "/machine/ca/key", "path": "/machine/env/LEAK"}]"#, "machine.ca"),
        (r#"[{"op": "remove", "path": "/machine"}]"#, "machine.type"),
    ];
    for (text, path) in forbidden {
        let patch = Patch::parse(text, Minor::V1_13).unwrap();
        assert_eq!(patch.check_allowed().unwrap_err().path, path, "{text}");
    }
    for text in
        ["machine: {sysctls: {a: b}}", "cluster: {etcd: {extraArgs: {a: b}}}", "machine: {kubelet: {$patch: delete}}"]
    {
        assert!(Patch::parse(text, Minor::V1_13).unwrap().check_allowed().is_ok(), "{text}");
    }
    let documents = "apiVersion: v1alpha1\nkind: KubeClusterConfig\nendpoint: https://evil:6443\n";
    assert_eq!(Patch::parse(documents, Minor::V1_14).unwrap().check_allowed().unwrap_err().path, "KubeClusterConfig");
}

#[test]
fn narrower_scopes_win_over_wider_ones() {
    let scoped = |scope: Scope, value: &str| ScopedPatch {
        scope,
        patch: Patch::parse(&format!("machine: {{sysctls: {{a: {value}}}}}"), Minor::V1_13).unwrap(),
    };
    let patches = [
        scoped(Scope::Node("w-1".to_owned()), "node"),
        scoped(Scope::Pool("fast".to_owned()), "pool"),
        scoped(Scope::Worker, "role"),
        scoped(Scope::All, "all"),
    ];
    let base = demanding(Minor::V1_13, Role::Worker);
    for (role, pool, hostname, expected) in [
        (Role::Worker, "fast", "w-1", "node"),
        (Role::Worker, "fast", "w-2", "pool"),
        (Role::Worker, "slow", "w-2", "role"),
        (Role::ControlPlane, "slow", "cp-1", "all"),
    ] {
        let patched = base.patched_for(&patches, role, pool, hostname).unwrap();
        check(&patched, "v1alpha1", &["machine", "sysctls", "a"], expected);
    }
}

#[test]
fn a_misspelt_key_is_named_with_the_right_one_and_without_its_value() {
    let error = Patch::parse("machine: {tokn: s3cret, kubelet: {extraArg: {}}}", Minor::V1_13).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("machine.tokn, did you mean token?"), "{text}");
    assert!(text.contains("machine.kubelet.extraArg, did you mean extraArgs?"), "{text}");
    assert!(!text.contains("s3cret") && !format!("{error:?}").contains("s3cret"), "values stay with the sender");
    assert!(error.talos_text().contains("tokn: s3cret"), "which sees what Talos would say");
    let later = Patch::parse("apiVersion: v1alpha1\nkind: KubeletConfig\nimage: x\n", Minor::V1_13);
    assert!(matches!(later, Err(PatchError::Load(_))), "a document of 1.14 is unknown to 1.13");
}

#[test]
fn json_patches_are_refused_by_every_generated_configuration() {
    let patch = Patch::parse("- {op: add, path: /machine/env, value: {a: b}}", Minor::V1_13).unwrap();
    assert!(patch.is_json6902());
    let refused = demanding(Minor::V1_13, Role::Worker).patched(&patch).unwrap_err();
    assert_eq!(refused.to_string(), "JSON6902 patches are not supported for multi-document machine configuration");
}

#[test]
fn strings_keep_their_type_through_both_kinds_of_readers() {
    let odd = [
        "yes",
        "No",
        "off",
        "y",
        "true",
        "null",
        "~",
        "",
        "010",
        "0o17",
        "0x1F",
        "1e3",
        "1_000",
        ".5",
        "12:30:45",
        "2001-01-01",
        "<<",
        "- x",
        "a: b",
        "a #b",
        " lead",
        "trail ",
        "#x",
        "&a",
        "*a",
        "!t",
        "%x",
        "@x",
        "`x",
        "'",
        "\"",
        "\\",
        "a\tb",
        "\ta\nb",
        "a\n",
        "a\n\n",
        "\n\n",
        "\na",
        " a\nb",
        "a \nb",
        "a\r\nb",
        "\u{1}",
        "\u{feff}a",
        "é😀",
        "-----BEGIN X-----\nabc==\n-----END X-----\n",
    ];
    for text in odd {
        let document = Value::Mapping([("key", text), (text, "value")].into_iter().collect());
        let nested = Value::from(vec![document.clone()]);
        let emitted = yaml::document(&nested);
        let again = yaml::parse(&emitted).unwrap();
        assert_eq!(again, std::slice::from_ref(&nested), "{text:?}\n{emitted}");
        let other_reader: serde_json::Value = serde_saphyr::from_str(&emitted).unwrap();
        assert_eq!(other_reader[0]["key"], serde_json::json!(text), "{emitted}");
    }
}
