//! Certificates have the X.509 properties of those that Talos's own generator makes, and keys its PEM labels.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without may fail it")]

use std::time::Duration;

use secrecy::ExposeSecret;
use talos::{
    api::Credentials,
    pki::{self, ADMIN_LIFETIME, Algorithm, CertificateAndKey, Role, Roles, ServiceAccountKey},
    secrets::Bundle,
    talosconfig::TalosConfig,
    version::Minor,
};
use x509_parser::prelude::*;

fn now() -> jiff::Timestamp {
    "2026-11-20T11:47:03Z".parse().unwrap()
}

fn bundle(minor: Minor) -> Bundle {
    let key = pki::service_account_key(ServiceAccountKey::EcdsaP256).unwrap();
    Bundle::generate(minor, key, now()).unwrap()
}

/// The same facts as a block of certificates.txt, in its words.
fn describe(pair: &CertificateAndKey) -> String {
    let der = pair.certificate().unwrap();
    let (rest, certificate) = X509Certificate::from_der(&der).unwrap();
    assert!(rest.is_empty());
    let mut lines = vec![
        format!("version {}", certificate.version().0 + 1),
        format!("signed with {}", certificate.signature_algorithm.algorithm),
        format!("issuer {}", certificate.issuer()),
        format!("not before {}", certificate.validity().not_before),
        format!("not after {}", certificate.validity().not_after),
        format!("subject {}", certificate.subject()),
        format!("public key {}", certificate.public_key().algorithm.algorithm),
    ];
    for extension in certificate.extensions() {
        let critical = if extension.critical { "critical " } else { "" };
        lines.push(match extension.parsed_extension() {
            ParsedExtension::KeyUsage(usage) => format!("key usage {critical}{usage}"),
            ParsedExtension::ExtendedKeyUsage(usage) => {
                format!("extended key usage {critical}server={} client={}", usage.server_auth, usage.client_auth)
            }
            ParsedExtension::BasicConstraints(basic) => {
                format!("basic constraints {critical}ca={} path={:?}", basic.ca, basic.path_len_constraint)
            }
            ParsedExtension::SubjectKeyIdentifier(identifier) => format!("subject key {} bytes", identifier.0.len()),
            ParsedExtension::AuthorityKeyIdentifier(identifier) => {
                format!("authority key {} bytes", identifier.key_identifier.as_ref().unwrap().0.len())
            }
            other => format!("unexpected {other:?}"),
        });
    }
    lines.join("\n")
}

#[test]
fn authorities_are_those_of_the_samples() {
    let bundle = bundle(Minor::V1_13);
    let expect = |subject: &str, algorithm: &str, key: &str| {
        format!(
            "version 3\nsigned with {algorithm}\nissuer {subject}\nnot before Nov 20 11:47:03 2026 +00:00\n\
             not after Nov 17 11:47:03 2036 +00:00\nsubject {subject}\npublic key {key}\n\
             key usage critical Digital Signature, Key Cert Sign\nextended key usage server=true client=true\n\
             basic constraints critical ca=true path=None\nsubject key 20 bytes"
        )
    };
    let sorted = |text: String| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let (ed25519, p256, ecdsa) = ("1.3.101.112", "1.2.840.10045.4.3.2", "1.2.840.10045.2.1");
    for (pair, subject, algorithm, key) in [
        (&bundle.os, "O=talos", ed25519, ed25519),
        (&bundle.kubernetes, "O=kubernetes", p256, ecdsa),
        (&bundle.aggregator, "", p256, ecdsa),
        (&bundle.etcd, "O=etcd", p256, ecdsa),
    ] {
        assert_eq!(sorted(describe(pair)), sorted(expect(subject, algorithm, key)), "{subject}");
        let der = pair.certificate().unwrap();
        X509Certificate::from_der(&der).unwrap().1.verify_signature(None).unwrap();
    }
}

#[test]
fn a_client_certificate_holds_its_roles_and_nothing_else() {
    let os = bundle(Minor::V1_13).os;
    let admin = pki::client_certificate(&os, &Role::Admin.into(), ADMIN_LIFETIME, now()).unwrap();
    assert_eq!(
        describe(&admin),
        "version 3\nsigned with 1.3.101.112\nissuer O=talos\nnot before Nov 20 11:47:03 2026 +00:00\n\
         not after Nov 20 11:47:03 2027 +00:00\nsubject O=os:admin\npublic key 1.3.101.112\n\
         key usage critical Digital Signature\nextended key usage server=false client=true\nauthority key 20 bytes"
    );

    let roles = Roles::new([Role::Reader, Role::EtcdBackup, Role::Reader]).unwrap();
    let backup = pki::client_certificate(&os, &roles, Duration::from_secs(3600), now()).unwrap();
    let (authority, der) = (os.certificate().unwrap(), backup.certificate().unwrap());
    let (_, authority) = X509Certificate::from_der(&authority).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let mut organizations: Vec<_> =
        certificate.subject().iter_organization().map(|value| value.as_str().unwrap()).collect();
    organizations.sort_unstable();
    assert_eq!(organizations, ["os:etcd:backup", "os:reader"]);
    certificate.verify_signature(Some(authority.public_key())).unwrap();
    assert!(certificate.raw_serial().len() == 16);
}

