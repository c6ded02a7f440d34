//! What Talos's own library says of single documents that are wrong; the texts are those that it returned.

#![expect(clippy::unwrap_used, reason = "helpers of a test, which may panic")]

use talos::config::{LoadError, MachineConfig, Mode};
use talos::version::Minor;

fn document(kind: &str, body: &str) -> String {
    format!("apiVersion: v1alpha1\nkind: {kind}\n{body}")
}

/// The problems that validation finds in a document of this kind.
fn problems(minor: Minor, kind: &str, body: &str) -> Vec<String> {
    let config = MachineConfig::parse(&document(kind, body), minor).unwrap();
    config.validate(Mode::Cloud).map_or_else(|invalid| invalid.problems().to_vec(), |_| Vec::new())
}

const WRONG: &[(&str, &str, &str)] = &[
    ("BlackholeRouteConfig", "name: x", "name must be a valid address prefix: netip.ParsePrefix(\"x\"): no '/'"),
    ("BondConfig", "name: bond0", "at least one link must be specified"),
    ("BondConfig", "name: bond0\nlinks: [eth0]", "bond mode must be specified"),
    ("DHCPv4Config", "name: a\nduidRaw: '00:01'", "duidRaw can only be set if clientIdentifier is 'duid'"),
    ("EnvironmentConfig", "variables: {1A: x}", "invalid environment variable name: \"1A\""),
    ("EventSinkConfig", "endpoint: host", "event sink endpoint: address host: missing port in address"),
    ("ExistingVolumeConfig", "name: a", "volume selector is required"),
    ("ExtensionServiceConfig", "name: a", "no config files found for extension \"a\""),
    ("ExternalVolumeConfig", "name: a\nfilesystemType: xfs", "invalid filesystem type: xfs"),
    ("HCloudVIPConfig", "name: 10.0.0.1\nlink: a", "apiToken must be specified"),
    ("KmsgLogConfig", "name: a\nurl: https://10.0.0.1:80/", "url scheme must be tcp:// or udp://"),
    ("KmsgLogConfig", "name: a\nurl: tcp://10.0.0.1/", "url port is required"),
    ("KubeSpanConfig", "mtu: 1000", "kubespan link MTU must be at least 1280"),
    ("LinkAliasConfig", "name: a", "link selector is required"),
    ("LinkConfig", "name: a\naddresses: [{address: 0.0.0.0/0}]", "address 0 must be a valid IP address"),
    ("LinkConfig", "name: a\nroutes: [{gateway: 0.0.0.0}]", "route 0 gateway must be a valid IP address"),
    ("NetworkRuleConfig", "name: a", "portSelector.ports is required"),
    ("RawVolumeConfig", "name: a", "disk selector is required"),
    (
        "RawVolumeConfig",
        "name: a b",
        "name can only contain lowercase and uppercase ASCII letters, digits, and hyphens",
    ),
    (
        "RegistryAuthConfig",
        "name: a\nusername: u\nidentityToken: t",
        "only one of username/password or identityToken authentication can be specified",
    ),
    (
        "RegistryMirrorConfig",
        "name: a\nendpoints: [{url: ftp://x/}]",
        "endpoints[0].url has unsupported scheme: \"ftp\"",
    ),
    (
        "RoutingRuleConfig",
        "name: '0'\ntable: main",
        "priority must be between 1 and 32765 (excluding reserved priorities [0 32500 32766 32767])",
    ),
    ("RoutingRuleConfig", "name: '10'", "either table or a non-unicast action must be specified"),
    ("SideroLinkConfig", "apiUrl: http://a/", "apiUrl scheme must be https:// or grpc://"),
    ("StaticHostConfig", "name: 10.0.0.1", "at least one hostname is required"),
    ("SwapVolumeConfig", "name: a", "min size or max size is required"),
    ("TCPProbeConfig", "name: a", "TCP probe endpoint is required"),
    (
        "UserVolumeConfig",
        "name: a\nprovisioning: {diskSelector: {match: 'true'}, minSize: 2GiB, maxSize: 1GB}",
        "min size is greater than max size",
    ),
    (
        "UserVolumeConfig",
        "name: a\nprovisioning: {diskSelector: {match: 'true'}, minSize: 2GiB}\nencryption: {provider: luks2}",
        "encryption keys are required",
    ),
    ("VLANConfig", "name: a\nparent: eth0", "vlanID must be specified and between 1 and 4094"),
    ("VRFConfig", "name: a", "cannot create vrf with reserved table unspec"),
    ("WatchdogTimerConfig", "device: /dev/watchdog0\ntimeout: 5s", "watchdog timeout: minimum value is 10s"),
    (
        "WireguardConfig",
        "name: wg0\nprivateKey: QUJD",
        "wireguard private key is invalid: invalid wireguard key length",
    ),
];

