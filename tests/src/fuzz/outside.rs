//! What Proxmox VE and Talos answer.

use proxmox::{
    Upid,
    cluster::{Member, Resource},
    config::VmConfig,
    nodes::{Interface, Node},
    property::Property,
    qemu::VmStatus,
    storage::{Storage, Volume},
    tasks::{TaskRow, TaskStatus},
    version::Version,
};
use rustls::pki_types::CertificateDer;
use serde::de::DeserializeOwned;
use serde_json::Value;
use talos::{
    api::{
        Peer,
        cosi::{self, Kind},
    },
    proto::common::NetIp,
};

use super::{Target, Verdict};

pub(super) static UPID: Target = Target {
    name: "upid",
    promise: "a UPID that is read prints to one that reads the same and has nothing but its parts",
    check: upid,
    words: &["UPID", ":", "::", "pve1", "qmcreate", "0003B1C2", "+1", "root@pam!cortex"],
};

pub(super) static PROXMOX: Target = Target {
    name: "proxmox",
    promise: "no answer of Proxmox panics; a task has an outcome when it has stopped and only then",
    check: proxmox,
    words: &[
        "\"status\"",
        "\"stopped\"",
        "\"running\"",
        "\"exitstatus\"",
        "WARNINGS: ",
        "\"vmid\"",
        "\"net0\"",
        "virtio=",
        "smbios1",
        "uuid=",
        "\"tags\"",
        "\"template\"",
        "BC:24:11:00:00:01",
        "scsi0",
        ":",
        ",",
    ],
};

pub(super) static TALOS: Target = Target {
    name: "talos",
    promise: "a resource that is read prints to bytes that read the same; addresses have 4 or 16 bytes",
    check: talos,
    words: &["0a", "12", "ff", "00", "80808080808080808001", "0a04c0a80101", "\n"],
};

pub(super) static CERTIFICATE: Target = Target {
    name: "certificate",
    promise: "what is told of whoever showed a certificate is short and breaks no line",
    check: certificate,
    words: &["30", "0603550403", "0c", "0603551d11", "8704", "8710", "82", "0a", "1b", "e280ae"],
};

fn upid(input: &[u8]) -> Result<Verdict, String> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(Verdict::Refused) };
    let text = text.trim_end_matches('\n');
    let upid = match text.parse::<Upid>() {
        Ok(upid) => upid,
        Err(error) if error.to_string().starts_with("not a UPID") => return Ok(Verdict::Refused),
        Err(error) => return Err(format!("the refusal does not say what it is about: {error}")),
    };
    let printed = upid.to_string();
    if printed.parse::<Upid>().as_ref() != Ok(&upid) {
        return Err(format!("{printed} does not read as what it was printed from"));
    }
    // It goes into paths of requests: what Proxmox would not have written is not taken for its word.
    let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#%".contains(&byte));
    let numbers = text.split(':').skip(2).take(3).all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if !is_plain(&upid.node) || !is_plain(&upid.kind) || !numbers {
        return Err(format!("{text:?} is none that Proxmox writes"));
    }
    Ok(Verdict::TAKEN)
}

