//! Making the streams and consumers (`init`, as admin), and comparing them with what they should be (`check`).

use async_nats::jetstream::{
    consumer::{self, AckPolicy, PullConsumer, pull},
    context::GetStreamErrorKind,
    stream::{Config, ConsumerErrorKind, DiscardPolicy, RetentionPolicy, StorageType},
};
use serde::Serialize;

use crate::{
    api::Unanswered,
    connect::Bus,
    streams::{self, ConsumerSpec, StreamSpec, WhenFull},
};

/// Something on the server is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `stream CORTEX_EVENTS`, `consumer handoffs-talos of CORTEX_HANDOFFS`.
    pub what: String,
    /// Which setting; empty when all of it is missing.
    pub setting: &'static str,
    /// As it should be.
    pub expected: String,
    /// As it is.
    pub actual: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.setting.is_empty() {
            return write!(f, "{} is missing: run `cortexctl bus init`", self.what);
        }
        write!(f, "{}: {} is {}, expected {}", self.what, self.setting, self.actual, self.expected)
    }
}

/// The server did not do or say what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct AdminError {
    /// Which stream or consumer.
    pub what: String,
    /// What the server said.
    pub reason: String,
}

/// Creates what is missing and changes what differs; returns what was done, one line each. Needs the admin's rights.
pub async fn init(bus: &Bus) -> Result<Vec<String>, AdminError> {
    let mut done = Vec::new();
    for spec in streams::streams() {
        let what = format!("stream {}", spec.name);
        let failed = |reason: String| AdminError { what: what.clone(), reason };
        let known = stream_config(bus, &spec).await?;
        let differs = known.as_ref().is_none_or(|known| !compare_stream(&spec, known).is_empty());
        if differs {
            let config = stream(&spec);
            let made = bus.ask(spec.name, bus.jetstream.create_or_update_stream(config)).await;
            made.map_err(|error| failed(error.to_string()))?;
            done.push(format!("{what} {}", if known.is_some() { "changed" } else { "created" }));
        }
    }
    for spec in streams::consumers() {
        let what = what(&spec);
        let known = consumer_config(bus, &spec).await?;
        if known.as_ref().is_none_or(|known| !compare_consumer(&spec, known).is_empty()) {
            let made: Result<PullConsumer, _> =
                bus.ask(spec.stream, bus.jetstream.create_consumer_on_stream(consumer_of(&spec), spec.stream)).await;
            made.map_err(|error| AdminError { what: what.clone(), reason: error.to_string() })?;
            done.push(format!("{what} {}", if known.is_some() { "changed" } else { "created" }));
        }
    }
    // An old server says "ok" to what it does not know: only the echoed configuration counts (reliability.md 0.4).
    match check(bus).await?.first() {
        None => Ok(done),
        Some(difference) => {
            Err(AdminError { what: difference.what.clone(), reason: format!("not as asked: {difference}") })
        }
    }
}

/// Compares the server's streams and consumers with what they should be; empty when all is well.
pub async fn check(bus: &Bus) -> Result<Vec<Difference>, AdminError> {
    let missing =
        |what: String| Difference { what, setting: "", expected: "there".to_owned(), actual: "missing".to_owned() };
    let mut differences = Vec::new();
    for spec in streams::streams() {
        match stream_config(bus, &spec).await? {
            None => differences.push(missing(format!("stream {}", spec.name))),
            Some(known) => differences.extend(compare_stream(&spec, &known)),
        }
    }
    Ok(differences)
}

/// Like [`check`], for the consumers of one contractor; others it may not see.
pub async fn check_consumers(bus: &Bus, specs: &[ConsumerSpec]) -> Result<Vec<Difference>, AdminError> {
    let mut differences = Vec::new();
    for spec in specs {
        match consumer_config(bus, spec).await? {
            None => differences.push(Difference {
                what: what(spec),
                setting: "",
                expected: "there".to_owned(),
                actual: "missing".to_owned(),
            }),
            Some(known) => differences.extend(compare_consumer(spec, &known)),
        }
    }
    Ok(differences)
}

/// Messages that a contractor has not taken yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// Through which consumer.
    pub consumer: String,
    /// How many.
    pub messages: u64,
}

/// The messages that wait for contractors, by consumer; empty when all were taken.
pub async fn waiting(bus: &Bus) -> Result<Vec<Waiting>, AdminError> {
    let mut found = Vec::new();
    for spec in streams::consumers() {
        let failed = |reason: String| AdminError { what: what(&spec), reason };
        let asked: Result<PullConsumer, _> =
            bus.ask(spec.stream, bus.jetstream.get_consumer_from_stream(&spec.name, spec.stream)).await;
        let consumer = asked.map_err(|error| failed(error.to_string()))?;
        let info = consumer.cached_info();
        let messages = info.num_pending + info.num_ack_pending as u64;
        if messages > 0 {
            found.push(Waiting { consumer: spec.name, messages });
        }
    }
    Ok(found)
}

