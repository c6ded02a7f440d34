//! How a node says goodbye: drain, leaving etcd, stopping what runs on it (talos.md 3.4).

use std::sync::Arc;

use super::etcd::Refusal;
use super::join;
use super::node::Boot;
use super::sequence::stop_service;

/// Cordons and drains the Kubernetes node, if there is one; gives up after five minutes.
pub(crate) async fn drain(boot: &Arc<Boot>) {
    let Some(control_plane) = join::find_control_plane(boot) else { return };
    let limit = boot.world.scale(std::time::Duration::from_secs(300)).max(std::time::Duration::from_millis(200));
    let drained = tokio::time::timeout(limit, control_plane.drain_node(&boot.name())).await;
    if !drained.unwrap_or(false) {
        boot.logs.kernel("WARNING: skipping unresolved pods during drain");
    }
}

/// Removes this node from etcd and deletes its data.
///
/// # Errors
/// When etcd refuses for five minutes.
pub(crate) async fn leave_etcd(boot: &Arc<Boot>) -> Result<(), String> {
    if !boot.is_control_plane() {
        return Ok(());
    }
    let Some(data) = boot.disk.read(|saved| saved.etcd.clone()) else { return Ok(()) };
    let only_member = data.cluster.read(|membership| membership.members().count() == 1);
    if only_member {
        return Err("failed to leave cluster: refusing to remove the last member".to_owned());
    }
    // Leadership moves first, so that the removal does not wait for an election.
    let _ = data.cluster.change(|membership| membership.forfeit(data.member));
    for attempt in 0..60 {
        match data.cluster.change(|membership| membership.remove(data.member)) {
            Ok(()) | Err(Refusal::NotFound) => break,
            Err(refusal) if attempt == 59 => return Err(format!("failed to leave cluster: {refusal}")),
            Err(_) => boot.world.idle(std::time::Duration::from_secs(5)).await,
        }
    }
    boot.etcd.stop(&data);
    stop_service(boot, "etcd");
    boot.disk.write(|saved| saved.etcd = None);
    Ok(())
}

/// Stops kubelet and etcd; the shared address is given up at once.
pub(crate) async fn stop_kubernetes(boot: &Arc<Boot>) {
    boot.work("stop of Kubernetes", 2.0).await;
    boot.state().kubelet = None;
    stop_service(boot, "kubelet");
    if let Some(data) = boot.disk.read(|saved| saved.etcd.clone()) {
        for address in boot.active_config().map(|config| config.virtual_addresses()).unwrap_or_default() {
            data.cluster.release(address, data.member);
        }
        boot.etcd.stop(&data);
        stop_service(boot, "etcd");
    }
    if let Some(key) = boot.discovery_key() {
        boot.world.fall_silent(&key, &boot.node_id());
    }
}
