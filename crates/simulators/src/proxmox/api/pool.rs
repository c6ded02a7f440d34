//! Resource pools and their members (proxmox.md 8).

use serde_json::{Value, json};

use super::cluster::{expiry, guest_row};
use crate::proxmox::{
    call::{Call, Reply},
    error::{ApiError, ApiResult},
    world::{Pool, World},
};

pub(super) fn dispatch(call: &Call, method: &str, template: &str) -> Option<ApiResult<Reply>> {
    Some(match (method, template) {
        ("GET", "/pools") => list(call),
        ("POST", "/pools") => create(call),
        ("PUT", _) => update(call),
        ("DELETE", _) => delete(call),
        ("GET", "/pools/{poolid}") => read(call),
        _ => return None,
    })
}

fn missing(pool: &str) -> ApiError {
    ApiError::die(format!("pool '{pool}' does not exist"))
}

fn list(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    if let Some(wanted) = call.params.get("poolid") {
        let pool = world.pools.get(wanted).ok_or_else(|| missing(wanted))?;
        world.check(&call.identity, &format!("/pool/{wanted}"), &["Pool.Audit"])?;
        let mut row = describe(call, &world, pool);
        row["poolid"] = wanted.into();
        return Ok(json!([row]).into());
    }
    let seen = world.pools.iter().filter(|(name, _)| call.may(&world, &format!("/pool/{name}"), &["Pool.Audit"]));
    let rows = seen.map(|(name, pool)| match &pool.comment {
        Some(comment) => json!({ "poolid": name, "comment": comment }),
        None => json!({ "poolid": name }),
    });
    Ok(Value::from(rows.collect::<Vec<_>>()).into())
}

fn read(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    let name = call.params.need("poolid");
    let pool = world.pools.get(name).ok_or_else(|| missing(name))?;
    Ok(describe(call, &world, pool).into())
}

fn describe(call: &Call, world: &World, pool: &Pool) -> Value {
    let expiry = expiry(&call.sim.pace);
    let guests = pool.vms.iter().filter_map(|vmid| Some(guest_row(world, *vmid, world.vms.get(vmid)?, expiry)));
    let storages = pool.storages.iter().flat_map(|storage| {
        world.hosts.keys().map(move |node| json!({ "id": format!("storage/{node}/{storage}"), "type": "storage", "storage": storage, "node": node }))
    });
    let mut row = json!({ "members": guests.chain(storages).collect::<Vec<_>>() });
    if let Some(comment) = &pool.comment {
        row["comment"] = comment.clone().into();
    }
    row
}

fn create(call: &Call) -> ApiResult<Reply> {
    let name = call.params.need("poolid").to_owned();
    let mut world = call.sim.world();
    world.check_quorum()?;
    if world.pools.contains_key(&name) {
        return Err(ApiError::die(format!("pool '{name}' already exists")));
    }
    if let Some((parent, _)) = name.rsplit_once('/')
        && !world.pools.contains_key(parent)
    {
        return Err(ApiError::die(format!("parent '{parent}' of pool '{name}' does not exist")));
    }
    let comment = call.params.get("comment").map(str::to_owned);
    world.pools.insert(name, Pool { comment, ..Pool::default() });
    Ok(Reply::NULL)
}

fn update(call: &Call) -> ApiResult<Reply> {
    let params = &call.params;
    let name = params.need("poolid").to_owned();
    let mut world = call.sim.world();
    world.check_quorum()?;
    if !world.pools.contains_key(&name) {
        return Err(missing(&name));
    }
    let delete = params.flag("delete");
    let vms: Vec<u32> = params.list("vms").iter().filter_map(|vmid| vmid.parse().ok()).collect();
    for vmid in vms {
        world.check(&call.identity, &format!("/vms/{vmid}"), &["VM.Allocate"])?;
        move_vm(&mut world, vmid, (&name, delete, params.flag("allow-move")))?;
    }
    for storage in params.list("storage") {
        world.check(&call.identity, &format!("/storage/{storage}"), &["Datastore.Allocate"])?;
        let Some(pool) = world.pools.get_mut(&name) else { continue };
        if delete {
            pool.storages.remove(&storage);
        } else {
            pool.storages.insert(storage);
        }
    }
    if let Some(pool) = world.pools.get_mut(&name)
        && let Some(comment) = params.get("comment")
    {
        pool.comment = Some(comment.to_owned());
    }
    Ok(Reply::NULL)
}

fn move_vm(world: &mut World, vmid: u32, (name, delete, allow_move): (&str, bool, bool)) -> ApiResult<()> {
    if delete {
        let removed = world.pools.get_mut(name).is_some_and(|pool| pool.vms.remove(&vmid));
        return if removed { Ok(()) } else { Err(ApiError::die(format!("VM {vmid} is not a pool member"))) };
    }
    if !world.vms.contains_key(&vmid) {
        return Err(ApiError::die(format!("VM {vmid} does not exist")));
    }
    match world.pool_of(vmid).map(str::to_owned) {
        Some(old) if old == name => return Err(ApiError::die(format!("VM {vmid} is already a pool member"))),
        Some(old) if !allow_move => {
            return Err(ApiError::die(format!(
                "VM {vmid} belongs already to pool '{old}' and 'allow-move' is not set"
            )));
        }
        Some(old) => {
            if let Some(pool) = world.pools.get_mut(&old) {
                pool.vms.remove(&vmid);
            }
        }
        None => {}
    }
    if let Some(pool) = world.pools.get_mut(name) {
        pool.vms.insert(vmid);
    }
    Ok(())
}

fn delete(call: &Call) -> ApiResult<Reply> {
    let name = call.params.need("poolid");
    let mut world = call.sim.world();
    world.check_quorum()?;
    let pool = world.pools.get(name).ok_or_else(|| missing(name))?;
    if let Some(vmid) = pool.vms.first() {
        return Err(ApiError::die(format!("pool '{name}' is not empty (contains VM {vmid})")));
    }
    if let Some(storage) = pool.storages.first() {
        return Err(ApiError::die(format!("pool '{name}' is not empty (contains storage '{storage}')")));
    }
    world.pools.remove(name);
    Ok(Reply::NULL)
}
