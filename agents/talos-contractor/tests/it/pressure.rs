//! Pods without room start `scale-on-pressure` once, also when the daemon starts again meanwhile.

use std::time::Duration;

use contractor::{agent::Workplace, herald::Herald};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, runtime::wait::await_condition};
use messages::subject::Party;
use store::RunQuery;
use talos_contractor::{inventory, manifest, pressure::Pressure};

use crate::{bench::CLUSTER, world::World};

const PLAYBOOK: &str = "scale-on-pressure";
const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// More than any of the nodes has.
const GREEDY: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: greedy, namespace: default }
spec:
  containers: [{ name: one, image: "registry.example/one:1", resources: { requests: { cpu: "64" } } }]
"#;

fn pressure() -> Pressure {
    Pressure::new(PLAYBOOK, Duration::from_secs(60), Duration::from_secs(600))
}

fn runs(world: &World) -> usize {
    let runs = world.bench.store.reader().runs(&RunQuery::default()).unwrap();
    runs.iter().filter(|run| run.summary.playbook == PLAYBOOK).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fires_after_the_hold_once_per_rest_and_a_restart_forgets_nothing() {
    let world = World::start(124, &[]).await;
    let (store, deps) = (&world.bench.store, &world.bench.deps);
    let herald = Herald::new(Party::Talos, tokio::sync::mpsc::unbounded_channel().0);
    let at = Workplace { store: store.clone(), herald, driver: world.bench.driver.clone() };
    let client = world.bench.client().await;
    let mut first = pressure();
    manifest::apply(&client, &manifest::objects(GREEDY).unwrap()).await.unwrap();
    let pods = Api::<Pod>::namespaced(client, "default");
    let refused = |pod: Option<&Pod>| {
        let conditions = pod.and_then(|pod| pod.status.as_ref()).and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|is| is.reason.as_deref() == Some("Unschedulable"))
    };
    await_condition(pods, "greedy", refused).await.unwrap();
    let begin = Timestamp::now();
    first.look(&at, deps, begin).await;
    assert_eq!(runs(&world), 0, "it has to last");
    first.look(&at, deps, begin + MINUTE).await;
    assert_eq!(runs(&world), 1);
    let row = store.reader().get::<inventory::Fired>(&inventory::trigger_key(&CLUSTER.parse().unwrap(), PLAYBOOK));
    assert_eq!(row.unwrap().unwrap().value.at, begin + MINUTE);

    // The daemon starts again: the hold begins anew, the rest does not.
    let mut second = pressure();
    second.look(&at, deps, begin + MINUTE * 2).await;
    second.look(&at, deps, begin + MINUTE * 10).await;
    assert_eq!(runs(&world), 1, "it still rests");
    second.look(&at, deps, begin + MINUTE * 11).await;
    assert_eq!(runs(&world), 2);
}
