//! The lab's control endpoint: every knob over HTTP, with JSON bodies.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Guests, Mirror, proxies};
use crate::{
    delays::Delay,
    faults::{Fault, Rule},
    machine::Machines,
    proxmox::{ApiUser, Proxmox, Snapshot},
    talos::ClockSetting,
};

/// A running control endpoint; dropping it ends it.
pub(super) struct Control {
    address: SocketAddr,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Desk {
    proxmox: Arc<Proxmox>,
    guests: Arc<Guests>,
    mirror: Arc<Mirror>,
    user: Arc<ApiUser>,
}

type Answer = Result<Json<Value>, (StatusCode, String)>;

impl Control {
    pub(super) async fn start(
        address: SocketAddr,
        proxmox: Arc<Proxmox>,
        guests: Arc<Guests>,
        mirror: Arc<Mirror>,
        user: ApiUser,
    ) -> io::Result<Self> {
        let listener = sockets::listen(address).await?;
        let address = listener.local_addr()?;
        let router = router(Desk { proxmox, guests, mirror, user: Arc::new(user) });
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            let serving = axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned());
            if let Err(error) = serving.await {
                tracing::warn!(%error, "the control endpoint ended");
            }
        });
        Ok(Self { address, stop })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn router(desk: Desk) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/snapshot", get(snapshot))
        .route("/v1/faults", get(list_faults).post(add_fault).delete(clear_faults))
        .route("/v1/faults/{id}", delete(remove_fault))
        .route("/v1/latency", post(latency))
        .route("/v1/speed", post(speed))
        .route("/v1/delays", get(delays))
        .route("/v1/steps", post(steps))
        .route("/v1/hosts/{name}", post(host))
        .route("/v1/vms/{vmid}", get(guest).post(vm))
        .route("/v1/vms/{vmid}/console", get(console))
        .route("/v1/addresses/{address}", post(divert).delete(restore))
        .route("/v1/storages/{name}", post(storage))
        .route("/v1/locks", post(lock))
        .route("/v1/quorum", post(quorum))
        .route("/v1/tickets", post(tickets))
        .with_state(desk)
        .merge(proxies::router(proxies::Proxies::default()))
}

/// Turns whether something was there into an answer.
fn found(there: bool, what: &str) -> Answer {
    if there {
        Ok(Json(json!({})))
    } else {
        Err((StatusCode::NOT_FOUND, format!("no such {what}, or not in that state\n")))
    }
}

async fn status(State(desk): State<Desk>) -> Json<Value> {
    let proxmox = &desk.proxmox;
    Json(json!({
        "proxmox": { "url": proxmox.url(), "fingerprint": proxmox.fingerprint(), "ca": proxmox.ca_pem(), "api_token": desk.user.api_token() },
        "mirror": { "url": desk.mirror.url(), "addons": desk.mirror.addons() },
        "speed": proxmox.pace().speed(), "stepping": proxmox.pace().is_stepping(),
    }))
}

async fn snapshot(State(desk): State<Desk>) -> Json<Snapshot> {
    Json(desk.proxmox.snapshot())
}

async fn list_faults(State(desk): State<Desk>) -> Json<Vec<Rule>> {
    Json(desk.proxmox.faults().rules())
}

async fn add_fault(State(desk): State<Desk>, Json(fault): Json<Fault>) -> Json<Value> {
    Json(json!({ "id": desk.proxmox.faults().add(fault) }))
}

async fn clear_faults(State(desk): State<Desk>) -> Json<Value> {
    desk.proxmox.faults().clear();
    Json(json!({}))
}

async fn remove_fault(State(desk): State<Desk>, Path(id): Path<u64>) -> Answer {
    found(desk.proxmox.faults().remove(id), "fault")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    milliseconds: u64,
}

