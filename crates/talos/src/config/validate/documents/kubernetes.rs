//! Checks of the documents by which 1.14 configures Kubernetes.

use ipnet::IpNet;

use crate::config::yaml::{Mapping, Value};

use super::super::machine::PROTECTED_KUBELET_FIELDS;
use super::super::{Errors, labels};
use super::{collect, is_empty, scheme};

/// Kinds that only control planes may have.
pub(super) const CONTROL_PLANE_ONLY: [&str; 14] = [
    "KubeAPIServerConfig",
    "KubeAdmissionControlConfig",
    "KubeAggregatorCAConfig",
    "KubeAuditPolicyConfig",
    "KubeAuthenticationConfig",
    "KubeAuthorizerConfig",
    "KubeControllerManagerConfig",
    "KubeCoreDNSConfig",
    "KubeEtcdEncryptionConfig",
    "KubeFlannelCNIConfig",
    "KubeProxyConfig",
    "KubeSchedulerConfig",
    "KubeServiceAccountConfig",
    "KubeTalosAPIAccessConfig",
];
/// A service network has at most so many bits for its addresses.
const MOST_SERVICE_BITS: u8 = 20;
/// And every network at least so many.
const LEAST_BITS: u8 = 3;
/// A pod network holds at most 2 to this power networks of nodes.
const MOST_NODE_BITS: u8 = 16;

pub(super) fn check(kind: &str, root: &Mapping) -> Vec<String> {
    match kind {
        "KubeletConfig" => kubelet(root),
        "KubeAPIServerConfig" => image(root, "kube-apiserver image cannot be empty"),
        "KubeControllerManagerConfig" => image(root, "kube-controller-manager image cannot be empty"),
        "KubeSchedulerConfig" => image(root, "scheduler image cannot be empty"),
        "KubeProxyConfig" => proxy(root),
        "KubeNodeConfig" => node(root),
        "KubeNetworkConfig" => network(root),
        "KubeClusterConfig" => collect([
            (is_empty(root, "clusterName"), "clusterName must be specified".to_owned()),
            (is_empty(root, "endpoint"), "endpoint must be specified".to_owned()),
        ]),
        "KubePrismConfig" => {
            let port = root.number("port").unwrap_or_default();
            collect([(!(1..=65535).contains(&port), format!("invalid port {port}: must be in range 1-65535"))])
        }
        "KubeAuthorizerConfig" => authorizer(root),
        "KubeServiceAccountConfig" => service_account(root),
        "KubeEtcdEncryptionConfig" => {
            let has_config = root.mapping("config").is_some_and(|config| !config.is_empty());
            collect([(!has_config, "etcd encryption config is required".to_owned())])
        }
        "KubeFlannelCNIConfig" => {
            collect([(is_empty(root, "backendType"), "flannel backend type must be specified".to_owned())])
        }
        "KubeTalosAPIAccessConfig" => talos_access(root),
        "KubeAggregatorCAConfig" => {
            collect([(root.mapping("issuingCA").is_none(), "issuing CA is not set".to_owned())])
        }
        "KubeStaticPodConfig" => {
            let has_pod = root.mapping("pod").is_some_and(|pod| !pod.is_empty());
            collect([
                (is_empty(root, "name"), "static pod name is required".to_owned()),
                (!has_pod, "static pod spec is required".to_owned()),
            ])
        }
        "KubeExternalManifestConfig" => external_manifest(root),
        "DiscoveryServiceConfig" => discovery_service(root),
        "DiscoveryIdentityConfig" => discovery_identity(root),
        _ => Vec::new(),
    }
}

/// What is switched off needs no image.
fn image(root: &Mapping, problem: &str) -> Vec<String> {
    let is_off = root.boolean("enabled") == Some(false);
    collect([(!is_off && is_empty(root, "image"), problem.to_owned())])
}

