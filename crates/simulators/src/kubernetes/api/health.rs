//! `/livez`, `/readyz`, `/healthz`, which anybody may ask, and `/version`.

use serde_json::{Value, json};

use super::handler::{Answer, Context};
use crate::kubernetes::cluster::Cluster;

/// The checks that `?verbose` lists; `etcd` is the one that can fail.
const CHECKS: &[&str] = &[
    "ping",
    "log",
    "etcd",
    "informer-sync",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/apiservice-registration-controller",
    "shutdown",
];

/// Answers a health path; `None` for every other.
pub(crate) fn answer(cluster: &Cluster, path: &str, verbose: bool) -> Option<Answer> {
    let mut parts = path.trim_matches('/').split('/');
    let endpoint = parts.next().filter(|it| matches!(*it, "livez" | "readyz" | "healthz"))?;
    let single = parts.next();
    let fails = |check: &str| check == "etcd" && !cluster.has_quorum();
    if let Some(check) = single {
        if !CHECKS.contains(&check) {
            return None;
        }
        return Some(if fails(check) {
            Answer::Text(500, format!("internal server error: {check} check failed\n"))
        } else {
            Answer::Text(200, "ok".into())
        });
    }
    let healthy = !CHECKS.iter().any(|check| fails(check));
    if healthy && !verbose {
        return Some(Answer::Text(200, "ok".into()));
    }
    let mut text: String =
        CHECKS
            .iter()
            .map(|check| {
                if fails(check) { format!("[-]{check} failed: reason withheld\n") } else { format!("[+]{check} ok\n") }
            })
            .collect();
    text.push_str(&format!("{endpoint} check {}\n", if healthy { "passed" } else { "failed" }));
    Some(Answer::Text(if healthy { 200 } else { 500 }, text))
}

/// What `/version` says for a version such as `v1.36.2`.
pub(crate) fn version(git_version: &str) -> Value {
    let mut numbers = git_version.trim_start_matches('v').split('.');
    let major = numbers.next().unwrap_or("1");
    let minor = numbers.next().unwrap_or("0");
    json!({
        "major": major, "minor": minor, "gitVersion": git_version, "gitCommit": "0000000000000000000000000000000000000000",
        "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.26.0", "compiler": "gc",
        "platform": "linux/amd64", "emulationMajor": major, "emulationMinor": minor,
    })
}

/// The issuer of service-account tokens.
pub(crate) fn openid(cx: &Context) -> Value {
    let issuer = &cx.cluster.identity.endpoint;
    json!({
        "issuer": issuer, "jwks_uri": format!("{issuer}/openid/v1/jwks"), "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256", "ES256"],
    })
}
