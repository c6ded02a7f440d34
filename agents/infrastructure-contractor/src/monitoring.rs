//! Prometheus file discovery: one file per cluster in a folder that Prometheus watches.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use messages::name::ClusterName;
use serde_json::{Value, json};

use crate::inventory::Cluster;

/// The file of a cluster.
pub(crate) fn file(folder: &Path, cluster: &ClusterName) -> PathBuf {
    folder.join(format!("{cluster}.json"))
}

/// Writes the cluster's targets, whole or not at all. `gone` are addresses that are no longer scraped.
pub(crate) fn write(folder: &Path, cluster: &Cluster, gone: &[IpAddr]) -> io::Result<()> {
    let path = file(folder, &cluster.name);
    let fresh = path.with_extension("json.new");
    std::fs::create_dir_all(folder)?;
    std::fs::write(&fresh, format!("{:#}\n", groups(cluster, gone)))?;
    std::fs::rename(&fresh, &path)
}

/// Removes the cluster's file; none there is fine.
pub(crate) fn remove(folder: &Path, cluster: &ClusterName) -> io::Result<()> {
    match std::fs::remove_file(file(folder, cluster)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `file_sd_configs` groups, one per scheme and path.
fn groups(cluster: &Cluster, gone: &[IpAddr]) -> Value {
    let endpoints = cluster.ready.iter().flat_map(|ready| &ready.metrics_endpoints);
    let groups = endpoints.filter_map(|url| {
        let (scheme, rest) = url.split_once("://")?;
        let (target, path) =
            rest.split_once('/').map_or((rest, "/metrics".to_owned()), |(target, path)| (target, format!("/{path}")));
        let host = target.rsplit_once(':').map_or(target, |(host, _)| host).trim_matches(['[', ']']);
        if host.parse().is_ok_and(|address: IpAddr| gone.contains(&address)) {
            return None;
        }
        Some(json!({
            "targets": [target],
            "labels": {
                "__scheme__": scheme,
                "__metrics_path__": path,
                "cluster": cluster.name,
                "cluster_uid": cluster.uid,
            },
        }))
    });
    groups.collect()
}
