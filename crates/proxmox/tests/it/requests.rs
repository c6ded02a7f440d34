//! Every call that the client makes exists in Proxmox's schema, 8.4 and 9.x alike, with every parameter that is sent and a
//! value that fits it.

use std::{collections::BTreeMap, time::Duration};

use proxmox::{
    Client, Upid, VmId,
    config::Mac,
    form::Params,
    new_vm::{CloudInit, DiskContent, Firmware, NewDisk, NewNic, NewVm},
    property::Property,
    qemu::NewClone,
    storage::Download,
};

use crate::script::{Script, ok};

/// The published schema as facts; its first lines explain its columns.
const SCHEMA: &str = include_str!("../../../simulators/src/proxmox/schema.tsv");

/// A parameter, or a key of a property string.
#[derive(Clone, Debug)]
struct Rule {
    name: String,
    kind: String,
    required: bool,
    limits: String,
    group: String,
    only: String,
}

/// One call.
struct Call {
    method: String,
    template: String,
    only: String,
    params: Vec<Rule>,
}

struct Schema {
    calls: Vec<Call>,
    groups: BTreeMap<String, Vec<Rule>>,
}

impl Schema {
    fn read() -> Self {
        let mut schema = Self { calls: Vec::new(), groups: BTreeMap::new() };
        let mut group = String::new();
        for line in SCHEMA.lines() {
            let cells: Vec<&str> = line.split('\t').collect();
            let cell = |index: usize| cells.get(index).copied().unwrap_or_default().to_owned();
            let rule = |group: String, only: String| Rule {
                name: cell(1),
                kind: cell(2),
                required: cell(3) == "1",
                limits: cell(4),
                group,
                only,
            };
            match cells[0] {
                "G" => group = cell(1),
                "S" => schema.groups.entry(group.clone()).or_default().push(rule(String::new(), cell(5))),
                "C" => {
                    schema.calls.push(Call { method: cell(1), template: cell(2), only: cell(6), params: Vec::new() })
                }
                "P" => schema.calls.last_mut().unwrap().params.push(rule(cell(5), cell(6))),
                _ => {}
            }
        }
        schema
    }

    /// What a version says against a request.
    fn objections(&self, version: &str, method: &str, path: &str, sent: &[(String, String)]) -> Vec<String> {
        let there = |only: &str| !matches!(only, "8" | "9") || only == version;
        let calls = self.calls.iter().filter(|call| call.method == method && there(&call.only));
        let Some(call) =
            calls.filter(|call| matches(&call.template, path)).min_by_key(|call| call.template.matches('{').count())
        else {
            return vec![format!("{method} {path} does not exist")];
        };
        let mut objections = Vec::new();
        for (name, value) in sent {
            match call.params.iter().find(|rule| there(&rule.only) && covers(rule, name)) {
                Some(rule) => objections.extend(self.against(version, rule, name, value)),
                None => objections.push(format!("{method} {path} knows no {name}")),
            }
        }
        let in_path = |rule: &Rule| call.template.contains(&format!("{{{}}}", rule.name));
        for rule in call.params.iter().filter(|rule| rule.required && there(&rule.only) && !in_path(rule)) {
            if !sent.iter().any(|(name, _)| *name == rule.name) {
                objections.push(format!("{method} {path} wants {}", rule.name));
            }
        }
        objections
    }

    fn against(&self, version: &str, rule: &Rule, name: &str, value: &str) -> Vec<String> {
        let mut objections = plain(rule, name, value);
        let Some(keys) = self.groups.get(&rule.group) else { return objections };
        let there = |rule: &&Rule| !matches!(rule.only.as_str(), "8" | "9") || rule.only == version;
        let property = Property::parse(value);
        if property.head.is_some() && !keys.iter().any(|key| key.limits.contains("default_key")) {
            objections.push(format!("{name}={value}: the first key has no default"));
        }
        for (key, value) in &property.pairs {
            match keys.iter().filter(there).find(|rule| rule.name == *key) {
                Some(rule) => objections.extend(plain(rule, &format!("{name}.{key}"), value)),
                None => objections.push(format!("{name} knows no key {key}")),
            }
        }
        objections
    }
}

