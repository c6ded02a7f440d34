//! The named formats of the schema, each with the text it refuses a value with (proxmox.md 1.4, 3.2).

use std::{net::IpAddr, sync::LazyLock};

use regex::Regex;

use super::params::split_list;

macro_rules! pattern {
    ($name:ident, $text:expr) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($text).expect("the pattern is constant and valid"));
    };
}

pattern!(DNS_NAME, r"^([a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?$");
pattern!(NODE, r"^[a-zA-Z0-9]([a-zA-Z0-9\-]*[a-zA-Z0-9])?$");
pattern!(CONFIG_ID, r"(?i)^[a-z][a-z0-9_-]+$");
pattern!(STORAGE_ID, r"(?i)^[a-z][a-z0-9\-_.]*[a-z0-9]$");
pattern!(POOL_ID, r"^[A-Za-z0-9.\-_]+(?:/[A-Za-z0-9.\-_]+){0,2}$");
pattern!(MAC, r"(?i)^[a-f0-9][02468ace](?::[a-f0-9]{2}){5}$");
pattern!(TAG, r"(?i)^[a-z0-9_][a-z0-9_\-+.]*$");
pattern!(IFACE, r"(?i)^[a-z][a-z0-9_]{1,20}([:.]\d+)?$");
pattern!(BRIDGE, r"^[-_.\w]+$");
pattern!(DISK_SIZE, r"^\d+(\.\d+)?[KMGT]?$");
pattern!(USER_ID, r"^[^\s:/]+@[A-Za-z][A-Za-z0-9.\-_]+$");
pattern!(TOKEN_ID, r"^[A-Za-z][A-Za-z0-9.\-_]+$");
pattern!(FULL_TOKEN, r"^[^\s:/]+@[A-Za-z][A-Za-z0-9.\-_]+![A-Za-z][A-Za-z0-9.\-_]+$");
pattern!(ROLE_ID, r"^[A-Za-z0-9.\-_]+$");
pattern!(UUID, r"(?i)^[a-f0-9]{8}(?:-[a-f0-9]{4}){3}-[a-f0-9]{12}$");
pattern!(STARTUP, r"^\s*((order=)?\d+|up=\d+|down=\d+)\s*(,\s*((order=)?\d+|up=\d+|down=\d+)\s*)*$");
pattern!(HOTPLUG, r"^(network|disk|cpu|memory|usb|cloudinit)$");
pattern!(BOOT_LEGACY, r"^[acdn]{1,4}$");
pattern!(HA_SID, r"^(vm:\d+|ct:\d+|\d+)$");
pattern!(BASE64, r"^[A-Za-z0-9+/]+={0,2}$");

/// Checks a value against a named format; the error is the text after `invalid format - `, without its newline.
///
/// Formats that hold a property string of their own are checked where those are parsed.
pub(crate) fn check(format: &str, value: &str) -> Result<(), String> {
    if format != "pve-task-status-type-list"
        && let Some(entry) = format.strip_suffix("-list")
    {
        return split_list(value).iter().try_for_each(|entry_value| one(entry, entry_value));
    }
    one(format, value)
}

