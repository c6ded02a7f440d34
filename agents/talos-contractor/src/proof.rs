//! Which machine answers at a node's address, by its own SMBIOS: a certificate names an address, and addresses get mixed up.

use std::time::Duration;

use contractor::action::StepError;
use talos::api::{
    Client, Error,
    cosi::{self, SystemInformation},
};

use crate::inventory::Node;

/// How soon is looked again whether the right machine answers.
const LATER: Duration = Duration::from_secs(1);

/// The SMBIOS UUID of whoever answers.
pub async fn found(client: &Client) -> Result<String, Error> {
    let found = client.get::<SystemInformation>(cosi::SYSTEM_INFORMATION).await?;
    Ok(found.map(|resource| resource.spec.uuid.to_lowercase()).unwrap_or_default())
}

/// Compares it with the handoff's. Another machine is waited out: the address was given to two, or leads astray.
pub fn same(node: &Node, found: String) -> Result<(), StepError> {
    let Some(expected) = node.smbios_uuid.filter(|expected| found != expected.to_string()) else { return Ok(()) };
    let found = if found.is_empty() { "none".to_owned() } else { found };
    let reason = format!(
        "{}: another machine answers at {}: its SMBIOS UUID is {found}, the handoff says {expected}; nothing was sent to it",
        node.hostname, node.ip
    );
    Err(StepError::wait(reason, LATER))
}
