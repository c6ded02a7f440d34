//! Checks the parameters of a call against the schema, collecting every error (proxmox.md 1.4).

use std::collections::BTreeMap;

use indexmap::IndexMap;

use super::{
    error::{ApiError, ApiResult},
    formats,
    params::{Params, Raw},
    schema::{Call, Property, Rules, SCHEMA},
    version::Version,
};

const NOT_IN_SCHEMA: &str = "property is not defined in schema and the schema does not allow additional properties";
const MISSING: &str = "property is missing and it is not optional";

type Errors = BTreeMap<String, String>;

/// A parsed property string, in the order of its keys.
pub(crate) type Parts = IndexMap<String, String>;

/// Checks all parameters of a call at once.
pub(crate) fn call(call: &Call, params: &Params, version: Version) -> ApiResult<()> {
    let mut errors = Errors::new();
    let known: Vec<&Property> = call.params(version).collect();
    for property in &known {
        let required = property.rules(version).required && property.indexes.is_none();
        if required && matches!(params.raw(property.name), None | Some(Raw::Undefined)) {
            add(&mut errors, property.name, MISSING);
        }
    }
    for (key, raw) in params.iter() {
        let Some(property) = known.iter().find(|property| property.covers(key)) else {
            add(&mut errors, key, NOT_IN_SCHEMA);
            continue;
        };
        let rules = property.rules(version);
        if let Some(needed) = rules.requires.filter(|needed| params.raw(needed).is_none()) {
            add(&mut errors, needed, &format!("missing property required by '{key}'"));
        }
        raw_value(property, rules, (key, raw), (&mut errors, version));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::params(errors)) }
}

fn raw_value(property: &Property, rules: &Rules, (key, raw): (&str, &Raw), (errors, version): (&mut Errors, Version)) {
    match raw {
        Raw::Undefined => {}
        Raw::Object => add(errors, key, &format!("type check ('{}') failed - got HASH", rules.kind)),
        Raw::List(items) if rules.kind == "array" => {
            for (at, item) in items.iter().enumerate() {
                scalar(rules, &format!("{key}[{at}]"), item, errors);
            }
        }
        // Lists are joined for the sake of clients that send a `-list` format as an array.
        Raw::List(items) if rules.format.is_some_and(|format| format.ends_with("-list")) => {
            scalar(rules, key, &items.join(","), errors);
        }
        Raw::List(_) => add(errors, key, &format!("type check ('{}') failed - got ARRAY", rules.kind)),
        Raw::Text(text) => match property.group {
            Some(group) => {
                if let Err(text) = property_string(SCHEMA.group(group), text, (key, version)) {
                    add(errors, key, &format!("invalid format - {text}\n"));
                }
            }
            None => scalar(rules, key, text, errors),
        },
    }
}

/// Checks one scalar; the first rule it breaks is the one that is reported.
fn scalar(rules: &Rules, path: &str, value: &str, errors: &mut Errors) {
    if let Err(text) = check_scalar(rules, value) {
        add(errors, path, &text);
    }
}

fn check_scalar(rules: &Rules, value: &str) -> Result<(), String> {
    let typed = match rules.kind {
        "boolean" => matches!(value, "0" | "1"),
        "integer" => is_integer(value),
        "number" => is_number(value),
        _ => true,
    };
    if !typed {
        return Err(format!("type check ('{}') failed - got '{value}'", rules.kind));
    }
    if let Some(format) = rules.format {
        special_format(format, value).map_err(|text| format!("invalid format - {text}\n"))?;
    }
    if !rules.fits_pattern(value) {
        return Err("value does not match the regex pattern".to_owned());
    }
    if let Some(max) = rules.max_length.filter(|max| value.chars().count() > *max) {
        return Err(format!("value may only be {max} characters long"));
    }
    if let Some(min) = rules.min_length.filter(|min| value.chars().count() < *min) {
        return Err(format!("value must be at least {min} characters long"));
    }
    if is_number(value) {
        let beyond = |limit: Option<&'static str>, wrong: fn(f64, f64) -> bool| {
            limit.filter(|limit| wrong(value.parse().unwrap_or(0.0), limit.parse().unwrap_or(0.0)))
        };
        if let Some(max) = beyond(rules.max, |value, max| value > max) {
            return Err(format!("value must have a maximum value of {max}"));
        }
        if let Some(min) = beyond(rules.min, |value, min| value < min) {
            return Err(format!("value must have a minimum value of {min}"));
        }
    }
    if !rules.choices.is_empty() && !rules.choices.contains(&value) {
        let choices = rules.choices.join(", ");
        return Err(format!("value '{value}' does not have a value in the enumeration '{choices}'"));
    }
    Ok(())
}

