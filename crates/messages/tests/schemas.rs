//! The committed schema files are what the types say, byte for byte; their examples validate.
//!
//! `UPDATE_SCHEMAS=1 cargo test -p messages --test schemas` writes them.

use std::{collections::BTreeSet, fs, path::PathBuf};

use messages::{
    asyncapi, catalogue,
    catalogue::Family,
    request::{Pattern, ProvisionCluster},
    schema,
};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../schemas")
}

fn check(file: &str, text: &str) {
    let path = folder().join(file);
    if std::env::var_os("UPDATE_SCHEMAS").is_some() {
        fs::create_dir_all(path.parent().expect("the file is in a folder")).expect("the folder can be made");
        fs::write(&path, text).expect("the file can be written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "schemas/{file} is not what the types say; write it with UPDATE_SCHEMAS=1");
}

#[test]
fn schema_files_are_what_the_types_say() {
    for kind in catalogue::all() {
        let text = serde_json::to_string_pretty(&schema::document(kind)).unwrap() + "\n";
        check(&kind.file(), &text);
    }
    let known: BTreeSet<String> = catalogue::all().iter().map(catalogue::Kind::file).collect();
    for family in ["requests", "handoffs", "events"] {
        for entry in fs::read_dir(folder().join(family)).unwrap() {
            let name = format!("{family}/{}", entry.unwrap().file_name().to_string_lossy());
            assert!(known.contains(&name), "schemas/{name} belongs to no message");
        }
    }
}

#[test]
fn asyncapi_is_what_the_catalogue_says() {
    let text = serde_saphyr::to_string(&asyncapi::document()).unwrap();
    check("asyncapi.yaml", &text);
}

#[test]
fn every_example_validates() {
    for kind in catalogue::all() {
        let document = schema::document(kind);
        let examples = document["examples"].as_array().unwrap();
        assert!(!examples.is_empty(), "{} has no example", kind.name);
        for example in examples {
            schema::validate(kind.family, kind.name, example)
                .unwrap_or_else(|found| panic!("{}: {found:?}", kind.name));
        }
    }
}

#[test]
fn the_first_forms_of_the_handoffs_stay_valid() {
    // The two examples of the contractors' first description, as they stand there.
    let vm_provisioned = json!({
        "handoff_type": "vm_provisioned",
        "cluster_name": "prod-k8s",
        "nodes": [{ "role": "controlplane", "ip": "192.168.1.10", "hostname": "cp-01", "vm_id": "100" }],
        "network": { "gateway": "192.168.1.1", "dns_servers": ["1.1.1.1", "8.8.8.8"] },
        "ready": true
    });
    let cluster_ready = json!({
        "handoff_type": "cluster_ready",
        "cluster_name": "prod-k8s",
        "kubeconfig": "<base64-encoded>",
        "api_endpoint": "https://192.168.1.10:6443",
        "metrics_endpoints": ["http://192.168.1.10:9090"],
        "status": "healthy"
    });
    for (name, body) in [("vm_provisioned", vm_provisioned), ("cluster_ready", cluster_ready)] {
        assert_eq!(schema::validate(Family::Handoff, name, &body), Ok(()));
    }
}

#[test]
fn requests_made_from_the_four_patterns_validate() {
    let patterns = [
        json!({ "pattern": "ha", "control_plane_nodes": 3, "worker_nodes": 3, "node_size": "medium",
                "worker_size": "large", "storage_backend": "longhorn", "network_cni": "cilium" }),
        json!({ "pattern": "single", "control_plane_nodes": 1, "worker_nodes": 0, "node_size": "medium",
                "allow_workloads_on_control_plane": true, "storage_backend": "local-path", "network_cni": "flannel" }),
        json!({ "pattern": "edge", "control_plane_nodes": 1, "worker_nodes": 2, "node_size": "small",
                "architecture": "arm64", "storage_backend": "local-storage", "network_cni": "flannel",
                "features": ["metrics_server", "edge_optimizations"] }),
        json!({ "pattern": "hybrid", "control_plane_nodes": 3, "worker_nodes": 10, "control_plane_taint": true,
                "worker_autoscaling": true, "storage_backend": "ceph", "network_cni": "cilium" }),
    ];
    for mut request in patterns {
        request["request_type"] = "provision_cluster".into();
        request["cluster_name"] = "prod-k8s".into();
        assert_eq!(schema::validate(Family::Request, "provision_cluster", &request), Ok(()));
        let typed: ProvisionCluster = serde_json::from_value(request).unwrap();
        assert!(!typed.effective_pools().is_empty());
    }
}

#[test]
fn every_violation_is_named_without_its_value() {
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": "Prod", "patern": "ha", "control_plane_nodes": 0,
        "pools": [{ "name": "cp", "role": "controlplan", "count": 1, "hots": [] }],
        "network_cni": "s3cr3t", "endpoint": {}
    });
    let found = schema::validate(Family::Request, "provision_cluster", &request).unwrap_err();
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "/cluster_name: expected text that matches ^[a-z]([a-z0-9-]*[a-z0-9])?$, got string of 4 characters",
            "/control_plane_nodes: expected at least 1, got an integer",
            "/endpoint/kind: expected a value, the field is required, got nothing",
            "/network_cni: expected one of cilium, flannel, none, got string of 6 characters",
            "/patern: expected a field that the schema knows, got an unknown field; did you mean \"pattern\"?",
            "/pools/0/hots: expected a field that the schema knows, got an unknown field; did you mean \"hosts\"?",
            "/pools/0/role: expected one of controlplane, worker, got string of 11 characters; did you mean \"controlplane\"?",
        ]
    );
}

#[test]
fn handoffs_keep_fields_that_this_version_does_not_know() {
    let mut body = json!({
        "handoff_type": "cluster_removed", "cluster_name": "a", "cluster_uid": "6f1d4f0e-6f0b-4d6b-9a0a-0d8f3d7f2a11"
    });
    body["from_the_future"] = json!({ "x": 1 });
    schema::validate(Family::Handoff, "cluster_removed", &body).unwrap();
    let typed: messages::handoff::ClusterRemoved = serde_json::from_value(body.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), body);

    let scale: Value = json!({ "cluster_name": "a", "pool": "worker", "count": 1, "from_the_future": 1 });
    assert!(schema::validate(Family::Request, "scale_request", &scale).is_err());
    assert!(schema::validate(Family::Handoff, "scale_request", &scale).is_ok());
}

#[test]
fn patterns_fill_what_a_request_leaves_out() {
    let request = ProvisionCluster::new("a".parse().unwrap(), Pattern::Single);
    let pools = request.effective_pools();
    assert_eq!((pools.len(), pools[0].count), (1, 1));
    assert_eq!(request.talos_spec().allow_workloads_on_control_plane, Some(true));
}
