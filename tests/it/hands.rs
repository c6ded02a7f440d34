//! What a broker that means harm can do to handoffs on their way: hold them back, give them out in another order and more
//! than once, lose the answers.

use std::{collections::BTreeMap, fs, time::Duration};

use bus::{Outgoing, Recorded, TailFrom, identity::Identity, streams};
use jiff::{SignedDuration, Timestamp};
use messages::subject::Party;
use serde_json::{Value, json};
use simulators::lab::{Harm, Proxy};
use tests::process::Process;
use uuid::Uuid;

use crate::scenario::Scenario;

/// What an id begins with under which a message is given again.
const COPY: &str = "copy ";

impl Scenario {
    /// Asks the broker's own API for something, as its administrator; what it says.
    pub(crate) fn broker(&self, call: &str, body: &Value) -> Value {
        self.runtime.block_on(async {
            let admin = self.world.nats.connect(Identity::Admin).await.unwrap();
            let (subject, body) = (format!("$JS.API.{call}"), body.to_string().into_bytes().into());
            let answer = admin.request(&subject, &BTreeMap::new(), body, Duration::from_secs(10)).await.unwrap();
            admin.close().await;
            let told: Value = serde_json::from_slice(&answer.body).unwrap();
            assert!(told.get("error").is_none(), "{call}: {told}");
            told
        })
    }

    /// What the broker knows of a contractor's consumer of handoffs.
    pub(crate) fn consumer(&self, of: Party) -> Value {
        self.broker(&format!("CONSUMER.INFO.{}.{}", streams::HANDOFFS, streams::handoffs_of(of)), &json!({}))
    }

    /// Gives a contractor no handoff before [`let_go`](Self::let_go).
    pub(crate) fn hold(&self, of: Party) {
        let until = Timestamp::now() + SignedDuration::from_hours(1);
        let told = self.broker(&pause(of), &json!({ "pause_until": until }));
        assert_eq!(told["paused"], true, "{told}");
    }

    pub(crate) fn let_go(&self, of: Party) {
        self.broker(&pause(of), &json!({}));
    }

    /// Waits until a flow's handoff is in the stream.
    pub(crate) fn handed_over(&self, to: Party, kind: &str, flow: Uuid) -> Recorded {
        let filter = [format!("cortex.handoff.{to}.{kind}")];
        self.runtime.block_on(async {
            let admin = self.world.nats.connect(Identity::Admin).await.unwrap();
            let find = async {
                let mut tail = admin.tail(streams::HANDOFFS, TailFrom::Start, &filter).await.unwrap();
                loop {
                    let recorded = tail.next().await.unwrap();
                    let is_copy = recorded.headers["Nats-Msg-Id"].starts_with(COPY);
                    if !is_copy && recorded.headers["cortex-correlation-id"] == flow.to_string() {
                        return recorded;
                    }
                }
            };
            let found = tokio::time::timeout(Duration::from_secs(120), find).await;
            found.unwrap_or_else(|_| panic!("flow {flow} hands over no {kind}"))
        })
    }

    /// Waits for a handoff that is held, and takes it away from whom it is for.
    pub(crate) fn intercept(&self, to: Party, kind: &str, flow: Uuid) -> Recorded {
        let recorded = self.handed_over(to, kind, flow);
        let consumer = self.consumer(to);
        assert!(consumer["delivered"]["stream_seq"].as_u64() < Some(recorded.sequence), "it was held: {consumer}");
        let told =
            self.broker(&format!("STREAM.MSG.DELETE.{}", streams::HANDOFFS), &json!({ "seq": recorded.sequence }));
        assert_eq!(told["success"], true, "{told}");
        recorded
    }

    /// Gives messages out as they were signed, in this order, under ids by which nobody recognises them, while whoever gets
    /// them is away; then it starts.
    pub(crate) fn give(&mut self, to: Party, messages: &[&Recorded]) {
        self.daemon(to).kill();
        self.publish(messages);
        self.let_go(to);
        self.daemon(to).start(false).unwrap();
        self.world.wait_ready().unwrap();
    }

    /// Publishes messages as they were signed, under ids by which nobody recognises them.
    pub(crate) fn publish(&self, messages: &[&Recorded]) {
        for message in messages {
            let mut headers = message.headers.clone();
            headers.insert("Nats-Msg-Id".to_owned(), format!("{COPY}{}", Uuid::now_v7()));
            let message = Outgoing { subject: message.subject.clone(), headers, body: message.body.clone() };
            self.send(&message);
        }
    }

    /// Publishes one message.
    pub(crate) fn send(&self, message: &Outgoing) {
        self.runtime.block_on(async {
            let bus = self.world.nats.connect(may_publish(&message.subject)).await.unwrap();
            assert!(!bus.publish(message).await.unwrap().duplicate, "the broker cannot know it");
            bus.close().await;
        });
    }

    /// Every run of both contractors that a message began: whose, of which playbook, and how it is; sorted.
    pub(crate) fn runs(&self) -> Vec<String> {
        let mut found = Vec::new();
        for party in [Party::Infrastructure, Party::Talos] {
            let runs: Vec<Value> = self.runtime.block_on(self.operator.query(party, "runs.list", json!({}))).unwrap();
            // A schedule begins these.
            let begun = runs.iter().filter(|run| run["playbook"] != "check-clusters");
            let text = |run: &Value, name: &str| run[name].as_str().unwrap_or("?").to_owned();
            found.extend(begun.map(|run| format!("{party}: {} {}", text(run, "playbook"), text(run, "state"))));
        }
        found.sort();
        found
    }

    /// Starts a daemon again with a proxy between it and the broker.
    pub(crate) fn put_behind_proxy(&mut self, party: Party) -> Proxy {
        let (listen, target) = ("127.0.0.1:0".parse().unwrap(), self.world.nats.listen());
        let proxy = self.runtime.block_on(Proxy::start(listen, target, Harm::default())).unwrap();
        let config = self.world.folder.join(format!("{party}-contractor.toml"));
        let text = fs::read_to_string(&config).unwrap();
        let url = self.world.nats.url();
        assert!(text.contains(&url));
        fs::write(&config, text.replace(&url, &format!("tls://{}", proxy.address()))).unwrap();
        self.daemon(party).kill();
        self.daemon(party).start(false).unwrap();
        self.world.wait_ready().unwrap();
        assert!(proxy.connections() > 0, "{party} is connected through the proxy");
        proxy
    }

    pub(crate) fn daemon(&mut self, party: Party) -> &mut Process {
        match party {
            Party::Talos => &mut self.world.talos,
            _ => &mut self.world.infrastructure,
        }
    }
}

fn pause(of: Party) -> String {
    format!("CONSUMER.PAUSE.{}.{}", streams::HANDOFFS, streams::handoffs_of(of))
}

/// Whom the broker lets publish there.
fn may_publish(subject: &str) -> Identity {
    match subject.split('.').collect::<Vec<_>>()[..] {
        ["cortex", "handoff", "infrastructure", _] => Identity::Talos,
        ["cortex", "handoff", "talos", _] => Identity::Infrastructure,
        _ => Identity::Operator,
    }
}
