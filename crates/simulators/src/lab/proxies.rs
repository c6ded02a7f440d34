//! Fault proxies over HTTP: put up, harmed otherwise, cut and taken down while the lab runs.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Cut, Harm, Proxy};

type Answer = Result<Json<Value>, (StatusCode, String)>;

/// The proxies of one control endpoint, by the numbers they were given.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    all: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    by_id: BTreeMap<u64, Proxy>,
}

impl Proxies {
    pub(super) fn add(&self, proxy: Proxy) -> u64 {
        let mut table = self.lock();
        table.last += 1;
        let id = table.last;
        table.by_id.insert(id, proxy);
        id
    }

    fn with<T>(&self, id: u64, answer: impl FnOnce(&Proxy) -> T) -> Result<T, (StatusCode, String)> {
        self.lock().by_id.get(&id).map(answer).ok_or_else(missing)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing() -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, "no such proxy\n".to_owned())
}

fn describe(id: u64, proxy: &Proxy) -> Value {
    json!({
        "id": id, "listen": proxy.address(), "to": proxy.target(), "harm": proxy.harm(),
        "connections": proxy.connections(),
    })
}

/// What a control endpoint answers about proxies.
pub(super) fn router(proxies: Proxies) -> Router {
    Router::new()
        .route("/v1/proxies", get(list).post(create))
        .route("/v1/proxies/{id}", get(show).post(change).delete(remove))
        .route("/v1/proxies/{id}/cut", post(cut))
        .with_state(proxies)
}

/// Serves a control endpoint for proxies alone; it ends with the token.
pub(super) async fn serve(address: SocketAddr, proxies: Proxies, stop: CancellationToken) -> io::Result<SocketAddr> {
    let listener = sockets::listen(address).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let serving = axum::serve(listener, router(proxies)).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serving.await {
            tracing::warn!(%error, "the control endpoint of the proxy ended");
        }
    });
    Ok(address)
}

async fn list(State(proxies): State<Proxies>) -> Json<Value> {
    let table = proxies.lock();
    Json(table.by_id.iter().map(|(id, proxy)| describe(*id, proxy)).collect())
}

async fn show(State(proxies): State<Proxies>, Path(id): Path<u64>) -> Answer {
    proxies.with(id, |proxy| Json(describe(id, proxy)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    listen: SocketAddr,
    to: SocketAddr,
    #[serde(default)]
    harm: Harm,
}

async fn create(State(proxies): State<Proxies>, Json(new): Json<New>) -> Answer {
    if !(new.listen.ip().is_loopback() && new.to.ip().is_loopback()) {
        return Err((StatusCode::BAD_REQUEST, "a proxy goes from loopback to loopback\n".to_owned()));
    }
    let proxy = Proxy::start(new.listen, new.to, new.harm).await;
    let proxy = proxy.map_err(|error| (StatusCode::CONFLICT, format!("{error}\n")))?;
    let id = proxies.add(proxy);
    proxies.with(id, |proxy| Json(describe(id, proxy)))
}

/// Replaces the harm; what is left out is harmless.
async fn change(State(proxies): State<Proxies>, Path(id): Path<u64>, Json(harm): Json<Harm>) -> Answer {
    proxies.with(id, |proxy| {
        proxy.set_harm(harm);
        Json(describe(id, proxy))
    })
}

async fn remove(State(proxies): State<Proxies>, Path(id): Path<u64>) -> Answer {
    let removed = proxies.lock().by_id.remove(&id);
    removed.map(|_| Json(json!({}))).ok_or_else(missing)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CutNow {
    cut: Cut,
}

/// Does it to every open connection at once, whether data flows or not; later connections are not concerned.
async fn cut(State(proxies): State<Proxies>, Path(id): Path<u64>, Json(now): Json<CutNow>) -> Answer {
    proxies.with(id, |proxy| {
        let cut = proxy.connections();
        proxy.cut(now.cut);
        Json(json!({ "connections": cut }))
    })
}
