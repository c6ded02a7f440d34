//! Every playbook that ships fits the actions and messages that it names.

use contractor::runtime::message_schema;
use engine::library::{Library, World};
use talos::api::AllowedTargets;
use talos_contractor::{actions::actions, playbooks::playbooks, reach::Deps, settings::*};

#[test]
fn every_shipped_playbook_is_checked_against_the_actions() {
    let actions = actions(&Deps::new(TalosSettings::default(), AddonSettings::default(), AllowedTargets::loopback()));
    let world = World { catalog: &actions, messages: &message_schema };
    let library = Library::load(&playbooks(), &world).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(library.iter().count(), playbooks().len());
}