fn kubelet(root: &Mapping) -> Vec<String> {
    let mut errors = image(root, "kubelet image cannot be empty");
    for field in PROTECTED_KUBELET_FIELDS {
        if root.mapping("config").is_some_and(|config| config.get(field).is_some()) {
            errors.push(format!("kubelet configuration field {field:?} can't be overridden"));
        }
    }
    errors
}

fn proxy(root: &Mapping) -> Vec<String> {
    if root.boolean("enabled") == Some(false) {
        return Vec::new();
    }
    let mode = root.text("mode").unwrap_or_default();
    let is_known = matches!(mode, "" | "nftables" | "iptables" | "ipvs");
    let mut errors = image(root, "proxy image cannot be empty");
    errors.extend(collect([(
        !is_known,
        format!("invalid proxy mode {mode:?}: supported modes are iptables, ipvs and nftables"),
    )]));
    errors
}

fn node(root: &Mapping) -> Vec<String> {
    let empty = Mapping::default();
    let map = |key: &str| root.mapping(key).unwrap_or(&empty);
    let mut errors = Errors::default();
    errors.nest("invalid node labels", &labels::check_labels(map("labels")));
    errors.nest("invalid node annotations", &labels::check_annotations(map("annotations")));
    errors.nest("invalid node taints", &labels::check_taints(map("taints")));
    errors.0
}

fn network(root: &Mapping) -> Vec<String> {
    let mask = |key: &str, usual: i64| root.number(key).filter(|bits| *bits != 0).unwrap_or(usual);
    let (four, six) = (mask("nodeCIDRMaskSizeIPv4", 24), mask("nodeCIDRMaskSizeIPv6", 80));
    let (four_fits, six_fits) = ((1..=32).contains(&four), (1..=128).contains(&six));
    let mut errors = collect([
        (!four_fits, "nodeCIDRMaskSizeIPv4 must be between 1 and 32".to_owned()),
        (!six_fits, "nodeCIDRMaskSizeIPv6 must be between 1 and 128".to_owned()),
    ]);
    let nets = |key: &str| -> Vec<IpNet> {
        root.sequence(key).iter().filter_map(Value::text).filter_map(|text| text.parse().ok()).collect()
    };
    let (pods, services) = (nets("podSubnets"), nets("serviceSubnets"));
    let pod = |net: &IpNet| {
        let (bits, fits) = if net.addr().is_ipv4() { (four, four_fits) } else { (six, six_fits) };
        let own = i64::from(net.prefix_len());
        if !fits {
            None
        } else if own > bits {
            Some(format!("{net} is smaller than the per-node pod CIDR mask size /{bits}"))
        } else {
            (bits - own > i64::from(MOST_NODE_BITS)).then(|| {
                format!(
                    "{net} is too large for the per-node pod CIDR mask size /{bits}, the difference must be at most {MOST_NODE_BITS} bits"
                )
            })
        }
    };
    let service = |net: &IpNet| {
        let bits = net.max_prefix_len() - net.prefix_len();
        (bits > MOST_SERVICE_BITS).then(|| {
            let least = net.max_prefix_len() - MOST_SERVICE_BITS;
            format!(
                "{net} is too large, it must be at least /{least} (at most {MOST_SERVICE_BITS} host identifier bits)"
            )
        })
    };
    errors.extend(subnets(&pods, pod).map(|problem| format!("pod subnets: {problem}")));
    errors.extend(subnets(&services, service).map(|problem| format!("service subnets: {problem}")));
    let is_odd = pods.len() != services.len();
    errors.extend(collect([(is_odd, "the number of pod subnets must match the number of service subnets".to_owned())]));
    errors
}

