//! One handoff from one contractor into the other's store, beside the price of its parts: fsync, and a publish into a
//! stream that syncs every message.
//!
//! *Handing over* is validate, persist in the outbox, sign, publish, acknowledged by the stream, delivered. *Taking* is verify,
//! validate, persist inbox and run, acknowledge. Both by the contractors' own parts, in one process.

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bus::{Bus, Deliveries, Delivery, identity::Identity, streams};
use contractor::{
    herald::{Context, Herald},
    intake::{Gate, Raw},
    outbound::Publisher,
    trust::Trust,
};
use jiff::SignedDuration;
use messages::{
    catalogue::{self, Family},
    signature,
    subject::Party,
};
use nkeys::KeyPair;
use secrecy::ExposeSecret;
use serde_json::Value;
use store::{Commit, InboxKey, Lane, Options, RunAppend, RunState, RunSummary, Store};
use tests::nats::NatsServer;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    engine::entry,
    figures::{Figures, percentile, scratch},
};

const NAME: &str = "handoff";
const SERIAL: usize = 500;
const AT_ONCE: usize = 2_000;

pub(crate) fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(scratch()?)?;
    let nats = NatsServer::start(&folder.path().join("nats"))?;
    tokio::runtime::Runtime::new()?.block_on(async {
        nats.init().await?;
        let mut pair = Pair::new(folder.path(), &nats).await?;
        let fsync = fsyncs(folder.path())?;
        let publish = pair.publishes().await?;
        serial(figures, &mut pair, fsync, publish).await?;
        concurrent(figures, &mut pair).await
    })
}

/// Both ends of the way.
struct Pair {
    herald: Herald,
    sender: Store,
    taker: Store,
    from: Bus,
    key: Arc<KeyPair>,
    deliveries: Deliveries,
    gate: Gate,
    body: Value,
    stop: CancellationToken,
}

impl Pair {
    async fn new(folder: &Path, nats: &NatsServer) -> anyhow::Result<Self> {
        let body = (catalogue::find(Family::Handoff, "cluster_ready").context("cluster_ready is known")?.examples)();
        let from = Bus::connect(nats.options(Identity::Talos)?).await?;
        let to = Bus::connect(nats.options(Identity::Infrastructure)?).await?;
        let seed = bus::identity::read_seed(&nats.setup().keys[&Identity::Talos])?;
        let key = Arc::new(KeyPair::from_seed(seed.expose_secret())?);
        let sender = Store::open(&folder.join("sender"), Options::default())?;
        let stop = CancellationToken::new();
        let publisher = Publisher {
            store: sender.clone(),
            bus: from.clone(),
            key: Arc::clone(&key),
            lane: Lane::Handoff,
            trouble: watch::channel(None).0,
        };
        tokio::spawn(publisher.run(stop.clone()));
        let trust = Trust {
            pinned: BTreeMap::from([("/talos".to_owned(), vec![key.public_key()])]),
            stale_after: SignedDuration::from_hours(1),
            anonymous: Vec::new(),
        };
        let deliveries = to.deliveries(streams::HANDOFFS, &streams::handoffs_of(Party::Infrastructure)).await?;
        Ok(Self {
            herald: Herald::new(Party::Talos, mpsc::unbounded_channel().0),
            sender,
            taker: Store::open(&folder.join("taker"), Options::default())?,
            from,
            key,
            deliveries,
            gate: Gate { party: Party::Infrastructure, trust },
            body: body.into_iter().next().context("cluster_ready has an example")?,
            stop,
        })
    }

    /// The times of publishes alone, each signed before.
    async fn publishes(&mut self) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::new();
        for _ in 0..SERIAL {
            let message = self.message()?;
            let mut headers = message.headers;
            signature::sign(&self.key, &message.subject, &mut headers, message.body.as_bytes())?;
            let message = bus::Outgoing { subject: message.subject, headers, body: message.body.into_bytes().into() };
            let begun = Instant::now();
            self.from.publish(&message).await?;
            times.push(begun.elapsed());
            self.next().await?.ack().await?;
        }
        Ok(times)
    }

    /// A validated handoff, ready for the outbox.
    fn message(&self) -> anyhow::Result<store::Outgoing> {
        let context = Context { flow: Some(Uuid::now_v7()), ..Context::default() };
        let made = self.herald.handoff(Uuid::now_v7(), "cluster_ready", &context, &self.body);
        made.map_err(|failure| anyhow::anyhow!(failure.message))
    }

    async fn hand_over(&self) -> anyhow::Result<()> {
        let outgoing = vec![self.message()?];
        self.sender.commit(Commit { outgoing, ..Commit::default() }).await?;
        Ok(())
    }

    async fn next(&mut self) -> anyhow::Result<Delivery> {
        self.deliveries.next_within(Duration::from_secs(30)).await.context("the handoff did not come")
    }
}

