//! Disks that are full: of a contractor's store and of the broker. What waits says so and what to do, nothing is lost, and
//! with room again the work goes on.
//!
//! A small tmpfs is mounted for it, which needs root. Where that is not possible the store's reserve and the stream's limit
//! stand in for it: then the refusals are ours and the broker's, not the file system's, and what was not tried is printed.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use bus::{Outgoing, PublishError, identity::Identity, streams};
use messages::subject::Party;
use tests::world::WorldOptions;

use crate::{
    broker::{edge, expect_one_of_each, wait_for_event, wait_for_trouble, wait_until_healthy},
    scenario::Scenario,
};

const INFRASTRUCTURE: usize = 0;

/// A file system of its own; gone when dropped.
struct Small(PathBuf);

impl Small {
    /// None where this process may not mount, or is told not to by `DISK_WITHOUT_MOUNT=1`.
    fn mount(at: &Path, mib: u32) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={mib}m,mode=0700");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at);
        let may = std::env::var_os("DISK_WITHOUT_MOUNT").is_none();
        let mounted = may && mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self(at.to_owned()))
    }

    /// Takes all that is free but `leave` MiB.
    fn fill(&self, leave: u64) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        let block = vec![0_u8; 64 << 10];
        while fs4::available_space(&self.0).unwrap() > leave << 20 {
            if file.write_all(&block).is_err() {
                break;
            }
        }
        filler
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Room on the disk of a store that comes to an end.
struct Shortage {
    small: Option<Small>,
    filler: Option<PathBuf>,
}

impl Shortage {
    /// On a file system of its own for the store of infrastructure-contractor, where that can be had.
    fn to_be(folder: &Path) -> Self {
        Self { small: Small::mount(&folder.join("infrastructure-store"), 160), filler: None }
    }

    /// Leaves less than the reserve.
    fn begin(&mut self, scenario: &mut Scenario) {
        self.filler = self.small.as_ref().map(|small| small.fill(20));
        if self.filler.is_none() {
            start_with_reserve(scenario, Some(4_000_000_000));
        }
        wait_for_trouble(scenario, INFRASTRUCTURE, "make room on the file system of store.path");
    }

    fn end(&mut self, scenario: &mut Scenario) {
        match self.filler.take() {
            Some(filler) => fs::remove_file(filler).unwrap(),
            None => start_with_reserve(scenario, None),
        }
    }
}

/// Starts infrastructure-contractor again with another reserve, in MiB.
fn start_with_reserve(scenario: &mut Scenario, mib: Option<u32>) {
    let config = scenario.world.folder.join("infrastructure-contractor.toml");
    let text = fs::read_to_string(&config).unwrap();
    let sound: String = text.split_inclusive('\n').filter(|line| !line.starts_with("reserve_mib")).collect();
    let reserve = mib.map(|mib| format!("reserve_mib = {mib}\n")).unwrap_or_default();
    fs::write(&config, sound.replace("[store]\n", &format!("[store]\n{reserve}"))).unwrap();
    scenario.world.infrastructure.kill();
    scenario.world.infrastructure.start(false).unwrap();
    scenario.world.wait_ready().unwrap();
}

/// Says so past the test harness, which keeps what tests print to itself unless they fail.
fn not_tried(what: &str) {
    let _ = writeln!(std::io::stderr(), "not tried, as nothing can be mounted here without root: {what}");
}

#[test]
fn a_store_without_room_makes_work_wait_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut shortage = Shortage::to_be(folder.path());
    let mut scenario = Scenario::start_in(folder, &WorldOptions::default());
    let flow = edge(&scenario);
    wait_for_event(&scenario, "vm_reserved");
    shortage.begin(&mut scenario);
    shortage.end(&mut scenario);
    wait_until_healthy(&scenario, INFRASTRUCTURE);
    expect_one_of_each(&scenario, flow);

    // Without a reserve the file system itself refuses: the daemon ends, says why, and loses nothing.
    let Some(small) = shortage.small else {
        return not_tried("a file system that refuses a daemon's writes");
    };
    start_with_reserve(&mut scenario, Some(0));
    let filler = small.fill(0);
    let request = serde_json::json!({
        "request_type": "provision_cluster", "cluster_name": "other", "pattern": "single",
    });
    // Whether it was taken is open: the disk may be full before.
    let asked = scenario.submit("provision_cluster", &request);
    let give_up = Instant::now() + Duration::from_secs(120);
    while scenario.world.infrastructure.ended().is_none() {
        let _ = scenario.submit("provision_cluster", &request);
        assert!(Instant::now() < give_up, "the daemon goes on without room:\n{}", scenario.world.infrastructure.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    let said = scenario.world.infrastructure.log();
    assert!(said.contains("when there is room and the disk is sound, start the daemon again"), "{said}");
    fs::remove_file(filler).unwrap();
    scenario.world.infrastructure.kill();
    scenario.world.infrastructure.start(false).unwrap();
    scenario.world.wait_ready().unwrap();
    let flow = asked.unwrap_or_else(|_| scenario.submit("provision_cluster", &request).unwrap());
    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{}", crate::scenario::told(&made));
}

#[test]
fn a_message_for_which_a_store_has_no_room_is_not_delivered_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut shortage = Shortage::to_be(folder.path());
    let mut scenario = Scenario::start_in(folder, &WorldOptions::default());
    shortage.begin(&mut scenario);
    let request = serde_json::json!({
        "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "edge", "worker_nodes": 1,
    });
    let flow = uuid::Uuid::now_v7();
    let publish = scenario.operator.publish(Party::Infrastructure, "provision_cluster", flow, &request);
    scenario.runtime.block_on(publish).unwrap();
    // It would come again after two seconds, then after four, each time nearer to its last delivery.
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        let consumer = consumer(&scenario, &streams::requests_of(Party::Infrastructure));
        let count = consumer["delivered"]["consumer_seq"].as_u64().unwrap();
        assert!(count <= 1 && consumer["num_redelivered"] == 0, "{consumer}");
        std::thread::sleep(Duration::from_millis(200));
    }
    shortage.end(&mut scenario);
    expect_one_of_each(&scenario, flow);
}

