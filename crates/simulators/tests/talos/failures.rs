//! Power loss, quorum and the shared address.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use secrecy::ExposeSecret as _;
use simulators::faults::Fault;
use simulators::machine::Machines as _;
use talos::api::Error;
use talos::api::cosi::{self, Change, MachineStatus};
use talos::config::generate::Role;
use tokio::net::TcpStream;

use crate::harness::{Lab, bootstrap, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shared_address_moves_and_quorum_is_lost_and_found() {
    let lab = Lab::new("v1.13.9");
    lab.cluster("v1.13.9", 0).await;
    let vip = SocketAddr::new(lab.vip(), 6443);
    until("the shared address answers", || async { TcpStream::connect(vip).await.ok() }).await;
    let holder = holder(&lab).await;
    lab.cut(holder);
    until("another control plane answers on the shared address", || async { TcpStream::connect(vip).await.ok() }).await;
    let next = self::holder(&lab).await;
    assert_ne!(next, holder);

    // With the second control plane gone there is no leader, and nobody may hold the address.
    lab.cut(next);
    let last = (1..=3).find(|number| ![holder, next].contains(number)).unwrap();
    let client = lab.secure(last).await;
    until("the member list is refused", || async {
        client.etcd_members(true).await.err().filter(|error| error.to_string().contains("no leader")).map(drop)
    })
    .await;
    until("the shared address is silent", || async { TcpStream::connect(vip).await.is_err().then_some(()) }).await;
    assert!(lab.secure(last).await.etcd_status().await.unwrap().errors.iter().any(|error| error.contains("no leader")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_shared_address_goes_on_when_its_holder_dies() {
    let lab = Lab::new("v1.13.9");
    lab.cluster("v1.13.9", 0).await;
    let kubeconfig = lab.secure(1).await.kubeconfig().await.unwrap();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(kubeconfig.expose_secret()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await;
    let mut config = config.unwrap();
    assert_eq!(config.cluster_url.host(), Some(lab.vip().to_string().as_str()));
    config.read_timeout = Some(Duration::from_secs(2));
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(kube::Client::try_from(config).unwrap());
    let read = async || nodes.list(&kube::api::ListParams::default()).await.ok().map(|list| list.items.len());
    assert_eq!(until("the reader reads", read).await, 3);
    let holder = holder(&lab).await;
    lab.cut(holder);
    assert_eq!(until("the reader reads again", read).await, 3);
    assert_ne!(self::holder(&lab).await, holder);
}

async fn holder(lab: &Lab) -> u8 {
    until("somebody holds the shared address", || async {
        (1..=3u8).find(|number| {
            lab.nodes.console(100 + u32::from(*number)).iter().any(|line| line.contains("enabled shared IP"))
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_control_plane_takes_the_place_of_its_stale_member() {
    let lab = Lab::new("v1.13.9");
    lab.cluster("v1.13.9", 0).await;
    let first = lab.secure(1).await;
    let before = first.etcd_members(false).await.unwrap();
    lab.cut(3);
    // A new disk and the same name: Talos removes the old member before it joins.
    lab.join(lab.machine(3, "v1.13.9"), 3, Role::ControlPlane).await;
    lab.running(3).await;
    let after = until("three voters again", || async {
        let members = first.etcd_members(false).await.ok()?;
        (members.len() == 3 && members.iter().all(|member| !member.is_learner)).then_some(members)
    })
    .await;
    let id = |members: &[talos::api::EtcdMember]| members.iter().find(|member| member.hostname == "demo-3").unwrap().id;
    assert_ne!(id(&before), id(&after));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_machine_breaks_open_streams_and_forgets_a_pending_bootstrap() {
    let lab = Lab::new("v1.13.9");
    let machine = lab.machine(1, "v1.13.9");
    lab.join(machine.clone(), 1, Role::ControlPlane).await;
    let client = lab.secure(1).await;
    let mut events = client.events(-1, None).await.unwrap();
    bootstrap(&client).await;
    lab.cut(1);
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event);
    }
    assert!(last.unwrap().is_err(), "a power cut is no orderly end");
    assert!(TcpStream::connect(SocketAddr::new(lab.address(1), 50000)).await.is_err());
    lab.nodes.power_on(machine);
    lab.secure(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_break_lets_so_many_frames_pass_and_ends_every_call_of_the_connection() {
    let lab = Lab::new("v1.13.9");
    lab.join(lab.machine(1, "v1.13.9"), 1, Role::ControlPlane).await;
    let client = lab.secure(1).await;
    let events = client.events(0, None).await.unwrap();
    let plan = |call: &str| lab.faults.add(Fault::parse(&format!("talos {} {call}", lab.address(1))).unwrap());
    plan("/cosi.resource.State/Watch=break:1");
    let mut watch = std::pin::pin!(client.watch::<MachineStatus>(cosi::MACHINE).await.unwrap());
    assert!(matches!(watch.next().await, Some(Ok(Change::Is(_)))), "one frame passes");
    let broken = first_error(watch).await;
    assert!(matches!(broken, Error::Broken { rpc: "Watch", .. }) && broken.is_unreachable(), "{broken}");
    let broken = first_error(events).await;
    assert!(matches!(broken, Error::Broken { rpc: "Events", .. }), "{broken}");

    for call in ["/machine.MachineService/Version=drop-request", "/machine.MachineService/Version=drop-reply"] {
        plan(call);
        let broken = client.version().await.unwrap_err();
        assert!(matches!(broken, Error::Broken { rpc: "Version", .. }), "{call}: {broken}");
        // A call that comes before the client has seen the end of the connection breaks with it.
        let again = async {
            loop {
                match client.version().await {
                    Err(Error::Broken { .. }) => {}
                    answer => return answer.unwrap(),
                }
            }
        };
        let again = tokio::time::timeout(Duration::from_secs(10), again).await.expect("it connects again");
        assert_eq!(again.tag, "v1.13.9");
    }
    assert!(lab.faults.rules().iter().all(|rule| rule.fired == 1));
}

async fn first_error<T>(mut stream: impl Stream<Item = Result<T, Error>> + Unpin) -> Error {
    loop {
        if let Err(error) = stream.next().await.expect("a stream that breaks ends with an error") {
            return error;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_whose_processors_stand_still_keeps_its_callers_waiting() {
    let lab = Lab::new("v1.13.9");
    lab.join(lab.machine(1, "v1.13.9"), 1, Role::ControlPlane).await;
    let client = lab.secure(1).await;
    let before = client.boot_id().await.unwrap();
    lab.nodes.set_frozen(101, true);
    let asked = client.boot_id();
    tokio::pin!(asked);
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut asked).await.is_err(), "nothing answers");
    lab.nodes.set_frozen(101, false);
    assert_eq!(asked.await.unwrap(), before, "and the same boot goes on");
}
