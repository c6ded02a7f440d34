//! Logs to standard error, metrics for Prometheus.

use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts logging as configured. Later calls change nothing.
///
/// # Errors
/// If the filter is not one.
pub fn init_logs(log: &Log) -> Result<(), String> {
    let filter = EnvFilter::try_new(&log.filter).map_err(|error| format!("log.filter: {error}"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_target(false).with_ansi(false).try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
    Ok(())
}

/// Upper bounds of the buckets of what takes time, in seconds: from a call to the wait for a machine.
const SECONDS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 180.0, 600.0, 1800.0];
const UPKEEP: Duration = Duration::from_secs(5);

/// Starts the metrics recorder of this process.
///
/// # Errors
/// If there is one already.
pub fn init_metrics() -> Result<PrometheusHandle, String> {
    let builder = PrometheusBuilder::new().set_buckets(&SECONDS).map_err(|error| error.to_string())?;
    builder.install_recorder().map_err(|error| error.to_string())
}

/// Sums up what was recorded, until `stop`: it is kept one by one until then, whether or not anybody asks for the metrics.
pub async fn sum_up(metrics: PrometheusHandle, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_some() {
        metrics.run_upkeep();
    }
}
