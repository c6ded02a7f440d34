//! `/healthz`, `/readyz` and `/metrics`.

use std::{net::SocketAddr, sync::Arc};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a daemon tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether it takes work.
    pub ready: bool,
    /// What does not work, each in one sentence; empty when all is well.
    pub troubles: Vec<String>,
    /// What works and soon will not, each in one sentence.
    pub warnings: Vec<String>,
}

#[derive(Clone)]
struct Served {
    health: watch::Receiver<Health>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// Serves until `stop`; returns the address that was bound.
///
/// # Errors
/// If the address cannot be bound: why, or who holds the port.
pub async fn serve(
    listen: SocketAddr,
    health: watch::Receiver<Health>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> std::io::Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let listener = sockets::listen(listen).await?;
    let address = listener.local_addr()?;
    let served = Served { health, metrics: Arc::new(move || metrics.render()) };
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(async |State(served): State<Served>| (served.metrics)()))
        .with_state(served);
    let task = tokio::spawn(async move {
        let result = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = result {
            tracing::error!(%error, "the http endpoint ended");
        }
    });
    Ok((address, task))
}

async fn healthz(State(served): State<Served>) -> (StatusCode, Json<Value>) {
    let health = served.health.borrow().clone();
    let code = if health.troubles.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": health.ready, "troubles": health.troubles, "warnings": health.warnings })))
}

async fn readyz(State(served): State<Served>) -> (StatusCode, Json<Value>) {
    let health = served.health.borrow().clone();
    let code = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": health.ready, "troubles": health.troubles })))
}
