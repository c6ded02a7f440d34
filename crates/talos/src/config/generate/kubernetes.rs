//! Kubernetes in the configuration: a section of the main document up to 1.13, documents of its own from 1.14 on.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::ExposeSecret;

use crate::config::yaml::{Mapping, Value, mapping};
use crate::pki::CertificateAndKey;

use super::machine::authority;
use super::{Cni, GenerateError, Inputs, kind, strings, texts};

/// What only control planes have under `cluster`, from the aggregator's CA to the scheduler.
pub(super) fn control_plane_section(inputs: &Inputs<'_>, cluster: &mut Mapping) {
    let service_account = STANDARD.encode(inputs.secrets.service_account_key.expose_secret());
    cluster.set("aggregatorCA", authority(inputs, &inputs.secrets.aggregator));
    cluster.set("serviceAccount", mapping! { "key" => service_account });
    let mut api_server = mapping! { "image" => inputs.kubernetes_image("kube-apiserver") };
    if !inputs.cluster.additional_sans.is_empty() {
        api_server.set("certSANs", inputs.cluster.additional_sans.clone());
    }
    let plugin = mapping! { "name" => "PodSecurity", "configuration" => pod_security() };
    api_server.set("admissionControl", vec![plugin]);
    api_server.set("auditPolicy", audit_policy());
    cluster.set("apiServer", api_server);
    cluster.set("controllerManager", mapping! { "image" => inputs.kubernetes_image("kube-controller-manager") });
    let mut proxy = Mapping::default();
    if !inputs.cluster.kube_proxy {
        proxy.set("disabled", true);
    }
    proxy.set("image", inputs.kubernetes_image("kube-proxy"));
    cluster.set("proxy", proxy);
    cluster.set("scheduler", mapping! { "image" => inputs.kubernetes_image("kube-scheduler") });
}

/// The Kubernetes documents of 1.14, in the generator's order.
pub(super) fn documents(inputs: &Inputs<'_>) -> Result<Vec<Mapping>, GenerateError> {
    let mut documents = common(inputs);
    if inputs.is_control_plane() {
        documents.extend(api_server(inputs)?);
        documents.extend(components(inputs));
    }
    Ok(documents)
}

fn common(inputs: &Inputs<'_>) -> Vec<Mapping> {
    let cluster_input = inputs.cluster;
    let mut cluster = kind("KubeClusterConfig");
    cluster.set("clusterName", cluster_input.name.as_str());
    cluster.set("endpoint", cluster_input.endpoint.as_str());

    let mut network = kind("KubeNetworkConfig");
    network.set("dnsDomain", cluster_input.dns_domain.as_str());
    network.set("podSubnets", strings(&cluster_input.pod_subnets));
    network.set("serviceSubnets", strings(&cluster_input.service_subnets));

    let mut api_ca = kind("KubeAPIServerCAConfig");
    if inputs.is_control_plane() {
        api_ca.set("issuingCA", issuing_ca(&inputs.secrets.kubernetes));
    } else {
        api_ca.set("acceptedCAs", vec![inputs.secrets.kubernetes.crt.as_str()]);
    }

    let mut prism = kind("KubePrismConfig");
    prism.set("port", i64::from(cluster_input.kube_prism_port));
    vec![cluster, node(inputs), kubelet(inputs), network, api_ca, prism]
}

fn node(inputs: &Inputs<'_>) -> Mapping {
    const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
    let mut node_ip = Mapping::default();
    if !inputs.cluster.kubelet.node_ip_subnets.is_empty() {
        node_ip.set("validSubnets", inputs.cluster.kubelet.node_ip_subnets.clone());
    }
    let mut labels = inputs.node_labels();
    let mut taints = inputs.node.taints.clone();
    if inputs.is_control_plane() {
        labels.entry(CONTROL_PLANE.to_owned()).or_default();
        if !inputs.cluster.schedule_on_control_planes {
            taints.entry(CONTROL_PLANE.to_owned()).or_insert_with(|| "NoSchedule".to_owned());
        }
    }
    let mut document = kind("KubeNodeConfig");
    document.set("nodeIP", node_ip);
    for (key, map) in [("labels", &labels), ("annotations", &inputs.node.annotations), ("taints", &taints)] {
        if !map.is_empty() {
            document.set(key, texts(map));
        }
    }
    document
}

fn kubelet(inputs: &Inputs<'_>) -> Mapping {
    let mut document = kind("KubeletConfig");
    document.set("image", inputs.kubelet_image());
    document.set("config", Mapping::default());
    let args = inputs.kubelet_args();
    if !args.is_empty() {
        document.set("extraArgs", texts(&args));
    }
    document.set("defaultRuntimeSeccompProfileEnabled", true);
    document
}

