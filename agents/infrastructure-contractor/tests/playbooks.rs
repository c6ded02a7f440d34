//! The shipped playbooks are checked against the actions and messages that they name.

use contractor::runtime::message_schema;
use engine::library::{Library, World};
use infrastructure_contractor::{Deps, actions, config::Sections, playbooks};
use store::{Options, Store};

fn deps(folder: &std::path::Path) -> Deps {
    let credential = folder.join("token");
    std::fs::write(&credential, "cortex@pve!infra=0000").unwrap();
    let pin = "AB:".repeat(31) + "AB";
    let sections: Sections = toml::from_str(&format!(
        r#"
        [proxmox]
        endpoints = ["https://127.0.0.1:8006"]
        credential_file = "{}"
        fingerprints = ["{pin}"]

        [[network]]
        name = "lan"
        cidr = "127.0.0.0/24"
        gateway = "127.0.0.1"
        ranges = ["127.0.0.10-127.0.0.99"]
        bridge = "vmbr0"
        "#,
        credential.display()
    ))
    .unwrap();
    let store = Store::open(&folder.join("store"), Options::default()).unwrap();
    Deps::new(sections, &["127.0.0.0/8".to_owned()], store).unwrap()
}

#[tokio::test]
async fn every_shipped_playbook_fits_its_actions_and_messages() {
    let folder = tempfile::tempdir().unwrap();
    let actions = actions(&deps(folder.path()));
    let world = World { catalog: &actions, messages: &message_schema };
    let library = Library::load(&playbooks::shipped(), &world).unwrap_or_else(|problems| panic!("{problems}"));
    let triggered: Vec<_> = library.iter().filter(|definition| definition.playbook.trigger.is_some()).collect();
    assert_eq!(triggered.len(), 7, "one for each message that infrastructure takes");
}
