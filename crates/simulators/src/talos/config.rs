//! The machine configuration as a node reads it: one view over the documents of 1.12, 1.13 and 1.14 (talos.md 5).

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use ipnet::IpNet;
use serde_json::Value;

use super::release::Line;

/// `machine.type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MachineType {
    ControlPlane,
    Worker,
}

impl MachineType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "controlplane",
            Self::Worker => "worker",
        }
    }

    /// Number in the protobuf enumeration.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::ControlPlane => 2,
            Self::Worker => 3,
        }
    }
}

/// PEM texts of a certificate and, on control planes, its key.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Pair {
    pub(crate) crt: String,
    pub(crate) key: Option<String>,
}

/// A parsed configuration with the text it came from.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) text: String,
    main: Value,
    documents: Vec<Value>,
}

impl Config {
    /// Reads the YAML documents of a configuration.
    ///
    /// # Errors
    /// A text for the caller when the YAML is broken or a document has no kind.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parsed: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|error| format!("failed to parse config: {error}"))?;
        let (mut main, mut documents) = (Value::Null, Vec::new());
        for document in parsed.into_iter().filter(|document| !document.is_null()) {
            if document.get("kind").is_some() {
                documents.push(document);
            } else if document.get("version").is_some() {
                main = document;
            } else {
                return Err("error decoding document: missing kind".to_owned());
            }
        }
        Ok(Self { text: text.to_owned(), main, documents })
    }

    /// Whether it holds the v1alpha1 document, without which a node cannot boot.
    pub(crate) fn is_complete(&self) -> bool {
        self.main.get("machine").is_some()
    }

    pub(crate) fn main(&self) -> &Value {
        &self.main
    }

    /// The first document of a kind.
    pub(crate) fn document(&self, kind: &str) -> Option<&Value> {
        self.documents.iter().find(|document| document["kind"] == *kind)
    }

    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.documents.iter().filter(move |document| document["kind"] == *kind)
    }

    /// A string by pointer, first in the v1alpha1 document, then in a document of the kind.
    fn text_at(&self, pointer: &str, kind: &str, field: &str) -> Option<String> {
        let own = self.main.pointer(pointer).and_then(Value::as_str);
        let other = || self.document(kind)?.pointer(field)?.as_str();
        own.or_else(other).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    pub(crate) fn machine_type(&self) -> Option<MachineType> {
        match self.main.pointer("/machine/type")?.as_str()? {
            "controlplane" | "init" => Some(MachineType::ControlPlane),
            "worker" => Some(MachineType::Worker),
            _ => None,
        }
    }

    pub(crate) fn is_control_plane(&self) -> bool {
        self.machine_type() == Some(MachineType::ControlPlane)
    }

    /// `machine.token`: what trustd asks for.
    pub(crate) fn token(&self) -> String {
        self.main.pointer("/machine/token").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// The CA of the Talos API.
    pub(crate) fn os_ca(&self) -> Pair {
        pair(self.main.pointer("/machine/ca"))
    }

    /// Certificates of every CA whose clients are accepted.
    pub(crate) fn accepted_cas(&self) -> Vec<String> {
        let more = self.main.pointer("/machine/acceptedCAs").and_then(Value::as_array);
        let more = more.into_iter().flatten().map(|ca| pair(Some(ca)).crt);
        std::iter::once(self.os_ca().crt).chain(more).filter(|crt| !crt.is_empty()).collect()
    }

    pub(crate) fn cert_sans(&self) -> Vec<String> {
        strings(self.main.pointer("/machine/certSANs"))
    }

    pub(crate) fn cluster_ca(&self) -> Pair {
        if let Some(ca) = self.main.pointer("/cluster/ca") {
            return pair(Some(ca));
        }
        let document = self.document("KubeAPIServerCAConfig");
        let accepted = || strings(document?.get("acceptedCAs")).into_iter().next();
        let issuing = pem_pair(document.and_then(|document| document.get("issuingCA")));
        if issuing.crt.is_empty() { Pair { crt: accepted().unwrap_or_default(), key: None } } else { issuing }
    }

    pub(crate) fn aggregator_ca(&self) -> Pair {
        match self.main.pointer("/cluster/aggregatorCA") {
            Some(ca) => pair(Some(ca)),
            None => pem_pair(self.document("KubeAggregatorCAConfig").and_then(|ca| ca.get("issuingCA"))),
        }
    }

    pub(crate) fn etcd_ca(&self) -> Pair {
        pair(self.main.pointer("/cluster/etcd/ca"))
    }

    pub(crate) fn service_account_key(&self) -> String {
        if let Some(key) = self.main.pointer("/cluster/serviceAccount/key").and_then(Value::as_str) {
            return decode(key);
        }
        let pointer = "/issuer/privateKey";
        self.document("KubeServiceAccountConfig")
            .and_then(|document| document.pointer(pointer)?.as_str())
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) fn cluster_id(&self) -> String {
        self.text_at("/cluster/id", "DiscoveryIdentityConfig", "/clusterID").unwrap_or_default()
    }

    pub(crate) fn cluster_secret(&self) -> String {
        self.text_at("/cluster/secret", "DiscoveryIdentityConfig", "/clusterSecret").unwrap_or_default()
    }

    pub(crate) fn cluster_name(&self) -> String {
        self.text_at("/cluster/clusterName", "KubeClusterConfig", "/clusterName").unwrap_or_default()
    }

    /// Whether the node publishes itself to, and reads, the discovery service.
    pub(crate) fn discovery(&self) -> bool {
        if self.document("DiscoveryServiceConfig").is_some() {
            return true;
        }
        let flag = |pointer: &str| self.main.pointer(pointer).and_then(Value::as_bool);
        flag("/cluster/discovery/enabled") == Some(true)
            && flag("/cluster/discovery/registries/service/disabled") != Some(true)
    }

    /// `https://host:6443`.
    pub(crate) fn endpoint(&self) -> String {
        self.text_at("/cluster/controlPlane/endpoint", "KubeClusterConfig", "/endpoint").unwrap_or_default()
    }

    /// Host and port of the endpoint.
    pub(crate) fn endpoint_parts(&self) -> Option<(String, u16)> {
        let endpoint = self.endpoint();
        let rest = endpoint.strip_prefix("https://")?;
        let rest = rest.split('/').next()?;
        match rest.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') && !port.contains(']') => {
                Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
            }
            _ => Some((rest.trim_matches(['[', ']']).to_owned(), 443)),
        }
    }

    /// `id.secret` of the Kubernetes bootstrap token.
    pub(crate) fn bootstrap_token(&self) -> String {
        self.main.pointer("/cluster/token").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    pub(crate) fn secretbox_secret(&self) -> Option<String> {
        Some(self.main.pointer("/cluster/secretboxEncryptionSecret")?.as_str()?.to_owned())
    }

    pub(crate) fn pod_subnets(&self) -> Vec<String> {
        self.subnets("podSubnets", "10.244.0.0/16")
    }

    pub(crate) fn service_subnets(&self) -> Vec<String> {
        self.subnets("serviceSubnets", "10.96.0.0/12")
    }

    fn subnets(&self, field: &str, default: &str) -> Vec<String> {
        let own = strings(self.main.pointer(&format!("/cluster/network/{field}")));
        let other = || strings(self.document("KubeNetworkConfig").and_then(|document| document.get(field)));
        let found = if own.is_empty() { other() } else { own };
        if found.is_empty() { vec![default.to_owned()] } else { found }
    }

    pub(crate) fn dns_domain(&self) -> String {
        self.text_at("/cluster/network/dnsDomain", "KubeNetworkConfig", "/dnsDomain")
            .unwrap_or_else(|| "cluster.local".to_owned())
    }

    /// `flannel`, `custom` or `none`.
    pub(crate) fn cni(&self, line: Line) -> String {
        if let Some(name) = self.main.pointer("/cluster/network/cni/name").and_then(Value::as_str) {
            return name.to_owned();
        }
        let documents = line >= Line::V1_14 && self.document("KubeNetworkConfig").is_some();
        let flannel = !documents || self.document("KubeFlannelCNIConfig").is_some();
        if flannel { "flannel".to_owned() } else { "none".to_owned() }
    }

    /// The image of a component: `kubelet`, `kube-apiserver`, `kube-controller-manager`, `kube-scheduler`.
    pub(crate) fn image(&self, component: &str) -> Option<String> {
        let (pointer, kind) = match component {
            "kubelet" => ("/machine/kubelet/image", "KubeletConfig"),
            "kube-apiserver" => ("/cluster/apiServer/image", "KubeAPIServerConfig"),
            "kube-controller-manager" => ("/cluster/controllerManager/image", "KubeControllerManagerConfig"),
            "kube-scheduler" => ("/cluster/scheduler/image", "KubeSchedulerConfig"),
            "etcd" => ("/cluster/etcd/image", "EtcdConfig"),
            _ => return None,
        };
        self.text_at(pointer, kind, "/image")
    }

    /// The image of kube-proxy; `None` when it is disabled.
    pub(crate) fn kube_proxy_image(&self, line: Line) -> Option<String> {
        if self.main.pointer("/cluster/proxy/disabled").and_then(Value::as_bool) == Some(true) {
            return None;
        }
        let document = self.document("KubeProxyConfig");
        let off = document.is_some_and(|document| document["enabled"].as_bool() == Some(false));
        let documents = line >= Line::V1_14 && self.document("KubeAPIServerConfig").is_some();
        if off || (documents && document.is_none()) {
            return None;
        }
        let own = self.text_at("/cluster/proxy/image", "KubeProxyConfig", "/image");
        let version = self.image("kube-apiserver").and_then(|image| tag_of(&image)).unwrap_or_default();
        Some(own.unwrap_or_else(|| format!("registry.k8s.io/kube-proxy:{version}")))
    }

    /// The image of CoreDNS; `None` when it is disabled.
    pub(crate) fn coredns_image(&self) -> Option<String> {
        let off = self.main.pointer("/cluster/coreDNS/disabled").and_then(Value::as_bool) == Some(true);
        let document = self.document("KubeCoreDNSConfig");
        let off = off || document.is_some_and(|document| document["enabled"].as_bool() == Some(false));
        let own = self.text_at("/cluster/coreDNS/image", "KubeCoreDNSConfig", "/image");
        (!off).then(|| own.unwrap_or_else(|| "registry.k8s.io/coredns/coredns:v1.14.6".to_owned()))
    }

    pub(crate) fn api_server_sans(&self) -> Vec<String> {
        let mut sans = strings(self.main.pointer("/cluster/apiServer/certSANs"));
        sans.extend(strings(self.document("KubeAPIServerConfig").and_then(|document| document.get("certExtraSANs"))));
        sans
    }

    pub(crate) fn node_labels(&self) -> BTreeMap<String, String> {
        self.string_map("nodeLabels", "labels")
    }

    pub(crate) fn node_annotations(&self) -> BTreeMap<String, String> {
        self.string_map("nodeAnnotations", "annotations")
    }

    /// Key to `value:effect` or `effect`.
    pub(crate) fn node_taints(&self) -> BTreeMap<String, String> {
        self.string_map("nodeTaints", "taints")
    }

    fn string_map(&self, field: &str, document_field: &str) -> BTreeMap<String, String> {
        let own = self.main.pointer(&format!("/machine/{field}"));
        let other = self.document("KubeNodeConfig").and_then(|document| document.get(document_field));
        let entries = [own, other].into_iter().flatten().filter_map(Value::as_object).flatten();
        entries.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
    }

    pub(crate) fn schedulable_control_planes(&self) -> bool {
        self.main.pointer("/cluster/allowSchedulingOnControlPlanes").and_then(Value::as_bool) == Some(true)
    }

    /// The addresses of cluster DNS: the tenth of each service subnet.
    pub(crate) fn dns_addresses(&self) -> Vec<String> {
        let subnets = self.service_subnets();
        let nets = subnets.iter().filter_map(|subnet| subnet.parse::<IpNet>().ok());
        nets.filter_map(|net| net.hosts().nth(9)).map(|address| address.to_string()).collect()
    }

    /// The extra arguments of a component; a flag may have several values.
    pub(crate) fn extra_arguments(&self, component: &str) -> BTreeMap<String, Vec<String>> {
        let (pointer, kind) = match component {
            "kubelet" => ("/machine/kubelet/extraArgs", "KubeletConfig"),
            "kube-apiserver" => ("/cluster/apiServer/extraArgs", "KubeAPIServerConfig"),
            "kube-controller-manager" => ("/cluster/controllerManager/extraArgs", "KubeControllerManagerConfig"),
            _ => ("/cluster/scheduler/extraArgs", "KubeSchedulerConfig"),
        };
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let values = |value: &Value| match value {
            Value::Array(items) => items.iter().map(text).collect(),
            single => vec![text(single)],
        };
        let other = || self.document(kind)?.get("extraArgs");
        let given = self.main.pointer(pointer).or_else(other).and_then(Value::as_object);
        given.into_iter().flatten().map(|(flag, value)| (flag.clone(), values(value))).collect()
    }

    /// An extra argument of the kubelet.
    pub(crate) fn kubelet_argument(&self, name: &str) -> Option<String> {
        self.extra_arguments("kubelet").remove(name)?.pop()
    }

    /// `rotate-server-certificates` in either of its two places.
    pub(crate) fn rotates_server_certificates(&self) -> bool {
        let extra = self.main.pointer("/machine/kubelet/extraConfig/serverTLSBootstrap");
        let document =
            self.document("KubeletConfig").and_then(|document| document.pointer("/config/serverTLSBootstrap"));
        self.kubelet_argument("rotate-server-certificates").as_deref() == Some("true")
            || extra.or(document).and_then(Value::as_bool) == Some(true)
    }

    /// KubePrism's port, when it is on.
    pub(crate) fn kube_prism(&self) -> Option<u16> {
        if let Some(document) = self.document("KubePrismConfig") {
            return Some(document["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap_or(7445));
        }
        let prism = self.main.pointer("/machine/features/kubePrism")?;
        let port = prism["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap_or(7445);
        (prism["enabled"].as_bool() == Some(true)).then_some(port)
    }

    /// The host name it asks for, if not a generated one.
    pub(crate) fn hostname(&self) -> Option<String> {
        self.text_at("/machine/network/hostname", "HostnameConfig", "/hostname")
    }

    /// Addresses by interface name or device selector, as far as they are static.
    pub(crate) fn addresses(&self) -> Vec<IpNet> {
        let interfaces = self.main.pointer("/machine/network/interfaces").and_then(Value::as_array);
        let own = interfaces.into_iter().flatten().flat_map(|interface| {
            let single = interface.get("cidr").and_then(Value::as_str).map(str::to_owned);
            strings(interface.get("addresses")).into_iter().chain(single)
        });
        let links = self.of_kind("LinkConfig").flat_map(|link| {
            let addresses = link.get("addresses").and_then(Value::as_array);
            addresses.into_iter().flatten().filter_map(|address| Some(address.get("address")?.as_str()?.to_owned()))
        });
        own.chain(links).filter_map(|text| text.parse().ok()).collect()
    }

    /// The shared addresses that control planes hand to each other.
    pub(crate) fn virtual_addresses(&self) -> Vec<IpAddr> {
        let interfaces = self.main.pointer("/machine/network/interfaces").and_then(Value::as_array);
        let own = interfaces.into_iter().flatten().filter_map(|interface| interface.pointer("/vip/ip")?.as_str());
        let documents = self.of_kind("Layer2VIPConfig").filter_map(|document| document["name"].as_str());
        own.chain(documents).filter_map(|text| text.parse().ok()).collect()
    }

    /// Where the installer writes to and what it writes.
    pub(crate) fn install_image(&self) -> Option<String> {
        self.text_at("/machine/install/image", "UnattendedInstallConfig", "/installer/image")
    }

    /// `machine.install.disk`, or the path in a simple disk selector of 1.14.
    pub(crate) fn install_disk(&self) -> Option<String> {
        if let Some(disk) = self.main.pointer("/machine/install/disk").and_then(Value::as_str) {
            return Some(disk.to_owned());
        }
        let selector =
            self.document("UnattendedInstallConfig")?.pointer("/provisioning/diskSelector/match")?.as_str()?;
        selector.split('"').nth(1).filter(|path| path.starts_with("/dev/")).map(str::to_owned)
    }

    /// `machine.install.diskSelector`.
    pub(crate) fn install_selector(&self) -> Option<&Value> {
        self.main.pointer("/machine/install/diskSelector").filter(|selector| selector.is_object())
    }
}

/// What follows the last colon of an image reference.
pub(crate) fn tag_of(image: &str) -> Option<String> {
    let image = image.split('@').next()?;
    image.rsplit_once(':').map(|(_, tag)| tag.to_owned()).filter(|tag| !tag.contains('/'))
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn pair(value: Option<&Value>) -> Pair {
    let part = |name: &str| value.and_then(|pair| pair.get(name)?.as_str()).map(decode).unwrap_or_default();
    let key = part("key");
    Pair { crt: part("crt"), key: (!key.is_empty()).then_some(key) }
}

fn pem_pair(value: Option<&Value>) -> Pair {
    let part = |name: &str| value.and_then(|pair| pair.get(name)?.as_str()).unwrap_or_default().to_owned();
    let key = part("key");
    Pair { crt: part("cert"), key: (!key.is_empty()).then_some(key) }
}

fn decode(text: &str) -> String {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}
