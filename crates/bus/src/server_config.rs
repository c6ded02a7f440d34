//! Generates what a `nats-server` needs: configuration, identities with least rights, certificates.
//!
//! ```text
//! nats-server.conf   nats-server -c nats-server.conf
//! ca.pem  ca.key     the private CA of this bus
//! server.pem/.key    the server's certificate
//! keys/<identity>.nk nkey seeds, mode 0600; the server knows only the public halves
//! keys/operators/    what belongs to operators with keys of their own, see [`persons`]
//! identities.json    public keys by identity
//! pinned_keys.json   public keys by source of messages: `bus.pinned_keys` of the contractors
//! ```

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    certificates::{self, Files},
    identity::{self, Identity, write_private},
    persons, rotation,
};

/// The server's configuration below the folder of a bus.
pub(crate) const FILE: &str = "nats-server.conf";
/// What the keys stand behind in it; the end of the file.
const KEYS: &str = "\nauthorization: ";
/// Everything of the streams (1,152 MiB) and room to change them.
const MAX_FILE_STORE: u64 = 2 << 30;
const MAX_PAYLOAD: u64 = 512 * 1024;
const MAX_CONNECTIONS: u32 = 1_024;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Further names and addresses that the server's certificate is for; the listen address always is.
    pub names: Vec<String>,
    /// Monitoring over HTTP; only ever on loopback.
    pub monitor_port: Option<u16>,
    /// Where JetStream keeps its files: a local disk, never `/tmp`, which is the server's default.
    pub store_folder: PathBuf,
    /// Whether clients must show a certificate of the CA besides their nkey.
    pub verify_clients: bool,
}

/// What was generated.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where everything is.
    pub folder: PathBuf,
    /// The server's configuration file.
    pub config: PathBuf,
    /// The CA that clients check the server against.
    pub root_ca: PathBuf,
    /// Key files by identity.
    pub keys: BTreeMap<Identity, PathBuf>,
    /// Public nkeys by identity, the newest of each.
    pub public_keys: BTreeMap<Identity, String>,
    /// Certificate and key by identity, where clients must show one.
    pub client_certificates: BTreeMap<Identity, (PathBuf, PathBuf)>,
    /// The certificates of these that are new.
    pub issued: Vec<PathBuf>,
}

/// Why nothing usable was generated.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A file cannot be written or read.
    #[error("{} cannot be written or read", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate cannot be made.
    #[error("no certificate could be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A key file that is there cannot be used.
    #[error(transparent)]
    Key(#[from] identity::KeyError),
    /// Without it no certificate can be made.
    #[error("{} is not there, and a new certificate is needed: put it back for as long as that takes", .0.display())]
    AuthorityKey(PathBuf),
    /// Somebody changed the end of the configuration.
    #[error("{} does not end in the `authorization` that was generated: bring that back, or `bus configure` anew", .0.display())]
    Changed(PathBuf),
}

/// Generates everything below `folder`. Keys that are there stay; so do certificates, but for those that are about to end or are
/// for other names, which are renewed; the configuration is written anew.
pub fn generate(folder: &Path, options: &Options) -> Result<Setup, GenerateError> {
    create_folder(folder)?;
    create_folder(&folder.join("keys"))?;
    let all_keys = rotation::known_keys(folder)?;
    let keys = Identity::ALL.into_iter().map(|identity| (identity, rotation::seed_file(folder, identity))).collect();
    let public_keys = all_keys.iter().map(|(identity, keys)| (*identity, keys[0].clone())).collect();
    let persons = persons::known(folder)?;
    let now = Timestamp::now();
    certificates::ensure_authority(folder, now)?;
    let mut issued = Vec::new();
    let mut issue = |files: &Files, name: &str, names: &[String]| -> Result<(), GenerateError> {
        if certificates::issue(folder, files, (name, names), now)? {
            issued.push(files.certificate.clone());
        }
        Ok(())
    };
    issue(&Files::named(folder, "server"), "server", &server_names(options))?;
    let mut client_certificates = BTreeMap::new();
    if options.verify_clients {
        for identity in Identity::ALL {
            let files = Files::named(&folder.join("keys"), identity.as_str());
            issue(&files, identity.as_str(), &[identity.as_str().to_owned()])?;
            client_certificates.insert(identity, (files.certificate, files.key));
        }
        // What was given to a person and taken away from here is theirs to ask for again.
        for person in persons.keys() {
            let files = Files::named(&persons::keys_folder(folder), person);
            if files.certificate.exists() {
                issue(&files, person, std::slice::from_ref(person))?;
            }
        }
    }
    let config = folder.join(FILE);
    write(&config, &(render(folder, options) + KEYS + "{}\n"))?;
    write_keys(folder, &all_keys, &persons)?;
    Ok(Setup {
        folder: folder.to_owned(),
        config,
        root_ca: folder.join("ca.pem"),
        keys,
        public_keys,
        client_certificates,
        issued,
    })
}

