//! Storages: definitions, status per node, content (proxmox.md 6, TSV).

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use super::transfer;
use crate::{
    machine::DiskContent,
    proxmox::{
        call::{Call, Reply, reach},
        config, disks,
        error::{ApiError, ApiResult},
        formats, permission,
        sim::now,
        storage::{Storage, StorageKind, Volume},
        task::Upid,
        world::World,
    },
};

const SEE: &[&str] = &["Datastore.Audit", "Datastore.AllocateSpace"];

/// `/storage`: `storage.cfg`.
pub(super) fn definitions(call: &Call, method: &str, template: &str) -> Option<ApiResult<Reply>> {
    Some(match (method, template) {
        ("GET", "/storage") => Ok(list_definitions(call)),
        ("GET", "/storage/{storage}") => definition(call),
        ("POST", "/storage") => define(call),
        ("PUT", "/storage/{storage}") => redefine(call),
        ("DELETE", "/storage/{storage}") => undefine(call),
        _ => return None,
    })
}

pub(super) async fn dispatch(call: &Call, method: &str, template: &str) -> Option<ApiResult<Reply>> {
    Some(match (method, template.strip_prefix("/nodes/{node}/storage")?) {
        ("GET", "") => Ok(list(call)),
        ("GET", "/{storage}") => {
            Ok(json!([{ "subdir": "content" }, { "subdir": "status" }, { "subdir": "upload" }]).into())
        }
        ("GET", "/{storage}/status") => status(call),
        ("GET", "/{storage}/content") => content(call),
        ("POST", "/{storage}/content") => allocate(call).await,
        ("GET", "/{storage}/content/{volume}") => volume(call),
        ("DELETE", "/{storage}/content/{volume}") => delete(call).await,
        ("POST", "/{storage}/download-url") => transfer::download(call),
        ("POST", "/{storage}/upload") => transfer::upload(call),
        _ => return None,
    })
}

fn definition_row(storage: &Storage) -> Value {
    let content: Vec<&str> = storage.content.iter().map(String::as_str).collect();
    let mut row =
        json!({ "storage": storage.name, "type": storage.kind.name(), "content": content.join(","), "digest": "0" });
    match storage.kind {
        StorageKind::Dir => row["path"] = storage.path().into(),
        StorageKind::Nfs => {
            row["path"] = storage.path().into();
            row["server"] = "nfs.lab.internal".into();
            row["export"] = format!("/export/{}", storage.name).into();
        }
        StorageKind::LvmThin => {
            row["vgname"] = "pve".into();
            row["thinpool"] = "data".into();
        }
        StorageKind::Lvm => row["vgname"] = storage.name.clone().into(),
        StorageKind::ZfsPool | StorageKind::Rbd => row["pool"] = storage.name.clone().into(),
    }
    if storage.is_shared() {
        row["shared"] = 1.into();
    }
    if storage.disabled {
        row["disable"] = 1.into();
    }
    if !storage.nodes.is_empty() {
        row["nodes"] = storage.nodes.iter().cloned().collect::<Vec<_>>().join(",").into();
    }
    row
}

fn list_definitions(call: &Call) -> Reply {
    let world = call.sim.world();
    let seen = world.storages.values().filter(|storage| call.may(&world, &format!("/storage/{}", storage.name), SEE));
    Value::from(seen.map(definition_row).collect::<Vec<_>>()).into()
}

fn find<'a>(world: &'a World, call: &Call) -> ApiResult<&'a Storage> {
    let name = call.params.need("storage");
    world.storages.get(name).ok_or_else(|| ApiError::die(format!("storage '{name}' does not exist")))
}

fn definition(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    Ok(definition_row(find(&world, call)?).into())
}

fn define(call: &Call) -> ApiResult<Reply> {
    let name = call.params.need("storage").to_owned();
    let kind: StorageKind =
        call.params.need("type").parse().map_err(|_| ApiError::die("the lab has no such storage plugin"))?;
    let mut world = call.sim.world();
    world.check_quorum()?;
    if world.storages.contains_key(&name) {
        return Err(ApiError::die(format!("create storage failed: storage ID '{name}' already defined")));
    }
    let mut storage = Storage::new(&name, kind, &["images", "rootdir"], 100 << 30);
    change(call, &mut storage);
    world.storages.insert(name.clone(), storage);
    Ok(json!({ "storage": name, "type": kind.name() }).into())
}

