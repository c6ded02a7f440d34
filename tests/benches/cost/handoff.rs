//! One handoff from one contractor into the other's store, beside the price of its parts: fsync, and a publish into a
//! stream that syncs every message.
//!
//! *Handing over* is validate, persist in the outbox, sign, publish, acknowledged by the stream, delivered. *Taking* is
//! [`Intake::take`]: verify, validate, find the playbook, persist inbox and run; then acknowledge. Both by the contractors' own
//! parts, in one process; the run that a handoff starts has one step that does nothing, and is over before the next handoff.
//!
//! With many on their way, a [`Receiver`] takes them as in a daemon, one at a time, while runs of those before are at work.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bus::{Bus, Deliveries, Delivery, identity::Identity, streams};
use contractor::{
    agent::Agent,
    config::Policy,
    driver::{Driver, Happened, Hooks},
    herald::{Context, Herald},
    inbound::Receiver,
    intake::{Gate, Intake, Raw, Verdict},
    outbound::Publisher,
    planner::Planner,
    trust::Trust,
};
use engine::event::Failure;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::SignedDuration;
use messages::{
    catalogue::{self, Family},
    signature,
    subject::Party,
};
use nkeys::KeyPair;
use secrecy::ExposeSecret;
use serde_json::Value;
use store::{Commit, Lane, Options, Outgoing, Store};
use tests::nats::NatsServer;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    figures::{Figures, percentile, scratch},
    stub,
};

const NAME: &str = "handoff";
const SERIAL: usize = 500;
const MANY: usize = 2_000;
/// How many of the many are on their way at once.
const AT_ONCE: usize = 64;
const PLAYBOOK: &str = "
playbook: take
version: 1
trigger: { handoff: cluster_ready }
steps:
  - { id: note, action: nothing }
";

pub(crate) fn measure(figures: &mut Figures) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(scratch()?)?;
    let mut fsync = fsyncs(folder.path())?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(serial(figures, &folder.path().join("serial"), &mut fsync))?;
    let floor = runtime.block_on(many_published(&folder.path().join("floor")))?;
    let whole = runtime.block_on(many_taken(&folder.path().join("many")))?;
    concurrent(figures, &mut fsync, floor, whole);
    Ok(())
}

/// Who hands over.
struct Sender {
    herald: Herald,
    store: Store,
    bus: Bus,
    key: Arc<KeyPair>,
    body: Value,
    stop: CancellationToken,
    nats: NatsServer,
}

impl Sender {
    async fn new(folder: &Path) -> anyhow::Result<Self> {
        let nats = NatsServer::start(&folder.join("nats"))?;
        nats.init().await?;
        let bus = Bus::connect(nats.options(Identity::Talos)?).await?;
        let seed = bus::identity::read_seed(&nats.setup().keys[&Identity::Talos])?;
        let body = (catalogue::find(Family::Handoff, "cluster_ready").context("cluster_ready is known")?.examples)();
        let sender = Self {
            herald: Herald::new(Party::Talos, mpsc::unbounded_channel().0),
            store: Store::open(&folder.join("sender"), Options::default())?,
            bus,
            key: Arc::new(KeyPair::from_seed(seed.expose_secret())?),
            body: body.into_iter().next().context("cluster_ready has an example")?,
            stop: CancellationToken::new(),
            nats,
        };
        let publisher = Publisher {
            store: sender.store.clone(),
            bus: sender.bus.clone(),
            key: Arc::clone(&sender.key),
            lane: Lane::Handoff,
            trouble: watch::channel(None).0,
        };
        tokio::spawn(publisher.run(sender.stop.clone()));
        Ok(sender)
    }

    /// The bus as the taker sees it.
    async fn other_end(&self) -> anyhow::Result<Bus> {
        Ok(Bus::connect(self.nats.options(Identity::Infrastructure)?).await?)
    }

    /// A validated handoff, ready for the outbox.
    fn message(&self, id: Uuid) -> anyhow::Result<Outgoing> {
        let context = Context { flow: Some(Uuid::now_v7()), ..Context::default() };
        let made = self.herald.handoff(id, "cluster_ready", &context, &self.body);
        made.map_err(|failure| anyhow::anyhow!(failure.message))
    }

    async fn hand_over(&self, id: Uuid) -> anyhow::Result<()> {
        let outgoing = vec![self.message(id)?];
        self.store.commit(Commit { outgoing, ..Commit::default() }).await?;
        Ok(())
    }

