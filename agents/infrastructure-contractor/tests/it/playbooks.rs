//! The shipped playbooks are checked against the actions and messages that they name.

use crate::world::World;

#[tokio::test]
async fn every_shipped_playbook_fits_its_actions_and_messages() {
    let world = World::start(240, |_| {}).await;
    let triggered = world.library.iter().filter(|definition| definition.playbook.trigger.is_some()).count();
    assert_eq!(triggered, 7, "one for each message that infrastructure takes");
}

#[tokio::test]
async fn a_new_cluster_is_planned_without_touching_anything() {
    let world = World::start(241, |_| {}).await;
    let body = serde_json::json!({
        "request_type": "provision_cluster", "cluster_name": "prod", "pattern": "ha", "storage_backend": "local-path",
    });
    let plan = world.driver.plan("provision-vms", uuid::Uuid::new_v4(), &body).await.unwrap();
    let again = world.driver.plan("provision-vms", uuid::Uuid::new_v4(), &body).await.unwrap();
    assert_eq!(plan.hash(), again.hash(), "the same world gives the same plan");
    let changes: Vec<_> = plan.steps.iter().flat_map(|step| &step.changes).collect();
    let created: Vec<_> = changes.iter().filter(|change| change.verb == "create").map(|c| c.object.as_str()).collect();
    assert_eq!(created.len(), 6);
    assert_eq!(created[0], "vm 100 prod-cp-1 on pve1");
    assert_eq!(changes.iter().filter(|change| change.verb == "reserve").count(), 1, "the VIP");
    assert!(world.proxmox.snapshot().vms.is_empty() && world.keys("").is_empty());
}