fn redefine(call: &Call) -> ApiResult<Reply> {
    let mut world = call.sim.world();
    world.check_quorum()?;
    find(&world, call)?;
    let name = call.params.need("storage");
    let Some(storage) = world.storages.get_mut(name) else { return Ok(Reply::NULL) };
    change(call, storage);
    Ok(json!({ "storage": name, "type": storage.kind.name() }).into())
}

fn change(call: &Call, storage: &mut Storage) {
    if call.params.get("content").is_some() {
        storage.content = call.params.list("content").into_iter().collect();
    }
    if call.params.get("nodes").is_some() {
        storage.nodes = call.params.list("nodes").into_iter().collect();
    }
    if call.params.get("disable").is_some() {
        storage.disabled = call.params.flag("disable");
    }
    for key in call.params.list("delete") {
        match key.as_str() {
            "nodes" => storage.nodes = BTreeSet::new(),
            "disable" => storage.disabled = false,
            _ => {}
        }
    }
}

fn undefine(call: &Call) -> ApiResult<Reply> {
    let mut world = call.sim.world();
    find(&world, call)?;
    world.storages.shift_remove(call.params.need("storage"));
    Ok(Reply::NULL)
}

/// Capacity and state of a storage on a node.
fn state(world: &World, storage: &Storage, host: &str) -> Value {
    let used = world.volumes.used(storage, host);
    let content: Vec<&str> = storage.content.iter().map(String::as_str).collect();
    json!({
        "type": storage.kind.name(), "content": content.join(","), "shared": u8::from(storage.is_shared()),
        "active": u8::from(!storage.disabled), "enabled": u8::from(!storage.disabled),
        "total": storage.size, "used": used, "avail": storage.size - used,
    })
}

fn list(call: &Call) -> Reply {
    let world = call.sim.world();
    let params = &call.params;
    let kinds = params.list("content");
    let wanted = |storage: &&Storage| {
        storage.is_on(call.node())
            && (kinds.is_empty() || kinds.iter().any(|kind| storage.holds(kind)))
            && (!params.flag("enabled") || !storage.disabled)
            && params.get("storage").is_none_or(|name| name == storage.name)
            && call.may(&world, &format!("/storage/{}", storage.name), SEE)
    };
    let rows = world.storages.values().filter(wanted).map(|storage| {
        let mut row = state(&world, storage, call.node());
        row["storage"] = storage.name.clone().into();
        row["used_fraction"] = (world.volumes.used(storage, call.node()) as f64 / storage.size.max(1) as f64).into();
        row
    });
    Value::from(rows.collect::<Vec<_>>()).into()
}

fn status(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    let storage = find(&world, call)?;
    if !storage.is_on(call.node()) {
        return Err(ApiError::die(format!("storage '{}' is not available on node '{}'", storage.name, call.node())));
    }
    Ok(state(&world, storage, call.node()).into())
}

fn content(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    let storage = world.storage(call.params.need("storage"), call.node()).map_err(ApiError::die)?;
    let (kind, vmid) = (call.params.get("content"), call.params.get("vmid"));
    let rows = world
        .volumes
        .on(storage, call.node())
        .filter(|(name, _)| {
            let id = format!("{}:{name}", storage.name);
            let own = vmid.and_then(|vmid| vmid.parse().ok());
            permission::check_volume(&world, &call.identity, &id, own).is_ok()
        })
        .filter(|(_, volume)| kind.is_none_or(|kind| kind == volume.content_type))
        .filter(|(_, volume)| vmid.is_none_or(|vmid| volume.vmid.is_some_and(|id| id.to_string() == vmid)))
        .map(|(name, volume)| {
            let mut row = json!({
                "volid": format!("{}:{name}", storage.name), "content": volume.content_type, "format": volume.format,
                "size": volume.size, "ctime": volume.created,
            });
            if let Some(vmid) = volume.vmid {
                row["vmid"] = vmid.into();
                row["used"] = volume.written.into();
            }
            if let Some(parent) = &volume.parent {
                row["parent"] = formats::parse_volume_id(parent).map_or(parent.as_str(), |(_, name)| name).into();
            }
            row
        });
    Ok(Value::from(rows.collect::<Vec<_>>()).into())
}