const WRONG_IN_1_14: &[(&str, &str, &str)] = &[
    ("DiscoveryServiceConfig", "name: a\nendpoint: tcp://x/", "endpoint scheme must be http://, https:// or grpc://"),
    (
        "KubeAuthorizerConfig",
        "name: a\ntype: X",
        "authorizer type X is not allowed, allowed types are [Node RBAC Webhook]",
    ),
    ("KubeClusterConfig", "clusterName: a", "endpoint must be specified"),
    (
        "KubeNetworkConfig",
        "podSubnets: [10.0.0.1/8]\nserviceSubnets: [10.96.0.0/12]",
        "pod subnets: invalid subnet: 10.0.0.1/8 is not a valid CIDR",
    ),
    (
        "KubeNetworkConfig",
        "podSubnets: [10.244.0.0/16]\nserviceSubnets: [10.0.0.0/8]",
        "service subnets: invalid subnet: 10.0.0.0/8 is too large, it must be at least /12 (at most 20 host identifier bits)",
    ),
    ("KubePrismConfig", "port: 0", "invalid port 0: must be in range 1-65535"),
    (
        "KubeProxyConfig",
        "image: a\nmode: x",
        "invalid proxy mode \"x\": supported modes are iptables, ipvs and nftables",
    ),
    ("KubeSchedulerConfig", "", "scheduler image cannot be empty"),
    ("KubeTalosAPIAccessConfig", "allowedRoles: [os:x]", "invalid role \"os:x\" in .allowedRoles"),
    ("UnattendedInstallConfig", "", "provisioning.diskSelector.match is required"),
    (
        "VolumeConfig",
        "name: x",
        "only [\"STATE\" \"EPHEMERAL\" \"IMAGECACHE\" \"ETCD\" \"CRI\" \"KUBELET\" \"LOG\"] volumes are supported",
    ),
];

fn check(minor: Minor, rows: &[(&str, &str, &str)]) {
    for (kind, body, expected) in rows {
        let found = problems(minor, kind, body);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{kind}: {body}\n{found:?}\n{expected}");
    }
}

#[test]
fn each_wrong_document_is_refused_with_talos_text() {
    check(Minor::V1_13, WRONG);
    check(Minor::V1_14, WRONG);
    check(Minor::V1_14, WRONG_IN_1_14);
}

#[test]
fn what_talos_takes_is_not_refused() {
    for (kind, body) in [
        ("DummyLinkConfig", "name: d\nroutes: [{source: 10.0.0.1}]"),
        ("RoutingRuleConfig", "name: '10'\naction: blackhole"),
        ("WireguardConfig", "name: wg0\nprivateKey: '******'"),
        ("BondConfig", "name: b\nlinks: [a]\nbondMode: 802.3AD"),
        ("HostnameConfig", "auto: STABLE"),
    ] {
        let parsed = MachineConfig::parse(&document(kind, body), Minor::V1_13);
        assert!(parsed.is_ok(), "{kind}: {parsed:?}");
    }
    for name in ["ETCD", "KUBELET"] {
        assert_eq!(problems(Minor::V1_14, "VolumeConfig", &format!("name: {name}")), Vec::<String>::new());
    }
    assert_eq!(
        problems(Minor::V1_14, "KubeProxyConfig", "enabled: false").len(),
        1,
        "only that it is no control plane's"
    );
}

#[test]
fn documents_of_control_planes_are_refused_on_workers_from_1_14_on() {
    let worker = "version: v1alpha1\nmachine: {type: worker}\n---\n";
    let text = format!("{worker}{}", document("KubeSchedulerConfig", "image: a"));
    let invalid = MachineConfig::parse(&text, Minor::V1_14).unwrap().validate(Mode::Cloud).unwrap_err();
    let expected = "the following document kinds are only allowed on control plane machines: [KubeSchedulerConfig]";
    assert!(invalid.problems().iter().any(|problem| problem == expected), "{invalid}");
}

#[test]
fn one_link_or_volume_is_described_once() {
    for (first, second) in [("LinkConfig", "VLANConfig"), ("Layer2VIPConfig", "HCloudVIPConfig")] {
        let text = format!("{}\n---\n{}", document(first, "name: a"), document(second, "name: a"));
        let error = MachineConfig::parse(&text, Minor::V1_13).unwrap_err();
        assert!(matches!(&error, LoadError::Conflict { .. }), "{error}");
        assert_eq!(error.to_string(), format!("conflicting documents: {first}/a and {second}/a"));
        let other = text.replacen("name: a", "name: b", 1);
        assert!(MachineConfig::parse(&other, Minor::V1_13).is_ok(), "{first} and {second} of two names");
    }
}

#[test]
fn values_out_of_range_or_form_are_refused_when_loaded() {
    for (kind, body) in [
        ("VLANConfig", "name: a\nvlanID: 70000"),
        ("LinkConfig", "name: a\nmtu: -1"),
        ("LinkConfig", "name: a\nup: 'true'"),
        ("LinkConfig", "name: a\nroutes: [{table: none}]"),
        ("NetworkRuleConfig", "name: a\nportSelector: {ports: ['443']}"),
        ("BridgeConfig", "name: a\nhardwareAddr: xx"),
        ("VolumeConfig", "name: EPHEMERAL\nprovisioning: {minSize: 10 parsecs}"),
        ("HostnameConfig", "auto: always"),
    ] {
        let refused = MachineConfig::parse(&document(kind, body), Minor::V1_13);
        assert!(matches!(refused, Err(LoadError::Decode { .. })), "{kind}: {body} {refused:?}");
    }
    let secret = "machine: {ca: {crt: QUJD, key: '!!'}}";
    assert!(matches!(MachineConfig::parse(secret, Minor::V1_13), Err(LoadError::Decode { .. })));
}
