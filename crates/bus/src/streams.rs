//! The streams and durable consumers of the bus, as data: `init` makes them, `check` compares them.

use std::time::Duration;

use messages::subject::Party;

const MIB: i64 = 1024 * 1024;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest that the server recognises a message by its id; the receivers' inboxes remember longer.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(10 * 60);
/// Above the store's cap of one message, headers included.
const MAX_MESSAGE: i32 = 128 * 1024;

/// Requests of coordinators, operators, LLM tools.
pub const REQUESTS: &str = "CORTEX_REQUESTS";
/// What contractors hand to each other.
pub const HANDOFFS: &str = "CORTEX_HANDOFFS";
/// What happened.
pub const EVENTS: &str = "CORTEX_EVENTS";
/// What could not be taken, and what the server says of messages that it gave up.
pub const DEADLETTER: &str = "CORTEX_DEADLETTER";

/// What a full stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuses: the publisher gets an error.
    Refuse,
    /// Forgets the oldest.
    ForgetOldest,
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// What it records.
    pub subjects: Vec<&'static str>,
    /// What it does when it is full.
    pub when_full: WhenFull,
    /// Bytes on disk; reserved by the server.
    pub max_bytes: i64,
    /// How long a message is kept.
    pub max_age: Duration,
    /// Largest message in bytes.
    pub max_message: i32,
    /// How long a repeated id is recognised.
    pub duplicate_window: Duration,
}

/// A durable pull consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerSpec {
    /// Its name.
    pub name: String,
    /// Of which stream.
    pub stream: &'static str,
    /// What it delivers.
    pub filter: String,
    /// How long the server waits for an answer before it delivers again. Constant: with the server's `backoff` list a
    /// refused message would come back later than it was asked to [measured with 2.15.1].
    pub ack_wait: Duration,
    /// Deliveries after which the server gives up and tells the dead letter stream.
    pub max_deliver: i64,
    /// Unanswered messages at a time.
    pub max_ack_pending: i64,
}

/// All streams. Together they reserve 1,152 MiB.
pub fn streams() -> Vec<StreamSpec> {
    let base = StreamSpec {
        name: REQUESTS,
        description: "What is asked of the contractors",
        subjects: vec!["cortex.request.*.*"],
        when_full: WhenFull::Refuse,
        max_bytes: 256 * MIB,
        max_age: 30 * DAY,
        max_message: MAX_MESSAGE,
        duplicate_window: DUPLICATE_WINDOW,
    };
    vec![
        base.clone(),
        StreamSpec {
            name: HANDOFFS,
            description: "What the contractors hand to each other",
            subjects: vec!["cortex.handoff.*.*"],
            ..base.clone()
        },
        StreamSpec {
            name: EVENTS,
            description: "What happened; never needed for correctness",
            subjects: vec!["cortex.event.*.*.*"],
            when_full: WhenFull::ForgetOldest,
            max_bytes: 512 * MIB,
            max_age: 14 * DAY,
            ..base.clone()
        },
        StreamSpec {
            name: DEADLETTER,
            description: "Messages that could not be taken, and the server's word on those that it gave up",
            subjects: vec![
                "cortex.deadletter.*",
                "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.*.*",
                "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.*.*",
            ],
            when_full: WhenFull::ForgetOldest,
            max_bytes: 128 * MIB,
            max_age: 90 * DAY,
            max_message: 2 * MAX_MESSAGE,
            ..base
        },
    ]
}

/// The durable consumers: requests and handoffs of each contractor.
pub fn consumers() -> Vec<ConsumerSpec> {
    let of = |party: Party| {
        [
            consumer(requests_of(party), REQUESTS, format!("cortex.request.{party}.*")),
            consumer(handoffs_of(party), HANDOFFS, format!("cortex.handoff.{party}.*")),
        ]
    };
    [Party::Infrastructure, Party::Talos].into_iter().flat_map(of).collect()
}

/// The durable consumer by which a contractor takes its requests.
pub fn requests_of(party: Party) -> String {
    format!("requests-{party}")
}

/// The durable consumer by which a contractor takes its handoffs.
pub fn handoffs_of(party: Party) -> String {
    format!("handoffs-{party}")
}

/// How often the server delivers a message that is not answered for good. Messages that are put off wait longer each time
/// (see [`Delivery::retry_later`](crate::Delivery::retry_later)): these take the better part of an hour.
pub const MAX_DELIVERIES: u32 = 30;

/// Taking a message is validation and one commit, so the time to answer is short.
fn consumer(name: String, stream: &'static str, filter: String) -> ConsumerSpec {
    let max_deliver = i64::from(MAX_DELIVERIES);
    ConsumerSpec { name, stream, filter, ack_wait: Duration::from_secs(10), max_deliver, max_ack_pending: 64 }
}
