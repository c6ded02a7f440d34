//! Messages and commands of those who may not, or no more, or again: nothing comes of them.

use std::time::Duration;

use bus::{Bus, Outgoing, TailFrom, identity::Identity, streams};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use messages::{envelope::Headers, event::DeadLetter, query::Listing, signature, subject::Party};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tests::world::WorldOptions;
use uuid::Uuid;

use crate::{
    letter::{Letter, key_of, raw_client},
    scenario::{Scenario, told},
};

const REQUEST: &str = "cortex.request.infrastructure.provision_cluster";

fn request(body: Vec<u8>) -> Letter {
    Letter { body, ..Letter::new(REQUEST, "/coordinator/cortex", &Value::Null) }
}

fn good() -> Value {
    json!({ "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "single" })
}

#[test]
fn a_handoff_of_another_incarnation_or_from_the_wrong_contractor_changes_nothing() {
    let scenario = Scenario::start(&WorldOptions::default());
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "edge", "worker_nodes": 2,
    });
    let made = scenario.ask("provision_cluster", &request).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    let before = scenario.snapshot();

    let stranger = json!({
        "handoff_type": "node_removed", "cluster_name": "edge", "cluster_uid": Uuid::now_v7(),
        "nodes": [{ "hostname": "edge-cp-1", "node_uid": Uuid::now_v7(), "pool": "cp" }],
    });
    let removed =
        |uid: &Value| json!({ "handoff_type": "cluster_removed", "cluster_name": "edge", "cluster_uid": uid });
    let earlier = removed(&json!(Uuid::now_v7()));
    let clusters: Listing =
        scenario.runtime.block_on(scenario.operator.query(Party::Infrastructure, "clusters.list", json!({}))).unwrap();
    let unasked = removed(&clusters.rows[0]["cluster_uid"]);
    let mut unproven = earlier.clone();
    unproven.as_object_mut().unwrap().remove("cluster_uid");
    let fewer = json!({ "handoff_type": "scale_request", "cluster_name": "edge", "pool": "worker", "count": 1 });
    let handoff = |name: &str, source: &str, body: &Value| {
        Letter::new(&format!("cortex.handoff.infrastructure.{name}"), source, body)
    };
    let talos = key_of(&scenario, Identity::Talos);
    let infrastructure = key_of(&scenario, Identity::Infrastructure);
    let cases = [
        (handoff("node_removed", "/talos", &stranger).signed(&talos), "an earlier node's uid"),
        (handoff("cluster_removed", "/talos", &earlier).signed(&talos), "an earlier cluster's uid"),
        (handoff("cluster_removed", "/talos", &unproven).signed(&talos), "/cluster_uid"),
        (handoff("cluster_removed", "/talos", &unasked).signed(&talos), "nobody asked to be taken away"),
        (handoff("scale_request", "/talos", &fewer).signed(&talos), "fewer nodes need a request"),
        // The broker would not let it through; a broker that does is not believed either.
        (handoff("node_removed", "/infrastructure", &stranger).signed(&infrastructure), "/infrastructure may not send"),
    ];
    let letters = scenario.runtime.block_on(async {
        let link = scenario.world.nats.connect(Identity::Talos).await.unwrap();
        for (message, _) in &cases {
            link.publish(message).await.unwrap();
        }
        dead_letters(scenario.operator.bus(), cases.len()).await
    });
    for (letter, (_, expected)) in letters.iter().zip(&cases) {
        let all = serde_json::to_string(letter).unwrap();
        assert!(all.contains(expected), "{all} does not say `{expected}`");
    }
    assert_eq!(scenario.snapshot()["vms"], before["vms"]);
}

#[test]
fn a_message_that_comes_again_under_another_broker_id_is_done_once() {
    let scenario = Scenario::start(&WorldOptions::default());
    let key = key_of(&scenario, Identity::Coordinator);
    let flow = Uuid::now_v7();
    let mut letter = request(good().to_string().into_bytes());
    letter.changed.push(("cortex-correlation-id", flow.to_string()));
    let message = letter.signed(&key);
    scenario.runtime.block_on(async {
        let coordinator = scenario.world.nats.connect(Identity::Coordinator).await.unwrap();
        for copy in 0..5 {
            let mut again = message.clone();
            again.headers.insert("Nats-Msg-Id".into(), format!("copy {copy}"));
            assert!(!coordinator.publish(&again).await.unwrap().duplicate, "the broker cannot know");
        }
    });
    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    let runs: Vec<Value> =
        scenario.runtime.block_on(scenario.operator.query(Party::Infrastructure, "runs.list", json!({}))).unwrap();
    let provisions = runs.iter().filter(|run| run["playbook"] == "provision-vms").count();
    assert_eq!((provisions, scenario.machines()), (1, 1));
}

