//! What a secret looks like wherever it may have got to, and the search for all of that.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use regex::bytes::{RegexSet, RegexSetBuilder};

/// Shorter ones would be found by accident.
const SHORTEST: usize = 12;
/// Bytes in a line of PEM.
const LINE: usize = 48;
/// Lines of an RSA key from here on are beyond its public modulus, up to 4,096 bits.
const RSA_PRIVATE: [usize; 3] = [12, 16, 20];

/// Secrets by name, in every form in which they could be written.
#[derive(Default)]
pub(crate) struct Needles {
    names: Vec<String>,
    forms: Vec<Vec<u8>>,
}

impl Needles {
    /// A secret: as it is, in hexadecimal digits, and inside of anything that was encoded in base64.
    pub(crate) fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(secret.len() >= SHORTEST, "{name} is too short to be looked for");
        let hex = secret.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes();
        let encoded = (0..3).map(|offset| within_base64(secret, offset));
        for form in [secret.to_vec(), hex].into_iter().chain(encoded) {
            self.names.push(name.to_owned());
            self.forms.push(form);
        }
    }

    /// A secret that is base64 itself: that text, and the bytes that it stands for.
    pub(crate) fn add_encoded(&mut self, name: &str, text: &str) {
        self.add(name, text.as_bytes());
        self.add(name, &BASE64_STANDARD.decode(text).unwrap());
    }

    /// The lines of a private key's PEM text that nobody else may know, as text and as the bytes that they stand for.
    pub(crate) fn add_key(&mut self, name: &str, pem: &str) {
        let is_rsa = pem.contains("-----BEGIN RSA PRIVATE KEY-----");
        assert!(pem.contains("PRIVATE KEY-----"), "{name} is no private key");
        let lines: Vec<&str> = pem.lines().filter(|line| !line.is_empty() && !line.starts_with("-----")).collect();
        let secret = if is_rsa { RSA_PRIVATE.to_vec() } else { vec![0] };
        for line in secret {
            let text = lines[line];
            let bytes = BASE64_STANDARD.decode(text).unwrap();
            assert_eq!(bytes.len(), LINE, "{name} is not written as PEM is");
            self.add(name, text.as_bytes());
            self.add(name, &bytes);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.names.iter().collect::<std::collections::BTreeSet<_>>().len()
    }

    pub(crate) fn search(&self) -> Search<'_> {
        let literal = |form: &Vec<u8>| form.iter().map(|byte| format!(r"\x{byte:02X}")).collect::<String>();
        let patterns =
            RegexSetBuilder::new(self.forms.iter().map(literal)).unicode(false).size_limit(256 << 20).build();
        Search { needles: self, patterns: patterns.unwrap() }
    }
}

/// A search for all of them at once.
pub(crate) struct Search<'n> {
    needles: &'n Needles,
    patterns: RegexSet,
}

impl Search<'_> {
    /// The names of the secrets that stand there.
    pub(crate) fn found(&self, text: &[u8]) -> Vec<&str> {
        let mut names: Vec<&str> = self.patterns.matches(text).iter().map(|at| &*self.needles.names[at]).collect();
        names.dedup();
        names
    }
}

/// What `secret` becomes inside of something longer that is encoded in base64, when so many bytes stand before it in its
/// group of three: without the characters that it shares with its neighbours.
fn within_base64(secret: &[u8], offset: usize) -> Vec<u8> {
    let padded = [&vec![0; offset], secret].concat();
    let text = BASE64_STANDARD.encode(&padded).into_bytes();
    let first = [0, 2, 3][offset];
    let last = text.len() - [0, 3, 2][padded.len() % 3];
    text[first..last].to_vec()
}

#[test]
fn a_secret_is_found_in_every_form_and_nothing_else_is() {
    let secret = "the-secret-of-this-test";
    let mut needles = Needles::default();
    needles.add("another", b"another-secret-of-this-test");
    needles.add("it", secret.as_bytes());
    let search = needles.search();
    assert_eq!(search.found(b"nothing of the kind"), Vec::<&str>::new());
    for before in ["", "x", "xy", "xyz"] {
        for after in ["", "1", "12", "123"] {
            let text = format!("{before}{secret}{after}");
            let once = BASE64_STANDARD.encode(&text);
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            for form in [text.clone(), once, hex, serde_json::json!({ "a": [text] }).to_string()] {
                assert_eq!(search.found(form.as_bytes()), ["it"], "{form}");
            }
        }
    }
}

#[test]
fn a_key_is_found_by_any_line_that_is_secret_and_not_by_its_public_half() {
    use talos::pki::{Algorithm, ServiceAccountKey, authority, service_account_key};
    let now = jiff::Timestamp::now();
    for algorithm in [Algorithm::EcdsaP256, Algorithm::Ed25519] {
        let pair = authority(algorithm, Some("canary"), now).unwrap();
        let pem = secrecy::ExposeSecret::expose_secret(&pair.key);
        let mut needles = Needles::default();
        needles.add_key("key", pem);
        let search = needles.search();
        assert_eq!(search.found(pem.as_bytes()), ["key"]);
        assert_eq!(search.found(BASE64_STANDARD.encode(pem).as_bytes()), ["key"]);
        assert_eq!(search.found(pair.crt.as_bytes()), Vec::<&str>::new());
    }
    let pem = service_account_key(ServiceAccountKey::Rsa4096).unwrap();
    let pem = secrecy::ExposeSecret::expose_secret(&pem);
    let mut needles = Needles::default();
    needles.add_key("key", pem);
    let lines: Vec<&str> = pem.lines().collect();
    let search = needles.search();
    assert_eq!(search.found(lines[13].as_bytes()), ["key"]);
    assert_eq!(search.found(lines[..12].join("\n").as_bytes()), Vec::<&str>::new(), "the modulus is public");
}
