//! `talos.seal_credentials`: makes an administrator's kubeconfig and talosconfig and keeps them sealed.

use contractor::action::{Action, Done, Effects, StepContext, StepError};
use engine::catalog::Undo;
use jiff::Timestamp;
use messages::name::ClusterName;
use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::SecretPut;
use talos::{
    api::Credentials,
    kubeconfig,
    pki::{ADMIN_LIFETIME, Role},
    talosconfig::TalosConfig,
};

use crate::{
    failure::{read, unusable},
    inventory,
    reach::{self, control_planes, known_cluster},
    told,
};

/// Seals credentials.
pub struct SealCredentials;

/// Which cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
}

/// Names of the sealed secrets; never what they hold.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub kubeconfig: String,
    pub talosconfig: String,
}

impl Action for SealCredentials {
    const NAME: &'static str = "talos.seal_credentials";
    const UNDO: Undo = Undo::Yes;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let output = names(&input.cluster);
        let sealed = |name: &str| cx.store.secret(name).map_err(read);
        if sealed(&output.kubeconfig)?.is_some() && sealed(&output.talosconfig)?.is_some() {
            return Ok(Done::new(output));
        }
        let cluster = known_cluster(cx, &input.cluster)?.value;
        let (_, bundle) = reach::bundle(&cx.store, &input.cluster)?;
        let now = Timestamp::now();
        let name = input.cluster.as_str();
        let kubeconfig = kubeconfig::admin_kubeconfig(&bundle, name, &cluster.endpoint, ADMIN_LIFETIME, now)
            .map_err(|error| unusable("the cluster's Kubernetes authority", &error))?;
        let credentials = Credentials::issue(&bundle.os, &Role::Admin.into(), ADMIN_LIFETIME, now)
            .map_err(|error| unusable("the cluster's Talos authority", &error))?;
        let endpoints: Vec<_> = control_planes(&cx.store, &input.cluster)?.iter().map(|node| node.ip).collect();
        let talosconfig = TalosConfig::new(name, &endpoints, credentials)
            .to_yaml()
            .map_err(|error| unusable("the talosconfig", &error))?;
        let mut effects = Effects::default();
        effects.secrets.push(put(&output.kubeconfig, &kubeconfig));
        effects.secrets.push(put(&output.talosconfig, &talosconfig));
        effects.events.push(told::event("credentials_sealed", &input.cluster, name, json!({})));
        Ok(Done::with_effects(output, effects))
    }

    async fn undo(&self, _: &StepContext, input: &Input, _: Option<&Output>) -> Result<Effects, StepError> {
        let mut effects = Effects::default();
        let Output { kubeconfig, talosconfig } = names(&input.cluster);
        effects.secrets.push(SecretPut { name: kubeconfig, plain: None });
        effects.secrets.push(SecretPut { name: talosconfig, plain: None });
        Ok(effects)
    }
}

fn names(cluster: &ClusterName) -> Output {
    Output { kubeconfig: inventory::kubeconfig_name(cluster), talosconfig: inventory::talosconfig_name(cluster) }
}

fn put(name: &str, text: &SecretString) -> SecretPut {
    let plain = SecretSlice::from(text.expose_secret().as_bytes().to_vec());
    SecretPut { name: name.to_owned(), plain: Some(plain) }
}
