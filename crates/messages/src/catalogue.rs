//! Every message there is: its family, type, who takes it, who may send it, its schema and an example.

use std::sync::LazyLock;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use crate::{
    event::{CertificateExpiring, DeadLetter, DomainEvent, FlowEvent, Rejected, RunEvent},
    handoff::{CancelRequest, ClusterFailed, ClusterReady, ClusterRemoved, NodeRemoved, NodesReady, VmProvisioned},
    request::{DecommissionRequest, ProvisionCluster, ScaleRequest},
    subject::Party,
};

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Asked of a contractor by a coordinator, operator, LLM tool or trigger.
    Request,
    /// Given by one contractor to another.
    Handoff,
    /// Told to whoever listens.
    Event,
}

impl Family {
    /// `request`, `handoff`, `event`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Handoff => "handoff",
            Self::Event => "event",
        }
    }

    /// The folder below `schemas/`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Request => "requests",
            Self::Handoff => "handoffs",
            Self::Event => "events",
        }
    }
}

/// One kind of message.
pub struct Kind {
    /// What it is for.
    pub family: Family,
    /// Its type, the last token of its subject.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// The contractors that take it, each with the contractors that may give it (handoffs only).
    pub routes: &'static [(Party, &'static [Party])],
    /// Its schema.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// At least one example that validates.
    pub examples: fn() -> Vec<Value>,
}

impl Kind {
    /// Its schema's `$id`, which is also `ce-dataschema`.
    pub fn schema_id(&self) -> String {
        format!("urn:cortex:schema:{}:{}:v1", self.home().as_str(), self.name)
    }

    /// Its schema's file below `schemas/`; one file serves where a type is both request and handoff.
    pub fn file(&self) -> String {
        format!("{}/{}.v1.json", self.home().folder(), self.name)
    }

    /// The family under which its schema is filed.
    fn home(&self) -> Family {
        if self.twin().is_some() { Family::Handoff } else { self.family }
    }

    /// The same type as request where this is a handoff, and the other way round.
    pub fn twin(&self) -> Option<&'static Self> {
        let other = match self.family {
            Family::Request => Family::Handoff,
            Family::Handoff => Family::Request,
            Family::Event => return None,
        };
        find(other, self.name)
    }

    /// Its `ce-type`.
    pub fn ce_type(&self) -> String {
        format!("cortex.{}.{}.v1", self.family.as_str(), self.name)
    }
}

/// All kinds, sorted by family and name.
pub fn all() -> &'static [Kind] {
    static ALL: LazyLock<Vec<Kind>> = LazyLock::new(|| {
        let mut all = requests();
        all.extend(handoffs());
        all.extend(events());
        all.sort_by_key(|kind| (kind.family, kind.name));
        all
    });
    &ALL
}

/// The kind of that family and name.
pub fn find(family: Family, name: &str) -> Option<&'static Kind> {
    all().iter().find(|kind| kind.family == family && kind.name == name)
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.root_schema_for::<T>()
}

const TO_INFRASTRUCTURE: &[(Party, &[Party])] = &[(Party::Infrastructure, &[])];

fn requests() -> Vec<Kind> {
    vec![
        Kind {
            family: Family::Request,
            name: "provision_cluster",
            summary: "Asks for a new cluster, by pattern or by explicit pools.",
            routes: TO_INFRASTRUCTURE,
            schema: of::<ProvisionCluster>,
            examples: || {
                vec![
                    json!({
                        "request_type": "provision_cluster", "cluster_name": "prod-k8s", "pattern": "ha",
                        "control_plane_nodes": 3, "worker_nodes": 3, "node_size": "medium", "worker_size": "large",
                        "storage_backend": "longhorn", "network_cni": "cilium"
                    }),
                    json!({
                        "request_type": "provision_cluster", "cluster_name": "gpu", "pattern": "hybrid",
                        "pools": [
                            { "name": "cp", "role": "controlplane", "count": 3, "size": "medium" },
                            { "name": "gpu", "role": "worker", "count": 2, "hosts": ["pve3"],
                              "shape": { "cpus": 16, "memory_mib": 65536, "disk_gib": 200 } }
                        ],
                        "failure_policy": "pause", "deadline": "90m"
                    }),
                ]
            },
        },
        Kind {
            family: Family::Request,
            name: "scale_request",
            summary: "Asks for a pool of workers to have so many nodes.",
            routes: TO_INFRASTRUCTURE,
            schema: of::<ScaleRequest>,
            examples: || vec![json!({ "cluster_name": "prod-k8s", "pool": "worker", "count": 4 })],
        },
        Kind {
            family: Family::Request,
            name: "decommission_request",
            summary: "Asks for a cluster and everything it holds to be taken away.",
            routes: TO_INFRASTRUCTURE,
            schema: of::<DecommissionRequest>,
            examples: || {
                vec![json!({
                    "cluster_name": "prod-k8s", "reason": "replaced by prod2",
                    "approval": { "plan_hash": "0f".repeat(32) }
                })]
            },
        },
    ]
}