/// What is wrong with a value on its own.
fn plain(rule: &Rule, name: &str, value: &str) -> Vec<String> {
    let limit = |key: &str| rule.limits.split(" ; ").find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
    let number = |text: &str| text.parse::<f64>().ok();
    let fits = match rule.kind.as_str() {
        "boolean" => matches!(value, "0" | "1"),
        "integer" => value.parse::<i64>().is_ok(),
        "number" => number(value).is_some(),
        _ => true,
    };
    let named = limit("enum").is_none_or(|choices| choices.split('|').any(|choice| choice == value));
    let above = limit("min").and_then(number).is_none_or(|least| number(value).is_some_and(|value| value >= least));
    let below = limit("max").and_then(number).is_none_or(|most| number(value).is_some_and(|value| value <= most));
    let short = limit("maxLen").and_then(number).is_none_or(|most| value.len() as f64 <= most);
    let good = fits && named && above && below && short;
    if good { Vec::new() } else { vec![format!("{name}={value} is no {} ({})", rule.kind, rule.limits)] }
}

fn covers(rule: &Rule, name: &str) -> bool {
    let Some(stem) = rule.name.strip_suffix("[n]") else { return rule.name == name };
    let range = rule.limits.split(" ; ").find_map(|part| part.strip_prefix("n=")).and_then(|n| n.split_once(".."));
    let (Some(index), Some((low, high))) = (name.strip_prefix(stem), range) else { return false };
    let number = |text: &str| text.parse::<u32>().ok();
    matches!((number(index), number(low), number(high)), (Some(n), Some(low), Some(high)) if (low..=high).contains(&n))
}

fn matches(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len() && template.iter().zip(&path).all(|(part, own)| part.starts_with('{') || part == own)
}

/// A request as it came: method, decoded path, decoded parameters.
fn read(request: &str) -> (String, String, Vec<(String, String)>) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut words = head.lines().next().unwrap().split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').chain(body.split('&')).filter(|pair| !pair.is_empty());
    let sent = pairs.map(|pair| {
        assert!(!pair.contains(';') && pair.matches('=').count() == 1, "the form decoder would cut {pair}");
        let (name, value) = pair.split_once('=').unwrap();
        assert!(!value.is_empty(), "an empty value is no value to the form decoder: {pair}");
        (decode(name), decode(value))
    });
    // A path variable is decoded after the path is split where it may hold a slash.
    (method.to_owned(), path.strip_prefix("/api2/json").unwrap().to_owned(), sent.collect())
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let hex = [rest.next().unwrap(), rest.next().unwrap()];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

fn disk(slot: &str, content: DiskContent) -> NewDisk {
    NewDisk {
        slot: slot.into(),
        storage: "local-lvm".into(),
        content,
        ssd: true,
        io_thread: true,
        cache: Some("writethrough".into()),
        serial: Some("data".into()),
    }
}

fn nic(at: u8) -> NewNic {
    NewNic { mac: Mac::proxmox([0, 0, at]), bridge: "vmbr0".into(), vlan: Some(20), mtu: Some(9000), firewall: true }
}

/// A VM with everything that can be asked for.
fn whole() -> NewVm {
    NewVm {
        vmid: VmId(101),
        name: "prod-k8s-cp-1".into(),
        description: "ünïcode; a=b & c\nsecond line".into(),
        tags: vec!["cortex".into(), "cluster-prod-k8s".into()],
        pool: Some("talos/nested".into()),
        cores: 4,
        cpu: "x86-64-v2-AES".into(),
        memory_mib: 8192,
        machine: "q35".into(),
        firmware: Firmware::Ovmf { storage: "local-lvm".into() },
        scsi_controller: "virtio-scsi-single".into(),
        smbios_uuid: "1b4e28ba-2fa1-11d2-883f-0016d3cca427".into(),
        on_boot: true,
        agent: true,
        disks: vec![
            disk("scsi0", DiskContent::Import { volume: "local:import/talos.qcow2".into() }),
            disk("scsi1", DiskContent::Empty { gib: 100 }),
        ],
        nics: vec![nic(1), nic(2)],
        cloud_init: Some(CloudInit {
            slot: "ide2".into(),
            storage: "local-lvm".into(),
            address: "10.0.0.5/24".parse().unwrap(),
            gateway: Some("10.0.0.1".parse().unwrap()),
            nameservers: vec!["1.1.1.1".parse().unwrap(), "8.8.8.8".parse().unwrap()],
            search_domain: Some("example.org".into()),
        }),
    }
}

