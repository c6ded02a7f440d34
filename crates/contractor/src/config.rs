//! The configuration of a daemon: one TOML file, environment, flags; every problem reported at once.

mod overlay;
mod problems;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use messages::{
    name::Period,
    schema::{self, Checker, Violation},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use self::{overlay::overlay, problems::common_problems};
use crate::credentials::CredentialFile;

/// The sections that every contractor has. An agent's own configuration holds this beside its own sections.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Common {
    /// Where messages travel.
    pub bus: Bus,
    /// Where the contractor remembers.
    pub store: StoreSection,
    /// Health, readiness, metrics.
    #[serde(default)]
    pub http: Http,
    /// Playbooks.
    #[serde(default)]
    pub playbooks: Playbooks,
    /// Who may ask, and what needs consent.
    #[serde(default)]
    pub policy: Policy,
    /// Keys and certificates.
    #[serde(default)]
    pub certificates: Certificates,
    /// Logs.
    #[serde(default)]
    pub log: Log,
    /// Outgoing connections go only to these networks (CIDR); empty means none.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub allowed_targets: Vec<String>,
}

/// `[bus]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bus {
    /// NATS servers, `tls://host:4222`; `nats://` without `ca_file` on this machine only.
    #[schemars(length(min = 1))]
    pub servers: Vec<String>,
    /// File with the contractor's nkey seed (mode 0600).
    pub seed_file: PathBuf,
    /// PEM file with the certificate authority of the servers; the system's where it is left out.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// PEM file with a certificate to show to servers that ask for one (`verify: true`).
    #[serde(default)]
    pub client_certificate_file: Option<PathBuf>,
    /// PEM file with that certificate's key (mode 0600).
    #[serde(default)]
    pub client_key_file: Option<PathBuf>,
    /// Public nkeys that messages of a source must be signed with: `"/talos" = ["U…"]`. A source that ends in `/*` stands
    /// for everything below it.
    #[serde(default)]
    pub pinned_keys: BTreeMap<String, Vec<String>>,
    /// Signed messages older than this are refused as stale; default `7d`, written `168h`.
    #[serde(default = "week")]
    pub stale_after: Period,
}

/// `[store]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    /// Folder of the store.
    pub path: PathBuf,
    /// age key file (mode 0600) that opens the sealed secrets; made at first start.
    pub key_file: PathBuf,
    /// A second age recipient whose key is kept offline.
    #[serde(default)]
    pub recovery_recipient: Option<String>,
    /// Page cache in MiB; what it holds takes two to three times as much memory.
    #[serde(default = "cache_mib")]
    #[schemars(range(min = 4, max = 64))]
    pub cache_mib: u32,
    /// Commits are refused while less than this many MiB are free.
    #[serde(default = "reserve_mib")]
    pub reserve_mib: u32,
    /// Runs that ended this long ago are kept as archives only.
    #[serde(default = "day")]
    pub archive_after: Period,
    /// Archived runs and ended flows are forgotten after this; default 90 days, written `2160h`.
    #[serde(default = "quarter")]
    pub keep_runs: Period,
    /// Messages are recognised as taken before for so long; longer than `bus.stale_after`. Default 30 days.
    #[serde(default = "month")]
    pub keep_inbox: Period,
}

impl StoreSection {
    /// What the store forgets when.
    pub fn retention(&self) -> store::Retention {
        store::Retention { runs: self.keep_runs.to_std(), inbox: self.keep_inbox.to_std() }
    }
}

/// `[http]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address of `/healthz`, `/readyz` and `/metrics`.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// Whether it may be another address than one of loopback: what is told there travels in plain text, to whoever asks.
    #[serde(default)]
    pub plain: bool,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 0)), plain: false }
    }
}

/// `[playbooks]`
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Playbooks {
    /// Folder with playbooks that replace or add to the built-in ones, by name.
    #[serde(default)]
    pub folder: Option<PathBuf>,
}

/// `[policy]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Request types that unsigned messages may ask for; default none.
    #[serde(default)]
    pub anonymous: Vec<String>,
    /// What a plan that destroys data or capacity needs.
    #[serde(default)]
    pub destroy: Consent,
    /// How long a request waits for consent.
    #[serde(default = "day")]
    pub consent_within: Period,
    /// How long a flow may take where the request does not say.
    #[serde(default = "two_hours")]
    pub flow_deadline: Period,
}

