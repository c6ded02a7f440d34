//! What the demo shows at the end, and how it sees that nothing was left behind.

use std::collections::BTreeSet;

use comfy_table::{Table, presets};
use cortexctl::{client::Client, commands::flows, watch::seconds};
use messages::{query::Listing, subject::Party};
use serde_json::{Value, json};
use uuid::Uuid;

use super::say;
use crate::world::World;

/// Nodes, addresses, endpoint, versions, durations per step.
pub(super) async fn print(client: &Client, world: &World, flow: Uuid) -> anyhow::Result<()> {
    let nodes: Listing = client.query(Party::Talos, "nodes.list", json!({ "cluster": "prod-k8s" })).await?;
    table(&nodes.rows.iter().map(|row| json!(row)).collect::<Vec<_>>(), &["node", "role", "ip", "state", "host"]);
    let clusters: Listing = client.query(Party::Infrastructure, "clusters.list", json!({})).await?;
    table(
        &clusters.rows.iter().map(|row| json!(row)).collect::<Vec<_>>(),
        &["cluster", "state", "endpoint", "talos", "kubernetes"],
    );
    let view = flows::of(client, flow).await?;
    let mut rows = Vec::new();
    for run in &view.runs {
        for step in &run.steps {
            if let (Some(start), Some(end)) = (step.started, step.ended) {
                let took = u64::try_from(end.duration_since(start).as_millis()).unwrap_or_default();
                rows.push(json!({ "playbook": run.playbook, "step": step.step, "took": seconds(took) }));
            }
        }
    }
    table(&rows, &["playbook", "step", "took"]);
    say("\nThe datacenter is simulated; images, Cilium and Longhorn are stand-ins.");
    say(&format!("Proxmox VE at {}", world.facts.proxmox));
    Ok(())
}

/// What is in the datacenter now and was not before. Images stay: they are shared and reference-counted.
pub fn leftovers(before: &Value, after: &Value) -> Vec<String> {
    places(after).difference(&places(before)).cloned().collect()
}

/// VMs, volumes and pool members of the lab's snapshot.
fn places(snapshot: &Value) -> BTreeSet<String> {
    let object = |name: &str| snapshot.get(name).and_then(Value::as_object).into_iter().flatten();
    let mut found: BTreeSet<String> = object("vms").map(|(vmid, _)| format!("vm {vmid}")).collect();
    for (kind, name) in [("volume", "volumes"), ("member of pool", "pools")] {
        for (place, items) in object(name) {
            let items = items.as_array().into_iter().flatten();
            found.extend(items.map(|item| format!("{kind} {place} {item}")));
        }
    }
    found.retain(|place| !place.contains(":import/"));
    found
}

fn table(rows: &[Value], columns: &[&str]) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(columns.iter().map(|column| column.to_uppercase()));
    for row in rows {
        table.add_row(columns.iter().map(|column| match row.get(*column) {
            None | Some(Value::Null) => "-".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }));
    }
    say(&format!("\n{}", table.trim_fmt()));
}
