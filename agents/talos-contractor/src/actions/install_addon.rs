//! `talos.install_addon`: applies a manifest of the catalogue to a cluster.

use std::collections::BTreeMap;

use contractor::action::{Action, Change, Done, Effects, PreviewContext, StepContext, StepError};
use engine::catalog::Undo;
use kube::core::DynamicObject;
use messages::{name::ClusterName, request::Storage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    kubernetes,
    manifest::{self, Workload},
    reach::{Deps, known_cluster},
    settings::Manifest,
    told,
};

/// Installs an add-on.
pub struct InstallAddon(pub Deps);

/// Which add-on, and where it may run.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub cluster: ClusterName,
    /// Its name in `addons.manifests`.
    pub addon: String,
    /// Labels of namespaces, by namespace; what the add-on's pods need of Pod Security, mostly.
    #[serde(default)]
    pub namespace_labels: BTreeMap<String, BTreeMap<String, String>>,
    /// Makes this storage class the default one.
    #[serde(default)]
    pub default_storage_class: Option<String>,
}

/// What has to come up now.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Output {
    pub version: String,
    pub workloads: Vec<Workload>,
}

impl Action for InstallAddon {
    const NAME: &'static str = "talos.install_addon";
    /// What it installs goes with the cluster.
    const UNDO: Undo = Undo::Nothing;
    type Input = Input;
    type Output = Output;

    async fn run(&self, cx: &StepContext, input: &Input) -> Result<Done<Output>, StepError> {
        let cluster = known_cluster(cx, &input.cluster)?.value;
        let manifest = pinned(&self.0, &input.addon)?;
        let text = self.0.manifests().fetch(manifest).await?;
        let mut objects = manifest::objects(&text)?;
        for object in &mut objects {
            adapt(object, input);
        }
        let client = kubernetes::connect(&self.0, &cx.store, &cluster).await?;
        manifest::apply(&client, &namespaces(input, &objects)?).await?;
        manifest::apply(&client, &objects).await?;
        let mut effects = Effects::default();
        let facts = json!({ "version": manifest.version, "sha256": manifest.sha256, "objects": objects.len() });
        effects.events.push(told::event("addon_installed", &input.cluster, &input.addon, facts));
        let output = Output { version: manifest.version.clone(), workloads: manifest::workloads(&objects) };
        Ok(Done::with_effects(output, effects))
    }

    async fn preview(&self, _: &PreviewContext, input: &Value) -> Result<Vec<Change>, StepError> {
        let name = input["addon"].as_str().unwrap_or("?");
        let manifest = pinned(&self.0, name)?;
        let details = [("url", &manifest.url), ("sha256", &manifest.sha256), ("version", &manifest.version)];
        let details = details.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        Ok(vec![Change { verb: "install".to_owned(), object: format!("add-on {name}"), details, destroys: false }])
    }
}

/// The add-on that a kind of storage is, if it is one.
pub(crate) fn of_storage(storage: Option<Storage>) -> Option<&'static str> {
    match storage? {
        Storage::Longhorn => Some("longhorn"),
        Storage::LocalPath | Storage::LocalStorage => Some("local-path"),
        Storage::Ceph | Storage::None => None,
    }
}

/// What the catalogue says of an add-on. None is shipped: upstream files are the operator's to look at and to pin.
pub(super) fn pinned<'d>(deps: &'d Deps, name: &str) -> Result<&'d Manifest, StepError> {
    deps.addons().manifests.get(name).ok_or_else(|| {
        StepError::fail(format!("the add-on catalogue has no `{name}`")).with_hint(format!(
            "name its `url`, `sha256` and `version` under `addons.manifests.{name}` of talos-contractor's configuration, \
             or ask for storage `none`; deploy/README.md says how"
        ))
    })
}

/// Namespaces that need labels and are not part of the manifest themselves.
fn namespaces(input: &Input, objects: &[DynamicObject]) -> Result<Vec<DynamicObject>, StepError> {
    let own = |name: &str| {
        objects.iter().any(|object| is_kind(object, "Namespace") && object.metadata.name.as_deref() == Some(name))
    };
    let missing = input.namespace_labels.iter().filter(|(name, _)| !own(name));
    let namespace = |(name, labels): (&String, &BTreeMap<String, String>)| {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels },
        });
        serde_json::from_value(object).map_err(|error| StepError::fail(format!("namespace {name}: {error}")))
    };
    missing.map(namespace).collect()
}

fn adapt(object: &mut DynamicObject, input: &Input) {
    let name = object.metadata.name.clone().unwrap_or_default();
    if is_kind(object, "Namespace")
        && let Some(labels) = input.namespace_labels.get(&name)
    {
        object.metadata.labels.get_or_insert_default().extend(labels.clone());
    }
    if is_kind(object, "StorageClass") && input.default_storage_class.as_ref() == Some(&name) {
        let annotations = object.metadata.annotations.get_or_insert_default();
        annotations.insert("storageclass.kubernetes.io/is-default-class".to_owned(), "true".to_owned());
    }
}

fn is_kind(object: &DynamicObject, kind: &str) -> bool {
    object.types.as_ref().is_some_and(|types| types.kind == kind)
}
