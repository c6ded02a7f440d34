//! Private keys under the PEM labels that Talos reads and writes.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use yasna::{ASN1Error, ASN1ErrorKind, Tag, models::ObjectIdentifier};

use super::{Error, encode_pem, random_bytes};

const ID_EC_PUBLIC_KEY: [u64; 6] = [1, 2, 840, 10045, 2, 1];
const PRIME256V1: [u64; 7] = [1, 2, 840, 10045, 3, 1, 7];
const ID_ED25519: [u64; 4] = [1, 3, 101, 112];

/// Which curve a key is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The Talos API: PKCS#8 under the label `ED25519 PRIVATE KEY`.
    Ed25519,
    /// Kubernetes and etcd: SEC1 under the label `EC PRIVATE KEY`.
    EcdsaP256,
}

/// A private key that signs. `Debug` does not show it.
#[derive(Clone, Debug)]
pub struct PrivateKey {
    algorithm: Algorithm,
    pkcs8: SecretSlice<u8>,
}

impl PrivateKey {
    /// A fresh key.
    pub fn generate(algorithm: Algorithm) -> Result<Self, Error> {
        let pkcs8 = match algorithm {
            Algorithm::Ed25519 => ed25519_pkcs8(&random_bytes(32)),
            Algorithm::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_der(),
        };
        Ok(Self { algorithm, pkcs8: SecretSlice::from(pkcs8) })
    }

    /// Reads `ED25519 PRIVATE KEY`, `EC PRIVATE KEY` (P-256) and the standard `PRIVATE KEY`.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let block = pem::parse(text).map_err(|_| Error::Pem("a private key expected".to_owned()))?;
        let (algorithm, pkcs8) = match block.tag() {
            "EC PRIVATE KEY" => (Algorithm::EcdsaP256, sec1_to_pkcs8(block.contents())?),
            "ED25519 PRIVATE KEY" | "PRIVATE KEY" => (pkcs8_algorithm(block.contents())?, block.into_contents()),
            other => return Err(Error::Pem(format!("a private key expected, got {other}"))),
        };
        Ok(Self { algorithm, pkcs8: SecretSlice::from(pkcs8) })
    }

    /// The key under the label and in the encoding that Talos uses for its algorithm.
    pub fn to_pem(&self) -> SecretString {
        let pkcs8 = self.pkcs8.expose_secret();
        let text = match self.algorithm {
            Algorithm::Ed25519 => encode_pem("ED25519 PRIVATE KEY", pkcs8.to_vec()),
            Algorithm::EcdsaP256 => {
                let sec1 = pkcs8_to_sec1(pkcs8).expect("a key that was made or read here is well-formed");
                encode_pem("EC PRIVATE KEY", sec1)
            }
        };
        SecretString::from(text)
    }

    /// The key as rustls takes it.
    pub fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.expose_secret().to_vec()))
    }

    /// Which curve it is on.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key as rcgen takes it.
    pub fn signer(&self) -> Result<KeyPair, Error> {
        let algorithm = match self.algorithm {
            Algorithm::Ed25519 => &PKCS_ED25519,
            Algorithm::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
        };
        let pkcs8 = PrivatePkcs8KeyDer::from(self.pkcs8.expose_secret());
        Ok(KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, algorithm)?)
    }
}

/// PKCS#8 version 1, the 48 bytes that Go writes for a seed.
fn ed25519_pkcs8(seed: &[u8]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(0);
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&ObjectIdentifier::from_slice(&ID_ED25519));
            });
            writer.next().write_bytes(&yasna::construct_der(|writer| writer.write_bytes(seed)));
        });
    })
}

fn pkcs8_algorithm(der: &[u8]) -> Result<Algorithm, Error> {
    let (algorithm, _) = read_pkcs8(der)?;
    match algorithm.components().as_slice() {
        oid if oid == ID_ED25519 => Ok(Algorithm::Ed25519),
        oid if oid == ID_EC_PUBLIC_KEY => Ok(Algorithm::EcdsaP256),
        _ => Err(Error::Der("neither an Ed25519 nor a P-256 key".to_owned())),
    }
}

/// The algorithm and the inner key; the optional parts that follow are skipped.
fn read_pkcs8(der: &[u8]) -> Result<(ObjectIdentifier, Vec<u8>), Error> {
    yasna::parse_ber(der, |reader| {
        reader.read_sequence(|reader| {
            reader.next().read_u8()?;
            let algorithm = reader.next().read_sequence(|reader| {
                let algorithm = reader.next().read_oid()?;
                reader.read_optional(|reader| reader.read_oid())?;
                Ok(algorithm)
            })?;
            let inner = reader.next().read_bytes()?;
            while reader.read_optional(|reader| reader.read_der())?.is_some() {}
            Ok((algorithm, inner))
        })
    })
    .map_err(|_| Error::Der("not a PKCS#8 private key".to_owned()))
}

fn pkcs8_to_sec1(der: &[u8]) -> Result<Vec<u8>, Error> {
    let (_, inner) = read_pkcs8(der)?;
    let (scalar, public) = read_sec1(&inner)?;
    Ok(write_sec1(&scalar, &public))
}

/// The scalar and the uncompressed public point.
fn read_sec1(der: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    yasna::parse_ber(der, |reader| {
        reader.read_sequence(|reader| {
            reader.next().read_u8()?;
            let scalar = reader.next().read_bytes()?;
            let curve =
                reader.read_optional(|reader| reader.read_tagged(Tag::context(0), |reader| reader.read_oid()))?;
            if curve.is_some_and(|curve| curve.components().as_slice() != PRIME256V1) {
                return Err(ASN1Error::new(ASN1ErrorKind::Invalid));
            }
            let public = reader.next().read_tagged(Tag::context(1), |reader| reader.read_bitvec_bytes())?;
            Ok((scalar, public.0))
        })
    })
    .map_err(|_| Error::Der("not a P-256 private key".to_owned()))
}

fn sec1_to_pkcs8(sec1: &[u8]) -> Result<Vec<u8>, Error> {
    let (scalar, public) = read_sec1(sec1)?;
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(0);
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&ObjectIdentifier::from_slice(&ID_EC_PUBLIC_KEY));
                writer.next().write_oid(&ObjectIdentifier::from_slice(&PRIME256V1));
            });
            writer.next().write_bytes(&write_sec1(&scalar, &public));
        });
    }))
}

/// SEC1 with the curve named, which Go needs to read it back.
fn write_sec1(scalar: &[u8], public: &[u8]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(1);
            writer.next().write_bytes(scalar);
            writer.next().write_tagged(Tag::context(0), |writer| {
                writer.write_oid(&ObjectIdentifier::from_slice(&PRIME256V1));
            });
            writer.next().write_tagged(Tag::context(1), |writer| {
                writer.write_bitvec_bytes(public, public.len() * 8);
            });
        });
    })
}