fn api_server(inputs: &Inputs<'_>) -> Result<Vec<Mapping>, GenerateError> {
    let secrets = inputs.secrets;
    let mut aggregator = kind("KubeAggregatorCAConfig");
    aggregator.set("issuingCA", issuing_ca(&secrets.aggregator));

    let mut admission = kind("KubeAdmissionControlConfig");
    admission.set("name", "PodSecurity");
    admission.set("configuration", pod_security());

    let mut audit = kind("KubeAuditPolicyConfig");
    audit.set("configuration", audit_policy());

    let mut authentication = kind("KubeAuthenticationConfig");
    let probes: Vec<_> =
        ["/livez", "/readyz", "/healthz"].into_iter().map(|path| mapping! { "path" => path }).collect();
    let anonymous = mapping! { "conditions" => probes, "enabled" => true };
    authentication.set("configuration", mapping! { "anonymous" => anonymous, "jwt" => Value::Sequence(Vec::new()) });

    let authorizers = [("node", "Node"), ("rbac", "RBAC")].map(|(name, authorizer)| {
        let mut document = kind("KubeAuthorizerConfig");
        document.set("name", name);
        document.set("type", authorizer);
        document
    });

    let secretbox = secrets.secretbox_encryption_secret.as_ref().ok_or(GenerateError::NoSecretboxSecret)?;
    let key = mapping! { "name" => "key2", "secret" => secretbox.expose_secret() };
    let provider = mapping! { "secretbox" => mapping! { "keys" => vec![key] } };
    let rule = mapping! { "providers" => vec![provider], "resources" => vec!["secrets"] };
    let mut encryption = kind("KubeEtcdEncryptionConfig");
    encryption.set("config", mapping! { "resources" => vec![rule] });

    let issuer = mapping! {
        "privateKey" => secrets.service_account_key.expose_secret(),
        "issuerURL" => inputs.cluster.endpoint.as_str(),
    };
    let mut service_account = kind("KubeServiceAccountConfig");
    service_account.set("issuer", issuer);

    let mut server = kind("KubeAPIServerConfig");
    server.set("image", inputs.kubernetes_image("kube-apiserver"));
    if !inputs.cluster.additional_sans.is_empty() {
        server.set("certExtraSANs", inputs.cluster.additional_sans.clone());
    }
    let mut documents = vec![aggregator, admission, audit, authentication];
    documents.extend(authorizers);
    documents.extend([encryption, service_account, server]);
    Ok(documents)
}

fn components(inputs: &Inputs<'_>) -> Vec<Mapping> {
    let component = |name: &str, image: &str| {
        let mut document = kind(name);
        document.set("image", inputs.kubernetes_image(image));
        document
    };
    let manager = component("KubeControllerManagerConfig", "kube-controller-manager");
    let mut scheduler = component("KubeSchedulerConfig", "kube-scheduler");
    scheduler.set("config", Mapping::default());
    let mut proxy = kind("KubeProxyConfig");
    if !inputs.cluster.kube_proxy {
        proxy.set("enabled", false);
    }
    proxy.set("image", inputs.kubernetes_image("kube-proxy"));
    proxy.set("config", Mapping::default());
    let mut documents = vec![manager, scheduler, proxy];
    if inputs.cluster.cni == Cni::Flannel {
        let mut flannel = kind("KubeFlannelCNIConfig");
        flannel.set("backendType", "vxlan");
        flannel.set("backendPort", 4789);
        documents.push(flannel);
    }
    let mut dns = kind("KubeCoreDNSConfig");
    dns.set("enabled", true);
    documents.push(dns);
    documents
}

/// An authority as PEM text, as the documents of 1.14 take it.
fn issuing_ca(authority: &CertificateAndKey) -> Mapping {
    mapping! { "cert" => authority.crt.as_str(), "key" => authority.key.expose_secret() }
}

fn pod_security() -> Mapping {
    let no_names = || Value::Sequence(Vec::new());
    mapping! {
        "apiVersion" => "pod-security.admission.config.k8s.io/v1alpha1",
        "defaults" => mapping! {
            "audit" => "restricted",
            "audit-version" => "latest",
            "enforce" => "baseline",
            "enforce-version" => "latest",
            "warn" => "restricted",
            "warn-version" => "latest",
        },
        "exemptions" => mapping! {
            "namespaces" => vec!["kube-system"],
            "runtimeClasses" => no_names(),
            "usernames" => no_names(),
        },
        "kind" => "PodSecurityConfiguration",
    }
}

fn audit_policy() -> Mapping {
    mapping! {
        "apiVersion" => "audit.k8s.io/v1",
        "kind" => "Policy",
        "rules" => vec![mapping! { "level" => "Metadata" }],
    }
}