fn proxmox(input: &[u8]) -> Result<Verdict, String> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(Verdict::Refused) };
    let mut taken = Vec::new();
    taken.extend(Version::parse(text.trim()).map(|_| "version"));
    let property = Property::parse(text);
    if Property::parse(&property.to_string()) != property {
        return Err(format!("{property} does not read as itself"));
    }
    let Ok(value) = serde_json::from_str::<Value>(text) else { return Ok(Verdict::by(taken)) };
    if let Some(task) = read::<TaskStatus>(&value, "task", &mut taken) {
        let has_ended = task.status == "stopped";
        if task.outcome().is_some() != has_ended {
            return Err(format!("{task:?} has the outcome {:?}", task.outcome()));
        }
    }
    if let Some(config) = read::<VmConfig>(&value, "config", &mut taken) {
        config.macs().values().try_for_each(|mac| {
            let again = mac.to_string().parse();
            if again.as_ref() == Ok(mac) { Ok(()) } else { Err(format!("{mac} does not read as itself")) }
        })?;
        let _ = (config.volumes(), config.smbios_uuid(), config.tags(), config.is_template(), config.is_protected());
    }
    if let Some(row) = read::<TaskRow>(&value, "row-of-tasks", &mut taken) {
        let _ = row.succeeded();
    }
    if let Some(status) = read::<VmStatus>(&value, "vm-status", &mut taken) {
        let _ = (status.is_running(), status.is_ha_managed());
    }
    if let Some(link) = read::<Interface>(&value, "network", &mut taken) {
        let _ = (link.is_bridge(), link.carries_vlan(100));
    }
    if let Some(storage) = read::<Storage>(&value, "storage", &mut taken) {
        let _ = storage.takes("import");
    }
    let _ = read::<Resource>(&value, "resources", &mut taken).map(|row| row.has_tag("a"));
    let _ = read::<Node>(&value, "nodes", &mut taken).map(|node| node.is_online());
    let _ = (read::<Member>(&value, "cluster", &mut taken), read::<Volume>(&value, "volume", &mut taken));
    Ok(Verdict::by(taken))
}

/// One of its kind, or the first of a list; whoever reads it is noted by name.
fn read<T: DeserializeOwned>(value: &Value, name: &'static str, taken: &mut Vec<&'static str>) -> Option<T> {
    let first = value.as_array().and_then(|rows| rows.first()).unwrap_or(value);
    let read = serde_json::from_value(first.clone()).ok()?;
    taken.push(name);
    Some(read)
}

/// The bytes that hexadecimal digits stand for; whatever else is there is left out.
fn bytes_of(input: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> =
        input.iter().filter_map(|byte| char::from(*byte).to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn certificate(input: &[u8]) -> Result<Verdict, String> {
    let Some(peer) = Peer::of(&CertificateDer::from(bytes_of(input))) else { return Ok(Verdict::Refused) };
    let told = peer.to_string();
    if told.len() > 500 || told.chars().any(char::is_control) || !told.is_ascii() {
        return Err(format!("{told:?} is no part of a line"));
    }
    Ok(Verdict::TAKEN)
}

/// Hexadecimal digits of a protobuf message.
fn talos(input: &[u8]) -> Result<Verdict, String> {
    let bytes = bytes_of(input);
    let taken = [
        round::<cosi::SystemInformation>(&bytes)?,
        round::<cosi::MachineStatus>(&bytes)?,
        round::<cosi::Diagnostic>(&bytes)?,
        round::<cosi::ExtensionStatus>(&bytes)?,
        round::<cosi::Disk>(&bytes)?,
        round::<cosi::VolumeStatus>(&bytes)?,
        round::<cosi::LinkStatus>(&bytes)?,
        round::<cosi::AddressStatus>(&bytes)?,
        round::<cosi::Member>(&bytes)?,
        round::<cosi::EtcdLocalMember>(&bytes)?,
        round::<cosi::NodeStatus>(&bytes)?,
        round::<cosi::StaticPodStatus>(&bytes)?,
        round::<cosi::ServiceStatus>(&bytes)?,
    ];
    let address = NetIp { ip: bytes.clone() }.to_address();
    if address.is_some() != matches!(bytes.len(), 4 | 16) {
        return Err(format!("{} bytes are the address {address:?}", bytes.len()));
    }
    Ok(if taken.contains(&true) { Verdict::TAKEN } else { Verdict::Refused })
}

fn round<K: Kind>(bytes: &[u8]) -> Result<bool, String>
where
    K::Spec: PartialEq + std::fmt::Debug,
{
    use prost::Message;
    let Ok(spec) = K::Spec::decode(bytes) else { return Ok(false) };
    match K::Spec::decode(spec.encode_to_vec().as_slice()) {
        Ok(again) if again == spec => Ok(true),
        other => Err(format!("{}: it prints to what reads as {other:?}", K::TYPE)),
    }
}
