//! Addresses, subnets and endpoint URLs as Talos checks them.

use std::net::IpAddr;

use ipnet::IpNet;

/// True for `10.0.0.0/8` and for `10.0.0.1`.
pub(super) fn is_subnet_or_address(text: &str) -> bool {
    text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok()
}

/// True for an address with or without a prefix; the text of the error says which it was taken for.
pub(super) fn check_address(text: &str) -> Result<(), String> {
    if text.contains('/') {
        return text.parse::<IpNet>().map(|_| ()).map_err(|_| format!("invalid CIDR address: {text}"));
    }
    text.parse::<IpAddr>().map(|_| ()).map_err(|_| format!("failed to parse IP address {text:?}"))
}

/// Checks the host and port of a URL.
pub(super) fn check_endpoint(url: &str) -> Result<(), String> {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if authority.matches(':').count() > 2 && !(authority.contains('[') && authority.contains(']')) {
        return Err("IPv6 addresses MUST be enclosed by square brackets".to_owned());
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("hostname must not be blank".to_owned());
    }
    if let Some(wrong) = host.chars().find(|character| character.is_whitespace() || "<>\"{}|\\^`".contains(*character))
    {
        return Err(format!("invalid character {:?} in host name", wrong.to_string()));
    }
    match port.filter(|port| !port.is_empty()).map(str::parse::<i64>) {
        Some(Err(_)) => Err("port number must be numeric".to_owned()),
        Some(Ok(port)) if !(1..=65535).contains(&port) => Err("port number must be between 1 and 65535".to_owned()),
        _ => Ok(()),
    }
}

/// True for a name of DNS labels, underscores allowed, with at most one dot or underscore at its end.
pub(super) fn is_dns_name(name: &str) -> bool {
    let trimmed = name.strip_suffix(['.', '_']).unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    };
    !name.is_empty() && name.len() - name.matches('.').count() <= 255 && trimmed.split('.').all(is_label)
}