/// Makes every call that there is; what it answers does not matter here.
async fn call_everything(client: &Client) {
    let (node, vmid) = ("pve1", VmId(101));
    let upid: Upid = "UPID:pve1:0003B1C2:12345678A:65F0ABCD:download:talos.qcow2:cortex@pve!infra:".parse().unwrap();
    let v6 = CloudInit {
        address: "fd00::5/64".parse().unwrap(),
        gateway: Some("fd00::1".parse().unwrap()),
        ..whole().cloud_init.unwrap()
    };
    let clone = NewClone {
        new_id: vmid,
        name: "prod-k8s-cp-1".into(),
        description: Some("cortex".into()),
        pool: Some("talos".into()),
        target: Some("pve2".into()),
        full_on: Some("local-lvm".into()),
    };
    let download = Download {
        url: "https://factory.example/image/a/v1.13.9/nocloud-amd64.qcow2?a=b;c".into(),
        file_name: "talos.qcow2".into(),
        content: "import".into(),
        sha256: Some("ab".repeat(32)),
        verify_certificates: false,
    };
    let protect = Params::default().with_flag("protection", true);
    let _ = client.version().await;
    let _ = client.resources().await;
    let _ = client.guests().await;
    let _ = client.cluster_status().await;
    let _ = client.is_free(vmid).await;
    let _ = client.nodes().await;
    let _ = client.bridges(node).await;
    let _ = client.storages(node).await;
    let _ = client.volumes(node, "local", "import").await;
    let _ = client.download_url(node, "local", &download).await;
    let _ = client.delete_volume(node, "local", "local:import/talos.qcow2").await;
    let _ = client.create_vm(node, &whole()).await;
    let _ = client.create_vm(node, &NewVm { cloud_init: Some(v6), firmware: Firmware::SeaBios, ..whole() }).await;
    let _ = client.clone_vm(node, VmId(9000), &clone).await;
    let _ = client.make_template(node, vmid).await;
    let _ = client.vm_config(node, vmid).await;
    let _ =
        client.set_vm_config(node, vmid, &whole().options(), Some("0123456789012345678901234567890123456789")).await;
    let _ = client.set_vm_config(node, vmid, &protect, None).await;
    let _ = client.resize_disk(node, vmid, ("scsi0", 40), None).await;
    let _ = client.vm_status(node, vmid).await;
    let _ = client.start_vm(node, vmid).await;
    let _ = client.stop_vm(node, vmid).await;
    let _ = client.shutdown_vm(node, vmid, 60, true).await;
    let _ = client.destroy_vm(node, vmid).await;
    let _ = client.task_status(&upid).await;
    let _ = client.task_log_tail(&upid).await;
    let _ = client.recent_tasks(node, "qmcreate", vmid).await;
    let _ = client.stop_task(&upid).await;
    let _ = client.pools().await;
    let _ = client.add_to_pool("talos/nested", vmid).await;
    let _ = client.permissions(Some("/pool/talos")).await;
    let _ = client.permissions(None).await;
    let _ = client.roles().await;
}

#[tokio::test]
async fn every_request_fits_the_schema_of_both_lines() {
    let mut script = Script::start((0..60).map(|_| ok(r#"{"data":null}"#)).collect()).await;
    call_everything(&Client::new(script.options()).unwrap()).await;
    let schema = Schema::read();
    let mut seen = 0;
    while let Ok((_, request)) = tokio::time::timeout(Duration::ZERO, script.request()).await {
        seen += 1;
        let (method, path, sent) = read(&request);
        for version in ["8", "9"] {
            let objections = schema.objections(version, &method, &path, &sent);
            assert!(objections.is_empty(), "{version}: {objections:#?}");
        }
    }
    assert_eq!(seen, 33, "one for each line above");
}

#[test]
fn the_reading_of_the_schema_does_object() {
    let schema = Schema::read();
    let sent =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
    let check = |version, method, path, pairs: &[(&str, &str)]| schema.objections(version, method, path, &sent(pairs));
    let qemu = "/nodes/pve1/qemu";
    assert_eq!(check("9", "POST", qemu, &[]), ["POST /nodes/pve1/qemu wants vmid"]);
    assert_eq!(check("9", "PATCH", qemu, &[]), ["PATCH /nodes/pve1/qemu does not exist"]);
    assert_eq!(check("8", "GET", "/cluster/ha/rules", &[]), ["GET /cluster/ha/rules does not exist"]);
    let wrong = [
        ("vmid", "101"),
        ("onboot", "true"),
        ("scsi31", "local:1"),
        ("net0", "virtio=BC:24:11:00:00:01,brigde=vmbr0,tag=5000"),
        ("ha-managed", "1"),
    ];
    assert_eq!(check("8", "POST", qemu, &wrong).len(), 5, "{:#?}", check("8", "POST", qemu, &wrong));
    assert_eq!(check("9", "POST", qemu, &wrong).len(), 4, "ha-managed came with 9");
}