/// The first thing that is wrong with the networks of pods or services.
fn subnets(nets: &[IpNet], size: impl Fn(&IpNet) -> Option<String>) -> Option<String> {
    match nets.len() {
        0 => return Some("at least one subnet must be specified".to_owned()),
        1 | 2 => {}
        _ => return Some("at most two subnets can be specified for dual-stack clusters".to_owned()),
    }
    for net in nets {
        if net.trunc() != *net {
            return Some(format!("invalid subnet: {net} is not a valid CIDR"));
        }
        let bits = net.prefix_len();
        if net.max_prefix_len() - bits < LEAST_BITS {
            let least = bits - LEAST_BITS;
            return Some(format!("invalid subnet: /{bits} is too small, it must be larger than /{least}"));
        }
        if let Some(problem) = size(net) {
            return Some(format!("invalid subnet: {problem}"));
        }
    }
    let of_version_four = nets.iter().filter(|net| net.addr().is_ipv4()).count();
    let is_twice = of_version_four > 1 || nets.len() - of_version_four > 1;
    is_twice.then(|| "at most one IPv4 and one IPv6 subnet can be specified for dual-stack clusters".to_owned())
}

fn authorizer(root: &Mapping) -> Vec<String> {
    let kind = root.text("type").unwrap_or_default();
    let is_known = matches!(kind, "Node" | "RBAC" | "Webhook");
    collect([
        (kind.is_empty(), "authorizer type is required".to_owned()),
        (!is_known, format!("authorizer type {kind} is not allowed, allowed types are [Node RBAC Webhook]")),
    ])
}

fn service_account(root: &Mapping) -> Vec<String> {
    let issuer = root.mapping("issuer");
    let text = |key: &str| issuer.and_then(|issuer| issuer.text(key)).unwrap_or_default();
    let key = text("privateKey");
    collect([
        (key.is_empty(), "service issuer private key is required".to_owned()),
        (
            !key.is_empty() && key != crate::config::redact::REDACTED && pem::parse(key).is_err(),
            "service issuer private key is invalid: failed to parse PEM block".to_owned(),
        ),
        (text("issuerURL").is_empty(), "service issuer URL is required".to_owned()),
    ])
}

fn talos_access(root: &Mapping) -> Vec<String> {
    let roles = root.sequence("allowedRoles").iter().filter_map(Value::text);
    let unknown = roles.filter(|role| crate::pki::Role::ALL.iter().all(|known| known.as_str() != *role));
    unknown.map(|role| format!("invalid role {role:?} in .allowedRoles")).collect()
}

fn external_manifest(root: &Mapping) -> Vec<String> {
    let url = root.text("url").unwrap_or_default();
    let found = scheme(url);
    collect([
        (is_empty(root, "name"), "manifest name is required".to_owned()),
        (url.is_empty(), "manifest URL is required".to_owned()),
        (
            !url.is_empty() && !matches!(found, "http" | "https"),
            format!("manifest URL scheme must be http or https: {found:?}"),
        ),
    ])
}

fn discovery_service(root: &Mapping) -> Vec<String> {
    let endpoint = root.text("endpoint").unwrap_or_default();
    let found = scheme(endpoint);
    let mut errors = collect([
        (is_empty(root, "name"), "name is required".to_owned()),
        (endpoint.is_empty(), "endpoint is required".to_owned()),
        (found.is_empty(), "endpoint scheme is required".to_owned()),
        (
            !matches!(found, "http" | "https" | "grpc"),
            "endpoint scheme must be http://, https:// or grpc://".to_owned(),
        ),
    ]);
    errors.truncate(1);
    errors
}

/// Does not quote the secret.
fn discovery_identity(root: &Mapping) -> Vec<String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let secret = root.text("clusterSecret").unwrap_or_default();
    let length = STANDARD.decode(secret).map(|bytes| bytes.len());
    let is_odd = secret != crate::config::redact::REDACTED && length != Ok(32);
    let mut errors = collect([
        (is_empty(root, "clusterID"), "clusterID is required".to_owned()),
        (secret.is_empty(), "clusterSecret is required".to_owned()),
        (is_odd, "invalid clusterSecret: 32 bytes in base64 are expected".to_owned()),
    ]);
    errors.truncate(1);
    errors
}
