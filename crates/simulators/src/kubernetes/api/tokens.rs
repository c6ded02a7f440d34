//! Service-account tokens: JWTs signed with the key that Talos gives every control plane.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::SigningKey;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Signs and checks tokens with one key, RSA (RS256) or ECDSA P-256 (ES256).
pub(crate) struct TokenKey {
    key: Arc<dyn SigningKey>,
    scheme: SignatureScheme,
    key_id: String,
    public_key: Vec<u8>,
}

/// The account a token is for.
pub(crate) struct TokenSubject<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) account: &'a str,
    pub(crate) account_uid: &'a str,
}

impl TokenKey {
    /// Reads the PEM; `None` when it holds no key that ring can sign with.
    pub(crate) fn from_pem(pem: &str) -> Option<Self> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()?;
        let key = rustls::crypto::ring::sign::any_supported_type(&der).ok()?;
        let scheme = [SignatureScheme::RSA_PKCS1_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256]
            .into_iter()
            .find(|scheme| key.choose_scheme(&[*scheme]).is_some())?;
        let spki = key.public_key()?;
        let (_, parsed) = SubjectPublicKeyInfo::from_der(&spki).ok()?;
        let public_key = parsed.subject_public_key.data.to_vec();
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(&*spki));
        Some(Self { key, scheme, key_id, public_key })
    }

    fn algorithm(&self) -> &'static str {
        if self.scheme == SignatureScheme::RSA_PKCS1_SHA256 { "RS256" } else { "ES256" }
    }

    /// A token valid for `seconds`; `None` when signing fails.
    pub(crate) fn issue(
        &self,
        subject: &TokenSubject<'_>,
        issuer: &str,
        audiences: &[String],
        seconds: i64,
    ) -> Option<String> {
        let now = jiff::Timestamp::now().as_second();
        let TokenSubject { namespace, account, account_uid } = subject;
        let claims = json!({
            "aud": audiences, "exp": now + seconds, "iat": now, "nbf": now, "iss": issuer,
            "jti": uuid::Uuid::new_v4(), "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": account_uid}},
        });
        let header = json!({"alg": self.algorithm(), "kid": self.key_id});
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.key.choose_scheme(&[self.scheme])?.sign(signed.as_bytes()).ok()?;
        let signature = if self.algorithm() == "ES256" { der_to_raw(&signature)? } else { signature };
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key signed and that is valid now.
    pub(crate) fn verify(&self, token: &str) -> Option<Value> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (_, claims) = signed.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let signature = if self.algorithm() == "ES256" { raw_to_der(&signature)? } else { signature };
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let (_, candidates) = algorithms.mapping.iter().find(|(scheme, _)| *scheme == self.scheme)?;
        let valid = candidates
            .iter()
            .any(|algorithm| algorithm.verify_signature(&self.public_key, signed.as_bytes(), &signature).is_ok());
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let now = jiff::Timestamp::now().as_second();
        (valid && claims["exp"].as_i64()? > now).then_some(claims)
    }
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// ASN.1 `SEQUENCE { r, s }` to the 64 bytes that JWS wants (RFC 7518 section 3.4).
fn der_to_raw(der: &[u8]) -> Option<Vec<u8>> {
    let mut raw = Vec::with_capacity(64);
    let mut rest = der.get(2..)?;
    for _ in 0..2 {
        let length = usize::from(*rest.get(1)?);
        let number = rest.get(2..2 + length)?;
        let number = &number[number.iter().position(|byte| *byte != 0).unwrap_or(number.len())..];
        raw.extend(std::iter::repeat_n(0, 32_usize.checked_sub(number.len())?));
        raw.extend_from_slice(number);
        rest = &rest[2 + length..];
    }
    Some(raw)
}

fn raw_to_der(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.len() != 64 {
        return None;
    }
    let mut body = Vec::new();
    for number in [&raw[..32], &raw[32..]] {
        let number = &number[number.iter().position(|byte| *byte != 0).unwrap_or(31)..];
        let padded = number[0] & 0x80 != 0;
        body.extend([2, u8::try_from(number.len() + usize::from(padded)).ok()?]);
        body.extend(padded.then_some(0));
        body.extend_from_slice(number);
    }
    let mut der = vec![0x30, u8::try_from(body.len()).ok()?];
    der.extend(body);
    Some(der)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_accepted_only_unchanged_and_in_its_time() {
        let pem = rcgen::KeyPair::generate().expect("key").serialize_pem();
        let key = TokenKey::from_pem(&pem).expect("usable");
        let subject = TokenSubject { namespace: "kube-system", account: "default", account_uid: "u" };
        for _ in 0..40 {
            let token = key.issue(&subject, "https://issuer", &["api".into()], 60).expect("signs");
            assert_eq!(key.verify(&token).expect("verifies")["sub"], "system:serviceaccount:kube-system:default");
            assert!(key.verify(&token.replacen('e', "f", 2)).is_none());
        }
        let expired = key.issue(&subject, "https://issuer", &[], -1).expect("signs");
        assert!(key.verify(&expired).is_none());
    }
}