fn handoffs() -> Vec<Kind> {
    const UID: &str = "6f1d4f0e-6f0b-4d6b-9a0a-0d8f3d7f2a11";
    const NODE: &str = "b9a1c9f2-0f0d-4b43-8f0c-51b6cf7a2c10";
    let to_talos: &[(Party, &[Party])] = &[(Party::Talos, &[Party::Infrastructure])];
    let to_infrastructure: &[(Party, &[Party])] = &[(Party::Infrastructure, &[Party::Talos])];
    let kind = |name, summary, routes, schema, examples| Kind {
        family: Family::Handoff,
        name,
        summary,
        routes,
        schema,
        examples,
    };
    vec![
        kind(
            "vm_provisioned",
            "Machines stand and answer in Talos maintenance mode; make them part of a cluster.",
            to_talos,
            of::<VmProvisioned>,
            || {
                vec![json!({
                    "handoff_type": "vm_provisioned", "cluster_name": "prod-k8s",
                    "nodes": [{ "role": "controlplane", "ip": "192.168.1.10", "hostname": "cp-01", "vm_id": "100" }],
                    "network": { "gateway": "192.168.1.1", "dns_servers": ["1.1.1.1", "8.8.8.8"] },
                    "ready": true
                })]
            },
        ),
        kind(
            "nodes_ready",
            "New nodes have joined their cluster; record them.",
            to_infrastructure,
            of::<NodesReady>,
            || {
                vec![json!({
                    "handoff_type": "nodes_ready", "cluster_name": "prod-k8s", "cluster_uid": UID,
                    "nodes": [{ "hostname": "prod-k8s-worker-4", "node_uid": NODE, "pool": "worker" }]
                })]
            },
        ),
        kind(
            "cluster_ready",
            "A healthy Kubernetes cluster stands; monitor and protect it.",
            to_infrastructure,
            of::<ClusterReady>,
            || {
                vec![json!({
                    "handoff_type": "cluster_ready", "cluster_name": "prod-k8s", "kubeconfig": "<base64-encoded>",
                    "api_endpoint": "https://192.168.1.10:6443",
                    "metrics_endpoints": ["http://192.168.1.10:9090"], "status": "healthy"
                })]
            },
        ),
        kind(
            "cluster_failed",
            "The machines could not be made a cluster; apply the flow's failure policy to them.",
            to_infrastructure,
            of::<ClusterFailed>,
            || {
                vec![json!({
                    "handoff_type": "cluster_failed", "cluster_name": "prod-k8s", "cluster_uid": UID,
                    "step": "apply[prod-k8s-cp-1]", "reason": "the node refused the configuration",
                    "failure_policy": "rollback"
                })]
            },
        ),
        kind(
            "node_removed",
            "These machines have left their cluster; they may be destroyed.",
            to_infrastructure,
            of::<NodeRemoved>,
            || {
                vec![json!({
                    "handoff_type": "node_removed", "cluster_name": "prod-k8s", "cluster_uid": UID,
                    "nodes": [{ "hostname": "prod-k8s-worker-4", "node_uid": NODE, "pool": "worker" }]
                })]
            },
        ),
        kind(
            "cluster_removed",
            "The cluster is given up on the Talos side; its machines may be destroyed.",
            to_infrastructure,
            of::<ClusterRemoved>,
            || vec![json!({ "handoff_type": "cluster_removed", "cluster_name": "prod-k8s", "cluster_uid": UID })],
        ),
        kind(
            "scale_request",
            "A pool should have so many nodes: upwards from talos, downwards from infrastructure.",
            &[(Party::Infrastructure, &[Party::Talos]), (Party::Talos, &[Party::Infrastructure])],
            of::<ScaleRequest>,
            || {
                vec![json!({
                    "handoff_type": "scale_request", "cluster_name": "prod-k8s", "pool": "worker", "count": 4,
                    "generation": 1, "reason": "3 pods unschedulable for 60s"
                })]
            },
        ),
        kind(
            "decommission_request",
            "A cluster is to go; give it up on the Talos side.",
            to_talos,
            of::<DecommissionRequest>,
            || vec![json!({ "handoff_type": "decommission_request", "cluster_name": "prod-k8s", "cluster_uid": UID })],
        ),
        kind(
            "cancel_request",
            "A flow is to stop; what was done for it follows its failure policy.",
            to_talos,
            of::<CancelRequest>,
            || {
                vec![json!({
                    "handoff_type": "cancel_request", "cluster_name": "prod-k8s", "by": "/operator/ada",
                    "failure_policy": "rollback"
                })]
            },
        ),
    ]
}