async fn latency(State(desk): State<Desk>, Json(body): Json<Latency>) -> Json<Value> {
    desk.proxmox.faults().set_latency(Duration::from_millis(body.milliseconds));
    Json(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Speed {
    /// None means without any delay.
    speed: Option<f64>,
}

async fn speed(State(desk): State<Desk>, Json(body): Json<Speed>) -> Json<Value> {
    desk.proxmox.pace().set_speed(body.speed.unwrap_or(f64::INFINITY));
    Json(json!({}))
}

/// What was waited for so far, where it is recorded.
async fn delays(State(desk): State<Desk>) -> Json<Vec<Delay>> {
    Json(desk.proxmox.pace().delays().list())
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Steps {
    /// Everything waits for a step from now on.
    Hold,
    /// So many pieces of work go on.
    Step(usize),
    /// Time passes by itself again.
    Release,
}

async fn steps(State(desk): State<Desk>, Json(body): Json<Steps>) -> Json<Value> {
    let pace = desk.proxmox.pace();
    match body {
        Steps::Hold => pace.hold(),
        Steps::Step(count) => pace.step(count),
        Steps::Release => pace.release(),
    }
    Json(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    power: Option<bool>,
    reports: Option<bool>,
    maintenance: Option<bool>,
}

async fn host(State(desk): State<Desk>, Path(name): Path<String>, Json(body): Json<Host>) -> Answer {
    let proxmox = &desk.proxmox;
    let powered = body.power.is_none_or(|on| if on { proxmox.boot_host(&name) } else { proxmox.cut_host(&name) });
    let told = body.reports.is_none_or(|reports| proxmox.set_host_reports(&name, reports));
    let kept = body.maintenance.is_none_or(|maintenance| proxmox.set_host_maintenance(&name, maintenance));
    found(powered && told && kept, "host")
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Vm {
    /// Its process dies.
    Crash,
    /// QEMU's run state, such as `io-error`.
    State(String),
    /// The `lock` key of its configuration; null removes it.
    Lock(Option<String>),
    /// What time its guest has, now and after every boot; the VM need not exist yet.
    Clock(ClockSetting),
    /// Somebody moves it to another host, running or not.
    Move(String),
}

async fn vm(State(desk): State<Desk>, Path(vmid): Path<u32>, Json(body): Json<Vm>) -> Answer {
    let proxmox = &desk.proxmox;
    let done = match body {
        Vm::Crash => proxmox.crash_vm(vmid),
        Vm::State(state) => proxmox.set_vm_state(vmid, &state),
        Vm::Lock(lock) => proxmox.set_vm_lock_key(vmid, lock.as_deref()),
        Vm::Clock(setting) => desk.guests.nodes().map(|nodes| nodes.set_clock(vmid, setting)).is_some(),
        Vm::Move(host) => proxmox.move_vm(vmid, &host),
    };
    found(done, "VM")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Diversion {
    /// Whose guest answers there.
    vmid: u32,
    /// It has the address as its own, and its certificate names it; otherwise it knows nothing of it.
    #[serde(default)]
    configured: bool,
}

/// What is sent to an address comes to another machine than its owner.
async fn divert(State(desk): State<Desk>, Path(address): Path<IpAddr>, Json(body): Json<Diversion>) -> Answer {
    let nodes = desk.guests.nodes();
    found(nodes.map(|nodes| nodes.divert(address, body.vmid, body.configured)).is_some(), "node")
}

async fn restore(State(desk): State<Desk>, Path(address): Path<IpAddr>) -> Answer {
    found(desk.guests.nodes().is_some_and(|nodes| nodes.restore(address)), "address")
}

async fn guest(State(desk): State<Desk>, Path(vmid): Path<u32>) -> Answer {
    let guest = desk.guests.guest(vmid).ok_or_else(|| (StatusCode::NOT_FOUND, "the VM is off\n".to_owned()))?;
    Ok(Json(
        json!({ "state": guest.state, "hostname": guest.hostname, "agent": guest.agent, "interfaces": guest.interfaces }),
    ))
}

async fn console(State(desk): State<Desk>, Path(vmid): Path<u32>) -> String {
    desk.guests.console(vmid).iter().map(|line| format!("{line}\n")).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StorageKnob {
    /// No byte is free.
    Full,
    /// Bytes that other data uses; zero empties it of that.
    ForeignUse(u64),
}

async fn storage(State(desk): State<Desk>, Path(name): Path<String>, Json(body): Json<StorageKnob>) -> Answer {
    let done = match body {
        StorageKnob::Full => desk.proxmox.fill_storage(&name),
        StorageKnob::ForeignUse(bytes) => desk.proxmox.set_foreign_use(&name, bytes),
    };
    found(done, "storage")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LockKnob {
    host: String,
    vmid: Option<u32>,
    storage: Option<String>,
    milliseconds: u64,
}

async fn lock(State(desk): State<Desk>, Json(body): Json<LockKnob>) -> Json<Value> {
    let real = Duration::from_millis(body.milliseconds);
    if let Some(vmid) = body.vmid {
        desk.proxmox.hold_vm_lock(&body.host, vmid, real);
    }
    if let Some(storage) = &body.storage {
        desk.proxmox.hold_storage_lock(&body.host, storage, real);
    }
    Json(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Quorum {
    present: bool,
}

async fn quorum(State(desk): State<Desk>, Json(body): Json<Quorum>) -> Json<Value> {
    desk.proxmox.set_quorum(body.present);
    Json(json!({}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tickets {
    lifetime_seconds: i64,
}

async fn tickets(State(desk): State<Desk>, Json(body): Json<Tickets>) -> Json<Value> {
    desk.proxmox.set_ticket_lifetime(body.lifetime_seconds);
    Json(json!({}))
}