/// What the broker says of a consumer of the requests.
fn consumer(scenario: &Scenario, durable: &str) -> serde_json::Value {
    scenario.runtime.block_on(async {
        let admin = scenario.world.nats.connect(Identity::Admin).await.unwrap();
        let subject = format!("$JS.API.CONSUMER.INFO.{}.{durable}", streams::REQUESTS);
        let none = std::collections::BTreeMap::new();
        let info = admin.request(&subject, &none, bytes::Bytes::new(), Duration::from_secs(10)).await.unwrap();
        serde_json::from_slice(&info.body).unwrap()
    })
}

#[test]
fn a_broker_without_room_refuses_publishers_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&folder.path().join("nats/jetstream"), 24) else {
        not_tried("a broker whose file system is full");
        return a_stream_at_its_limit_refuses_publishers(folder);
    };
    let mut scenario = Scenario::start_in(folder, &WorldOptions::default());
    let flow = edge(&scenario);
    wait_for_event(&scenario, "vm_created");
    let filler = small.fill(0);
    wait_for_trouble(&scenario, INFRASTRUCTURE, "messages wait in the outbox");
    let error = publish(&scenario);
    assert!(!error.is_permanent(), "what can be published later is not given up: {error}");
    fs::remove_file(filler).unwrap();
    // A broker whose disk was full does without its streams until it is started again.
    scenario.world.nats.start_again().unwrap();
    expect_one_of_each(&scenario, flow);
    wait_until_healthy(&scenario, INFRASTRUCTURE);
}

/// The same where nothing can be mounted: the stream's own limit stands for the disk.
fn a_stream_at_its_limit_refuses_publishers(folder: tempfile::TempDir) {
    let scenario = Scenario::start_in(folder, &WorldOptions::default());
    let limit = |bytes: &str| {
        scenario.runtime.block_on(async {
            let admin = scenario.world.nats.connect(Identity::Admin).await.unwrap();
            let patience = Duration::from_secs(10);
            let none = std::collections::BTreeMap::new();
            let known = admin
                .request("$JS.API.STREAM.INFO.CORTEX_HANDOFFS", &none, bytes::Bytes::new(), patience)
                .await
                .unwrap();
            let mut config: serde_json::Value = serde_json::from_slice(&known.body).unwrap();
            let mut config = config["config"].take();
            config["max_bytes"] = bytes.parse::<i64>().unwrap().into();
            let body = bytes::Bytes::from(config.to_string());
            admin.request("$JS.API.STREAM.UPDATE.CORTEX_HANDOFFS", &none, body, patience).await.unwrap();
        });
    };
    limit("64");
    let flow = edge(&scenario);
    wait_for_trouble(&scenario, INFRASTRUCTURE, "messages wait in the outbox");
    scenario.runtime.block_on(scenario.world.nats.init()).unwrap();
    expect_one_of_each(&scenario, flow);
    wait_until_healthy(&scenario, INFRASTRUCTURE);
}

fn publish(scenario: &Scenario) -> PublishError {
    scenario.runtime.block_on(async {
        let coordinator = scenario.world.nats.connect(Identity::Coordinator).await;
        let Ok(coordinator) = coordinator else { return PublishError::Unknown("the broker does not answer".into()) };
        let message = Outgoing {
            subject: "cortex.request.infrastructure.provision_cluster".to_owned(),
            headers: [("Nats-Msg-Id".to_owned(), "full".to_owned())].into(),
            body: vec![b' '; 64 << 10].into(),
        };
        coordinator.publish(&message).await.expect_err("the broker has no room")
    })
}
