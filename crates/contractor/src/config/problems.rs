//! Problems of the common sections that their schema cannot see.

use messages::schema::Violation;

use super::{Common, problem};
use crate::trust::AHEAD;

pub(super) fn common_problems(common: &Common) -> Vec<Violation> {
    let mut problems = Vec::new();
    for (index, server) in common.bus.servers.iter().enumerate() {
        if !(server.starts_with("tls://") || server.starts_with("nats://")) {
            problems.push(problem(&format!("/bus/servers/{index}"), "url", "a tls:// or nats:// URL", "another text"));
        } else if bus::leaves_in_plain(server, common.bus.ca_file.is_some()) {
            let expected = "tls://, or bus.ca_file, for a server that is not on this machine";
            problems.push(problem(
                &format!("/bus/servers/{index}"),
                "tls",
                expected,
                "nats://, which is not encrypted",
            ));
        }
    }
    for (index, target) in common.allowed_targets.iter().enumerate() {
        if target.parse::<ipnet::IpNet>().is_err() {
            problems.push(problem(
                &format!("/allowed_targets/{index}"),
                "cidr",
                "a network as 10.0.0.0/8",
                "another text",
            ));
        }
    }
    if !common.http.plain && !common.http.listen.ip().is_loopback() {
        let expected = "an address of loopback, or http.plain = true beside it: what is told there is not encrypted";
        problems.push(problem("/http/listen", "plain", expected, &common.http.listen.ip().to_string()));
    }
    if common.bus.client_certificate_file.is_some() != common.bus.client_key_file.is_some() {
        let expected = "client_certificate_file and client_key_file, or neither";
        problems.push(problem("/bus", "dependentRequired", expected, "one of them"));
    }
    // What was made ahead of our clock becomes stale later.
    let acceptable = common.bus.stale_after.0 + AHEAD;
    if common.store.keep_inbox.0 <= acceptable {
        let limit = format!("longer than bus.stale_after and {AHEAD:#} more ({acceptable:#})");
        problems.push(problem("/store/keep_inbox", "period", &limit, "a period in which a message could come twice"));
    }
    for (source, keys) in &common.bus.pinned_keys {
        for key in keys {
            if !key.starts_with('U') || key.len() != 56 {
                let path = format!("/bus/pinned_keys/{}", source.replace('~', "~0").replace('/', "~1"));
                problems.push(problem(&path, "nkey", "public user nkeys, U and 55 more characters", "another text"));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
allowed_targets = ["10.0.0.0/8"]
[bus]
servers = ["SERVER"]
seed_file = "/etc/cortex/seed.nk"
[store]
path = "/var/lib/cortex"
key_file = "/etc/cortex/age.key"
[http]
listen = "LISTEN"
"#;

    fn told(server: &str, bus: &str, listen: &str, http: &str) -> Vec<String> {
        let text = FILE.replace("SERVER", server).replace("LISTEN", listen);
        let text = text.replace("[store]", &format!("{bus}\n[store]")) + http;
        let problems = common_problems(&toml::from_str(&text).unwrap());
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_would_leave_this_machine_in_plain_text_is_refused_unless_somebody_says_so() {
        let (nothing, ca) = ("", "ca_file = \"/etc/cortex/ca.pem\"");
        let bus = "/bus/servers/0: expected tls://, or bus.ca_file, for a server that is not on this machine, got \
                   nats://, which is not encrypted";
        let http = |listen: &str| {
            format!(
                "/http/listen: expected an address of loopback, or http.plain = true beside it: what is told there is \
                 not encrypted, got {listen}"
            )
        };
        for (server, of_bus, listen, of_http, expected) in [
            ("tls://10.20.0.5:4222", nothing, "127.0.0.1:9464", nothing, vec![]),
            ("tls://10.20.0.5:4222", ca, "[::1]:9464", nothing, vec![]),
            ("nats://10.20.0.5:4222", ca, "127.0.0.1:9464", nothing, vec![]),
            ("nats://127.0.0.1:4222", nothing, "127.0.0.1:9464", nothing, vec![]),
            ("nats://10.20.0.5:4222", nothing, "127.0.0.1:9464", nothing, vec![bus.to_owned()]),
            ("nats://bus.example.org", nothing, "127.0.0.1:9464", nothing, vec![bus.to_owned()]),
            ("tls://10.20.0.5:4222", ca, "0.0.0.0:9464", nothing, vec![http("0.0.0.0")]),
            ("tls://10.20.0.5:4222", ca, "10.20.0.6:9464", "plain = false", vec![http("10.20.0.6")]),
            ("tls://10.20.0.5:4222", ca, "[::]:9464", "plain = true", vec![]),
            ("tls://10.20.0.5:4222", ca, "10.20.0.6:9464", "plain = true", vec![]),
        ] {
            assert_eq!(told(server, of_bus, listen, of_http), expected, "{server} {of_bus} {listen} {of_http}");
        }
    }
}