    /// The same message, signed, without an outbox.
    fn signed(&self, id: Uuid) -> anyhow::Result<bus::Outgoing> {
        let Outgoing { subject, mut headers, body, .. } = self.message(id)?;
        signature::sign(&self.key, &subject, &mut headers, body.as_bytes())?;
        Ok(bus::Outgoing { subject, headers, body: body.into_bytes().into() })
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Who takes.
struct Taker {
    intake: Arc<Intake>,
    driver: Driver,
    bus: Bus,
}

impl Taker {
    async fn new(folder: &Path, sender: &Sender, hooks: Arc<dyn Hooks>) -> anyhow::Result<Self> {
        let bus = sender.other_end().await?;
        let store = Store::open(&folder.join("taker"), Options::default())?;
        let (driver, library) = stub::driver(&store, PLAYBOOK, hooks).await?;
        let agent: Arc<dyn Agent> = Arc::new(stub::Nobody);
        let trust = Trust {
            pinned: BTreeMap::from([("/talos".to_owned(), vec![sender.key.public_key()])]),
            stale_after: SignedDuration::from_hours(1),
            anonymous: Vec::new(),
        };
        let planner = Planner { agent: Arc::clone(&agent), driver: driver.clone(), bus: bus.clone() };
        let intake = Intake {
            agent,
            gate: Gate { party: Party::Infrastructure, trust },
            library,
            store,
            driver: driver.clone(),
            herald: Herald::new(Party::Infrastructure, mpsc::unbounded_channel().0),
            planner,
            policy: Policy::default(),
        };
        Ok(Self { intake: Arc::new(intake), driver, bus })
    }

    async fn take(&self, delivery: Delivery) -> anyhow::Result<()> {
        match self.intake.take(&Raw::from(&delivery)).await? {
            Verdict::Accepted(accepted) if !accepted.duplicate => {}
            other => bail!("the handoff was not taken: {other:?}"),
        }
        Ok(delivery.ack().await?)
    }
}

async fn deliveries(bus: &Bus) -> anyhow::Result<Deliveries> {
    Ok(bus.deliveries(streams::HANDOFFS, &streams::handoffs_of(Party::Infrastructure)).await?)
}

async fn next(deliveries: &mut Deliveries) -> anyhow::Result<Delivery> {
    deliveries.next_within(Duration::from_secs(30)).await.context("the handoff did not come")
}

async fn serial(figures: &mut Figures, folder: &Path, fsync: &mut [Duration]) -> anyhow::Result<()> {
    let sender = Sender::new(folder).await?;
    let taker = Taker::new(folder, &sender, Arc::new(stub::Silent)).await?;
    let mut deliveries = deliveries(&taker.bus).await?;
    let (mut publish, mut over) = (Vec::new(), Vec::new());
    let (mut taken, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..SERIAL {
        let message = sender.signed(Uuid::now_v7())?;
        let begun = Instant::now();
        sender.bus.publish(&message).await?;
        publish.push(begun.elapsed());
        next(&mut deliveries).await?.ack().await?;
    }
    for _ in 0..SERIAL {
        let begun = Instant::now();
        sender.hand_over(Uuid::now_v7()).await?;
        let delivery = next(&mut deliveries).await?;
        let delivered = begun.elapsed();
        taker.take(delivery).await?;
        whole.push(begun.elapsed());
        over.push(delivered);
        taken.push(begun.elapsed() - delivered);
        taker.driver.idle().await;
    }
    let total: f64 = whole.iter().map(Duration::as_secs_f64).sum();
    for (share, name) in [(0.5, "p50"), (0.99, "p99")] {
        let (fsync, publish) = (percentile(fsync, share), percentile(&mut publish, share));
        let (over, taken, whole) =
            (percentile(&mut over, share), percentile(&mut taken, share), percentile(&mut whole, share));
        figures.note(NAME, format!("floor: fsync of 4 KiB, {name}"), fsync, "ms");
        figures.note(NAME, format!("floor: publish with sync, {name}"), publish, "ms");
        figures.note(NAME, format!("handing over, {name}"), over, "ms");
        figures.note(NAME, format!("taking, {name}"), taken, "ms");
        let own = over / (fsync + publish);
        let ratio = format!("handing over / (fsync + publish), {name}");
        if name == "p50" {
            figures.note(NAME, format!("both, {name}"), whole, "ms");
            figures.against(2.0, NAME, ratio, (own, "×"));
        } else {
            figures.against(10.0, NAME, format!("both, {name}"), (whole, "ms"));
            figures.note(NAME, ratio, own, "×");
        }
        let both = whole / (2.0 * fsync + publish);
        figures.note(NAME, format!("both / (2 fsync + publish), {name}"), both, "×");
    }
    figures.note(NAME, "one after the other", SERIAL as f64 / total, "1/s");
    taker.driver.shutdown(Duration::from_secs(20)).await;
    Ok(())
}

/// Many on their way at once: how long each took, and how long all.
struct Many {
    each: Vec<Duration>,
    all: Duration,
}

impl Many {
    /// `send` is given an id and whom to wait for until that has arrived.
    async fn measure(arrivals: &Arrivals, send: impl AsyncFn(Uuid) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let (begun, send) = (Instant::now(), &send);
        let one = |_| async move {
            let (id, begun) = (Uuid::now_v7(), Instant::now());
            let arrived = arrivals.of(id);
            send(id).await?;
            tokio::time::timeout(Duration::from_secs(60), arrived).await.context("a handoff did not arrive")??;
            anyhow::Ok(begun.elapsed())
        };
        let each = stream::iter(0..MANY).map(one).buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(Self { each, all: begun.elapsed() })
    }

    fn per_second(&self) -> f64 {
        MANY as f64 / self.all.as_secs_f64()
    }
}

/// Who waits for which message.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>);

impl Arrivals {
    fn of(&self, id: Uuid) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_string(), tell);
        told
    }

    /// `/talos/<id>`
    fn tell(&self, message: &str) {
        let id = message.rsplit('/').next().unwrap_or_default();
        if let Some(tell) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id) {
            // Who waited has given up.
            let _ = tell.send(());
        }
    }
}

