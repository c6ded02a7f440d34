//! `cortexctl kubeconfig` and `cortexctl talosconfig`: credentials travel as age ciphertext for a key made for the call.

use std::{io::Read, path::PathBuf};

use age::x25519;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Args;
use messages::{name::Period, subject::Party};
use serde_json::{Value, json};

use crate::{
    cli::{Connection, Ending, Failure, Outcome},
    output::Output,
};

/// `kubeconfig NAME`
#[derive(Args)]
pub struct Kubeconfig {
    /// The cluster.
    name: String,
    /// Merge it into $KUBECONFIG or ~/.kube/config instead of printing it.
    #[arg(long)]
    merge: bool,
}

/// `talosconfig NAME`
#[derive(Args)]
pub struct Talosconfig {
    /// The cluster.
    name: String,
    /// What it may do.
    #[arg(long, default_value = "os:admin", value_parser = ["os:admin", "os:operator", "os:reader"])]
    role: String,
    /// How long it is good for: 30m, 8h; at most a year.
    #[arg(long, default_value = "8h", value_parser = period)]
    ttl: String,
}

fn period(text: &str) -> Result<String, String> {
    serde_json::from_value::<Period>(text.into()).map(String::from).map_err(|error| error.to_string())
}

/// Prints or merges the kubeconfig.
pub async fn kubeconfig(command: Kubeconfig, connection: &Connection, out: &mut Output) -> Outcome {
    let text = fetch(connection, "kubeconfig", json!({ "cluster": command.name })).await?;
    if !command.merge {
        return print(&text, out);
    }
    // A link stays a link: what it points to is replaced.
    let path = kubeconfig_path()?;
    let path = std::fs::canonicalize(&path).unwrap_or(path);
    let known = match std::fs::read_to_string(&path) {
        Ok(known) => known,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Failure::Other(format!("{}: {error}; nothing was changed", path.display()))),
    };
    let unread = |reason: Failure| Failure::Other(format!("{}: {reason}; nothing was changed", path.display()));
    let merged = merge(&known, &text).map_err(unread)?;
    write_private(&path, &merged)?;
    out.note(&format!("merged into {}", path.display()));
    Ok(Ending::Ok)
}

/// Prints a talosconfig.
pub async fn talosconfig(command: Talosconfig, connection: &Connection, out: &mut Output) -> Outcome {
    let arguments = json!({ "cluster": command.name, "role": command.role, "ttl": command.ttl });
    let text = fetch(connection, "talosconfig", arguments).await?;
    print(&text, out)
}

/// YAML as it came, or the same as JSON.
fn print(text: &str, out: &mut Output) -> Outcome {
    if out.is_json() {
        out.value(&serde_saphyr::from_str::<Value>(text).map_err(Failure::other)?)?;
    } else {
        out.text(text.trim_end())?;
    }
    Ok(Ending::Ok)
}

async fn fetch(connection: &Connection, what: &str, mut arguments: Value) -> Result<String, Failure> {
    let key = x25519::Identity::generate();
    arguments["recipient"] = key.to_public().to_string().into();
    let client = connection.connect().await?;
    let answer: Value = client.command(Party::Talos, what, arguments).await?;
    let ciphertext = answer.get("ciphertext").and_then(Value::as_str).unwrap_or_default();
    let ciphertext = BASE64_STANDARD.decode(ciphertext).map_err(Failure::other)?;
    let decryptor = age::Decryptor::new(ciphertext.as_slice()).map_err(Failure::other)?;
    let mut text = String::new();
    decryptor
        .decrypt(std::iter::once(&key as &dyn age::Identity))
        .map_err(Failure::other)?
        .read_to_string(&mut text)
        .map_err(Failure::other)?;
    Ok(text)
}

fn kubeconfig_path() -> Result<PathBuf, Failure> {
    if let Some(path) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
        let first = std::env::split_paths(&path).next();
        return first.ok_or_else(|| Failure::Usage("KUBECONFIG names no file".into()));
    }
    let home = std::env::var_os("HOME").ok_or_else(|| Failure::Usage("neither KUBECONFIG nor HOME is set".into()))?;
    Ok(PathBuf::from(home).join(".kube/config"))
}

/// Lays the clusters, users and contexts of `new` over those of `known`, by name; the new context becomes the current one.
fn merge(known: &str, new: &str) -> Result<String, Failure> {
    let new: Value = serde_saphyr::from_str(new).map_err(Failure::other)?;
    if known.trim().is_empty() {
        return serde_saphyr::to_string(&new).map_err(Failure::other);
    }
    let mut merged: Value = serde_saphyr::from_str(known).map_err(Failure::other)?;
    if !merged.is_object() {
        return Err(Failure::Other("it is no kubeconfig".to_owned()));
    }
    for list in ["clusters", "users", "contexts"] {
        let additions = new.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
        let mut entries = merged.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
        entries.retain(|entry| additions.iter().all(|addition| addition.get("name") != entry.get("name")));
        entries.extend(additions);
        merged[list] = entries.into();
    }
    merged["current-context"] = new.get("current-context").cloned().unwrap_or_default();
    serde_saphyr::to_string(&merged).map_err(Failure::other)
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let shown = |error: std::io::Error| Failure::Other(format!("{}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(shown)?;
    }
    let draft = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft).map_err(shown)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(shown)?;
    std::fs::rename(&draft, path).map_err(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kubeconfig_is_left_alone() {
        for known in ["- a\n", "text", "a: [\n"] {
            assert!(merge(known, "clusters: []\n").is_err(), "{known:?}");
        }
    }

    #[test]
    fn merging_replaces_by_name_and_keeps_the_rest() {
        let known =
            "clusters: [{name: a, cluster: {server: old}}, {name: b, cluster: {server: kept}}]\ncurrent-context: b\n";
        let new =
            "clusters: [{name: a, cluster: {server: new}}]\ncontexts: [{name: admin@a}]\ncurrent-context: admin@a\n";
        let merged: Value = serde_saphyr::from_str(&merge(known, new).unwrap()).unwrap();
        assert_eq!(
            merged,
            json!({
                "clusters": [{ "name": "b", "cluster": { "server": "kept" } }, { "name": "a", "cluster": { "server": "new" } }],
                "users": [], "contexts": [{ "name": "admin@a" }], "current-context": "admin@a"
            })
        );
    }
}
