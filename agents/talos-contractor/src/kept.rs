//! The certificates of clusters that this contractor keeps sealed: authorities, and what was made from them.

use contractor::credentials::{Certificate, Dates};
use messages::name::ClusterName;
use secrecy::{ExposeSecret, SecretString};
use store::Reader;
use talos::{kubeconfig, secrets::Bundle, talosconfig::TalosConfig};

use crate::{failure::chain, inventory, reach};

/// All of them. A secret that cannot be opened is logged and left out: what needs it says so itself.
pub fn certificates(store: &Reader) -> Vec<Certificate> {
    let clusters = match inventory::clusters(store) {
        Ok(clusters) => clusters,
        Err(error) => {
            tracing::warn!(error = chain(&error), "the clusters' certificates cannot be looked at");
            return Vec::new();
        }
    };
    clusters.into_iter().flat_map(|cluster| of_cluster(store, &cluster.value.name)).collect()
}

fn of_cluster(store: &Reader, cluster: &ClusterName) -> Vec<Certificate> {
    let mut found = Vec::new();
    // A cluster that is being made may have no secrets yet.
    if let Ok((_, bundle)) = reach::bundle(store, cluster) {
        found.extend(authorities(&bundle).into_iter().flat_map(|(object, pem)| {
            let mend = "plan its rotation: the configuration of every node names it, and so does each credential";
            read(object, cluster, pem, mend.to_owned())
        }));
    }
    let text = sealed_text(store, &inventory::kubeconfig_name(cluster));
    if let Some(pem) = text.and_then(|text| kubeconfig::certificate_of(text.expose_secret())) {
        let mend = format!("`cortexctl kubeconfig {cluster}` gives out a fresh one at any time");
        found.extend(read("the sealed kubeconfig", cluster, &pem, mend));
    }
    let text = sealed_text(store, &inventory::talosconfig_name(cluster));
    let config = text.and_then(|text| TalosConfig::from_yaml(text.expose_secret()).ok());
    let contexts = config.iter().flat_map(|config| config.contexts.values());
    for credentials in contexts.filter_map(|context| context.credentials.as_ref()) {
        let mend = format!("`cortexctl talosconfig {cluster}` gives out a fresh one at any time");
        found.extend(read("the sealed talosconfig", cluster, &credentials.client.crt, mend));
    }
    found
}

fn authorities(bundle: &Bundle) -> [(&'static str, &str); 4] {
    [
        ("the Talos API authority", &bundle.os.crt),
        ("the Kubernetes authority", &bundle.kubernetes.crt),
        ("the etcd authority", &bundle.etcd.crt),
        ("the aggregation layer's authority", &bundle.aggregator.crt),
    ]
}

fn read(object: &str, cluster: &ClusterName, pem: &str, mend: String) -> Vec<Certificate> {
    let dates = Dates::read(pem.as_bytes()).unwrap_or_else(|reason| {
        tracing::warn!(%cluster, object, reason, "a certificate cannot be looked at");
        Vec::new()
    });
    let named = |dates| Certificate {
        object: object.to_owned(),
        cluster: Some(cluster.to_string()),
        file: None,
        dates,
        mend: mend.clone(),
    };
    dates.into_iter().map(named).collect()
}

fn sealed_text(store: &Reader, name: &str) -> Option<SecretString> {
    let secret = store.secret(name).ok().flatten()?;
    std::str::from_utf8(secret.plain.expose_secret()).ok().map(SecretString::from)
}
