//! Whether a certificate request is one that a kubelet of a known node makes to serve its own node.

use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    pem::parse_x509_pem,
    prelude::FromDer,
    x509::X509Name,
};

use crate::inventory::Node;

const GROUP: &str = "system:nodes";
/// What a serving certificate may be used for; the last one it must.
const USAGES: [&str; 3] = ["digital signature", "key encipherment", SERVES];
const SERVES: &str = "server auth";

/// Passes a request of one of `nodes` for itself; otherwise says what is wrong with it.
pub(super) fn examine(spec: &CertificateSigningRequestSpec, nodes: &[Node]) -> Result<(), String> {
    let user = spec.username.as_deref().unwrap_or_default();
    let is_its = |node: &&Node| user.strip_prefix("system:node:") == Some(node.hostname.as_str());
    let node = nodes.iter().find(is_its).ok_or_else(|| format!("{user:?} is no node of this cluster's inventory"))?;
    if !spec.groups.iter().flatten().any(|group| group == GROUP) {
        return Err(format!("its requester {user} is not in the group {GROUP}"));
    }
    let usages = || spec.usages.iter().flatten().map(String::as_str);
    if let Some(other) = usages().find(|usage| !USAGES.contains(usage)) {
        return Err(format!("it asks for the usage {other:?}, which serving does not need"));
    }
    if !usages().any(|usage| usage == SERVES) {
        return Err(format!("it does not ask for the usage {SERVES:?}"));
    }
    let (_, pem) = parse_x509_pem(&spec.request.0).map_err(|_| "it is not PEM".to_owned())?;
    let (rest, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|_| "it is no PKCS#10 request".to_owned())?;
    if !rest.is_empty() || request.verify_signature().is_err() {
        return Err("it is not signed with its own key".to_owned());
    }
    check_subject(&request.certification_request_info.subject, user)?;
    check_names(&request, node)
}

/// `O=system:nodes, CN=system:node:<name>` and nothing else.
fn check_subject(subject: &X509Name<'_>, user: &str) -> Result<(), String> {
    let is = |mut values: Vec<Option<&str>>, wanted: &str| values.len() == 1 && values.remove(0) == Some(wanted);
    let names = subject.iter_common_name().map(|value| value.as_str().ok()).collect();
    let organizations = subject.iter_organization().map(|value| value.as_str().ok()).collect();
    if is(names, user) && is(organizations, GROUP) && subject.iter_attributes().count() == 2 {
        return Ok(());
    }
    Err(format!("its subject is {subject}, not O={GROUP}, CN={user}"))
}

