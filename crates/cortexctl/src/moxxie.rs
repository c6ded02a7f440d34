//! Translates the request body of Moxxie's `POST /clusters/provision` into a `provision_cluster` request.
//!
//! Every field either means the same here or is refused with the nearest supported value; no value is ever changed
//! silently.
//!
//! | Moxxie | here |
//! |---|---|
//! | `name` | `cluster_name` |
//! | `type` | must be `TALOS` |
//! | `bootMethod` | refused unless `IMAGE`: machines boot an imported disk image |
//! | `talosVersion`, `kubernetesVersion` | `talos_version`, `kubernetes_version`; refused outside 1.12 to 1.14 and their Kubernetes range |
//! | `nodeGroups[]` | `pools[]`: `name`, `role`, `count`, all needed |
//! | `template.cores`, `template.memoryMB` | `shape.cpus`, `shape.memory_mib`, needed; Proxmox VE's memory is in MiB, whatever it is called |
//! | `template.disks[]` | SCSI disks in slots 0, 1, …: the first → `shape.disk_gib`, further ones → `extra_disks`; at least one |
//! | `security.encryptionEnabled`, `security.secureBootEnabled` | refused when true |
//! | `network.cni` | `network_cni` |
//! | `network.serviceSubnet`, `network.podSubnet` | `network.service_cidr`, `network.pod_cidr` |

use messages::name::PoolName;
use serde_json::{Map, Value, json};

/// A field that cannot be translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// JSON Pointer into the Moxxie body.
    pub path: String,
    /// Why.
    pub reason: String,
    /// What to write instead.
    pub nearest: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; nearest supported: {}", self.path, self.reason, self.nearest)
    }
}

/// Whether a body is Moxxie's.
pub fn recognises(body: &Value) -> bool {
    body.get("nodeGroups").is_some() || (body.get("type").is_some() && body.get("name").is_some())
}

/// The same request in this system's words.
///
/// # Errors
/// Every field that cannot be translated.
pub fn translate(body: &Value) -> Result<Value, Vec<Refused>> {
    let mut translation = Translation::default();
    let Value::Object(fields) = body else {
        return Err(vec![refused("", "the body is not an object", "an object")]);
    };
    translation.request.insert("request_type".into(), "provision_cluster".into());
    for (name, value) in fields {
        translation.field(name, value);
    }
    translation.needs("", fields, &["name", "nodeGroups"]);
    if translation.refused.is_empty() { Ok(Value::Object(translation.request)) } else { Err(translation.refused) }
}

#[derive(Default)]
struct Translation {
    request: Map<String, Value>,
    refused: Vec<Refused>,
}

impl Translation {
    fn field(&mut self, name: &str, value: &Value) {
        let path = format!("/{name}");
        match name {
            "name" => self.put("cluster_name", value),
            "type" if value == "TALOS" => {}
            "type" => self.refuse(&path, "only Talos clusters are made", "TALOS"),
            "bootMethod" if value == "IMAGE" => {}
            "bootMethod" => {
                self.refuse(&path, "machines boot an imported disk image, never the network", "IMAGE, or leave it out");
            }
            "talosVersion" => self.version(&path, "talos_version", value, (12, 14), "1.13.9"),
            "kubernetesVersion" => self.version(&path, "kubernetes_version", value, (30, 37), "1.36.3"),
            "nodeGroups" => self.groups(&path, value),
            "security" => self.security(&path, value),
            "network" => self.network(&path, value),
            _ => self.refuse(&path, "there is no such setting", "leave it out"),
        }
    }

    fn version(&mut self, path: &str, to: &str, value: &Value, minors: (u32, u32), nearest: &str) {
        let text = value.as_str().unwrap_or_default();
        let minor = text.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
        let good = text.starts_with("1.") && minor.is_some_and(|minor| (minors.0..=minors.1).contains(&minor));
        if good {
            self.put(to, value);
        } else {
            self.refuse(path, &format!("supported are 1.{} to 1.{}", minors.0, minors.1), nearest);
        }
    }