#[test]
fn keys_carry_the_labels_that_talos_reads() {
    let bundle = bundle(Minor::V1_13);
    let label = |pem: &str| pem.lines().next().unwrap().to_owned();
    assert_eq!(label(bundle.os.key.expose_secret()), "-----BEGIN ED25519 PRIVATE KEY-----");
    for pair in [&bundle.etcd, &bundle.kubernetes, &bundle.aggregator] {
        assert_eq!(label(pair.key.expose_secret()), "-----BEGIN EC PRIVATE KEY-----");
    }
    // Go's 48 bytes of PKCS#8 version 1 for Ed25519, and SEC1 with the curve named for P-256.
    assert_eq!(::pem::parse(bundle.os.key.expose_secret()).unwrap().contents().len(), 48);
    let sec1 = ::pem::parse(bundle.etcd.key.expose_secret()).unwrap();
    assert_eq!((sec1.contents().len(), &sec1.contents()[..7]), (121, &[0x30, 0x77, 2, 1, 1, 4, 32][..]));
}

#[test]
fn a_key_read_back_still_signs_for_its_certificate() {
    for algorithm in [Algorithm::Ed25519, Algorithm::EcdsaP256] {
        let made = pki::PrivateKey::generate(algorithm).unwrap();
        let read = pki::PrivateKey::from_pem(made.to_pem().expose_secret()).unwrap();
        assert_eq!(read.algorithm(), algorithm);
        assert_eq!(made.signer().unwrap().public_key_pem(), read.signer().unwrap().public_key_pem());
        assert_eq!(made.to_pem().expose_secret(), read.to_pem().expose_secret());
    }
}

#[test]
fn the_bundle_survives_secrets_yaml_and_hides_itself() {
    for minor in Minor::ALL {
        let made = bundle(minor);
        let text = made.to_yaml().unwrap();
        let read = Bundle::from_yaml(text.expose_secret()).unwrap();
        assert_eq!(read.to_yaml().unwrap().expose_secret(), text.expose_secret());
        let url_alphabet = !made.cluster_id.contains(['+', '/']);
        assert!(url_alphabet || minor == Minor::V1_14, "{}", made.cluster_id);
        assert_eq!(made.cluster_id.len(), 44);
        let token = made.bootstrap_token.expose_secret();
        assert_eq!((token.len(), token.find('.')), (23, Some(6)));
        let debug = format!("{made:?}");
        for secret in [token, made.os.key.expose_secret(), made.cluster_secret.expose_secret()] {
            assert!(!debug.contains(secret), "{debug}");
        }
    }
}

#[test]
fn a_broken_secrets_file_is_refused_without_being_quoted() {
    let text = bundle(Minor::V1_13).to_yaml().unwrap();
    let broken = text.expose_secret().replace("    secret:", "    secrete:");
    let error = Bundle::from_yaml(&broken).unwrap_err().to_string();
    assert!(error.contains("line 3"), "{error}");
    let no_pem = text.expose_secret().replacen("crt: LS0", "crt: LS_", 1);
    assert_eq!(Bundle::from_yaml(&no_pem).unwrap_err().to_string(), "certs.etcd is not base64 of PEM text");
}

#[test]
fn a_talosconfig_is_read_back_and_merging_renames_what_clashes() {
    let os = bundle(Minor::V1_13).os;
    let credentials = Credentials::issue(&os, &Role::Admin.into(), ADMIN_LIFETIME, now()).unwrap();
    let mut config = TalosConfig::new("demo", &["10.0.0.2".parse().unwrap()], credentials);
    let text = config.to_yaml().unwrap();
    let head = "context: demo\ncontexts:\n    demo:\n        endpoints:\n";
    assert!(text.expose_secret().starts_with(head), "{}", text.expose_secret());
    let again = TalosConfig::from_yaml(text.expose_secret()).unwrap();
    assert_eq!(again.to_yaml().unwrap().expose_secret(), text.expose_secret());
    assert_eq!(config.merge(again), [("demo".to_owned(), "demo-1".to_owned())]);
    assert_eq!(config.context, "demo-1");

    let foreign = "context: omni\ncontexts:\n  omni:\n    endpoints: [https://omni.example]\n    auth:\n      siderov1:\n        identity: a@b.c\n";
    let foreign = TalosConfig::from_yaml(foreign).unwrap();
    assert!(foreign.to_yaml().unwrap().expose_secret().contains("identity: a@b.c"));
}

#[test]
fn an_admin_kubeconfig_names_the_cluster_and_its_endpoint() {
    let bundle = bundle(Minor::V1_13);
    let text =
        talos::kubeconfig::admin_kubeconfig(&bundle, "demo", "https://10.0.0.10:6443", ADMIN_LIFETIME, now()).unwrap();
    let value: serde_json::Value = serde_saphyr::from_str(text.expose_secret()).unwrap();
    assert_eq!(value["current-context"], "admin@demo");
    assert_eq!(value["clusters"][0]["cluster"]["server"], "https://10.0.0.10:6443");
    let admin = talos::kubeconfig::admin_certificate(&bundle, ADMIN_LIFETIME, now()).unwrap();
    assert!(describe(&admin).contains("subject O=system:masters, CN=admin"), "{}", describe(&admin));
}
