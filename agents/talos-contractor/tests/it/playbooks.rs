//! Every playbook that ships fits the actions and messages that it names, and the agent's definition names them all.

use std::{collections::BTreeSet, sync::Arc};

use contractor::{action::Actions, runtime::message_schema};
use engine::{
    catalog::Catalog,
    library::{Definition, Library, World},
};
use serde_json::{Value, json};
use talos::api::AllowedTargets;
use talos_contractor::{
    actions::actions,
    background::CONDITIONS,
    playbooks::playbooks,
    queries::queries,
    reach::Deps,
    settings::{AddonSettings, TalosSettings},
};

use crate::bench::Bench;

fn shipped() -> (Actions, Library) {
    let actions = actions(&Deps::new(TalosSettings::default(), AddonSettings::default(), AllowedTargets::loopback()));
    let world = World { catalog: &actions, messages: &message_schema, conditions: CONDITIONS };
    let library = Library::load(&playbooks(), &world).unwrap_or_else(|problems| panic!("{problems}"));
    (actions, library)
}

#[test]
fn every_shipped_playbook_is_checked_against_the_actions() {
    assert_eq!(shipped().1.iter().count(), playbooks().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_definition_matches_registry() {
    let text = include_str!("../../agent.yaml");
    let definition: Value = serde_saphyr::from_str(text).unwrap();
    let (actions, library) = shipped();
    let triggers = library.iter().filter_map(|definition| definition.playbook.trigger.as_ref());
    let accepts: BTreeSet<_> = triggers.filter_map(|trigger| trigger.handoff.clone()).collect();
    let emits = library.iter().flat_map(|definition| &definition.playbook.emits);
    let emits: BTreeSet<_> = emits.map(|emit| emit.name.clone()).collect();
    let starts_by_itself = |definition: &&Arc<Definition>| {
        definition.playbook.trigger.as_ref().is_some_and(|it| it.cron.is_some() || it.condition.is_some())
    };
    let own: BTreeSet<_> =
        library.iter().filter(starts_by_itself).map(|definition| definition.playbook.name.value.clone()).collect();
    let bench = Bench::start(124, &[]).await;
    let queries = queries(&bench.deps, &bench.store.reader());
    let named = |reads: bool| {
        queries.iter().filter(|query| query.reads == reads).map(|query| query.name).collect::<BTreeSet<_>>()
    };
    assert_eq!(definition["accepts"]["handoffs"], json!(accepts));
    assert_eq!(definition["emits"]["handoffs"], json!(emits));
    assert_eq!(definition["starts_by_itself"], json!(own));
    let names: BTreeSet<_> = library.iter().map(|definition| definition.playbook.name.value.clone()).collect();
    assert_eq!(definition["playbooks"], json!(names));
    assert_eq!(definition["actions"], json!(actions.names()));
    assert_eq!(definition["queries"], json!(named(true)));
    assert_eq!(definition["commands"], json!(named(false)));
}
