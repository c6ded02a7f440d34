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
//! | `nodeGroups[]` | `pools[]`: `name`, `role`, `count`, `template` → `shape` |
//! | `template.disks[]` | one SCSI disk in slot 0 → `shape.disk_gib`; further ones → `extra_disks` |
//! | `security.encryptionEnabled`, `security.secureBootEnabled` | refused when true |
//! | `network.cni` | `network_cni` |
//! | `network.serviceSubnet`, `network.podSubnet` | `network.service_cidr`, `network.pod_cidr` |

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
        let Some(groups) = value.as_array() else { return self.refuse(path, "it is not a list", "a list of groups") };
        let mut pools = Vec::new();
        for (index, group) in groups.iter().enumerate() {
            if let Some(pool) = self.group(&format!("{path}/{index}"), group) {
                pools.push(pool);
            }
        }
        self.request.insert("pools".into(), pools.into());
    }

    fn group(&mut self, path: &str, group: &Value) -> Option<Value> {
        let fields = group.as_object()?;
        let mut pool = Map::new();
        for (name, value) in fields {
            let path = format!("{path}/{name}");
            match (name.as_str(), value) {
                ("name", Value::String(name)) if name.len() <= 16 => {
                    pool.insert("name".into(), value.clone());
                }
                ("name", _) => self.refuse(&path, "pool names have at most 16 characters", "a shorter name"),
                ("role", Value::String(role)) if role == "CONTROL_PLANE" => {
                    pool.insert("role".into(), "controlplane".into());
                }
                ("role", Value::String(role)) if role == "WORKER" => {
                    pool.insert("role".into(), "worker".into());
                }
                ("role", _) => self.refuse(&path, "there is no such role", "CONTROL_PLANE or WORKER"),
                ("count", _) => {
                    pool.insert("count".into(), value.clone());
                }
                ("template", Value::Object(template)) => self.template(&path, template, &mut pool),
                _ => self.refuse(&path, "there is no such setting", "leave it out"),
            }
        }
        Some(pool.into())
    }

    fn template(&mut self, path: &str, template: &Map<String, Value>, pool: &mut Map<String, Value>) {
        let mut shape = json!({ "cpus": 4, "memory_mib": 8192, "disk_gib": 40 });
        for (name, value) in template {
            let path = format!("{path}/{name}");
            match name.as_str() {
                "cores" => shape["cpus"] = value.clone(),
                "memoryMB" => shape["memory_mib"] = value.clone(),
                "disks" => self.disks(&path, value, &mut shape, pool),
                _ => self.refuse(&path, "there is no such setting", "leave it out"),
            }
        }
        for needed in ["cores", "memoryMB", "disks"] {
            if !template.contains_key(needed) {
                self.refuse(&format!("{path}/{needed}"), "it is needed: nothing is assumed", "name it");
            }
        }
        pool.insert("shape".into(), shape);
    }

    fn disks(&mut self, path: &str, disks: &Value, shape: &mut Value, pool: &mut Map<String, Value>) {
        let mut extra = Vec::new();
        for (index, disk) in disks.as_array().into_iter().flatten().enumerate() {
            let path = format!("{path}/{index}");
            let size = disk.get("sizeGB").cloned().unwrap_or_default();
            for (name, value) in disk.as_object().into_iter().flatten() {
                let fits = match name.as_str() {
                    "interfaceType" => value == "SCSI",
                    "slot" => value.as_u64() == Some(index as u64),
                    "sizeGB" => value.is_u64(),
                    "ssd" => value == &Value::Bool(true),
                    _ => false,
                };
                if !fits {
                    let nearest = match name.as_str() {
                        "interfaceType" => "SCSI".to_owned(),
                        "slot" => index.to_string(),
                        "sizeGB" => "a whole number".to_owned(),
                        "ssd" => "true".to_owned(),
                        _ => "leave it out".to_owned(),
                    };
                    self.refuse(&format!("{path}/{name}"), "disks are SSD-emulated SCSI disks in order", &nearest);
                }
            }
            if index == 0 {
                shape["disk_gib"] = size;
            } else {
                extra.push(json!({ "size_gib": size }));
            }
        }
        if !extra.is_empty() {
            pool.insert("extra_disks".into(), extra.into());
        }
    }

    fn security(&mut self, path: &str, value: &Value) {
        for (name, value) in value.as_object().into_iter().flatten() {
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
        let mut network = Map::new();
        for (name, value) in value.as_object().into_iter().flatten() {
            let path = format!("{path}/{name}");
            match name.as_str() {
                "cni" if matches!(value.as_str(), Some("cilium" | "flannel" | "none")) => {
                    self.put("network_cni", value)
                }
                "cni" => {
                    self.refuse(&path, "there is no such network in the add-on catalogue", "cilium, flannel or none")
                }
                "serviceSubnet" => {
                    network.insert("service_cidr".into(), value.clone());
                }
                "podSubnet" => {
                    network.insert("pod_cidr".into(), value.clone());
                }
                _ => self.refuse(&path, "there is no such setting", "leave it out"),
            }
        }
        self.request.insert("network".into(), network.into());
    }

    fn put(&mut self, to: &str, value: &Value) {
        self.request.insert(to.to_owned(), value.clone());
    }

    fn refuse(&mut self, path: &str, reason: &str, nearest: &str) {
        self.refused.push(refused(path, reason, nearest));
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
        let mut body = described();
        body["bootMethod"] = "IMAGE".into();
        body["talosVersion"] = "1.13.9".into();
        body["security"] = json!({ "encryptionEnabled": false });
        let request = translate(&body).unwrap();
        assert_eq!(schema::validate(Family::Request, "provision_cluster", &request), Ok(()));
        assert_eq!(request["pools"][1]["shape"], json!({ "cpus": 8, "memory_mib": 16384, "disk_gib": 200 }));
        assert_eq!(request["kubernetes_version"], "1.32.0");
    }
}
