//! From power-on to a cluster, and what may go wrong on the way.

use talos::config::generate::Role;

use crate::harness::{Lab, bootstrap, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_control_planes_and_workers_become_one_cluster() {
    let lab = Lab::new("v1.13.9");
    lab.cluster("v1.13.9", 2).await;
    let first = lab.secure(1).await;
    let members = until("three voters", || async {
        let members = first.etcd_members(false).await.ok()?;
        (members.len() == 3 && members.iter().all(|member| !member.is_learner)).then_some(members)
    })
    .await;
    let mut names: Vec<_> = members.iter().map(|member| member.hostname.clone()).collect();
    names.sort();
    assert_eq!(names, ["demo-1", "demo-2", "demo-3"]);
    let again = first.bootstrap().await.unwrap_err().to_string();
    assert!(again.contains("etcd data directory is not empty"), "{again}");
    let worker = lab.secure(4).await.bootstrap().await.unwrap_err().to_string();
    assert!(worker.contains("only available on control plane nodes"), "{worker}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_bootstraps_make_two_clusters() {
    let lab = Lab::new("v1.13.9");
    for number in [1, 2] {
        lab.join(lab.machine(number, "v1.13.9"), number, Role::ControlPlane).await;
    }
    let (first, second) = (lab.secure(1).await, lab.secure(2).await);
    let (one, two) = tokio::join!(bootstrap(&first), bootstrap(&second));
    let ((), ()) = (one, two);
    for client in [&first, &second] {
        let members = until("a member list", || async { client.etcd_members(true).await.ok() }).await;
        assert_eq!(members.len(), 1);
    }
}
