//! The key that signs Kubernetes service-account tokens: RSA-4096 by default, which takes about a second of CPU.

use std::convert::Infallible;

use rand::RngCore as _;
use rsa::{
    RsaPrivateKey,
    pkcs1::{EncodeRsaPrivateKey, LineEnding},
    rand_core::{TryCryptoRng, TryRng},
};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Algorithm, Error, PrivateKey};

/// Which key signs service-account tokens; Talos takes both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceAccountKey {
    /// What Talos generates itself: PKCS#1 under the label `RSA PRIVATE KEY`.
    #[default]
    Rsa4096,
    /// SEC1 under the label `EC PRIVATE KEY`; made in microseconds.
    EcdsaP256,
}

/// Generates the key as PEM. Blocks for about a second of CPU with RSA: call it on a blocking thread.
pub fn service_account_key(kind: ServiceAccountKey) -> Result<SecretString, Error> {
    match kind {
        ServiceAccountKey::EcdsaP256 => Ok(PrivateKey::generate(Algorithm::EcdsaP256)?.to_pem()),
        ServiceAccountKey::Rsa4096 => {
            let key =
                RsaPrivateKey::new(&mut ThreadRandom, 4096).map_err(|error| Error::Generate(error.to_string()))?;
            let text = key.to_pkcs1_pem(LineEnding::LF).map_err(|error| Error::Generate(error.to_string()))?;
            Ok(SecretString::from(text.as_str()))
        }
    }
}

/// The thread's generator under the traits of the generation of crates that rsa belongs to.
struct ThreadRandom;

impl TryRng for ThreadRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(rand::rng().next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(rand::rng().next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        rand::rng().fill_bytes(bytes);
        Ok(())
    }
}

impl TryCryptoRng for ThreadRandom {}
