//! Pods without room start `scale-on-pressure` once, also when the daemon starts again meanwhile.

use std::time::Duration;

use contractor::{agent::Workplace, herald::Herald};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, runtime::wait::await_condition};
use messages::{name::ClusterName, query::PoolView, request::Role, subject::Party};
use serde_json::json;
use store::{Commit, RunQuery, Store, Versioned};
use talos_contractor::{
    inventory::{self, NodeState},
    manifest,
    pressure::{Pools, Pressure},
};

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

/// Infrastructure-contractor's answer about the pools of the cluster.
struct Told;

impl Pools for Told {
    async fn of(&self, _: &ClusterName) -> Result<Vec<PoolView>, String> {
        let pool = |pool: &str, role, count, generation| PoolView {
            pool: pool.parse().unwrap(),
            role,
            count,
            machines: count,
            generation,
        };
        Ok(vec![pool("cp", Role::ControlPlane, 1, 1), pool("worker", Role::Worker, 2, 7)])
    }
}

fn pressure() -> Pressure<Told> {
    Pressure::new(PLAYBOOK, Duration::from_secs(60), Duration::from_secs(600), Told)
}

fn runs(world: &World) -> usize {
    let runs = world.bench.store.reader().runs(&RunQuery::default()).unwrap();
    runs.iter().filter(|run| run.summary.playbook == PLAYBOOK).count()
}

/// What `worker_autoscaling` of the request says.
async fn may_grow(store: &Store) {
    let mut cluster = inventory::cluster(&store.reader(), &CLUSTER.parse().unwrap()).unwrap().unwrap();
    cluster.value.spec.worker_autoscaling = Some(true);
    store.commit(Commit { inventory: vec![inventory::put_cluster(&cluster)], ..Commit::default() }).await.unwrap();
}

/// Nothing is asked for while nodes come or go.
async fn settle(store: &Store) {
    let nodes = inventory::nodes(&store.reader(), &CLUSTER.parse().unwrap()).unwrap();
    let ready = |mut node: Versioned<inventory::Node>| {
        node.value.state = NodeState::Ready;
        inventory::put_node(&node)
    };
    let inventory = nodes.into_iter().map(ready).collect();
    store.commit(Commit { inventory, ..Commit::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fires_after_the_hold_once_per_rest_and_a_restart_forgets_nothing() {
    let world = World::start(124, &[]).await;
    let (store, deps) = (&world.bench.store, &world.bench.deps);
    let herald = Herald::new(Party::Talos, tokio::sync::mpsc::unbounded_channel().0);
    let at = Workplace { store: store.clone(), herald, driver: world.bench.driver.clone() };
    let client = world.bench.client().await;
    settle(store).await;
    let mut first = pressure();
    manifest::apply(&client, &manifest::objects(GREEDY).unwrap()).await.unwrap();
    let pods = Api::<Pod>::namespaced(client, "default");
    let refused = |pod: Option<&Pod>| {
        let conditions = pod.and_then(|pod| pod.status.as_ref()).and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|is| is.reason.as_deref() == Some("Unschedulable"))
    };
    await_condition(pods, "greedy", refused).await.unwrap();
    let begin = Timestamp::now();
    let mut unwanted = pressure();
    unwanted.look(&at, deps, begin - MINUTE * 2).await;
    unwanted.look(&at, deps, begin - MINUTE).await;
    assert_eq!(runs(&world), 0, "nobody said that the cluster may grow by itself");
    may_grow(store).await;
    first.look(&at, deps, begin).await;
    assert_eq!(runs(&world), 0, "it has to last");
    first.look(&at, deps, begin + MINUTE).await;
    assert_eq!(runs(&world), 1);
    world.bench.driver.idle().await;
    let [asked] = world.bench.handoffs("scale_request").try_into().unwrap();
    assert_eq!((&asked["pool"], &asked["count"], &asked["generation"]), (&json!("worker"), &json!(3), &json!(7)));
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