impl Hooks for Arrivals {
    fn outgoing(&self, _: &Happened<'_>) -> Result<Vec<Outgoing>, Failure> {
        Ok(Vec::new())
    }

    /// A run that has just been opened is durable, with the inbox row of its message.
    fn committed(&self, happened: &Happened<'_>) {
        if happened.before.is_none() {
            self.tell(&happened.run.cause);
        }
    }
}

/// The floor: as many signed messages published, with sync, delivered and acknowledged.
async fn many_published(folder: &Path) -> anyhow::Result<Many> {
    let sender = Sender::new(folder).await?;
    let (mut deliveries, arrivals) = (deliveries(&sender.other_end().await?).await?, Arrivals::default());
    let told = arrivals.clone();
    let acknowledging = tokio::spawn(async move {
        for _ in 0..MANY {
            let delivery = next(&mut deliveries).await?;
            let message = Raw::from(&delivery).message_id();
            delivery.ack().await?;
            told.tell(&message);
        }
        anyhow::Ok(())
    });
    let send = async |id| Ok(sender.bus.publish(&sender.signed(id)?).await.map(drop)?);
    let many = Many::measure(&arrivals, send).await?;
    acknowledging.await??;
    Ok(many)
}

/// The same through outbox, publisher, receiver and intake until inbox row and run are durable.
async fn many_taken(folder: &Path) -> anyhow::Result<Many> {
    let (sender, arrivals) = (Sender::new(folder).await?, Arrivals::default());
    let taker = Taker::new(folder, &sender, Arc::new(arrivals.clone())).await?;
    let receiver = Receiver {
        bus: taker.bus.clone(),
        intake: Arc::clone(&taker.intake),
        stream: streams::HANDOFFS.to_owned(),
        durable: streams::handoffs_of(Party::Infrastructure),
        trouble: watch::channel(None).0,
    };
    let receiving = tokio::spawn(receiver.run(sender.stop.clone()));
    let many = Many::measure(&arrivals, async |id| sender.hand_over(id).await).await?;
    sender.stop.cancel();
    receiving.await?;
    taker.driver.shutdown(Duration::from_secs(20)).await;
    Ok(many)
}

fn concurrent(figures: &mut Figures, fsync: &mut [Duration], mut floor: Many, mut whole: Many) {
    for (share, name) in [(0.5, "p50"), (0.99, "p99")] {
        let least = percentile(&mut floor.each, share);
        let both = percentile(&mut whole.each, share);
        figures.note(NAME, format!("floor: publish with sync, {AT_ONCE} at once, {name}"), least, "ms");
        figures.note(NAME, format!("both, {AT_ONCE} at once, {name}"), both, "ms");
        let ratio = both / (2.0 * percentile(fsync, share) + least);
        figures.note(NAME, format!("both / (2 fsync + publish), {AT_ONCE} at once, {name}"), ratio, "×");
    }
    figures.note(NAME, format!("floor: published with sync, {AT_ONCE} at once"), floor.per_second(), "1/s");
    figures.note(NAME, format!("handed over and taken, {AT_ONCE} at once"), whole.per_second(), "1/s");
    let ratio = floor.per_second() / whole.per_second();
    figures.note(NAME, format!("published / handed over and taken in the same time, {AT_ONCE} at once"), ratio, "×");
}

/// What the disk takes for 4 KiB at the end of a file.
fn fsyncs(folder: &Path) -> anyhow::Result<Vec<Duration>> {
    let mut file = std::fs::File::create(folder.join("floor-file"))?;
    let mut times = Vec::new();
    for _ in 0..SERIAL {
        let begun = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    Ok(times)
}
