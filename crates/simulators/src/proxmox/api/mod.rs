//! The handlers of the API, found by method and path template.

mod access;
mod cluster;
mod ha;
mod node;
mod pool;
mod storage;
mod task;
mod transfer;
pub(crate) mod vm;

use super::{
    call::{Call, Reply},
    error::{ApiError, ApiResult},
};

/// Runs the handler of a call whose parameters are valid.
pub(crate) async fn dispatch(call: &Call, method: &str, template: &str) -> ApiResult<Reply> {
    let handled = match template.split('/').nth(1) {
        Some("version") => Some(node::cluster_version(call)),
        Some("access") => access::dispatch(call, method, template),
        Some("pools") => pool::dispatch(call, method, template),
        Some("storage") => storage::definitions(call, method, template),
        Some("cluster") if template.starts_with("/cluster/ha/") => ha::dispatch(call, method, template),
        Some("cluster") => cluster::dispatch(call, method, template),
        Some("nodes") if template.starts_with("/nodes/{node}/qemu") => vm::dispatch(call, method, template).await,
        Some("nodes") if template.starts_with("/nodes/{node}/storage") => {
            storage::dispatch(call, method, template).await
        }
        Some("nodes") if template.starts_with("/nodes/{node}/tasks") => task::dispatch(call, method, template),
        Some("nodes") if template == "/nodes/{node}/query-url-metadata" => Some(transfer::metadata(call).await),
        Some("nodes") => node::dispatch(call, method, template),
        _ => None,
    };
    // What PVE has and the lab does not answers like a path that does not exist, so that nobody takes it for done.
    handled.unwrap_or_else(|| Err(ApiError::with_code(501, format!("Method '{method} {template}' not implemented"))))
}
