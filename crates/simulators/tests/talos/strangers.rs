//! Addresses at which another machine answers and clocks that are wrong: what the client makes of it.

use simulators::machine::Machines as _;
use simulators::talos::ClockSetting;
use talos::api::cosi::{self, MachineStatus, SystemInformation};
use talos::api::{AllowedTargets, ApplyMode, Client, Connector, Error, Strange};
use talos::config::generate::Role;
use talos::pki;

use crate::harness::{Lab, until};

const HOUR: i64 = 3600;

fn connector() -> Connector {
    Connector::new(AllowedTargets::loopback())
}

/// Tries until it ends as wanted; connections that break just now are no end.
async fn ends<T>(what: &str, attempt: impl AsyncFn() -> Result<T, Error>, wanted: impl Fn(&Error) -> bool) -> Error {
    until(what, || async { attempt().await.err().filter(|error| wanted(error)) }).await
}

async fn machine(client: &Client) -> Result<u128, Error> {
    let found = client.get::<SystemInformation>(cosi::SYSTEM_INFORMATION).await?;
    Ok(found.unwrap().spec.uuid.parse::<uuid::Uuid>().unwrap().as_u128())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_in_maintenance_mode_does_not_go_on_with_another_machine() {
    let lab = Lab::new("v1.13.9");
    for number in [1, 2] {
        lab.nodes.power_on(lab.machine(number, "v1.13.9"));
    }
    let client = lab.maintenance(1).await;
    lab.maintenance(2).await;
    assert_eq!(machine(&client).await.unwrap(), 0x1001);
    lab.nodes.divert(lab.address(1), 102, false);
    // The connection breaks and is made again by itself, as between the proof and the configuration.
    let refused = |error: &Error| matches!(error, Error::Stranger { strange: Strange::Key, .. });
    let refusal = ends(
        "the other machine is refused",
        async || machine(&client).await.map(|uuid| assert_eq!(uuid, 0x1001)),
        refused,
    );
    let refusal = refusal.await.to_string();
    assert!(refusal.contains("demo-2 without a configuration"), "{refusal}");
    let sent = client.apply_configuration(&lab.config(1, Role::ControlPlane), ApplyMode::Auto).await;
    assert!(matches!(sent, Err(Error::Stranger { .. })), "{sent:?}");
    assert_eq!(lab.nodes.guest(102).unwrap().state, "maintenance");

    assert!(lab.nodes.restore(lab.address(1)));
    until("it goes on with the right machine", || async { machine(&client).await.ok() }).await;
    client.apply_configuration(&lab.config(1, Role::ControlPlane), ApplyMode::Auto).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_is_told_by_its_certificate_or_else_by_its_machine() {
    let (lab, others) = (Lab::new("v1.13.9"), Lab::new("v1.13.9"));
    for number in [1, 2] {
        lab.join(lab.machine(number, "v1.13.9"), number, Role::ControlPlane).await;
    }
    let admin = lab.credentials(pki::Role::Admin);
    assert_eq!(machine(&lab.secure(2).await).await.unwrap(), 0x1002);
    assert_eq!(machine(&lab.secure(1).await).await.unwrap(), 0x1001);
    let address = lab.address(1);
    let secure = async || connector().secure(address, &admin).await;

    let foreign = connector().secure(address, &others.credentials(pki::Role::Admin)).await.unwrap_err();
    assert!(matches!(foreign, Error::Stranger { strange: Strange::Authority, .. }), "{foreign}");
    let open = connector().maintenance(address, None).await.unwrap_err();
    assert!(matches!(open, Error::Stranger { strange: Strange::Configured, .. }), "{open}");

    lab.nodes.divert(address, 102, false);
    let named = |error: &Error| matches!(error, Error::Stranger { strange: Strange::Name, .. });
    let astray = ends("the name is missed", secure, named).await.to_string();
    assert!(astray.contains("is answered by demo-2 (") && astray.contains("does not name this address"), "{astray}");

    // A duplicate address: the certificate is all right, the machine is not.
    lab.nodes.divert(address, 102, true);
    let reached = until("the duplicate answers", || async { secure().await.ok() }).await;
    assert_eq!(machine(&reached).await.unwrap(), 0x1002);
    assert!(lab.nodes.restore(address) && !lab.nodes.restore(address));
    until("its owner answers", || async { (machine(&secure().await.ok()?).await.ok()? == 0x1001).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_clock_shows_on_both_sides_of_a_connection() {
    let lab = Lab::new("v1.13.9");
    lab.nodes.set_clock(101, ClockSetting { ahead_seconds: 0, synced: false });
    lab.join(lab.machine(1, "v1.13.9"), 1, Role::ControlPlane).await;
    let (address, admin) = (lab.address(1), lab.credentials(pki::Role::Admin));
    let client = lab.secure(1).await;
    let unmet = until("it boots", || async {
        let status = client.get::<MachineStatus>(cosi::MACHINE).await.ok()??.spec;
        Some(status.status?.unmet_conditions).filter(|unmet| !unmet.is_empty())
    });
    assert_eq!(unmet.await[0].reason, "time is not synced");
    let bootstrap = async || client.bootstrap().await;
    let told = |error: &Error| !error.to_string().contains("not available yet");
    let refusal = ends("the bootstrap is refused", bootstrap, told).await;
    assert_eq!(refusal.code(), Some(talos::api::Code::FailedPrecondition), "{refusal}");
    assert!(refusal.to_string().contains("time is not in sync yet"), "{refusal}");

    let secure = async || connector().secure(address, &admin).await;
    for (ahead_seconds, told) in [(HOUR, "its clock is ahead"), (-HOUR, "refuses our certificate")] {
        lab.nodes.set_clock(101, ClockSetting { ahead_seconds, synced: true });
        let wanted = |error: &Error| matches!(error, Error::Clock(_)) && error.to_string().contains(told);
        let error = ends("the clocks disagree", secure, wanted).await.to_string();
        assert!(error.contains("demo-1 (127.250."), "{error}");
    }
    lab.nodes.set_clock(101, ClockSetting::default());
    let client = until("the clock is right again", || async { secure().await.ok() }).await;
    assert_eq!(machine(&client).await.unwrap(), 0x1001);
    crate::harness::bootstrap(&client).await;
    lab.running(1).await;
}