fn one(format: &str, value: &str) -> Result<(), String> {
    let ok = |valid: bool, text: String| if valid { Ok(()) } else { Err(text) };
    match format {
        "pve-vmid" => ok(
            value.parse::<u32>().is_ok_and(|id| (100..=999_999_999).contains(&id)) && !value.starts_with('+'),
            "value does not look like a valid VM ID".to_owned(),
        ),
        "dns-name" => ok(DNS_NAME.is_match(value), "value does not look like a valid DNS name".to_owned()),
        "pve-node" => ok(NODE.is_match(value), "value does not look like a valid node name".to_owned()),
        "pve-configid" => ok(CONFIG_ID.is_match(value), format!("invalid configuration ID '{value}'")),
        "pve-storage-id" => ok(STORAGE_ID.is_match(value), format!("storage ID '{value}' contains illegal characters")),
        "pve-poolid" => ok(POOL_ID.is_match(value), format!("value '{value}' does not look like a valid pool name")),
        "mac-addr" => ok(MAC.is_match(value), "value does not look like a valid unicast MAC address".to_owned()),
        "pve-tag" => ok(TAG.is_match(value), "invalid characters in tag".to_owned()),
        "pve-iface" => ok(IFACE.is_match(value), format!("invalid network interface name '{value}'")),
        "pve-bridge-id" => ok(BRIDGE.is_match(value), format!("invalid bridge ID '{value}'")),
        "disk-size" => ok(DISK_SIZE.is_match(value), format!("value does not look like a valid disk size: {value}")),
        "pve-userid" => ok(USER_ID.is_match(value), format!("value '{value}' does not look like a valid user name")),
        "pve-roleid" => ok(ROLE_ID.is_match(value), format!("role name '{value}' contains invalid characters")),
        "pve-groupid" => ok(ROLE_ID.is_match(value), format!("group name '{value}' contains invalid characters")),
        "pve-tokenid" => ok(
            TOKEN_ID.is_match(value) || FULL_TOKEN.is_match(value),
            format!("value '{value}' does not look like a valid token ID"),
        ),
        "pve-volume-id" => ok(parse_volume_id(value).is_some(), format!("unable to parse volume ID '{value}'")),
        "pve-volume-id-or-qm-path" if matches!(value, "none" | "cdrom") => Ok(()),
        "pve-volume-id-or-qm-path" | "pve-volume-id-or-absolute-path" => ok(
            value.starts_with('/') || parse_volume_id(value).is_some(),
            format!("unable to parse volume ID '{value}'"),
        ),
        "pve-startup-order" => ok(STARTUP.is_match(value), "unable to parse startup options".to_owned()),
        "pve-hotplug-features" => ok(
            matches!(value, "0" | "1") || split_list(value).iter().all(|part| HOTPLUG.is_match(part)),
            "unable to parse hotplug option".to_owned(),
        ),
        "pve-ha-resource-or-vm-id" | "pve-ha-resource-id" => {
            ok(HA_SID.is_match(value), format!("unable to parse ha resource id '{value}'"))
        }
        "urlencoded" => ok(
            value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`')),
            "value is not an URL-encoded string".to_owned(),
        ),
        _ => address(format, value),
    }
}

fn address(format: &str, value: &str) -> Result<(), String> {
    let ok = |valid: bool, text: &str| if valid { Ok(()) } else { Err(text.to_owned()) };
    let v4 = |text: &str| text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4());
    let v6 = |text: &str| text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
    let cidr4 = |text: &str| prefix(text, 8, 32).is_some_and(v4);
    let cidr6 = |text: &str| prefix(text, 8, 128).is_some_and(v6);
    match format {
        "ip" => ok(v4(value) || v6(value), "value does not look like a valid IP address"),
        "ipv4" => ok(v4(value), "value does not look like a valid IPv4 address"),
        "ipv6" => ok(v6(value), "value does not look like a valid IPv6 address"),
        "CIDR" => ok(cidr4(value) || cidr6(value), "value does not look like a valid CIDR network"),
        "CIDRv4" => ok(cidr4(value), "value does not look like a valid IPv4 CIDR network"),
        "CIDRv6" => ok(cidr6(value), "value does not look like a valid IPv6 CIDR network"),
        "pve-ipv4-config" => ok(
            matches!(value, "dhcp" | "manual") || cidr4(value),
            "value does not look like a valid ipv4 network configuration",
        ),
        "pve-ipv6-config" => ok(
            matches!(value, "auto" | "dhcp" | "manual") || cidr6(value),
            "value does not look like a valid ipv6 network configuration",
        ),
        "address" => ok(
            v4(value) || v6(value) || DNS_NAME.is_match(value),
            &format!("value does not look like a valid address: {value}"),
        ),
        _ => Ok(()),
    }
}

fn prefix(text: &str, low: u8, high: u8) -> Option<&str> {
    let (address, bits) = text.split_once('/')?;
    bits.parse::<u8>().ok().filter(|bits| (low..=high).contains(bits)).map(|_| address)
}

pub(crate) fn is_uuid(value: &str) -> bool {
    UUID.is_match(value)
}

pub(crate) fn is_legacy_boot_order(value: &str) -> bool {
    BOOT_LEGACY.is_match(value)
}

pub(crate) fn is_base64(value: &str) -> bool {
    BASE64.is_match(value)
}

/// `1.5G` in bytes; no suffix means bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    if !DISK_SIZE.is_match(text) {
        return None;
    }
    let shift = match text.as_bytes().last() {
        Some(b'K') => 10,
        Some(b'M') => 20,
        Some(b'G') => 30,
        Some(b'T') => 40,
        _ => 0,
    };
    let number: f64 = text.trim_end_matches(['K', 'M', 'G', 'T']).parse().ok()?;
    Some((number * (1_u64 << shift) as f64) as u64)
}

/// Bytes in the largest unit that divides them.
pub(crate) fn format_size(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let unit = units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1_u64 << shift));
    unit.map_or_else(|| bytes.to_string(), |(shift, name)| format!("{}{name}", bytes >> shift))
}

/// A boolean inside a property string; at top level only `0` and `1` are booleans.
pub(crate) fn parse_boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

/// A volume id as storage and volume name.
pub(crate) fn parse_volume_id(text: &str) -> Option<(&str, &str)> {
    let (storage, name) = text.split_once(':')?;
    let (first, last) = (storage.bytes().next()?, storage.bytes().last()?);
    let is_storage = storage.len() > 1
        && first.is_ascii_alphabetic()
        && last.is_ascii_alphanumeric()
        && storage.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    (is_storage && !name.is_empty() && !name.contains('\n')).then_some((storage, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_trip_in_their_largest_unit() {
        assert_eq!(parse_size("32G"), Some(32 << 30));
        assert_eq!(parse_size("1.5K"), Some(1536));
        assert_eq!(parse_size("4X"), None);
        assert_eq!(format_size(32 << 30), "32G");
        assert_eq!(format_size(528 << 10), "528K");
        assert_eq!(format_size(4_453_302_272), "4247M");
    }

    #[test]
    fn formats_refuse_with_the_texts_of_the_reference() {
        assert_eq!(check("dns-name", "a_b").unwrap_err(), "value does not look like a valid DNS name");
        assert_eq!(check("pve-vmid", "99").unwrap_err(), "value does not look like a valid VM ID");
        assert_eq!(
            check("mac-addr", "BD:24:11:00:00:01").unwrap_err(),
            "value does not look like a valid unicast MAC address"
        );
        assert_eq!(check("pve-tag-list", "ok;b@d").unwrap_err(), "invalid characters in tag");
        assert!(check("pve-tag-list", "ok,also fine;third").is_ok());
    }
}
