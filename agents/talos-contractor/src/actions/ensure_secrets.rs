//! `talos.ensure_secrets`: makes the secrets bundle of a cluster, once, and seals it.

use contractor::action::{Action, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use jiff::Timestamp;
use messages::{name::ClusterName, request::ServiceAccountKey as Requested};
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretSlice};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::SecretPut;
use talos::{pki::ServiceAccountKey, secrets::Bundle, version::Minor};

use crate::{
    failure::{read, unusable},
    inventory, key_pool,
    reach::known_cluster,
    told,
};

/// Makes the cluster's secrets where there are none.
pub struct EnsureSecrets;

/// Which cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
}

/// Where the secrets are; never what they are.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// Name of the sealed secret.
    pub secret: String,
    /// Its generation.
    pub generation: u64,
}

impl Action for EnsureSecrets {
    const NAME: &'static str = "talos.ensure_secrets";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let secret = inventory::bundle_name(&input.cluster);
        if let Some(known) = cx.store.secret(&secret).map_err(read)? {
            return Ok(Done::new(Output { secret, generation: known.generation }));
        }
        let cluster = known_cluster(cx, &input.cluster)?.value;
        let minor = Minor::of(&cluster.talos_version).map_err(|error| StepError::fail(error.to_string()))?;
        let kind = match cluster.spec.service_account_key.unwrap_or_default() {
            Requested::Rsa4096 => ServiceAccountKey::Rsa4096,
            Requested::EcdsaP256 => ServiceAccountKey::EcdsaP256,
        };
        let mut effects = Effects::default();
        let key = key_pool::take(&cx.store, kind, &mut effects).await?;
        let bundle = Bundle::generate(minor, key, Timestamp::now()).map_err(|error| unusable("randomness", &error))?;
        let text = bundle.to_yaml().map_err(|error| unusable("the new secrets", &error))?;
        let plain = SecretSlice::from(text.expose_secret().as_bytes().to_vec());
        effects.secrets.push(SecretPut { name: secret.clone(), plain: Some(plain) });
        let facts = json!({ "talos": minor.to_string() });
        effects.events.push(told::event("secrets_generated", &input.cluster, input.cluster.as_str(), facts));
        Ok(Done::with_effects(Output { secret, generation: 1 }, effects))
    }

    async fn undo(&self, _: &StepContext, input: &Input, _: Option<&Output>) -> Result<Effects, StepError> {
        let gone = SecretPut { name: inventory::bundle_name(&input.cluster), plain: None };
        Ok(Effects { secrets: vec![gone], ..Effects::default() })
    }

    async fn preview(&self, _: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let object = format!("secrets of cluster {}", input["cluster"].as_str().unwrap_or("?"));
        Ok(vec![Change { verb: "generate".to_owned(), object, details: [].into(), destroys: false }])
    }
}