/// Formats that are property strings without rows in the table.
fn special_format(format: &str, value: &str) -> Result<(), String> {
    let keys = |allowed: &[&str], default: Option<&str>| loose_property_string(value, allowed, default).map(drop);
    match format {
        "pve-qm-ipconfig" => {
            let parts = loose_property_string(value, &["gw", "gw6", "ip", "ip6"], None)?;
            let kinds = [("gw", "ipv4"), ("gw6", "ipv6"), ("ip", "pve-ipv4-config"), ("ip6", "pve-ipv6-config")];
            let mut nested = String::new();
            for (key, kind) in kinds {
                if let Some(Err(text)) = parts.get(key).map(|part| formats::check(kind, part)) {
                    nested.push_str(&format!("{key}: invalid format - {text}\n\n"));
                }
            }
            for (gateway, address) in [("gw", "ip"), ("gw6", "ip6")] {
                if parts.contains_key(gateway) && !parts.contains_key(address) {
                    nested.push_str(&format!("{address}: missing property required by '{gateway}'\n"));
                }
            }
            if nested.is_empty() { Ok(()) } else { Err(format!("format error\n{}", nested.trim_end_matches('\n'))) }
        }
        "pve-qm-smbios1" => {
            let allowed = ["base64", "family", "manufacturer", "product", "serial", "sku", "uuid", "version"];
            let parts = loose_property_string(value, &allowed, None)?;
            if parts.get("uuid").is_some_and(|uuid| !formats::is_uuid(uuid)) {
                return Err("format error\nuuid: value does not match the regex pattern".to_owned());
            }
            let bad = allowed.iter().filter(|key| !matches!(**key, "base64" | "uuid"));
            let bad = bad.filter_map(|key| Some((key, parts.get(*key)?))).find(|(_, part)| !formats::is_base64(part));
            match bad.filter(|_| parts.get("base64").is_some_and(|flag| formats::parse_boolean(flag) == Some(true))) {
                Some((key, _)) => Err(format!("format error\n{key}: value does not match the regex pattern")),
                None => Ok(()),
            }
        }
        "pve-qm-boot" => {
            let parts = loose_property_string(value, &["legacy", "order"], Some("legacy"))?;
            match parts.get("legacy").filter(|legacy| !formats::is_legacy_boot_order(legacy)) {
                Some(_) => Err("format error\nlegacy: value does not match the regex pattern".to_owned()),
                None => Ok(()),
            }
        }
        "pve-qm-cicustom" => keys(&["meta", "network", "user", "vendor"], None),
        "pve-qm-rng" => keys(&["max_bytes", "period", "source"], Some("source")),
        "pve-qm-watchdog" => keys(&["action", "model"], Some("model")),
        "pve-vm-cpu-conf" => keys(
            &["cputype", "flags", "guest-phys-bits", "hidden", "hv-vendor-id", "phys-bits", "reported-model"],
            Some("cputype"),
        ),
        "pve-qm-ide" => keys(&["file", "media", "size", "format", "volume"], Some("file")),
        _ => formats::check(format, value),
    }
}

/// Splits a property string whose keys are listed by hand.
pub(crate) fn loose_property_string(data: &str, allowed: &[&str], default: Option<&str>) -> Result<Parts, String> {
    let mut parts = Parts::new();
    for part in data.split(',').filter(|part| !part.trim().is_empty()) {
        let (key, value) = match (part.split_once('='), default) {
            (Some((key, value)), _) => (key, value),
            (None, Some(default)) => (default, part),
            (None, None) => return Err("value without key, but schema does not define a default key".to_owned()),
        };
        if !allowed.contains(&key) {
            return Err(format!("invalid key in comma-separated list property: {key}"));
        }
        if parts.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("duplicate key in comma-separated list property: {key}"));
        }
    }
    Ok(parts)
}

/// Parses and checks a property string; the error is the text after `invalid format - `.
pub(crate) fn property_string(
    group: &[Property],
    data: &str,
    (path, version): (&str, Version),
) -> Result<Parts, String> {
    let parts = split_property_string(group, data, version)?;
    let mut errors = Errors::new();
    for property in group.iter().filter(|property| property.exists(version)) {
        let rules = property.rules(version);
        let nested = format!("{path}.{}", property.name);
        match parts.get(property.name) {
            None if rules.required && rules.alias.is_none() => add(&mut errors, &nested, MISSING),
            Some(value) => scalar(rules, &nested, value, &mut errors),
            None => {}
        }
        if let Some(needed) =
            rules.requires.filter(|needed| parts.contains_key(property.name) && !parts.contains_key(*needed))
        {
            add(&mut errors, &format!("{path}.{needed}"), &format!("missing property required by '{nested}'"));
        }
    }
    if errors.is_empty() {
        return Ok(parts);
    }
    let list: String = errors.iter().map(|(path, text)| format!("{path}: {text}\n")).collect();
    Err(format!("format error\n{}", list.strip_suffix('\n').unwrap_or(&list)))
}

