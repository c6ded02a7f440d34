//! Every kind of bad message at both contractors, on each of their streams: put aside with its reason, no value of it told
//! anywhere, and the next good one answered within a second.

mod given_up;
mod oversized;

use std::time::{Duration, Instant};

use bus::{Outgoing, Recorded, TailFrom, identity::Identity, streams};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use messages::{envelope::Headers, event::DeadLetter, subject::Party};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tests::world::WorldOptions;
use uuid::Uuid;

use crate::{
    canary::needles::{Needles, Search},
    letter::{Letter, key_of, raw_client},
    scenario::{Scenario, told},
};

/// A value that must not come back in any word about a message that was refused.
const SECRET: &str = "hunter2-in-the-body";
/// From the publish of a good message to its answer, with a bad one just before it.
const SOON: Duration = Duration::from_secs(1);
/// Where the answers go.
const ANSWERS: &str = "cortex.reply.operator";

/// One way of messages to a contractor.
struct Lane {
    at: Party,
    stream: &'static str,
    consumer: &'static str,
    sender: Identity,
    source: &'static str,
    subject: &'static str,
    /// A body that is taken, of the cluster of this name.
    body: fn(&str) -> Value,
    /// Of one that lives, or of one that nobody knows.
    of_a_cluster: bool,
}

const LANES: [Lane; 3] = [
    Lane {
        at: Party::Infrastructure,
        stream: streams::REQUESTS,
        consumer: "requests-infrastructure",
        sender: Identity::Coordinator,
        source: "/coordinator/cortex",
        subject: "cortex.request.infrastructure.decommission_request",
        body: |cluster| json!({ "cluster_name": cluster }),
        of_a_cluster: true,
    },
    Lane {
        at: Party::Infrastructure,
        stream: streams::HANDOFFS,
        consumer: "handoffs-infrastructure",
        sender: Identity::Talos,
        source: "/talos",
        subject: "cortex.handoff.infrastructure.cluster_removed",
        body: |cluster| json!({ "handoff_type": "cluster_removed", "cluster_name": cluster, "cluster_uid": Uuid::now_v7() }),
        of_a_cluster: false,
    },
    Lane {
        at: Party::Talos,
        stream: streams::HANDOFFS,
        consumer: "handoffs-talos",
        sender: Identity::Infrastructure,
        source: "/infrastructure",
        subject: "cortex.handoff.talos.decommission_request",
        body: |cluster| json!({ "handoff_type": "decommission_request", "cluster_name": cluster, "cluster_uid": Uuid::now_v7() }),
        of_a_cluster: false,
    },
];

/// Of what was altered after it was signed.
const UNSIGNED: &str = "the signature does not match subject, headers and body";

fn rename(headers: &mut Headers, _: &mut Vec<u8>) {
    headers.insert("ce-subject".into(), "another".into());
}

impl Lane {
    fn letter(&self, body: Vec<u8>) -> Letter {
        Letter { body, ..Letter::new(self.subject, self.source, &Value::Null) }
    }

    fn good(&self, number: usize) -> Letter {
        let cluster = if self.of_a_cluster { "edge".to_owned() } else { format!("nobody-{number}") };
        Letter::new(self.subject, self.source, &(self.body)(&cluster))
            .with("cortex-reply-to", format!("{ANSWERS}.{number}"))
    }