/// Writes the keys into every file that names them. What stands before them in the configuration stays as it is.
pub(crate) fn write_keys(
    folder: &Path,
    keys: &BTreeMap<Identity, Vec<String>>,
    persons: &BTreeMap<String, String>,
) -> Result<(), GenerateError> {
    let config = folder.join(FILE);
    let text = read(&config)?;
    let (before, users) = text.rsplit_once(KEYS).ok_or_else(|| GenerateError::Changed(config.clone()))?;
    if serde_json::from_str::<Value>(users).is_err() {
        return Err(GenerateError::Changed(config));
    }
    let newest: BTreeMap<_, _> = keys.iter().map(|(identity, keys)| (identity.as_str(), keys.first())).collect();
    replace(&folder.join("identities.json"), &(pretty(&json!(newest)) + "\n"))?;
    replace(&folder.join("pinned_keys.json"), &(pretty(&pinned_keys(keys, persons)) + "\n"))?;
    replace(&config, &format!("{before}{KEYS}{}\n", pretty(&json!({ "users": users_of(keys, persons) }))))
}

/// A certificate to show for a person, where operators must show one.
pub(crate) fn issue_client(folder: &Path, person: &str) -> Result<(), GenerateError> {
    if Files::named(&folder.join("keys"), Identity::Operator.as_str()).certificate.is_file() {
        let files = Files::named(&persons::keys_folder(folder), person);
        certificates::issue(folder, &files, (person, &[person.to_owned()]), Timestamp::now())?;
    }
    Ok(())
}

/// Which keys sign for which source. The admin makes streams and asks for nothing.
fn pinned_keys(public_keys: &BTreeMap<Identity, Vec<String>>, persons: &BTreeMap<String, String>) -> Value {
    let source = |identity: Identity| match identity {
        Identity::Infrastructure | Identity::Talos => Some(format!("/{identity}")),
        Identity::Coordinator | Identity::Operator | Identity::Mcp => Some(format!("/{identity}/*")),
        Identity::Admin => None,
    };
    let of_identities = public_keys.iter().filter_map(|(identity, key)| Some((source(*identity)?, json!(key))));
    of_identities.chain(persons.iter().map(|(name, key)| (persons::source(name), json!([key])))).collect()
}

/// Who may connect, and what each may do. Two keys of one identity may do the same, and so may all operators.
fn users_of(keys: &BTreeMap<Identity, Vec<String>>, persons: &BTreeMap<String, String>) -> Vec<Value> {
    let each = keys.iter().flat_map(|(identity, keys)| keys.iter().map(|key| (*identity, key)));
    let each = each.chain(persons.values().map(|key| (Identity::Operator, key)));
    each.map(|(identity, key)| {
        let permissions = identity.permissions();
        let mut user = json!({
            "nkey": key,
            "permissions": {
                "publish": { "allow": permissions.publish },
                "subscribe": { "allow": permissions.subscribe },
            },
        });
        if permissions.allow_responses {
            // One answer per question, within a minute, wherever the asker wants it.
            user["permissions"]["allow_responses"] = json!({ "max": 1, "expires": "1m" });
        }
        user
    })
    .collect()
}

