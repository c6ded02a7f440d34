//! Virtual machines: one file per thing that can be done with them.

mod agent;
mod clone;
mod cloudinit;
mod configure;
mod create;
mod destroy;
pub(crate) mod migrate;
mod options;
mod power;
mod resize;
mod snapshot;
mod status;
mod template;

use serde_json::json;

use crate::proxmox::{
    call::{Call, Reply},
    error::ApiResult,
};

pub(super) async fn dispatch(call: &Call, method: &str, template: &str) -> Option<ApiResult<Reply>> {
    let path = template.strip_prefix("/nodes/{node}/qemu")?;
    let Some(path) = path.strip_prefix("/{vmid}") else {
        return Some(match method {
            "GET" => Ok(status::list(call)),
            _ => create::create(call),
        });
    };
    if let Some(action) = path.strip_prefix("/agent") {
        return agent::dispatch(call, method, action).await;
    }
    if let Some(rest) = path.strip_prefix("/snapshot") {
        return snapshot::dispatch(call, method, rest);
    }
    if let Some(action) = path.strip_prefix("/status/") {
        return match (method, action) {
            ("GET", "current") => Some(status::current(call)),
            ("POST", action) => power::dispatch(call, action),
            _ => None,
        };
    }
    Some(match (method, path) {
        ("GET", "") => Ok(json!([{ "subdir": "config" }, { "subdir": "status" }, { "subdir": "agent" }]).into()),
        ("GET", "/status") => Ok(json!([{ "subdir": "current" }, { "subdir": "start" }, { "subdir": "stop" }]).into()),
        ("DELETE", "") => destroy::destroy(call),
        ("GET", "/config") => configure::read(call),
        ("GET", "/pending") => configure::pending(call),
        ("PUT", "/config") => configure::update(call).await,
        ("POST", "/config") => configure::update_in_task(call).await,
        ("PUT", "/unlink") => configure::unlink(call).await,
        ("POST", "/clone") => clone::clone(call),
        ("PUT", "/resize") => resize::resize(call),
        ("POST", "/move_disk") => resize::move_disk(call),
        ("POST", "/template") => template::convert(call),
        ("GET", "/feature") => status::feature(call),
        ("GET" | "POST", "/migrate") => migrate::dispatch(call, method),
        ("GET", "/cloudinit/dump") => cloudinit::dump(call),
        ("GET", "/cloudinit") => cloudinit::pending(call),
        ("PUT", "/cloudinit") => cloudinit::regenerate(call),
        _ => return None,
    })
}
