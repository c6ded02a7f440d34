//! A cluster to point other makers' clients at.

use simulators::kubernetes::Cni;

use crate::harness::{World, eventually, kubeconfig};

/// `KUBECONFIG_OUT=/tmp/k cargo test -p simulators --test kubernetes -- --ignored by_hand`, then `kubectl --kubeconfig /tmp/k`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "serves until it is interrupted"]
async fn a_cluster_is_served_by_hand() {
    let mut world = World::start().await;
    world.bootstrap(Cni::Flannel);
    for name in ["cp-1", "cp-2", "cp-3"] {
        world.add_node(name, true);
    }
    for name in ["w-1", "w-2"] {
        world.add_node(name, false);
    }
    let config = kubeconfig(&world.identity, &world.server, "admin", &["system:masters"]);
    let file = std::env::var("KUBECONFIG_OUT").expect("KUBECONFIG_OUT names the file to write");
    std::fs::write(&file, serde_json::to_string(&config).expect("json")).expect("written");
    let plane = world.control_plane.clone();
    eventually(&plane, "five nodes", || plane.list("nodes", None).len() == 5).await;
    std::future::pending::<()>().await;
}