/// Verifies, validates, makes inbox row and run durable, acknowledges.
async fn take(gate: &Gate, store: &Store, delivery: Delivery) -> anyhow::Result<()> {
    let raw = Raw::from(&delivery);
    let message = gate.pass(&raw).map_err(|stopped| anyhow::anyhow!(stopped.refusal.message))?;
    let flow = message.envelope.correlation.unwrap_or_default();
    let summary = RunSummary {
        flow,
        playbook: "register-monitoring".to_owned(),
        cluster: None,
        state: RunState::Running,
        detail: Value::Null,
    };
    let run = RunAppend { run: Uuid::now_v7(), expected_seq: 0, events: vec![entry("opened")], summary: Some(summary) };
    let inbox = InboxKey { source: message.envelope.source, id: message.envelope.id };
    store.commit(Commit { inbox: Some(inbox), run: Some(run), ..Commit::default() }).await?;
    delivery.ack().await?;
    Ok(())
}

async fn serial(
    figures: &mut Figures,
    pair: &mut Pair,
    mut fsync: Vec<Duration>,
    mut publish: Vec<Duration>,
) -> anyhow::Result<()> {
    let (mut over, mut taken, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SERIAL {
        let begun = Instant::now();
        pair.hand_over().await?;
        let delivery = pair.next().await?;
        let delivered = begun.elapsed();
        take(&pair.gate, &pair.taker, delivery).await?;
        whole.push(begun.elapsed());
        over.push(delivered);
        taken.push(begun.elapsed() - delivered);
    }
    let total: f64 = whole.iter().map(Duration::as_secs_f64).sum();
    for (share, name) in [(0.5, "p50"), (0.99, "p99")] {
        let (fsync, publish) = (percentile(&mut fsync, share), percentile(&mut publish, share));
        let (over, taken, whole) =
            (percentile(&mut over, share), percentile(&mut taken, share), percentile(&mut whole, share));
        figures.note(NAME, format!("floor: fsync of 4 KiB, {name}"), fsync, "ms");
        figures.note(NAME, format!("floor: publish with sync, {name}"), publish, "ms");
        figures.note(NAME, format!("handing over, {name}"), over, "ms");
        figures.note(NAME, format!("taking, {name}"), taken, "ms");
        figures.against("< 10 at p99", NAME, format!("both, {name}"), (whole, "ms"));
        let target = if share < 0.9 { "≤ 2" } else { "" };
        figures.against(
            target,
            NAME,
            format!("handing over / (fsync + publish), {name}"),
            (over / (fsync + publish), "×"),
        );
        figures.against(
            target,
            NAME,
            format!("both / (2 fsync + publish), {name}"),
            (whole / (2.0 * fsync + publish), "×"),
        );
    }
    figures.note(NAME, "one after the other", SERIAL as f64 / total, "1/s");
    Ok(())
}

/// Many at once: commits share an fsync; the publisher keeps their order.
async fn concurrent(figures: &mut Figures, pair: &mut Pair) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut handed = Vec::new();
    for _ in 0..AT_ONCE {
        handed.push(Commit { outgoing: vec![pair.message()?], ..Commit::default() });
    }
    let sender = pair.sender.clone();
    let handing = tokio::spawn(async move {
        let commits = handed.into_iter().map(|commit| sender.commit(commit));
        futures::future::try_join_all(commits).await.map(|_| ())
    });
    let mut taking = Vec::new();
    for _ in 0..AT_ONCE {
        let delivery = pair.next().await?;
        let (gate, store) = (pair.gate.clone(), pair.taker.clone());
        taking.push(tokio::spawn(async move { take(&gate, &store, delivery).await }));
    }
    handing.await??;
    for taken in taking {
        taken.await??;
    }
    figures.note(NAME, "many at once, handed over and taken", AT_ONCE as f64 / begun.elapsed().as_secs_f64(), "1/s");
    pair.stop.cancel();
    Ok(())
}

/// What the disk takes for 4 KiB at the end of a file.
fn fsyncs(folder: &Path) -> anyhow::Result<Vec<Duration>> {
    let mut file = std::fs::File::create(folder.join("floor"))?;
    let mut times = Vec::new();
    for _ in 0..SERIAL {
        let begun = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    Ok(times)
}