/// The node's name and address at most, and at least one of them.
fn check_names(request: &X509CertificationRequest<'_>, node: &Node) -> Result<(), String> {
    let extensions = request.requested_extensions().into_iter().flatten();
    let names: Vec<_> = extensions
        .filter_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        })
        .flatten()
        .collect();
    if names.is_empty() {
        return Err("it names no host and no address to serve".to_owned());
    }
    let foreign = names.into_iter().find(|name| match name {
        GeneralName::DNSName(name) => *name != node.hostname.as_str(),
        GeneralName::IPAddress(bytes) => address(bytes) != Some(node.ip),
        _ => true,
    });
    match foreign {
        None => Ok(()),
        Some(GeneralName::IPAddress(bytes)) => {
            let address = address(bytes).map_or_else(|| "of no known form".to_owned(), |address| address.to_string());
            Err(format!("it asks for the address {address}, {} has {}", node.hostname, node.ip))
        }
        Some(GeneralName::DNSName(name)) => {
            Err(format!("it asks for the name {name:?}, the node is {}", node.hostname))
        }
        Some(other) => Err(format!("it asks for {other}, which no kubelet serves")),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    four.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};
    use serde_json::json;

    use super::*;

    /// What a kubelet asks for, to be spoilt.
    struct Asked {
        user: &'static str,
        groups: Vec<&'static str>,
        usages: Vec<&'static str>,
        name: &'static str,
        organizations: Vec<&'static str>,
        hosts: Vec<&'static str>,
        addresses: Vec<&'static str>,
    }

    impl Default for Asked {
        fn default() -> Self {
            Self {
                user: "system:node:w-1",
                groups: vec!["system:nodes", "system:authenticated"],
                usages: vec!["digital signature", "server auth"],
                name: "system:node:w-1",
                organizations: vec!["system:nodes"],
                hosts: vec!["w-1"],
                addresses: vec!["127.0.0.11"],
            }
        }
    }

    impl Asked {
        fn examined(self) -> Result<(), String> {
            let mut params = CertificateParams::default();
            for organization in self.organizations {
                params.distinguished_name.push(DnType::OrganizationName, organization);
            }
            params.distinguished_name.push(DnType::CommonName, self.name);
            let addresses = self.addresses.iter().map(|address| SanType::IpAddress(address.parse().unwrap()));
            let hosts = self.hosts.iter().map(|host| SanType::DnsName((*host).to_owned().try_into().unwrap()));
            params.subject_alt_names = addresses.chain(hosts).collect();
            let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
            let own = |texts: Vec<&str>| Some(texts.into_iter().map(str::to_owned).collect());
            let spec = CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                username: Some(self.user.to_owned()),
                groups: own(self.groups),
                usages: own(self.usages),
                ..CertificateSigningRequestSpec::default()
            };
            examine(&spec, &[node("w-1", "127.0.0.11"), node("w-2", "127.0.0.12")])
        }
    }

    fn node(name: &str, ip: &str) -> Node {
        let value = json!({
            "cluster": "c", "hostname": name, "role": "worker", "ip": ip, "vm_id": "100", "state": "ready",
        });
        serde_json::from_value(value).unwrap()
    }

    fn refused(asked: Asked, why: &str) {
        let reason = asked.examined().unwrap_err();
        assert!(reason.contains(why), "{reason}");
    }

    #[test]
    fn a_node_may_serve_under_its_own_name_and_address() {
        assert_eq!(Asked::default().examined(), Ok(()));
        assert_eq!(Asked { hosts: vec![], ..Asked::default() }.examined(), Ok(()));
        let usages = vec!["key encipherment", "digital signature", "server auth"];
        assert_eq!(Asked { usages, ..Asked::default() }.examined(), Ok(()));
    }

    #[test]
    fn names_and_addresses_of_others_are_refused() {
        refused(Asked { addresses: vec!["127.0.0.11", "127.0.0.12"], ..Asked::default() }, "the address 127.0.0.12");
        refused(Asked { hosts: vec!["w-1", "kubernetes.default.svc"], ..Asked::default() }, "the name");
        refused(Asked { hosts: vec!["w-2"], addresses: vec![], ..Asked::default() }, "the name \"w-2\"");
        refused(Asked { hosts: vec![], addresses: vec![], ..Asked::default() }, "names no host and no address");
    }

    #[test]
    fn only_known_nodes_may_ask_and_only_for_themselves() {
        refused(Asked { user: "system:node:w-3", name: "system:node:w-3", ..Asked::default() }, "no node of");
        refused(Asked { user: "admin", ..Asked::default() }, "no node of");
        refused(Asked { user: "system:node:w-2", ..Asked::default() }, "its subject is");
        refused(Asked { groups: vec!["system:authenticated"], ..Asked::default() }, "not in the group");
        refused(Asked { organizations: vec!["system:masters"], ..Asked::default() }, "its subject is");
        refused(Asked { organizations: vec![], ..Asked::default() }, "its subject is");
    }

    #[test]
    fn nothing_but_serving_is_certified() {
        refused(Asked { usages: vec!["server auth", "client auth"], ..Asked::default() }, "client auth");
        refused(Asked { usages: vec!["digital signature"], ..Asked::default() }, "does not ask");
        let spec = CertificateSigningRequestSpec {
            request: ByteString(b"-----BEGIN X-----\nAA==\n-----END X-----\n".to_vec()),
            username: Some("system:node:w-1".into()),
            groups: Some(vec![GROUP.into()]),
            usages: Some(vec![SERVES.into()]),
            ..CertificateSigningRequestSpec::default()
        };
        assert!(examine(&spec, &[node("w-1", "127.0.0.11")]).unwrap_err().contains("no PKCS#10"));
    }
}