impl Default for Policy {
    fn default() -> Self {
        Self { anonymous: Vec::new(), destroy: Consent::default(), consent_within: day(), flow_deadline: two_hours() }
    }
}

/// What a plan that destroys data or capacity needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consent {
    /// Somebody's approval of its hash.
    #[default]
    Required,
    /// Nothing: this policy is the approval.
    Given,
}

/// `[certificates]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificates {
    /// How long before its end a certificate is told of, once a day; default 30 days, written `720h`.
    #[serde(default = "month")]
    pub warn_before: Period,
}

impl Default for Certificates {
    fn default() -> Self {
        Self { warn_before: month() }
    }
}

/// `[log]`
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Filter as `tracing` reads it: `info`, `info,driver=debug`.
    #[serde(default = "info")]
    pub filter: String,
    /// `text` for people, `json` for machines.
    #[serde(default)]
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: info(), format: LogFormat::default() }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A whole configuration: the sections that every contractor has, and the agent's own beside them in the same file.
#[derive(Clone, Debug)]
pub struct Config<S> {
    /// The sections that every contractor has.
    pub common: Common,
    /// The agent's own.
    pub own: S,
}

/// The sections that only one agent has.
pub trait Sections: DeserializeOwned + JsonSchema {
    /// Prefix of the environment variables that overlay the file, `TALOS_CONTRACTOR`.
    const ENV_PREFIX: &'static str;
    /// Problems that the schema cannot see.
    fn problems(&self, common: &Common) -> Vec<Violation>;
    /// The files with keys and certificates that they name.
    fn credential_files(&self) -> Vec<CredentialFile> {
        Vec::new()
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read configuration {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not TOML: {reason}", .path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// Something in it is wrong; everything that is.
    #[error("{} problems in the configuration:{}", .0.len(), lines(.0))]
    Problems(Vec<Violation>),
}

/// Reads the file, lays `PREFIX__SECTION__KEY=value` of the environment over it, and `section.key=value` of the command
/// line over that; checks all of it.
///
/// # Errors
/// See [`Error`]; every problem at once.
pub fn load<S: Sections>(
    path: &Path,
    environment: &BTreeMap<String, String>,
    flags: &[(String, String)],
) -> Result<Config<S>, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    let mut value: Value =
        toml::from_str(&text).map_err(|error| Error::NotToml { path: path.to_owned(), reason: error.to_string() })?;
    let schema = schema_of::<S>();
    for (name, setting) in environment {
        if let Some(keys) = name.strip_prefix(S::ENV_PREFIX).and_then(|rest| rest.strip_prefix("__")) {
            overlay(&mut value, &schema, keys.to_ascii_lowercase().split("__"), setting);
        }
    }
    for (keys, setting) in flags {
        overlay(&mut value, &schema, keys.split('.'), setting);
    }
    let checker = Checker::new(schema).expect("a configuration's schema compiles, a test says so");
    let mut problems = checker.check(&value).err().unwrap_or_default();
    let (common, own) = split(value);
    // What the schema refuses in one section does not hide what only the code sees in another.
    let common: Result<Common, _> = serde_json::from_value(common);
    let own: Result<S, _> = serde_json::from_value(own);
    if let Ok(common) = &common {
        problems.extend(common_problems(common));
        problems.extend(own.iter().flat_map(|own| own.problems(common)));
    }
    match (common, own) {
        (Ok(common), Ok(own)) if problems.is_empty() => Ok(Config { common, own }),
        (Err(error), _) | (_, Err(error)) if problems.is_empty() => {
            let got = error.to_string();
            Err(Error::Problems(vec![problem("", "shape", "a configuration of the described shape", &got)]))
        }
        _ => Err(Error::Problems(problems)),
    }
}

/// The JSON Schema of the whole file.
pub fn schema_of<S: Sections>() -> Value {
    let mut whole = schema::of::<Common>();
    let own = schema::of::<S>();
    for part in ["properties", "$defs"] {
        let more = own.get(part).and_then(Value::as_object).cloned().unwrap_or_default();
        if let Some(known) = whole.get_mut(part).and_then(Value::as_object_mut) {
            known.extend(more);
        }
    }
    let needed = own.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(required) = whole.get_mut("required").and_then(Value::as_array_mut) {
        required.extend(needed);
    }
    whole["title"] = "Configuration".into();
    whole
}

/// The part that every contractor has, and the rest.
fn split(value: Value) -> (Value, Value) {
    let schema = schema::of::<Common>();
    let common = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let Value::Object(object) = value else { return (Value::Null, value) };
    let (ours, own): (Map<String, Value>, Map<String, Value>) =
        object.into_iter().partition(|(key, _)| common.contains_key(key));
    (ours.into(), own.into())
}

/// One problem of a configuration, in the form of a message's violation.
pub fn problem(path: &str, rule: &str, expected: &str, got: &str) -> Violation {
    Violation { path: path.into(), rule: rule.into(), expected: expected.into(), got: got.into(), did_you_mean: None }
}

fn lines(problems: &[Violation]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

fn week() -> Period {
    Period(jiff::SignedDuration::from_hours(7 * 24))
}

fn month() -> Period {
    Period(jiff::SignedDuration::from_hours(30 * 24))
}

fn quarter() -> Period {
    Period(jiff::SignedDuration::from_hours(90 * 24))
}

fn day() -> Period {
    Period(jiff::SignedDuration::from_hours(24))
}

fn two_hours() -> Period {
    Period(jiff::SignedDuration::from_hours(2))
}

fn cache_mib() -> u32 {
    4
}

fn reserve_mib() -> u32 {
    64
}

fn info() -> String {
    "info".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Own {
        talos: Talos,
    }

    #[derive(Clone, Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Talos {
        keys: u32,
        label: String,
    }

    impl Sections for Own {
        const ENV_PREFIX: &'static str = "TALOS_CONTRACTOR";

        fn problems(&self, _: &Common) -> Vec<Violation> {
            let odd = !self.talos.keys.is_multiple_of(2);
            odd.then(|| problem("/talos/keys", "even", "an even number", "an odd one")).into_iter().collect()
        }
    }

    const FILE: &str = r#"
allowed_targets = ["10.0.0.0/8"]
[bus]
servers = ["tls://localhost:4222"]
seed_file = "/etc/cortex/seed.nk"
[store]
path = "/var/lib/cortex"
key_file = "/etc/cortex/age.key"
[talos]
keys = 2
label = "a"
"#;

    fn read(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config<Own>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("contractor.toml");
        std::fs::write(&path, text).unwrap();
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment = environment.iter().map(owned).collect();
        load(&path, &environment, &flags.iter().map(owned).collect::<Vec<_>>()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_environment_lies_over_the_file_and_flags_over_both() {
        let environment = [
            ("TALOS_CONTRACTOR__TALOS__KEYS", "4"),
            ("TALOS_CONTRACTOR__TALOS__LABEL", "42"),
            ("TALOS_CONTRACTOR__STORE__CACHE_MIB", "32"),
            ("OTHER__TALOS__KEYS", "9"),
        ];
        let read = read(FILE, &environment, &[("talos.keys", "6"), ("http.listen", "127.0.0.1:9100")]).unwrap();
        assert_eq!((read.own.talos.keys, read.own.talos.label.as_str()), (6, "42"));
        assert_eq!((read.common.store.cache_mib, read.common.http.listen.port()), (32, 9100));
    }

    #[test]
    fn every_problem_of_file_environment_and_flags_is_reported_at_once() {
        let text = FILE.replace("tls://", "http://").replace("keys = 2", "keys = 3").replace("[store]", "[stoer]");
        let environment = [("TALOS_CONTRACTOR__BUS__SEDE_FILE", "/x")];
        let told =
            read(&text, &environment, &[("talos.lable", "b"), ("allowed_targets", "[\"10.0.0.0\"]")]).unwrap_err();
        for wanted in ["/stoer", "/bus/sede_file", "seed_file", "/talos/lable"] {
            assert!(told.contains(wanted), "{wanted} is not told:\n{told}");
        }
        let text = FILE.replace("tls://", "http://").replace("keys = 2", "keys = 3");
        let told = read(&text, &[], &[("allowed_targets", "[\"10.0.0\"]"), ("store.keep_inbox", "1h")]).unwrap_err();
        for wanted in ["/bus/servers/0", "/talos/keys", "/allowed_targets/0", "/store/keep_inbox"] {
            assert!(told.contains(wanted), "{wanted} is not told:\n{told}");
        }
        let told = read(FILE, &[], &[("talos.label", "7"), ("talos.keys", "many")]).unwrap_err();
        assert!(told.contains("/talos/keys") && !told.contains("/talos/label"), "{told}");
    }
}