async fn allocate(call: &Call) -> ApiResult<Reply> {
    let params = &call.params;
    let (name, vmid) = (params.need("storage"), call.vmid());
    let file = params.need("filename").to_owned();
    let size = params.need("size");
    // A bare number is KiB here.
    let bytes = if size.ends_with(['M', 'G']) {
        formats::parse_size(size)
    } else {
        size.parse().ok().map(|kib: u64| kib << 10)
    };
    let bytes = bytes.unwrap_or_default();
    if config::owner(&format!("{name}:{file}")) != Some(vmid) {
        return Err(ApiError::die(format!("illegal name '{file}' - should be 'vm-{vmid}-*'")));
    }
    let _lock = call.sim.lock_storage(call.node(), name).await?;
    let mut world = call.sim.world();
    let storage = world.storage(name, call.node()).map_err(ApiError::die)?.clone();
    let plain = file.rsplit('/').next().unwrap_or(&file).split('.').next().unwrap_or(&file);
    let format = params.get("format").filter(|_| storage.kind.is_file_based()).unwrap_or("raw");
    let stored = storage.disk_name(vmid, plain, format);
    if world.volumes.get(&storage, call.node(), &stored).is_some() {
        return Err(ApiError::die(format!("disk image '{name}:{stored}' already exists")));
    }
    let volume = Volume {
        content_type: "images",
        format: format.to_owned(),
        size: bytes,
        written: 0,
        vmid: Some(vmid),
        parent: None,
        created: now(),
        content: DiskContent::blank(),
        file: None,
    };
    world.volumes.insert(&storage, call.node(), &stored, volume);
    Ok(format!("{name}:{stored}").into())
}

/// The volume id that a path names, with or without its storage.
fn volume_id(call: &Call) -> ApiResult<String> {
    let (storage, volume) = (call.params.need("storage"), call.params.need("volume"));
    match formats::parse_volume_id(volume) {
        Some((other, _)) if other != storage => {
            Err(ApiError::die(format!("storage ID missmatch ({storage} != {other})")))
        }
        Some(_) => Ok(volume.to_owned()),
        None => Ok(format!("{storage}:{volume}")),
    }
}

fn volume(call: &Call) -> ApiResult<Reply> {
    let id = volume_id(call)?;
    let world = call.sim.world();
    world.check_any(&call.identity, &format!("/storage/{}", call.params.need("storage")), SEE)?;
    let storage = world.storage(call.params.need("storage"), call.node()).map_err(ApiError::die)?;
    let found =
        disks::find(&world, call.node(), &id).ok_or_else(|| ApiError::die(format!("volume '{id}' does not exist")))?;
    let file = formats::parse_volume_id(&id).map_or("", |(_, file)| file);
    let path = format!("{}/{file}", storage.path());
    Ok(json!({ "path": path, "size": found.size, "used": found.written, "format": found.format }).into())
}

async fn delete(call: &Call) -> ApiResult<Reply> {
    let id = volume_id(call)?;
    let name = call.params.need("storage").to_owned();
    {
        let world = call.sim.world();
        world.storage(&name, call.node()).map_err(ApiError::die)?;
        world.check(&call.identity, &format!("/storage/{name}"), &["Datastore.Allocate"])?;
        reach(&world, call.node())?;
    }
    let owner = config::owner(&id);
    let task_id = owner.map_or_else(|| name.clone(), |vmid| format!("{vmid}@{name}"));
    let host = call.node().to_owned();
    let upid = call.sim.fork(&call.identity, &host, ("imgdel", &task_id), |worker| async move {
        let host = worker.upid.host.clone();
        {
            let world = worker.sim.world();
            if disks::find(&world, &host, &id).is_none() {
                return Err(format!("volume '{id}' does not exist"));
            }
            if world.volumes.has_children(&id) {
                return Err(format!("base volume '{id}' is still in use by linked clones"));
            }
        }
        worker.work(0.2).await?;
        disks::free(&worker, &host, std::slice::from_ref(&id)).await;
        worker.log(format!("Removed volume '{id}'"));
        Ok(())
    });
    let Some(delay) = call.params.int("delay") else { return Ok(upid.into()) };
    if finished_within(call, &upid, delay.unsigned_abs()).await { Ok(Reply::NULL) } else { Ok(upid.into()) }
}

/// Waits a little for a worker that is likely to be quick.
async fn finished_within(call: &Call, upid: &str, seconds: u64) -> bool {
    let Some(upid) = Upid::parse(upid) else { return false };
    let patience = call.sim.pace.scale(Duration::from_secs(seconds)).max(Duration::from_millis(100));
    let done = |_: &World| {
        call.sim.tasks().get(&upid).is_some_and(|task| task.end.as_ref().is_some_and(|end| end.status == "OK"))
    };
    call.sim.wait_until(patience, done).await
}