/// Event types of runs and their steps, with one sentence each.
pub const RUN_EVENTS: &[(&str, &str)] = &[
    ("run_started", "A run began."),
    ("run_succeeded", "Every step of a run succeeded."),
    ("run_waiting", "A run waits, for a lock, an approval or capacity."),
    ("run_failed", "A step failed for good; the failure policy follows."),
    ("run_undone", "A run was taken back completely."),
    ("run_kept", "A run failed and what it did was kept."),
    ("run_cancelled", "A run was cancelled."),
    ("run_paused", "A run failed and waits for an operator."),
    ("run_stuck", "An undo failed for good; an operator must look."),
    ("run_cancelling", "Somebody asked to stop a run; its failure policy follows."),
    ("run_undoing", "Somebody asked to take a run back, perhaps after it succeeded."),
    ("run_resumed", "An operator resumed a run."),
    ("step_started", "An attempt at a step began."),
    ("step_succeeded", "A step succeeded."),
    ("step_failed", "A step failed for good."),
    ("step_retrying", "An attempt failed; another follows."),
    ("step_waiting", "A step waits for the world."),
    ("step_skipped", "A step's condition was false."),
    ("step_undo_started", "An attempt to take a step back began."),
    ("step_undone", "A step was taken back."),
    ("step_undo_failed", "Taking a step back failed."),
];

/// Event types of flows, with one sentence each.
pub const FLOW_EVENTS: &[(&str, &str)] = &[
    ("flow_started", "A request was accepted."),
    ("flow_awaits_approval", "What was asked for needs consent before it begins."),
    ("flow_cancelling", "Somebody asked to stop a flow, or its time is over; its failure policy follows."),
    ("flow_failing", "The other contractor could not do its part; the failure policy follows."),
    ("flow_succeeded", "What was asked for is done."),
    ("flow_failed", "What was asked for could not be done; the failure policy was applied."),
    ("flow_cancelled", "What was asked for was cancelled."),
];