/// Plain JSON, as a script publishes it, starts a flow where policy says so; whoever names an inbox is told, in the trace that
/// it follows.
#[test]
fn plain_json_is_taken_where_policy_says_so_and_answered_where_it_asks() {
    let policy = "\n[policy]\nanonymous = [\"provision_cluster\"]\n".to_owned();
    let options = WorldOptions { more: [policy, String::new()], ..WorldOptions::default() };
    let scenario = Scenario::start(&options);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let body = json!({
        "request_type": "provision_cluster", "cluster_name": "plain", "pattern": "single", "network_cni": "flannel",
        "service_account_key": "ecdsa-p256",
    });
    let answer: Value = scenario.runtime.block_on(async {
        let coordinator = raw_client(&scenario, Identity::Coordinator).await;
        let mut inbox = coordinator.subscribe("cortex.reply.coordinator.plain").await.unwrap();
        coordinator.flush().await.unwrap();
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("cortex-reply-to", "cortex.reply.coordinator.plain");
        headers.insert("traceparent", format!("00-{trace}-00f067aa0ba902b7-01").as_str());
        let stream = async_nats::jetstream::new(coordinator);
        let subject = "cortex.request.infrastructure.provision_cluster";
        let taken = stream.publish_with_headers(subject, headers, body.to_string().into()).await.unwrap();
        taken.await.expect("the stream has it");
        let told = tokio::time::timeout(Duration::from_secs(60), inbox.next()).await.expect("an answer comes");
        serde_json::from_slice(&told.unwrap().payload).unwrap()
    });
    let flow: Uuid = answer["ok"]["flow"].as_str().unwrap_or_else(|| panic!("{answer}")).parse().unwrap();
    let made = scenario.follow(flow).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    let traces = scenario.runtime.block_on(async {
        let mut tail = scenario.operator.bus().tail(streams::EVENTS, TailFrom::Start, &[]).await.unwrap();
        let mut traces = std::collections::BTreeMap::new();
        loop {
            let event = tail.next_within(Duration::from_secs(60)).await.unwrap().expect("the flow's end is told");
            let header = |name: &str| event.headers.get(name).cloned().unwrap_or_default();
            if header("cortex-correlation-id") == flow.to_string() {
                traces.insert(header("ce-id"), header("traceparent"));
            }
            if event.subject.ends_with(".flow_succeeded") {
                return traces;
            }
        }
    });
    let spans: std::collections::BTreeSet<&String> = traces.values().collect();
    assert!(spans.iter().all(|span| span.starts_with(&format!("00-{trace}-")) && span.ends_with("-01")), "{traces:?}");
    assert_eq!(spans.len(), traces.len(), "every message is a span of its own");
    assert!(traces.len() > 20, "of both contractors: {}", traces.len());
}

