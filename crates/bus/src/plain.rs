//! What may travel unencrypted: what stays on this machine.

use std::net::IpAddr;

use url::Url;

/// Whether a connection to `url` leaves this machine without TLS. `nats://` becomes TLS where an authority is given
/// (`has_authority`) to check the server by, as [`Bus::connect`](crate::Bus::connect) then insists on it; a URL without a
/// scheme is `nats://`. What cannot be read as a URL counts as leaving.
pub fn leaves_in_plain(url: &str, has_authority: bool) -> bool {
    let Some(url) = parsed(url) else { return true };
    let is_tls = match url.scheme() {
        "tls" | "https" | "wss" => true,
        "nats" => has_authority,
        _ => false,
    };
    !is_tls && !host(&url).is_some_and(is_this_machine)
}

/// The host of a URL, an address without brackets; a URL without a scheme is `nats://`.
pub fn host_of(url: &str) -> Option<String> {
    parsed(url).as_ref().and_then(host).map(str::to_owned)
}

fn parsed(url: &str) -> Option<Url> {
    let whole = if url.contains("://") { url.to_owned() } else { format!("nats://{url}") };
    Url::parse(&whole).ok()
}

fn host(url: &Url) -> Option<&str> {
    url.host_str().map(|host| host.trim_start_matches('[').trim_end_matches(']'))
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_and_loopback_keep_what_travels_from_others() {
        for (url, has_authority, leaves) in [
            ("tls://10.20.0.5:4222", false, false),
            ("tls://bus.example.org", true, false),
            ("nats://10.20.0.5:4222", true, false),
            ("nats://10.20.0.5:4222", false, true),
            ("bus.example.org:4222", false, true),
            ("bus.example.org:4222", true, false),
            ("nats://127.0.0.1:4222", false, false),
            ("nats://localhost:4222", false, false),
            ("127.16.0.2", false, false),
            ("nats://[::1]:4222", false, false),
            ("nats://[fd00::1]:4222", false, true),
            ("nats://127.0.0.1@10.20.0.5", false, true),
            ("nats://localhost.example.org", false, true),
            ("ws://10.20.0.5", true, true),
            ("wss://10.20.0.5", false, false),
            ("http://127.16.0.2:8080", false, false),
            ("http://10.20.0.5:8080", false, true),
            ("http://10.20.0.5:8080", true, true),
            ("http://127.0.0.1:80@10.20.0.5/", false, true),
            ("https://factory.talos.dev", false, false),
            ("", false, true),
            ("nats://", true, false),
            ("http://[", false, true),
        ] {
            assert_eq!(leaves_in_plain(url, has_authority), leaves, "{url:?} with an authority: {has_authority}");
        }
        assert_eq!(host_of("tls://[fd00::1]:4222").as_deref(), Some("fd00::1"));
        assert_eq!(host_of("bus.example.org:4222").as_deref(), Some("bus.example.org"));
    }
}