    fn groups(&mut self, path: &str, value: &Value) {
        let Some(groups) = value.as_array().filter(|groups| !groups.is_empty()) else {
            return self.refuse(path, "a cluster needs nodes", "a list with at least one group");
        };
        let mut pools = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            if let Some(pool) = self.group(&format!("{path}/{index}"), group) {
                pools.push(pool);
            }
        }
        self.request.insert("pools".into(), pools.into());
    }

    fn group(&mut self, path: &str, group: &Value) -> Option<Value> {
        let fields = self.object(path, group)?;
        let mut pool = Map::new();
        for (name, value) in fields {
            let path = format!("{path}/{name}");
            match (name.as_str(), value) {
                ("name", Value::String(text)) if text.parse::<PoolName>().is_ok() => {
                    pool.insert("name".into(), value.clone());
                }
                ("name", _) => {
                    let nearest = nearest_name(value.as_str().unwrap_or("pool"));
                    self.refuse(&path, "a pool is called by a DNS label of at most 16 characters", &nearest);
                }
                ("role", Value::String(role)) if role == "CONTROL_PLANE" => {
                    pool.insert("role".into(), "controlplane".into());
                }
                ("role", Value::String(role)) if role == "WORKER" => {
                    pool.insert("role".into(), "worker".into());
                }
                ("role", _) => self.refuse(&path, "there is no such role", "CONTROL_PLANE or WORKER"),
                ("count", _) => drop(self.number(&path, value, 0, 500).map(|count| pool.insert("count".into(), count))),
                ("template", _) => {
                    if let Some(template) = self.object(&path, value) {
                        self.template(&path, template, &mut pool);
                    }
                }
                _ => self.refuse(&path, "there is no such setting", "leave it out"),
            }
        }
        self.needs(path, fields, &["name", "role", "count", "template"]);
        Some(pool.into())
    }

    fn template(&mut self, path: &str, template: &Map<String, Value>, pool: &mut Map<String, Value>) {
        let mut shape = Map::new();
        for (name, value) in template {
            let path = format!("{path}/{name}");
            let (to, least, most) = match name.as_str() {
                "cores" => ("cpus", 1, 512),
                "memoryMB" => ("memory_mib", 1024, 16_777_216),
                "disks" => {
                    self.disks(&path, value, &mut shape, pool);
                    continue;
                }
                _ => {
                    self.refuse(&path, "there is no such setting", "leave it out");
                    continue;
                }
            };
            if let Some(number) = self.number(&path, value, least, most) {
                shape.insert(to.into(), number);
            }
        }
        self.needs(path, template, &["cores", "memoryMB", "disks"]);
        pool.insert("shape".into(), shape.into());
    }

    fn disks(&mut self, path: &str, disks: &Value, shape: &mut Map<String, Value>, pool: &mut Map<String, Value>) {
        let Some(disks) = disks.as_array().filter(|disks| !disks.is_empty()) else {
            return self.refuse(path, "a machine needs a disk", "a list with at least one disk");
        };
        let mut extra = Vec::new();
        for (index, disk) in disks.iter().enumerate() {
            let path = format!("{path}/{index}");
            let Some(fields) = self.object(&path, disk) else { continue };
            for (name, value) in fields {
                let (fits, nearest) = match name.as_str() {
                    "interfaceType" => (value == "SCSI", "SCSI".to_owned()),
                    "slot" => (value.as_u64() == Some(index as u64), index.to_string()),
                    "ssd" => (value == &Value::Bool(true), "true".to_owned()),
                    "sizeGB" => continue,
                    _ => (false, "leave it out".to_owned()),
                };
                if !fits {
                    self.refuse(&format!("{path}/{name}"), "disks are SSD-emulated SCSI disks in order", &nearest);
                }
            }
            self.needs(&path, fields, &["sizeGB"]);
            let least = if index == 0 { 10 } else { 1 };
            let size =
                fields.get("sizeGB").and_then(|size| self.number(&format!("{path}/sizeGB"), size, least, 65_536));
            match (index, size) {
                (_, None) => {}
                (0, Some(size)) => drop(shape.insert("disk_gib".into(), size)),
                (_, Some(size)) => extra.push(json!({ "size_gib": size })),
            }
        }
        if !extra.is_empty() {
            pool.insert("extra_disks".into(), extra.into());
        }
    }

    fn security(&mut self, path: &str, value: &Value) {
        let Some(fields) = self.object(path, value) else { return };
        for (name, value) in fields {
            let path = format!("{path}/{name}");
            match name.as_str() {
                "encryptionEnabled" | "secureBootEnabled" if value == &Value::Bool(false) => {}
                "encryptionEnabled" => self.refuse(&path, "disk encryption is not set up by this system", "false"),
                "secureBootEnabled" => self.refuse(&path, "machines boot without Secure Boot", "false"),
                _ => self.refuse(&path, "there is no such setting", "leave it out"),
            }
        }
    }

    fn network(&mut self, path: &str, value: &Value) {
        let Some(fields) = self.object(path, value) else { return };
        let mut network = Map::new();
        for (name, value) in fields {
            let path = format!("{path}/{name}");
            match name.as_str() {
                "cni" if matches!(value.as_str(), Some("cilium" | "flannel" | "none")) => {
                    self.put("network_cni", value)
                }
                "cni" => {
                    self.refuse(&path, "there is no such network in the add-on catalogue", "cilium, flannel or none")
                }
                "serviceSubnet" if value.is_string() => drop(network.insert("service_cidr".into(), value.clone())),
                "podSubnet" if value.is_string() => drop(network.insert("pod_cidr".into(), value.clone())),
                "serviceSubnet" => self.refuse(&path, "it is no network", "10.96.0.0/12"),
                "podSubnet" => self.refuse(&path, "it is no network", "10.244.0.0/16"),
                _ => self.refuse(&path, "there is no such setting", "leave it out"),
            }
        }
        self.request.insert("network".into(), network.into());
    }

    fn object<'v>(&mut self, path: &str, value: &'v Value) -> Option<&'v Map<String, Value>> {
        if !value.is_object() {
            self.refuse(path, "it is not an object", "an object");
        }
        value.as_object()
    }

    fn number(&mut self, path: &str, value: &Value, least: u64, most: u64) -> Option<Value> {
        if let Some(number) = value.as_u64().filter(|number| (least..=most).contains(number)) {
            return Some(number.into());
        }
        let near = value.as_f64().map(|number| (number.max(0.0).round() as u64).clamp(least, most));
        let near = near.map_or_else(|| "a whole number".to_owned(), |near| near.to_string());
        self.refuse(path, &format!("it must be a whole number from {least} to {most}"), &near);
        None
    }

    /// Nothing is assumed in place of what is not named.
    fn needs(&mut self, path: &str, fields: &Map<String, Value>, names: &[&str]) {
        for name in names.iter().filter(|name| !fields.contains_key(**name)) {
            self.refuse(&format!("{path}/{name}"), "it is needed: nothing is assumed", "name it");
        }
    }

    fn put(&mut self, to: &str, value: &Value) {
        self.request.insert(to.to_owned(), value.clone());
    }

    fn refuse(&mut self, path: &str, reason: &str, nearest: &str) {
        self.refused.push(refused(path, reason, nearest));
    }
}