/// A command as an operator signs it, spoilt in one way each; none is carried out, and a good one only once. The audit log
/// tells of each sender.
#[test]
fn commands_that_are_altered_stale_replayed_or_of_another_are_refused() {
    const SUBJECT: &str = "cortex.cmd.infrastructure.store.compact";
    let scenario = Scenario::start(&WorldOptions::default());
    let (operator, coordinator) = (key_of(&scenario, Identity::Operator), key_of(&scenario, Identity::Coordinator));
    let (ada, now) = ("/operator/ada", Timestamp::now());
    let good = order(&operator, SUBJECT, ada, now);
    let altered = Headers::from([("ce-source".to_owned(), "/operator/eve".to_owned())]);
    let altered: Headers = good.clone().into_iter().chain(altered).collect();
    let another = "the key in cortex-key is not pinned for this source";
    for (headers, body, why) in [
        (&good, b"{ }".as_slice(), "the signature does not match"),
        (&altered, b"{}", "the signature does not match"),
        (&order(&operator, SUBJECT, ada, now - SignedDuration::from_mins(10)), b"{}", "the message is stale"),
        (&order(&operator, SUBJECT, ada, now + SignedDuration::from_mins(10)), b"{}", "ahead of this clock"),
        (&order(&coordinator, SUBJECT, ada, now), b"{}", another),
        (&order(&operator, SUBJECT, "/coordinator/cortex", now), b"{}", another),
        (&order(&operator, SUBJECT, "/nobody", now), b"{}", "no key is pinned for source /nobody"),
        (&Headers::new(), b"{}", "commands must be signed"),
    ] {
        let answer = give(&scenario, SUBJECT, headers, body);
        assert!(answer.contains("\"forbidden\"") && answer.contains(why), "{answer} does not say `{why}`");
    }
    // The broker would not let these through; one that does gives nobody a right.
    for (identity, source) in
        [(Identity::Coordinator, "/coordinator/cortex"), (Identity::Mcp, "/mcp/a"), (Identity::Talos, "/talos")]
    {
        let key = key_of(&scenario, identity);
        for (party, command) in [
            ("infrastructure", "store.compact"),
            ("infrastructure", "store.export"),
            ("infrastructure", "approve"),
            ("infrastructure", "redeliver"),
            ("talos", "flows.cancel"),
            ("talos", "kubeconfig"),
            ("talos", "talosconfig"),
        ] {
            let subject = format!("cortex.cmd.{party}.{command}");
            let answer = give(&scenario, &subject, &order(&key, &subject, source, now), b"{}");
            let why = format!("{source} may not give the command {command}; /operator/* may");
            assert!(answer.contains("\"forbidden\"") && answer.contains(&why), "{answer} does not say `{why}`");
        }
    }
    assert!(give(&scenario, SUBJECT, &good, b"{}").contains("\"ok\""));
    let again = give(&scenario, SUBJECT, &good, b"{}");
    assert!(again.contains("this very command was carried out before"), "{again}");
    for _ in 0..50 {
        give(&scenario, SUBJECT, &order(&coordinator, SUBJECT, "/coordinator/cortex", now), b"{}");
    }

    let log = scenario.audit(Party::Infrastructure);
    let refused: Vec<&str> =
        log.iter().filter(|of| of.deed.did == "command_refused").map(|of| of.deed.who.as_str()).collect();
    for root in ["/operator/", "/coordinator/", "/mcp/", "/talos"] {
        assert!(refused.iter().any(|who| who.starts_with(root)), "nothing is told of {root}: {refused:?}");
    }
    assert!(refused.len() < 25, "a flood fills the log: {refused:?}");
    let carried_out: Vec<_> = log.iter().filter(|of| of.deed.did == "command_asked").map(|of| &of.deed).collect();
    let [only] = carried_out.as_slice() else { panic!("one command had its effect: {carried_out:?}") };
    assert_eq!((only.who.as_str(), only.key.as_deref()), (ada, Some(&operator.public_key()[48..])));
}

/// Headers of a command, signed over an empty object.
fn order(key: &KeyPair, subject: &str, source: &str, at: Timestamp) -> Headers {
    let mut headers = Headers::from([
        ("ce-source".to_owned(), source.to_owned()),
        ("ce-id".to_owned(), Uuid::now_v7().to_string()),
        ("ce-time".to_owned(), at.to_string()),
    ]);
    signature::sign(key, subject, &mut headers, b"{}").unwrap();
    headers
}

/// What a command is answered, over a connection that may give it.
fn give(scenario: &Scenario, subject: &str, headers: &Headers, body: &'static [u8]) -> String {
    scenario.runtime.block_on(async {
        let bus = scenario.operator.bus();
        let reply = bus.request(subject, headers, body.into(), Duration::from_secs(20)).await.unwrap();
        String::from_utf8_lossy(&reply.body).into_owned()
    })
}

/// Handoffs that were carried out come again under new ids at the broker, before and after their taker was started anew.
#[test]
fn a_handoff_that_comes_again_is_done_once_even_after_a_restart() {
    let mut scenario = Scenario::start(&WorldOptions::default());
    let request = json!({
        "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "edge", "worker_nodes": 2,
    });
    let made = scenario.ask("provision_cluster", &request).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    let fewer = json!({ "cluster_name": "edge", "pool": "worker", "count": 1 });
    let fewer = scenario.ask_with_consent("scale_request", fewer).unwrap();
    assert_eq!(fewer.state, "succeeded", "{}", told(&fewer));
    let runs = |scenario: &Scenario| {
        [Party::Infrastructure, Party::Talos].map(|party| {
            let runs = scenario.operator.query::<Vec<Value>>(party, "runs.list", json!({ "limit": 1000 }));
            scenario.runtime.block_on(runs).unwrap().len()
        })
    };
    let before = (runs(&scenario), scenario.machines());
    let handoffs = [
        (Identity::Infrastructure, "cortex.handoff.talos.vm_provisioned"),
        (Identity::Talos, "cortex.handoff.infrastructure.node_removed"),
    ]
    .map(|(giver, subject)| (giver, recorded(&scenario, subject)));
    come_again(&scenario, &handoffs, "before");
    assert_eq!((runs(&scenario), scenario.machines()), before);

    for process in [&mut scenario.world.infrastructure, &mut scenario.world.talos] {
        process.kill();
        process.start(false).unwrap();
    }
    scenario.world.wait_ready().unwrap();
    come_again(&scenario, &handoffs, "after");
    assert_eq!((runs(&scenario), scenario.machines()), before);
}

