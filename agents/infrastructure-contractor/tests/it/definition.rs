//! `agent.yaml` says what the code does.

use std::collections::BTreeSet;

use engine::{catalog::Catalog, report::EmissionKind};
use infrastructure_contractor::{actions, queries};
use serde_json::{Value, json};

use crate::world::World;

#[tokio::test]
async fn the_agent_definition_matches_the_code() {
    let world = World::start(238, |_| {}).await;
    let definition: Value = serde_saphyr::from_str(include_str!("../../agent.yaml")).unwrap();
    let triggers = || world.library.iter().filter_map(|definition| definition.playbook.trigger.as_ref());
    let sorted = |names: Vec<String>| json!(names.into_iter().collect::<BTreeSet<_>>());
    assert_eq!(definition["accepts"]["requests"], sorted(triggers().filter_map(|t| t.request.clone()).collect()));
    assert_eq!(definition["accepts"]["handoffs"], sorted(triggers().filter_map(|t| t.handoff.clone()).collect()));
    let emits = world.library.iter().flat_map(|definition| &definition.playbook.emits);
    let handoffs = emits.filter(|emit| emit.kind == EmissionKind::Handoff).map(|emit| emit.name.clone());
    assert_eq!(definition["emits"]["handoffs"], sorted(handoffs.collect()));
    let queries = queries::all(&world.deps);
    let named = |reads: bool| queries.iter().filter(|q| q.reads == reads).map(|q| q.name.to_owned()).collect();
    assert_eq!(definition["queries"], sorted(named(true)));
    assert_eq!(definition["commands"], sorted(named(false)));
    let playbooks = world.library.iter().map(|definition| definition.playbook.name.value.clone());
    assert_eq!(definition["playbooks"], sorted(playbooks.collect()));
    assert_eq!(definition["actions"], json!(actions(&world.deps).names()));
}
