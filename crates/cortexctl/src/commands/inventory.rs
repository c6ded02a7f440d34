//! `cortexctl nodes` and `cortexctl vms`

use clap::Args;
use messages::subject::Party;
use serde_json::json;

use crate::{
    cli::{Connection, Ending, Outcome},
    output::Output,
};

/// Which of them.
#[derive(Args)]
pub struct Filter {
    /// Only of this cluster.
    #[arg(long)]
    pub cluster: Option<String>,
}

/// Nodes of the clusters.
pub async fn nodes(filter: Filter, connection: &Connection, out: &mut Output) -> Outcome {
    let columns = ["cluster", "node", "role", "pool", "ip", "state", "talos", "kubernetes", "host"];
    list(Party::Talos, "nodes.list", filter, &columns, connection, out).await
}

/// Virtual machines.
pub async fn vms(filter: Filter, connection: &Connection, out: &mut Output) -> Outcome {
    let columns = ["cluster", "name", "vm_id", "host", "ip", "pool", "cpus", "memory_mib", "state"];
    list(Party::Infrastructure, "vms.list", filter, &columns, connection, out).await
}

async fn list(
    at: Party,
    query: &str,
    filter: Filter,
    columns: &[&str],
    connection: &Connection,
    out: &mut Output,
) -> Outcome {
    let client = connection.connect().await?;
    let rows = client.list(at, query, json!({ "cluster": filter.cluster })).await?;
    out.rows(&rows, columns)?;
    Ok(Ending::Ok)
}