async fn stream_config(bus: &Bus, spec: &StreamSpec) -> Result<Option<Config>, AdminError> {
    let failed = |reason: String| AdminError { what: format!("stream {}", spec.name), reason };
    match bus.ask(spec.name, bus.jetstream.get_stream(spec.name)).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(Unanswered::Failed(error)) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.code() == 404 => Ok(None),
            _ => Err(failed(error.to_string())),
        },
        Err(refused) => Err(failed(refused.to_string())),
    }
}

async fn consumer_config(bus: &Bus, spec: &ConsumerSpec) -> Result<Option<consumer::Config>, AdminError> {
    let failed = |reason: String| AdminError { what: what(spec), reason };
    let found: Result<PullConsumer, _> =
        bus.ask(spec.stream, bus.jetstream.get_consumer_from_stream(&spec.name, spec.stream)).await;
    match found {
        Ok(consumer) => Ok(Some(consumer.cached_info().config.clone())),
        Err(Unanswered::Failed(error)) => match error.kind() {
            ConsumerErrorKind::JetStream(error) if error.code() == 404 => Ok(None),
            _ => Err(failed(error.to_string())),
        },
        Err(refused) => Err(failed(refused.to_string())),
    }
}

fn stream(spec: &StreamSpec) -> Config {
    Config {
        name: spec.name.to_owned(),
        description: Some(spec.description.to_owned()),
        subjects: spec.subjects.iter().map(ToString::to_string).collect(),
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: discard(spec),
        max_bytes: spec.max_bytes,
        max_age: spec.max_age,
        max_message_size: spec.max_message,
        duplicate_window: spec.duplicate_window,
        num_replicas: 1,
        deny_delete: false,
        allow_direct: true,
        ..Config::default()
    }
}

fn consumer_of(spec: &ConsumerSpec) -> pull::Config {
    pull::Config {
        durable_name: Some(spec.name.clone()),
        filter_subject: spec.filter.clone(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: spec.ack_wait,
        max_deliver: spec.max_deliver,
        max_ack_pending: spec.max_ack_pending,
        ..pull::Config::default()
    }
}

fn discard(spec: &StreamSpec) -> DiscardPolicy {
    match spec.when_full {
        WhenFull::Refuse => DiscardPolicy::New,
        WhenFull::ForgetOldest => DiscardPolicy::Old,
    }
}

fn compare_stream(spec: &StreamSpec, known: &Config) -> Vec<Difference> {
    let what = format!("stream {}", spec.name);
    let mut found = Vec::new();
    let mut compare = |setting, expected: String, actual: String| {
        if expected != actual {
            found.push(Difference { what: what.clone(), setting, expected, actual });
        }
    };
    let mut subjects = known.subjects.clone();
    let mut expected: Vec<String> = spec.subjects.iter().map(ToString::to_string).collect();
    subjects.sort();
    expected.sort();
    compare("subjects", expected.join(", "), subjects.join(", "));
    compare("retention", format!("{:?}", RetentionPolicy::Limits), format!("{:?}", known.retention));
    compare("storage", format!("{:?}", StorageType::File), format!("{:?}", known.storage));
    compare("discard", format!("{:?}", discard(spec)), format!("{:?}", known.discard));
    compare("max_bytes", spec.max_bytes.to_string(), known.max_bytes.to_string());
    compare("max_age", format!("{:?}", spec.max_age), format!("{:?}", known.max_age));
    compare("max_msg_size", spec.max_message.to_string(), known.max_message_size.to_string());
    compare("duplicate_window", format!("{:?}", spec.duplicate_window), format!("{:?}", known.duplicate_window));
    compare("allow_direct", "true".to_owned(), known.allow_direct.to_string());
    found
}

fn compare_consumer(spec: &ConsumerSpec, known: &consumer::Config) -> Vec<Difference> {
    let what = what(spec);
    let mut found = Vec::new();
    let mut compare = |setting, expected: String, actual: String| {
        if expected != actual {
            found.push(Difference { what: what.clone(), setting, expected, actual });
        }
    };
    compare("filter_subject", spec.filter.clone(), known.filter_subject.clone());
    compare("ack_policy", format!("{:?}", AckPolicy::Explicit), format!("{:?}", known.ack_policy));
    compare("ack_wait", format!("{:?}", spec.ack_wait), format!("{:?}", known.ack_wait));
    compare("backoff", "[]".to_owned(), format!("{:?}", known.backoff));
    compare("max_deliver", spec.max_deliver.to_string(), known.max_deliver.to_string());
    compare("max_ack_pending", spec.max_ack_pending.to_string(), known.max_ack_pending.to_string());
    found
}

fn what(spec: &ConsumerSpec) -> String {
    format!("consumer {} of {}", spec.name, spec.stream)
}
