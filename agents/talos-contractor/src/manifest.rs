//! Files of Kubernetes objects: fetched from where the catalogue pins them, checked by SHA-256, applied server-side.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use contractor::action::StepError;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use talos::api::AllowedTargets;

use crate::{
    failure::{asked, chain},
    kubernetes::{FIELD_MANAGER, address_of, resource_of},
    settings::Manifest,
};

/// Larger files are refused, bytes.
const LIMIT: usize = 8 << 20;
const TIMEOUT: Duration = Duration::from_secs(60);
/// How many objects one file may hold.
const MOST_OBJECTS: usize = 2000;

/// A workload to wait for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// `Deployment`, `DaemonSet` or `StatefulSet`.
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

/// Fetches manifests from allowed targets.
pub struct Fetcher {
    allowed: AllowedTargets,
    /// Made once: reading the system's authorities takes longer than most fetches.
    client: OnceLock<reqwest::Client>,
}

impl Fetcher {
    /// Fetches from these only.
    pub fn new(allowed: AllowedTargets) -> Self {
        Self { allowed, client: OnceLock::new() }
    }

    /// Fetches a manifest; refuses another content than the pinned one.
    pub async fn fetch(&self, manifest: &Manifest) -> Result<String, StepError> {
        let allowed = &self.allowed;
        if address_of(&manifest.url).is_some_and(|address| !allowed.allows(address)) {
            return Err(StepError::fail(format!("{} is outside the allowed targets ({allowed})", manifest.url)));
        }
        let failed = |error: reqwest::Error| {
            StepError::retry(format!("fetching {}: {}", manifest.url, chain(&error.without_url())))
        };
        let client = self.client().map_err(failed)?;
        let response = client.get(&manifest.url).send().await;
        let response = response.and_then(reqwest::Response::error_for_status).map_err(failed)?;
        checked(manifest, response, failed).await
    }

    fn client(&self) -> reqwest::Result<&reqwest::Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(AllowedOnly(self.allowed.clone())))
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(self.client.get_or_init(|| client))
    }
}

/// The manifest in a response, if it is the one that is pinned.
async fn checked(
    manifest: &Manifest,
    response: reqwest::Response,
    failed: impl Fn(reqwest::Error) -> StepError,
) -> Result<String, StepError> {
    if response.content_length().is_some_and(|length| length > LIMIT as u64) {
        return Err(StepError::fail(format!("{} is larger than {LIMIT} bytes", manifest.url)));
    }
    let body = response.bytes().await.map_err(failed)?;
    let digest: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    if digest != manifest.sha256 {
        return Err(StepError::fail(format!(
            "{} has the SHA-256 {digest}, the catalogue pins {}",
            manifest.url, manifest.sha256
        ))
        .with_hint("look at what changed before pinning the new content in `addons.manifests`"));
    }
    String::from_utf8(body.to_vec()).map_err(|_| StepError::fail(format!("{} is not text", manifest.url)))
}

/// Resolves names to allowed addresses only, so that no name leads out.
struct AllowedOnly(AllowedTargets);

impl Resolve for AllowedOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let addresses: Vec<SocketAddr> = found.filter(|address| allowed.allows(address.ip())).collect();
            if addresses.is_empty() {
                return Err(format!("{host} has no address among the allowed targets ({allowed})").into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The objects of a file, namespaces and custom types first.
pub fn objects(text: &str) -> Result<Vec<DynamicObject>, StepError> {
    // `n` and `y` are names, as Kubernetes' own reader takes them.
    let options = serde_saphyr::options! { strict_booleans: true };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| StepError::fail(format!("the manifest is not YAML: {error}")))?;
    let mut objects = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        let items = match document.get("items").filter(|_| document["kind"] == "List") {
            Some(Value::Array(items)) => items.clone(),
            _ => vec![document],
        };
        for item in items {
            objects.push(serde_json::from_value::<DynamicObject>(item).map_err(|error| {
                StepError::fail(format!("the manifest holds something that is no Kubernetes object: {error}"))
            })?);
        }
    }
    if objects.len() > MOST_OBJECTS {
        return Err(StepError::fail(format!("the manifest holds more than {MOST_OBJECTS} objects")));
    }
    objects.sort_by_key(rank);
    Ok(objects)
}

fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |types| types.kind.as_str())
}

fn rank(object: &DynamicObject) -> u8 {
    match kind(object) {
        "Namespace" => 0,
        "CustomResourceDefinition" => 1,
        "ServiceAccount" | "ConfigMap" | "Secret" | "Role" | "ClusterRole" | "RoleBinding" | "ClusterRoleBinding" => 2,
        _ => 3,
    }
}

/// Applies the objects server-side, in order. Applying the same again changes nothing.
pub async fn apply(client: &Client, objects: &[DynamicObject]) -> Result<(), StepError> {
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    for object in objects {
        let (resource, namespaced) = resource_of(client, object).await?;
        let api: Api<DynamicObject> = match (namespaced, object.namespace()) {
            (true, Some(namespace)) => Api::namespaced_with(client.clone(), &namespace, &resource),
            (true, None) => Api::default_namespaced_with(client.clone(), &resource),
            (false, _) => Api::all_with(client.clone(), &resource),
        };
        let name = object.name_any();
        api.patch(&name, &parameters, &Patch::Apply(object))
            .await
            .map_err(|error| asked(&format!("applying {} {name}", kind(object)), &error))?;
    }
    Ok(())
}

/// The workloads among the objects.
pub fn workloads(objects: &[DynamicObject]) -> Vec<Workload> {
    let is_workload = |object: &&DynamicObject| matches!(kind(object), "Deployment" | "DaemonSet" | "StatefulSet");
    let workload = |object: &DynamicObject| Workload {
        kind: kind(object).to_owned(),
        namespace: object.namespace().unwrap_or_else(|| "default".to_owned()),
        name: object.name_any(),
    };
    objects.iter().filter(is_workload).map(workload).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_and_types_come_first_and_lists_are_unpacked() {
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: n}\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: n}\n---\n\
                    apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: c}\n";
        let objects = objects(text).unwrap();
        let kinds: Vec<_> = objects.iter().map(kind).collect();
        assert_eq!(kinds, ["Namespace", "CustomResourceDefinition", "Deployment"]);
        let wanted = Workload { kind: "Deployment".into(), namespace: "n".into(), name: "d".into() };
        assert_eq!(workloads(&objects), [wanted]);
    }

    #[tokio::test]
    async fn an_address_outside_the_allowed_targets_is_not_asked() {
        let manifest =
            Manifest { url: "http://192.168.7.7/x.yaml".into(), sha256: "0".repeat(64), version: "1".into() };
        let error = Fetcher::new(AllowedTargets::loopback()).fetch(&manifest).await.unwrap_err();
        assert!(error.to_string().contains("outside the allowed targets"), "{error}");
    }

    #[tokio::test]
    async fn a_file_with_another_digest_is_refused_and_both_are_named() {
        const TEXT: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n";
        // A second installation fails, and the first is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/x.yaml", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/x.yaml", axum::routing::get(|| async { TEXT }));
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        let digest: String = Sha256::digest(TEXT).iter().map(|byte| format!("{byte:02x}")).collect();
        let pinned = |sha256: &str| Manifest { url: url.clone(), sha256: sha256.to_owned(), version: "1".into() };

        let fetcher = Fetcher::new(AllowedTargets::loopback());
        let text = fetcher.fetch(&pinned(&digest)).await.unwrap();
        assert_eq!(text, TEXT);
        let error = fetcher.fetch(&pinned(&"0".repeat(64))).await.unwrap_err();
        let StepError::Fail(failure) = &error else { panic!("{error}: trying again changes nothing") };
        assert!(failure.message.contains(&digest) && failure.message.contains(&"0".repeat(64)), "{error}");
        assert!(failure.hint.as_ref().is_some_and(|hint| hint.contains("addons.manifests")), "{failure:?}");
        server.abort();
    }
}
