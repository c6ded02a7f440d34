//! Checks of documents that describe registries, logs, watchdogs and other services of the host.

use crate::config::yaml::{Mapping, Value};

use super::{collect, is_empty, named, path, scheme};

pub(super) fn check(kind: &str, root: &Mapping) -> Vec<String> {
    match kind {
        "RegistryAuthConfig" => registry_auth(root),
        "RegistryMirrorConfig" => registry_mirror(root),
        "SideroLinkConfig" => first(siderolink(root)),
        "KmsgLogConfig" => first(kmsg_log(root)),
        "EventSinkConfig" => event_sink(root),
        "WatchdogTimerConfig" => first(watchdog(root)),
        "ExtensionServiceConfig" => first(extension(root)),
        "EnvironmentConfig" => environment(root),
        "UnattendedInstallConfig" => {
            let selector = root.mapping("provisioning").and_then(|spec| spec.mapping("diskSelector"));
            let has_match = selector.is_some_and(|selector| !is_empty(selector, "match"));
            collect([(!has_match, "provisioning.diskSelector.match is required".to_owned())])
        }
        _ => Vec::new(),
    }
}

/// Some kinds tell only the first thing that is wrong.
fn first(mut errors: Vec<String>) -> Vec<String> {
    errors.truncate(1);
    errors
}

fn registry_auth(root: &Mapping) -> Vec<String> {
    let has = |key: &str| !is_empty(root, key);
    let (user, token, auth) = (has("username"), has("identityToken"), has("auth"));
    let one = |of: &str| format!("only one of {of} authentication can be specified");
    let mut errors = named(root);
    errors.extend(collect([
        (user && token, one("username/password or identityToken")),
        (auth && (user || token), one("auth, username/password or identityToken")),
    ]));
    errors
}

fn registry_mirror(root: &Mapping) -> Vec<String> {
    let mut errors = named(root);
    for (index, endpoint) in root.sequence("endpoints").iter().enumerate() {
        let url = endpoint.at(&["url"]).and_then(Value::text).unwrap_or_default();
        match scheme(url) {
            _ if url.is_empty() => errors.push(format!("endpoints[{index}].url must be specified")),
            "http" | "https" => {}
            other => errors.push(format!("endpoints[{index}].url has unsupported scheme: {other:?}")),
        }
    }
    errors
}

fn siderolink(root: &Mapping) -> Vec<String> {
    let url = root.text("apiUrl").unwrap_or_default();
    collect([
        (url.is_empty(), "apiUrl is required".to_owned()),
        (!matches!(scheme(url), "https" | "grpc"), "apiUrl scheme must be https:// or grpc://".to_owned()),
        (!path(url).is_empty(), "apiUrl path must be empty".to_owned()),
    ])
}

fn kmsg_log(root: &Mapping) -> Vec<String> {
    let url = root.text("url").unwrap_or_default();
    let authority = url.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    let port = authority.and_then(|authority| authority.rsplit_once(':')).map(|(_, port)| port);
    let has_port = port.is_some_and(|port| !port.is_empty() && port.chars().all(|digit| digit.is_ascii_digit()));
    collect([
        (is_empty(root, "name"), "name is required".to_owned()),
        (url.is_empty(), "url is required".to_owned()),
        (!matches!(scheme(url), "tcp" | "udp"), "url scheme must be tcp:// or udp://".to_owned()),
        (!path(url).is_empty(), "url path must be empty".to_owned()),
        (!has_port, "url port is required".to_owned()),
    ])
}

fn event_sink(root: &Mapping) -> Vec<String> {
    let endpoint = root.text("endpoint").unwrap_or_default();
    let problem = match endpoint.rsplit_once(':') {
        None if endpoint.is_empty() => "missing port in address".to_owned(),
        None => format!("address {endpoint}: missing port in address"),
        Some((host, _)) if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) => {
            format!("address {endpoint}: too many colons in address")
        }
        Some(_) => return Vec::new(),
    };
    vec![format!("event sink endpoint: {problem}")]
}

fn watchdog(root: &Mapping) -> Vec<String> {
    let timeout = root.text("timeout").filter(|timeout| !timeout.is_empty());
    let seconds = timeout.and_then(crate::config::duration::seconds);
    collect([
        (is_empty(root, "device"), "watchdog device: empty value".to_owned()),
        (
            seconds.is_some_and(|seconds| seconds != 0.0 && seconds < 10.0),
            "watchdog timeout: minimum value is 10s".to_owned(),
        ),
    ])
}

fn extension(root: &Mapping) -> Vec<String> {
    let name = root.text("name").unwrap_or_default();
    let files: Vec<&Mapping> = root.sequence("configFiles").iter().filter_map(Value::as_mapping).collect();
    let mut errors = collect([
        (name.is_empty(), "name is required".to_owned()),
        (
            files.is_empty() && root.sequence("environment").is_empty(),
            format!("no config files found for extension {name:?}"),
        ),
    ]);
    for file in files {
        errors.extend(collect([
            (is_empty(file, "content"), format!("extension content is required for extension {name:?}")),
            (is_empty(file, "mountPath"), format!("extension mount path is required for extension {name:?}")),
        ]));
    }
    errors
}

fn environment(root: &Mapping) -> Vec<String> {
    let is_name = |name: &str| {
        !name.starts_with(|first: char| first.is_ascii_digit())
            && !name.is_empty()
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    let names = root.mapping("variables").into_iter().flat_map(Mapping::keys);
    names.filter(|name| !is_name(name)).map(|name| format!("invalid environment variable name: {name:?}")).collect()
}