/// Event types of a contractor's domain, with one sentence each.
pub const DOMAIN_EVENTS: &[(&str, &str)] = &[
    ("contractor_started", "A contractor is ready."),
    ("vm_reserved", "Id, address, MAC and UUID of a machine were reserved."),
    ("image_ready", "A Talos image is on a storage."),
    ("vm_created", "A virtual machine was created."),
    ("vm_started", "A virtual machine was started."),
    ("vm_answering", "A machine's Talos API answers."),
    ("vm_joined", "A machine became a node of its cluster."),
    ("vm_protected", "Proxmox protects a machine from being removed, or no longer does."),
    ("vm_released", "A virtual machine was destroyed and its id and address returned."),
    ("vm_quarantined", "An id or address is kept from use because its ownership could not be proven."),
    ("quarantine_lifted", "An operator gave an id or address free again."),
    ("ownership_mismatch", "A virtual machine is not what the inventory says; it was not touched."),
    ("cluster_registered", "A cluster became known."),
    ("cluster_leaving", "A cluster is being taken away."),
    ("cluster_kept", "A cluster is not taken away after all."),
    ("pool_scaled", "Another number of nodes is wanted of a pool."),
    ("cluster_active", "A cluster is monitored and its machines are protected."),
    ("cluster_forgotten", "A cluster left the inventory."),
    ("secrets_generated", "A cluster's secrets were made and sealed."),
    ("config_applied", "A machine configuration was applied."),
    ("etcd_bootstrapped", "etcd was bootstrapped on one control plane."),
    ("etcd_member_joined", "A control plane became an etcd member."),
    ("kubernetes_ready", "The Kubernetes API answers."),
    ("addon_installed", "An add-on was installed."),
    ("node_registered", "A machine is to become a node of a cluster that stands."),
    ("node_forgotten", "A machine that was to become a node will not."),
    ("node_joined", "A node is Ready."),
    ("node_leaving", "A node was chosen to leave its cluster."),
    ("node_kept", "A node does not leave its cluster after all."),
    ("node_cordoned", "A node takes no new pods."),
    ("node_drained", "A node's pods were evicted."),
    ("node_removed", "A node left its cluster."),
    ("credentials_sealed", "A cluster's credentials were sealed."),
    ("credential_issued", "A credential left as age ciphertext for a named recipient."),
    ("health_checked", "A cluster's health was checked."),
    ("pressure_detected", "Pods cannot be scheduled."),
    ("trigger_fired", "A schedule or condition started a request."),
    ("approval_given", "A plan was approved."),
    ("audit_head", "How far a contractor's audit log reaches: its length and the hash of its last record."),
];

fn events() -> Vec<Kind> {
    let kind =
        |name, summary, schema, examples| Kind { family: Family::Event, name, summary, routes: &[], schema, examples };
    let mut events = vec![
        kind(
            "rejected",
            "A message was refused, with everything that was wrong.",
            of::<Rejected> as fn(&mut SchemaGenerator) -> Schema,
            || {
                vec![json!({
                    "event_type": "rejected", "message": "/operator/ada/7c1b2d3e",
                    "subject": "cortex.request.infrastructure.provision_cluster",
                    "reason": "the request does not validate",
                    "violations": [{
                        "path": "/pattern", "rule": "enum", "expected": "one of ha, single, edge, hybrid",
                        "got": "string of 3 characters"
                    }]
                })]
            },
        ),
        kind("dead_letter", "A message was put aside.", of::<DeadLetter>, || {
            vec![json!({
                "event_type": "dead_letter", "at": "infrastructure", "time": "2026-11-20T12:00:00Z",
                "subject": "cortex.request.infrastructure.provision_cluster", "headers": {},
                "stream": "CORTEX_REQUESTS", "sequence": 7, "reason": "the body is not JSON"
            })]
        }),
        kind("certificate_expiring", "A certificate ends soon, or has ended.", of::<CertificateExpiring>, || {
            vec![json!({
                "event_type": "certificate_expiring", "object": "bus.ca_file", "file": "/etc/cortex/bus-ca.pem",
                "subject": "CN=cortex bus CA", "fingerprint": "0f".repeat(32), "not_after": "2026-12-20T12:00:00Z",
                "days_left": 29, "hint": "put a renewed certificate into /etc/cortex/bus-ca.pem and start the daemon again"
            })]
        }),
    ];
    events.extend(RUN_EVENTS.iter().map(|(name, summary)| kind(name, summary, of::<RunEvent>, run_example)));
    events.extend(FLOW_EVENTS.iter().map(|(name, summary)| kind(name, summary, of::<FlowEvent>, flow_example)));
    events.extend(DOMAIN_EVENTS.iter().map(|(name, summary)| kind(name, summary, of::<DomainEvent>, domain_example)));
    events
}

const FLOW: &str = "0192f0c1-7b1a-7c3e-9d52-6f0a7c1b2d3e";

fn run_example() -> Vec<Value> {
    vec![json!({
        "event_type": "", "flow": FLOW, "run": "1c7f5e0a-51d6-5f6e-8d43-0a8d5b1c9e77", "playbook": "provision-vms",
        "step": "create[prod-k8s-cp-1]", "attempt": 1
    })]
}

fn flow_example() -> Vec<Value> {
    vec![json!({ "event_type": "", "flow": FLOW, "kind": "provision_cluster" })]
}

fn domain_example() -> Vec<Value> {
    vec![
        json!({ "event_type": "", "object": "prod-k8s-cp-1", "flow": FLOW, "facts": { "vm_id": "101", "host": "pve1" } }),
    ]
}
