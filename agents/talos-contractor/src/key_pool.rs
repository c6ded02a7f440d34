//! Ready RSA keys for service accounts: one takes about a second of CPU, which no flow should wait for.
//!
//! Each key is a sealed secret beside an inventory row. Taking one deletes the row at the revision that was read, so two
//! flows that reach for the same key conflict and one of them takes another.

use contractor::action::{Effects, StepError};
use rand::seq::SliceRandom;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde_json::{Value, json};
use store::{Commit, InventoryChange, Reader, SecretPut, Store};
use talos::pki::{self, ServiceAccountKey};
use uuid::Uuid;

use crate::failure::{chain, read, unusable};

const PREFIX: &str = "service-account-key/";

/// A key from the pool, or a fresh one where there is none. The pool's loss is noted in `effects`.
pub async fn take(store: &Reader, kind: ServiceAccountKey, effects: &mut Effects) -> Result<SecretString, StepError> {
    if kind == ServiceAccountKey::Rsa4096 {
        let mut rows = store.scan::<Value>(PREFIX).map_err(read)?;
        // Flows that take keys at the same time would all want the first.
        rows.shuffle(&mut rand::rng());
        for row in rows {
            let Some(secret) = store.secret(&row.key).map_err(read)? else { continue };
            let Ok(text) = std::str::from_utf8(secret.plain.expose_secret()) else { continue };
            effects.inventory.push(InventoryChange::delete_at(row.key.clone(), row.revision));
            effects.secrets.push(SecretPut { name: row.key, plain: None });
            return Ok(SecretString::from(text));
        }
    }
    generate(kind).await.map_err(|error| unusable("a new service-account key", &error))
}

/// Fills the pool up to `size` keys, one at a time. Call it at start and whenever a cluster was made.
pub async fn refill(store: &Store, size: usize) {
    loop {
        let ready = match store.reader().keys(PREFIX) {
            Ok(keys) => keys.len(),
            Err(error) => return tracing::warn!(error = chain(&error), "the key pool cannot be read"),
        };
        metrics::gauge!("contractor_ready_keys").set(ready as f64);
        if ready >= size {
            return;
        }
        if let Err(reason) = add(store).await {
            return tracing::warn!(reason, "the key pool cannot be filled");
        }
    }
}

async fn add(store: &Store) -> Result<(), String> {
    let key = generate(ServiceAccountKey::Rsa4096).await.map_err(|error| chain(&error))?;
    let name = format!("{PREFIX}{}", Uuid::new_v4());
    let plain = SecretSlice::from(key.expose_secret().as_bytes().to_vec());
    let commit = Commit {
        inventory: vec![InventoryChange::create(name.clone(), json!({}))],
        secrets: vec![SecretPut { name, plain: Some(plain) }],
        ..Commit::default()
    };
    store.commit(commit).await.map(drop).map_err(|error| chain(&error))
}

async fn generate(kind: ServiceAccountKey) -> Result<SecretString, pki::Error> {
    tokio::task::spawn_blocking(move || pki::service_account_key(kind))
        .await
        .unwrap_or_else(|error| Err(pki::Error::Generate(error.to_string())))
}