/// The first message on a subject, as its stream has it.
fn recorded(scenario: &Scenario, subject: &str) -> Outgoing {
    let bus = scenario.operator.bus();
    let mut sequence = 0;
    loop {
        sequence += 1;
        let found = scenario.runtime.block_on(bus.fetch(streams::HANDOFFS, sequence)).unwrap();
        if found.subject == subject {
            return Outgoing { subject: found.subject, headers: found.headers, body: found.body };
        }
    }
}

/// Publishes the messages as their givers, in a way that the broker cannot recognise, and waits until they are taken.
fn come_again(scenario: &Scenario, messages: &[(Identity, Outgoing)], when: &str) {
    scenario.runtime.block_on(async {
        for (giver, message) in messages {
            let mut again = message.clone();
            again.headers.insert("Nats-Msg-Id".into(), format!("again {when} {}", message.subject));
            let bus = scenario.world.nats.connect(*giver).await.unwrap();
            assert!(!bus.publish(&again).await.unwrap().duplicate, "the broker cannot know");
        }
        let give_up = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let waiting = bus::waiting(scenario.operator.bus()).await.unwrap();
            if waiting.is_empty() {
                return;
            }
            assert!(tokio::time::Instant::now() < give_up, "not taken: {waiting:?}");
        }
    });
}

/// A handoff that was stale when the stream took it stays so, whatever the operator who brings it again says of it.
#[test]
fn a_stale_handoff_cannot_be_brought_again_as_a_fresh_one() {
    let scenario = Scenario::start(&WorldOptions::default());
    let body = json!({ "handoff_type": "cluster_removed", "cluster_name": "edge", "cluster_uid": Uuid::now_v7() });
    let old = Timestamp::now() - SignedDuration::from_hours(8 * 24);
    let letter = Letter::new("cortex.handoff.infrastructure.cluster_removed", "/talos", &body);
    let letter = Letter { time: old, ..letter }.signed(&key_of(&scenario, Identity::Talos));
    let older =
        Letter { time: old - SignedDuration::from_hours(40 * 24), ..Letter::new(&letter.subject, "/talos", &body) };
    let older = older.signed(&key_of(&scenario, Identity::Talos));
    let sequences = scenario.runtime.block_on(async {
        let talos = scenario.world.nats.connect(Identity::Talos).await.unwrap();
        let mut sequences = Vec::new();
        for message in [&letter, &older] {
            sequences.push(talos.publish(message).await.unwrap().sequence);
        }
        dead_letters(scenario.operator.bus(), 2).await;
        sequences
    });
    for (sequence, why) in sequences.into_iter().zip(["the message is stale", "no longer remembered"]) {
        let redeliver = |arguments: Value| {
            let again = scenario.operator.command::<Value>(Party::Infrastructure, "redeliver", arguments);
            scenario.runtime.block_on(again).unwrap_err().to_string()
        };
        let refused = redeliver(json!({ "sequence": sequence }));
        assert!(refused.contains(why), "{refused} does not say `{why}`");
        let told = redeliver(json!({ "sequence": sequence, "published": Timestamp::now() }));
        assert_eq!(told, "argument `published` is unknown; redeliver takes sequence");
    }
}

/// The first letters that infrastructure-contractor put aside.
async fn dead_letters(bus: &Bus, count: usize) -> Vec<DeadLetter> {
    let filter = "cortex.deadletter.infrastructure".to_owned();
    let mut tail = bus.tail(streams::DEADLETTER, TailFrom::Start, &[filter]).await.unwrap();
    let mut letters: Vec<DeadLetter> = Vec::new();
    while letters.len() < count {
        let next = tail.next_within(Duration::from_secs(60)).await.unwrap();
        let next = next.unwrap_or_else(|| panic!("only {} of {count} letters: {letters:#?}", letters.len()));
        letters.push(serde_json::from_slice(&next.body).unwrap());
    }
    letters
}