    /// Every bad message with a part of the reason that must be given; as many as can be hold the secret.
    fn bad(&self, own: &KeyPair, stranger: &KeyPair) -> Vec<(Outgoing, &'static str)> {
        let sound = || self.letter((self.body)("edge").to_string().into_bytes());
        let kind = self.subject.rsplit('.').next().unwrap();
        let family = self.subject.split('.').nth(1).unwrap();
        let text = |body: String| self.letter(body.into_bytes());
        let deep = [vec![b'['; 10_000], vec![b']'; 10_000]].concat();
        let not_utf8 = [b"{\"cluster_name\":\"", SECRET.as_bytes(), b"\xff\xfe\"}"].concat();
        let mut unfit = (self.body)("edge");
        unfit["cluster_name"] = json!([SECRET]);
        // The largest that the stream takes, headers included.
        let large = json!({ "cluster_name": SECRET.repeat(125 * 1024 / SECRET.len()) });
        let no_such = self.subject.replace(kind, "no_such_thing");
        let of_another = Letter { subject: no_such.clone(), ..sound() };
        let cases = [
            (self.letter(Vec::new()), "the body is empty"),
            (self.letter(not_utf8), "not UTF-8"),
            (self.letter(deep), "recursion limit exceeded"),
            (text(format!(r#"{{"cluster_name":"{SECRET}","count":1e400}}"#)), "number out of range"),
            (text(format!(r#"{{"cluster_name":"edge","cluster_name":"{SECRET}"}}"#)), "duplicate key"),
            (text(format!(r#"{{"cluster_name":"{SECRET}"#)), "not acceptable JSON"),
            (text(format!("[\"{SECRET}\"]")), "does not validate: 1 violation"),
            (text(unfit.to_string()), "does not validate"),
            (text(large.to_string()), "does not validate"),
            (sound().with("ce-type", format!("cortex.{family}.{kind}.v9")), "ce-type must be"),
            (of_another.with("ce-type", format!("cortex.{family}.no_such_thing.v1")), "no_such_thing"),
            (sound().with("ce-subject", "another"), "envelope and body are about different clusters"),
            (sound().with("ce-subject", "UPPER"), "ce-subject must be a cluster name"),
            (Letter { time: Timestamp::now() - SignedDuration::from_hours(8 * 24), ..sound() }, "the message is stale"),
            (Letter { source: "/nobody".into(), ..sound() }, "no key is pinned for source /nobody"),
            (Letter { altered: Some(|_, body| body.push(b' ')), ..sound() }, UNSIGNED),
            (Letter { altered: Some(rename), ..sound() }, UNSIGNED),
            (
                Letter { source: format!("/operator/{}", "a".repeat(40_000)), ..sound() }
                    .with("Nats-Msg-Id", format!("long-{kind}")),
                "ce-source must be a path such as",
            ),
            (sound().with("authorization", format!("Bearer {SECRET}")).with("ce-id", ""), "header ce-id is missing"),
        ];
        let mut messages: Vec<_> = cases.into_iter().map(|(letter, why)| (letter.signed(own), why)).collect();
        messages.push((sound().signed(stranger), "is not pinned for this source"));
        let mut bare = text(json!({ "cluster_name": "edge", "x": SECRET }).to_string()).signed(own);
        bare.headers.retain(|name, _| name == "Nats-Msg-Id");
        messages.push((bare, "unsigned messages may not ask for"));
        messages
    }
}

#[test]
fn after_every_kind_of_bad_message_the_next_good_one_is_answered_within_a_second() {
    let scenario = Scenario::start(&WorldOptions { log: "debug".into(), ..WorldOptions::default() });
    let request = json!({ "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "single" });
    let made = scenario.ask("provision_cluster", &request).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    let stranger = key_of(&scenario, Identity::Mcp);
    let (mut worst, mut count) = (Duration::ZERO, 0);
    for lane in &LANES {
        let cases = lane.bad(&key_of(&scenario, lane.sender), &stranger);
        let before = letters(&scenario, lane.at, 0).len();
        for (number, (bad, why)) in cases.iter().enumerate() {
            let took = answered_after(&scenario, lane, bad, number);
            assert!(took <= SOON, "{}: {took:?} after a message for which `{why}`", lane.consumer);
            worst = worst.max(took);
            count += 1;
        }
        let found = letters(&scenario, lane.at, before + cases.len());
        assert_eq!(found.len(), before + cases.len(), "one letter for each");
        for (letter, (bad, why)) in found[before..].iter().zip(&cases) {
            let letter: DeadLetter = serde_json::from_slice(&letter.body).unwrap();
            assert!(letter.reason.contains(why), "{}: `{}` does not say `{why}`", lane.consumer, letter.reason);
            assert_eq!((letter.at, letter.subject), (lane.at.to_string(), bad.subject.clone()));
        }
        expect_nothing_comes_again(&scenario, lane);
    }
    println!("the slowest of {count} good messages was answered {worst:?} after its publish");
    assert_eq!(scenario.machines(), 1, "nothing bad was carried out");
    expect_no_value_told(&scenario);
}

/// How long after its publish a good message is answered, with a bad one just before it.
fn answered_after(scenario: &Scenario, lane: &Lane, bad: &Outgoing, number: usize) -> Duration {
    scenario.runtime.block_on(async {
        let sender = scenario.world.nats.connect(lane.sender).await.unwrap();
        let listener = raw_client(scenario, Identity::Operator).await;
        let mut answers = listener.subscribe(format!("{ANSWERS}.{number}")).await.unwrap();
        listener.flush().await.unwrap();
        let good = lane.good(number).signed(&key_of(scenario, lane.sender));
        sender.publish(bad).await.unwrap();
        let published = Instant::now();
        sender.publish(&good).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(60), answers.next()).await;
        let took = published.elapsed();
        let answer: Value = serde_json::from_slice(&answer.expect("an answer comes").unwrap().payload).unwrap();
        assert!(answer["ok"]["flow"].is_string(), "{}: {answer}", lane.consumer);
        sender.close().await;
        took
    })
}

/// A refused message is terminated: it is neither waited for nor delivered again.
fn expect_nothing_comes_again(scenario: &Scenario, lane: &Lane) {
    let info = format!("CONSUMER.INFO.{}.{}", lane.stream, lane.consumer);
    let seen = scenario.until("every message is answered", || {
        let consumer = scenario.broker(&info, &json!({}));
        let is_done = consumer["num_ack_pending"] == 0 && consumer["num_pending"] == 0;
        is_done.then_some(consumer.clone()).ok_or_else(|| consumer.to_string())
    });
    assert_eq!(seen["num_redelivered"], 0, "{seen}");
    assert_eq!(seen["delivered"]["consumer_seq"], seen["ack_floor"]["consumer_seq"], "{seen}");
}

/// What the dead letter stream holds by one contractor; waits until there are so many.
pub(crate) fn letters(scenario: &Scenario, at: Party, count: usize) -> Vec<Recorded> {
    let filter = format!("cortex.deadletter.{at}");
    scenario.until(&format!("{count} letters of {at}"), || {
        let found = recorded(scenario, streams::DEADLETTER, &filter);
        if found.len() >= count { Ok(found) } else { Err(format!("{}", found.len())) }
    })
}

fn recorded(scenario: &Scenario, stream: &str, filter: &str) -> Vec<Recorded> {
    scenario.runtime.block_on(async {
        let admin = scenario.world.nats.connect(Identity::Admin).await.unwrap();
        let mut tail = admin.tail(stream, TailFrom::Start, &[filter.to_owned()]).await.unwrap();
        let (mut found, mut left) = (Vec::new(), tail.pending);
        while left > 0 {
            let recorded = tail.next().await.unwrap();
            left = recorded.pending;
            found.push(recorded);
        }
        admin.close().await;
        found
    })
}

/// The secret stands in no word about a refused message, in no form: dead letters and the broker's own, `rejected` events,
/// audit logs, logs.
fn expect_no_value_told(scenario: &Scenario) {
    let mut needles = Needles::default();
    needles.add("the secret", SECRET.as_bytes());
    let search = needles.search();
    let in_all = |search: &Search<'_>, found: &[Recorded]| {
        let headers =
            |it: &Recorded| it.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect::<String>();
        let told = |it: &Recorded| [it.body.to_vec(), headers(it).into_bytes()].concat();
        found.iter().filter(|it| !search.found(&told(it)).is_empty()).count()
    };
    for stream in [streams::REQUESTS, streams::HANDOFFS] {
        assert!(in_all(&search, &recorded(scenario, stream, "cortex.>")) >= 9, "the search sees what was published");
    }
    let letters = recorded(scenario, streams::DEADLETTER, ">");
    let by_server = letters.iter().filter(|it| it.subject.starts_with("$JS.EVENT.ADVISORY")).count();
    assert!(by_server >= 50 && letters.len() >= 2 * by_server, "{by_server} of {}", letters.len());
    let events = recorded(scenario, streams::EVENTS, "cortex.event.*.*.rejected");
    assert!(events.len() >= 50, "{} are told of", events.len());
    assert_eq!((in_all(&search, &letters), in_all(&search, &events)), (0, 0), "the secret is told");
    for (party, log) in
        [(Party::Infrastructure, scenario.world.infrastructure.log()), (Party::Talos, scenario.world.talos.log())]
    {
        let audit = scenario.operator.query::<Value>(party, "audit.list", json!({}));
        let audit = scenario.runtime.block_on(audit).unwrap().to_string();
        assert!(audit.contains("does not validate") && log.contains("message refused"), "{party} tells of it");
        assert_eq!(search.found(audit.as_bytes()), Vec::<&str>::new(), "audit log of {party}");
        assert_eq!(search.found(log.as_bytes()), Vec::<&str>::new(), "log of {party}");
    }
}

/// Whoever asks a contractor for what it does not take hears that as soon.
#[test]
fn a_request_to_who_takes_none_is_answered_within_a_second() {
    let scenario = Scenario::start(&WorldOptions::default());
    let body = json!({ "cluster_name": "edge" });
    let request = Letter::new("cortex.request.talos.decommission_request", "/coordinator/cortex", &body);
    let request =
        request.with("cortex-reply-to", format!("{ANSWERS}.0")).signed(&key_of(&scenario, Identity::Coordinator));
    let (answer, took) = scenario.runtime.block_on(async {
        let sender = scenario.world.nats.connect(Identity::Coordinator).await.unwrap();
        let listener = raw_client(&scenario, Identity::Operator).await;
        let mut answers = listener.subscribe(format!("{ANSWERS}.0")).await.unwrap();
        listener.flush().await.unwrap();
        let published = Instant::now();
        sender.publish(&request).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(60), answers.next()).await.expect("an answer comes");
        (serde_json::from_slice::<Value>(&answer.unwrap().payload).unwrap(), published.elapsed())
    });
    assert!(answer.to_string().contains("talos takes no request decommission_request"), "{answer}");
    assert!(took <= SOON, "{took:?}");
    assert_eq!(letters(&scenario, Party::Talos, 1).len(), 1);
}
