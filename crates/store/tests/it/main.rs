//! What the store promises, against real folders and real processes.
#![expect(clippy::unwrap_used, reason = "what helps tests panics as tests do")]

mod behaviour;
mod content;
mod crash;
mod damage;
mod export;
mod rekey;
mod verify;

use serde_json::{Value, json};
use store::{Commit, Lane, Options, Outgoing, RunAppend, RunState, RunSummary, Store};
use uuid::Uuid;

/// Opens without a reserve, as test machines may be full.
fn open(path: &std::path::Path) -> Store {
    Store::open(path, Options { min_free_bytes: 0, ..Options::default() }).unwrap()
}

fn summary(flow: Uuid, state: RunState) -> RunSummary {
    RunSummary {
        flow,
        playbook: "provision-vms".to_owned(),
        cluster: Some("prod-k8s".to_owned()),
        state,
        detail: Value::Null,
    }
}

fn append(run: Uuid, expected_seq: u64, events: Vec<Value>, summary: Option<RunSummary>) -> Commit {
    Commit { run: Some(RunAppend { run, expected_seq, events, summary }), ..Commit::default() }
}

fn message(id: &str, lane: Lane) -> Outgoing {
    Outgoing {
        id: id.to_owned(),
        lane,
        subject: "cortex.handoff.talos.vm_provisioned".to_owned(),
        headers: [("ce-id".to_owned(), id.to_owned())].into(),
        body: json!({ "handoff_type": "vm_provisioned" }).to_string(),
    }
}
