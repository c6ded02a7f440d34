//! Root secrets and certificates; sensitive, so only administrators see them.

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::runtime::pem;
use crate::talos::apid;
use crate::talos::config::{Config, Pair};
use crate::talos::cosi::kinds;
use crate::talos::node::Boot;

/// Publishes the secrets that the configuration brings and the certificate that apid got.
pub(crate) fn secrets(boot: &Boot, config: &Config) {
    let accepted: Vec<Value> = config.accepted_cas().iter().map(|crt| json!({"crt": pem(crt)})).collect();
    let names = apid::names(boot, config);
    let sans = json!({"ips": names.addresses, "dnsNames": names.dns, "fqdn": names.common_name});
    boot.cosi.put(kinds::CERT_SANS, "api", &sans);
    let server = boot
        .state()
        .api_certificate
        .as_ref()
        .map(|certificate| json!({"crt": pem(&certificate.crt), "key": pem(certificate.key.expose_secret())}));
    let certificates = json!({"acceptedCAs": accepted, "server": server, "skipVerifyingClientCert": false});
    boot.cosi.put(kinds::API_CERTIFICATES, "api", &certificates);
    let os = json!({
        "issuingCA": pair(&config.os_ca()), "acceptedCAs": accepted, "certSANIPs": [], "certSANDNSNames": config.cert_sans(),
        "token": config.token(),
    });
    boot.cosi.put(kinds::OS_ROOTS, "os", &os);
    if config.is_control_plane() {
        boot.cosi.put(kinds::ETCD_ROOTS, "etcd", &json!({"etcdCA": pair(&config.etcd_ca())}));
        boot.cosi.put(kinds::KUBERNETES_ROOTS, "k8s", &kubernetes(config));
    }
}

fn kubernetes(config: &Config) -> Value {
    let token = config.bootstrap_token();
    let (id, secret) = token.split_once('.').unwrap_or((&token, ""));
    let ca = config.cluster_ca();
    json!({
        "name": config.cluster_name(), "endpoint": config.endpoint(), "local_endpoint": "https://localhost:6443",
        "certSANs": config.api_server_sans(), "dnsDomain": config.dns_domain(), "issuingCA": pair(&ca),
        "acceptedCAs": [{"crt": pem(&ca.crt)}], "serviceAccount": {"key": pem(&config.service_account_key())},
        "aggregatorCA": pair(&config.aggregator_ca()), "bootstrapTokenID": id, "bootstrapTokenSecret": secret,
        "secretboxEncryptionSecret": config.secretbox_secret(),
    })
}

fn pair(pair: &Pair) -> Value {
    json!({"crt": pem(&pair.crt), "key": pair.key.as_deref().map(pem).unwrap_or_default()})
}