/// The configuration file's text before the keys. `nats-server` reads JSON values; comments say why.
fn render(folder: &Path, options: &Options) -> String {
    let path = |name: &str| json!(folder.join(name).display().to_string());
    let monitoring = options.monitor_port.map_or_else(String::new, |port| {
        format!("# Monitoring tells much and asks for no password: loopback only.\nhttp: \"127.0.0.1:{port}\"\n")
    });
    format!(
        "# Generated by `cortexctl bus configure`; changes are lost when it is generated again.\n\
         server_name: \"cortex\"\n\
         listen: \"{listen}\"\n\
         {monitoring}\
         max_payload: {MAX_PAYLOAD}\n\
         max_connections: {MAX_CONNECTIONS}\n\
         # A dead client is noticed within seconds.\n\
         ping_interval: \"10s\"\n\
         ping_max: 2\n\
         jetstream {{\n  \
           store_dir: {store}\n  \
           max_file_store: {MAX_FILE_STORE}\n  \
           max_memory_store: 67108864\n  \
           # An ack means fsynced; the default syncs every two minutes.\n  \
           sync_interval: always\n\
         }}\n\
         tls {{\n  \
           cert_file: {certificate}\n  \
           key_file: {key}\n  \
           ca_file: {ca}\n  \
           verify: {verify}\n  \
           timeout: 5\n\
         }}\n\
         # The server knows public keys only. There is no user for whoever shows none. Keep this at the end.",
        listen = options.listen,
        store = json!(options.store_folder.display().to_string()),
        certificate = path("server.pem"),
        key = path("server.key"),
        ca = path("ca.pem"),
        verify = options.verify_clients,
    )
}

fn server_names(options: &Options) -> Vec<String> {
    let mut names = vec![options.listen.ip().to_string()];
    if options.listen.ip().is_loopback() || options.listen.ip().is_unspecified() {
        names.push("localhost".to_owned());
        names.push("127.0.0.1".to_owned());
    }
    names.extend(options.names.iter().cloned());
    names.retain(|name| name.parse::<IpAddr>().is_ok_and(|ip| !ip.is_unspecified()) || name.parse::<IpAddr>().is_err());
    names.sort();
    names.dedup();
    names
}

fn create_folder(path: &Path) -> Result<(), GenerateError> {
    fs::create_dir_all(path).map_err(|source| GenerateError::Io { path: path.to_owned(), source })
}

pub(crate) fn write(path: &Path, text: &str) -> Result<(), GenerateError> {
    fs::write(path, text).map_err(|source| GenerateError::Io { path: path.to_owned(), source })
}

/// Replaces a file at once, for the same owner and readers.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), GenerateError> {
    let failed = |source| GenerateError::Io { path: path.to_owned(), source };
    let Ok(known) = fs::metadata(path) else { return write(path, text) };
    let temporary = path.with_extension("new");
    let replaced = || -> io::Result<()> {
        // It may be a key: nobody else reads it meanwhile, whatever a call that was killed left there.
        fs::remove_file(&temporary).or_else(missing_is_fine)?;
        write_private(&temporary, text.as_bytes())?;
        fs::set_permissions(&temporary, known.permissions())?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, chown};
            let mine = fs::metadata(&temporary)?;
            if (mine.uid(), mine.gid()) != (known.uid(), known.gid()) {
                chown(&temporary, Some(known.uid()), Some(known.gid()))?;
            }
        }
        fs::rename(&temporary, path)
    };
    replaced().map_err(failed)
}

fn missing_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), GenerateError> {
    write_private(path, text.as_bytes()).map_err(|source| GenerateError::Io { path: path.to_owned(), source })
}

pub(crate) fn read(path: &Path) -> Result<String, GenerateError> {
    fs::read_to_string(path).map_err(|source| GenerateError::Io { path: path.to_owned(), source })
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// A bus's folder for tests of what changes one.
#[cfg(test)]
pub(crate) mod example {
    use super::*;

    pub(crate) fn options(folder: &Path, verify_clients: bool) -> Options {
        Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 4222)),
            names: Vec::new(),
            monitor_port: None,
            store_folder: folder.join("jetstream"),
            verify_clients,
        }
    }

    pub(crate) fn pinned(folder: &Path) -> Value {
        serde_json::from_str(&read(&folder.join("pinned_keys.json")).unwrap()).unwrap()
    }

    pub(crate) fn config(folder: &Path) -> String {
        read(&folder.join(FILE)).unwrap()
    }
}