fn split_property_string(group: &[Property], data: &str, version: Version) -> Result<Parts, String> {
    let find = |key: &str| group.iter().find(|property| property.name == key && property.exists(version));
    let mut parts = Parts::new();
    for part in data.split(',').filter(|part| !part.trim().is_empty()) {
        let Some((key, value)) = part.split_once('=') else {
            let default = group.iter().find(|property| property.rules.default_key);
            let Some(default) = default else {
                return Err("value without key, but schema does not define a default key".to_owned());
            };
            if parts.insert(default.name.to_owned(), part.to_owned()).is_some() {
                return Err(format!("duplicate key in comma-separated list property: {}", default.name));
            }
            continue;
        };
        if key.is_empty() || value.is_empty() {
            return Err("missing key in comma-separated list property".to_owned());
        }
        if parts.contains_key(key) {
            return Err(format!("duplicate key in comma-separated list property: {key}"));
        }
        let Some(property) = find(key) else {
            return Err(format!("invalid key in comma-separated list property: {key}"));
        };
        let rules = property.rules(version);
        let Some(alias) = rules.alias else {
            parts.insert(key.to_owned(), plain_boolean(rules, value));
            continue;
        };
        if let Some(key_alias) = rules.key_alias
            && parts.insert(key_alias.to_owned(), key.to_owned()).is_some()
        {
            return Err(format!("key alias '{key_alias}' is already defined"));
        }
        parts.insert(alias.to_owned(), value.to_owned());
    }
    Ok(parts)
}

fn plain_boolean(rules: &Rules, value: &str) -> String {
    let parsed = if rules.kind == "boolean" { formats::parse_boolean(value) } else { None };
    parsed.map_or_else(|| value.to_owned(), |flag| if flag { "1".to_owned() } else { "0".to_owned() })
}

fn add(errors: &mut Errors, path: &str, text: &str) {
    errors.entry(path.to_owned()).and_modify(|old| *old = format!("{old}\\n{text}")).or_insert_with(|| text.to_owned());
}

fn is_integer(value: &str) -> bool {
    let digits = value.strip_prefix(['+', '-']).unwrap_or(value);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn is_number(value: &str) -> bool {
    let plain = value.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    plain && value.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(form: &str) -> Errors {
        let (create, _) = SCHEMA.find("POST", "/nodes/a/qemu", Version::V9).unwrap();
        let mut params = Params::from_form(form);
        params.set("node", "a");
        call(create, &params, Version::V9).err().map(|error| error.errors).unwrap_or_default()
    }

    #[test]
    fn all_errors_are_reported_at_once_with_their_texts() {
        let found = errors("cores=x&onboot=true&name=a_b&frobnicate=1&bios=uefi&sockets=0&tags=a%3Bb@d");
        let expected = [
            ("bios", "value 'uefi' does not have a value in the enumeration 'seabios, ovmf'"),
            ("cores", "type check ('integer') failed - got 'x'"),
            ("frobnicate", NOT_IN_SCHEMA),
            ("name", "invalid format - value does not look like a valid DNS name\n"),
            ("onboot", "type check ('boolean') failed - got 'true'"),
            ("sockets", "value must have a minimum value of 1"),
            ("tags", "invalid format - invalid characters in tag\n"),
            ("vmid", MISSING),
        ];
        let expected: Errors = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn property_strings_report_the_path_inside_them() {
        let found = errors("vmid=100&net0=bridge%3Dvmbr0&scsi0=local-lvm:32,ssd%3Dyes,cache%3Dfoo&ide2=a,b%3Dc");
        assert_eq!(found["net0"], format!("invalid format - format error\nnet0.model: {MISSING}\n"));
        assert!(found["scsi0"].contains("scsi0.cache: value 'foo' does not have a value in the enumeration"));
        assert_eq!(found["ide2"], "invalid format - invalid key in comma-separated list property: b\n");
    }

    #[test]
    fn good_requests_for_talos_pass() {
        let found = errors(
            "vmid=100&name=cp-01&ostype=l26&machine=q35&bios=ovmf&memory=4096&balloon=0&cores=2&cpu=x86-64-v2-AES&\
             scsihw=virtio-scsi-single&efidisk0=local-lvm:1,efitype%3D4m,pre-enrolled-keys%3D0&\
             scsi0=local-lvm:0,import-from%3Dlocal:import/talos.qcow2,discard%3Don,ssd%3D1,iothread%3D1&\
             ide2=local-lvm:cloudinit&net0=virtio%3DBC:24:11:00:00:01,bridge%3Dvmbr0,tag%3D20,mtu%3D1500&\
             ipconfig0=ip%3D127.20.1.1/16,gw%3D127.20.0.1&smbios1=uuid%3D11111111-2222-4333-8444-555555555555&\
             boot=order%3Dscsi0%3Bide2&agent=enabled%3D0&serial0=socket&vga=serial0&tags=talos;&numa=0&onboot=1",
        );
        assert_eq!(found, Errors::new());
    }
}