/// The label that looks most like `text`.
fn nearest_name(text: &str) -> String {
    let label = text.to_lowercase().replace(|char: char| !char.is_ascii_lowercase() && !char.is_ascii_digit(), "-");
    let label = label.trim_start_matches(|char: char| !char.is_ascii_lowercase());
    let label: String = label.chars().take(16).collect();
    match label.trim_end_matches('-') {
        "" => "workers".to_owned(),
        label => label.to_owned(),
    }
}

fn refused(path: &str, reason: &str, nearest: &str) -> Refused {
    Refused { path: path.into(), reason: reason.into(), nearest: nearest.into() }
}

#[cfg(test)]
mod tests {
    use messages::{catalogue::Family, schema};

    use super::*;

    /// The request of Moxxie's description, as it stands there.
    fn described() -> Value {
        let group = |name: &str, role: &str, cores: u32, memory: u32, disk: u32| {
            json!({ "name": name, "role": role, "count": 3, "template": {
                "cores": cores, "memoryMB": memory,
                "disks": [{ "interfaceType": "SCSI", "slot": 0, "sizeGB": disk, "ssd": true }]
            } })
        };
        json!({
            "name": "talos-prod", "type": "TALOS", "bootMethod": "PXE", "talosVersion": "1.9.2",
            "kubernetesVersion": "1.32.0",
            "nodeGroups": [group("controlplane", "CONTROL_PLANE", 4, 8192, 100), group("workers", "WORKER", 8, 16384, 200)],
            "security": { "encryptionEnabled": true, "secureBootEnabled": true },
            "network": { "cni": "cilium", "serviceSubnet": "10.96.0.0/12", "podSubnet": "10.244.0.0/16" }
        })
    }

