//! What operators and the other contractor may ask of this one.

use std::{collections::BTreeMap, io::Write, time::Duration};

use age::x25519;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use contractor::{
    agent::{Asked, Query},
    damage::unavailable,
};
use jiff::Timestamp;
use messages::{
    name::{ClusterName, Period},
    query::{Listing, Page, Refusal, RefusalKind},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use store::Reader;
use talos::{api::Credentials, kubeconfig, pki::Role, talosconfig::TalosConfig};

use crate::{
    health,
    inventory::{self, Cluster, Node},
    reach::{self, Deps, control_planes},
};

/// How long a kubeconfig that is handed out is good for.
const KUBECONFIG_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// No talosconfig lives longer than the administrator's.
const LONGEST_TTL: Duration = talos::pki::ADMIN_LIFETIME;

/// The queries and commands of this contractor.
pub fn queries(deps: &Deps, store: &Reader) -> Vec<Query> {
    let all = store.clone();
    let list = move |asked: Asked| std::future::ready(clusters(&all, &asked));
    let one = store.clone();
    let show = move |asked: Asked| std::future::ready(show(&one, &asked));
    let rows = store.clone();
    let nodes = move |asked: Asked| std::future::ready(nodes(&rows, &asked));
    let (live, reached) = (store.clone(), deps.clone());
    let status = move |asked: Asked| status(reached.clone(), live.clone(), asked);
    let kube = store.clone();
    let kubeconfig = move |asked: Asked| std::future::ready(kubeconfig_for(&kube, &asked));
    let talos = store.clone();
    let talosconfig = move |asked: Asked| std::future::ready(talosconfig_for(&talos, &asked));
    vec![
        Query::read("clusters.list", list),
        Query::read("clusters.show", show),
        Query::read("clusters.status", status),
        Query::read("nodes.list", nodes),
        Query::command("kubeconfig", kubeconfig).told_as("credential_issued"),
        Query::command("talosconfig", talosconfig).told_as("credential_issued"),
    ]
}

fn clusters(store: &Reader, asked: &Asked) -> Result<Value, Refusal> {
    let mut rows = Vec::new();
    for known in inventory::clusters(store).map_err(|error| unavailable(&error))? {
        let cluster = known.value;
        rows.push(BTreeMap::from([
            ("cluster".to_owned(), json!(cluster.name)),
            ("state".to_owned(), json!(cluster.state)),
            ("endpoint".to_owned(), json!(cluster.endpoint)),
            ("talos".to_owned(), json!(cluster.talos_version)),
            ("kubernetes".to_owned(), json!(cluster.kubernetes_version)),
            ("created".to_owned(), json!(cluster.created)),
        ]));
    }
    Ok(json!(Listing::page(rows, &["cluster"], &Page::of(&asked.arguments))))
}

fn show(store: &Reader, asked: &Asked) -> Result<Value, Refusal> {
    let cluster = named(store, asked)?;
    let nodes = members(store, &cluster.name)?;
    let configs = nodes.iter().filter_map(|node| {
        let key = inventory::config_key(&cluster.name, &node.hostname);
        let history = store.get::<inventory::ConfigHistory>(&key).ok().flatten()?;
        Some((node.hostname.to_string(), json!(history.value.versions)))
    });
    let configs: BTreeMap<_, _> = configs.collect();
    Ok(json!({ "cluster": cluster, "nodes": nodes, "configs": configs }))
}

fn nodes(store: &Reader, asked: &Asked) -> Result<Value, Refusal> {
    let only = asked.arguments.get("cluster").and_then(Value::as_str);
    let mut rows = Vec::new();
    for known in inventory::clusters(store).map_err(|error| unavailable(&error))? {
        let cluster = known.value;
        if only.is_some_and(|only| only != cluster.name.as_str()) {
            continue;
        }
        for node in members(store, &cluster.name)? {
            rows.push(row(&cluster, &node));
        }
    }
    Ok(json!(Listing::page(rows, &["cluster", "node"], &Page::of(&asked.arguments))))
}

fn row(cluster: &Cluster, node: &Node) -> BTreeMap<String, Value> {
    BTreeMap::from([
        ("cluster".to_owned(), json!(cluster.name)),
        ("node".to_owned(), json!(node.hostname)),
        ("role".to_owned(), json!(node.role)),
        ("pool".to_owned(), json!(node.pool)),
        ("ip".to_owned(), json!(node.ip)),
        ("state".to_owned(), json!(node.state)),
        ("talos".to_owned(), json!(cluster.talos_version)),
        ("kubernetes".to_owned(), json!(cluster.kubernetes_version)),
        ("host".to_owned(), json!(node.host)),
    ])
}

/// The cluster as it is now: every health check, asked at once.
async fn status(deps: Deps, store: Reader, asked: Asked) -> Result<Value, Refusal> {
    let cluster = named(&store, &asked)?;
    let nodes = members(&store, &cluster.name)?;
    let health = health::check(&deps, &store, &cluster, &nodes)
        .await
        .map_err(|error| Refusal::new(RefusalKind::Unavailable, error.to_string()))?;
    Ok(json!({
        "cluster": cluster.name,
        "state": cluster.state,
        "status": if health.healthy { "healthy" } else { "degraded" },
        "endpoint": cluster.endpoint,
        "talos": cluster.talos_version,
        "kubernetes": cluster.kubernetes_version,
        "checks": health.checks,
        "api_p95_ms": health.api_p95_ms,
        "nodes": nodes.iter().map(|node| row(&cluster, node)).collect::<Vec<_>>(),
    }))
}

/// A fresh kubeconfig, as age ciphertext for the asker's key.
fn kubeconfig_for(store: &Reader, asked: &Asked) -> Result<Value, Refusal> {
    let cluster = named(store, asked)?;
    let (_, bundle) = reach::bundle(store, &cluster.name).map_err(|error| missing(&error))?;
    let name = cluster.name.as_str();
    let text = kubeconfig::admin_kubeconfig(&bundle, name, &cluster.endpoint, KUBECONFIG_LIFETIME, Timestamp::now())
        .map_err(|error| unavailable(&error))?;
    sealed(&text, asked)
}

/// A fresh talosconfig with the role and lifetime that was asked for, as age ciphertext for the asker's key.
fn talosconfig_for(store: &Reader, asked: &Asked) -> Result<Value, Refusal> {
    let cluster = named(store, asked)?;
    let text = |field: &str| asked.arguments.get(field).and_then(Value::as_str);
    let role: Role = text("role")
        .unwrap_or("os:reader")
        .parse()
        .map_err(|error: talos::pki::Error| Refusal::new(RefusalKind::Invalid, error.to_string()))?;
    let ttl: Period = serde_json::from_value(json!(text("ttl").unwrap_or("8h")))
        .map_err(|error| Refusal::new(RefusalKind::Invalid, format!("argument `ttl`: {error}")))?;
    let ttl = ttl.to_std();
    if ttl.is_zero() || ttl > LONGEST_TTL {
        return Err(Refusal::new(RefusalKind::Invalid, "argument `ttl`: more than nothing and at most a year"));
    }
    let (_, bundle) = reach::bundle(store, &cluster.name).map_err(|error| missing(&error))?;
    let credentials =
        Credentials::issue(&bundle.os, &role.into(), ttl, Timestamp::now()).map_err(|error| unavailable(&error))?;
    let planes = control_planes(store, &cluster.name).map_err(|error| missing(&error))?;
    let endpoints: Vec<_> = planes.iter().map(|node| node.ip).collect();
    let text = TalosConfig::new(cluster.name.as_str(), &endpoints, credentials)
        .to_yaml()
        .map_err(|error| unavailable(&error))?;
    sealed(&text, asked)
}

fn sealed(text: &SecretString, asked: &Asked) -> Result<Value, Refusal> {
    let recipient = asked.arguments.get("recipient").and_then(Value::as_str).unwrap_or_default();
    let recipient: x25519::Recipient = recipient
        .parse()
        .map_err(|error| Refusal::new(RefusalKind::Invalid, format!("argument `recipient`: {error}")))?;
    let ciphertext = encrypt(text, &recipient).map_err(|error| unavailable(&*error))?;
    Ok(json!({ "ciphertext": BASE64_STANDARD.encode(ciphertext) }))
}

fn encrypt(text: &SecretString, recipient: &x25519::Recipient) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let recipients = std::iter::once(recipient as &dyn age::Recipient);
    let mut ciphertext = Vec::new();
    let mut writer = age::Encryptor::with_recipients(recipients)?.wrap_output(&mut ciphertext)?;
    writer.write_all(text.expose_secret().as_bytes())?;
    writer.finish()?;
    Ok(ciphertext)
}

fn named(store: &Reader, asked: &Asked) -> Result<Cluster, Refusal> {
    let name = asked.arguments.get("cluster").and_then(Value::as_str).unwrap_or_default();
    let name: ClusterName =
        name.parse().map_err(|error| Refusal::new(RefusalKind::Invalid, format!("argument `cluster`: {error}")))?;
    let known = inventory::cluster(store, &name).map_err(|error| unavailable(&error))?;
    let known = known.ok_or_else(|| Refusal::new(RefusalKind::NotFound, format!("there is no cluster {name}")))?;
    Ok(known.value)
}

fn members(store: &Reader, cluster: &ClusterName) -> Result<Vec<Node>, Refusal> {
    let nodes = inventory::nodes(store, cluster).map_err(|error| unavailable(&error))?;
    Ok(nodes.into_iter().map(|node| node.value).collect())
}

fn missing(error: &contractor::action::StepError) -> Refusal {
    Refusal::new(RefusalKind::NotFound, error.to_string())
}