    /// The same with what was refused written as it is supported.
    fn accepted() -> Value {
        let mut body = described();
        body["bootMethod"] = "IMAGE".into();
        body["talosVersion"] = "1.13.9".into();
        body["security"] = json!({ "encryptionEnabled": false, "secureBootEnabled": false });
        body
    }

    #[test]
    fn every_field_that_has_no_counterpart_is_refused_with_the_nearest_value() {
        let refused = translate(&described()).unwrap_err();
        let mut lines: Vec<String> = refused.iter().map(ToString::to_string).collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "/bootMethod: machines boot an imported disk image, never the network; nearest supported: IMAGE, or leave it out",
                "/security/encryptionEnabled: disk encryption is not set up by this system; nearest supported: false",
                "/security/secureBootEnabled: machines boot without Secure Boot; nearest supported: false",
                "/talosVersion: supported are 1.12 to 1.14; nearest supported: 1.13.9",
            ]
        );
    }

    #[test]
    fn what_has_a_counterpart_becomes_a_valid_request() {
        let request = translate(&accepted()).unwrap();
        assert_eq!(schema::validate(Family::Request, "provision_cluster", &request), Ok(()));
        assert_eq!(request["pools"][1]["shape"], json!({ "cpus": 8, "memory_mib": 16384, "disk_gib": 200 }));
        assert_eq!(request["kubernetes_version"], "1.32.0");
    }

    #[test]
    fn nothing_is_assumed_dropped_or_changed() {
        let cases: [(&str, Value, &str); 12] = [
            (
                "/nodeGroups",
                json!([]),
                "/nodeGroups: a cluster needs nodes; nearest supported: a list with at least one group",
            ),
            ("/nodeGroups/0", json!("x"), "/nodeGroups/0: it is not an object; nearest supported: an object"),
            (
                "/nodeGroups/0/name",
                json!("Control Plane!"),
                "/nodeGroups/0/name: a pool is called by a DNS label of at most 16 characters; nearest supported: control-plane",
            ),
            (
                "/nodeGroups/0/count",
                json!(2.5),
                "/nodeGroups/0/count: it must be a whole number from 0 to 500; nearest supported: 3",
            ),
            (
                "/nodeGroups/0/template/cores",
                json!("4"),
                "/nodeGroups/0/template/cores: it must be a whole number from 1 to 512; nearest supported: a whole number",
            ),
            (
                "/nodeGroups/0/template/memoryMB",
                json!(512),
                "/nodeGroups/0/template/memoryMB: it must be a whole number from 1024 to 16777216; nearest supported: 1024",
            ),
            (
                "/nodeGroups/0/template/disks",
                json!([]),
                "/nodeGroups/0/template/disks: a machine needs a disk; nearest supported: a list with at least one disk",
            ),
            (
                "/nodeGroups/0/template/disks/0",
                json!({ "ssd": true }),
                "/nodeGroups/0/template/disks/0/sizeGB: it is needed: nothing is assumed; nearest supported: name it",
            ),
            (
                "/nodeGroups/0/template/disks/0/interfaceType",
                json!("VIRTIO"),
                "/nodeGroups/0/template/disks/0/interfaceType: disks are SSD-emulated SCSI disks in order; nearest supported: SCSI",
            ),
            ("/security", json!(true), "/security: it is not an object; nearest supported: an object"),
            (
                "/network/cni",
                json!("calico"),
                "/network/cni: there is no such network in the add-on catalogue; nearest supported: cilium, flannel or none",
            ),
            ("/type", json!("OKD"), "/type: only Talos clusters are made; nearest supported: TALOS"),
        ];
        for (path, value, expected) in cases {
            let mut body = accepted();
            *body.pointer_mut(path).unwrap() = value;
            let refused = translate(&body).unwrap_err();
            let lines: Vec<String> = refused.iter().map(ToString::to_string).collect();
            assert_eq!(lines, [expected]);
        }
        let mut body = accepted();
        body.as_object_mut().unwrap().remove("nodeGroups");
        assert_eq!(translate(&body).unwrap_err()[0].path, "/nodeGroups");
    }
}
