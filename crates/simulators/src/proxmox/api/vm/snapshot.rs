//! Snapshots: the configuration and what was on the disks at a moment (proxmox.md 2.2, 6).

use serde_json::{Value, json};

use crate::proxmox::{
    call::{Call, Reply},
    error::{ApiError, ApiResult},
    sim::{Worker, now},
    vm::{Snapshot, Vm},
};

pub(super) fn dispatch(call: &Call, method: &str, path: &str) -> Option<ApiResult<Reply>> {
    Some(match (method, path) {
        ("GET", "") => list(call),
        ("POST", "") => take(call),
        ("GET", "/{snapname}") => Ok(json!([{ "cmd": "config" }, { "cmd": "rollback" }]).into()),
        ("DELETE", "/{snapname}") => delete(call),
        ("GET", "/{snapname}/config") => find(call, |_, snapshot| Value::from(snapshot.config.json()).into()),
        ("POST", "/{snapname}/rollback") => Err(ApiError::die("the lab does not roll back to snapshots")),
        _ => return None,
    })
}

fn list(call: &Call) -> ApiResult<Reply> {
    let world = call.sim.world();
    let vm = world.vm(call.node(), call.vmid())?;
    let mut rows: Vec<Value> = vm
        .snapshots
        .iter()
        .map(|(name, snapshot)| {
            let mut row = json!({ "name": name, "snaptime": snapshot.taken, "description": snapshot.description.clone().unwrap_or_default() });
            if let Some(parent) = &snapshot.parent {
                row["parent"] = parent.clone().into();
            }
            row
        })
        .collect();
    let mut current = json!({ "name": "current", "digest": vm.digest(), "description": "You are here!", "running": u8::from(vm.is_running()) });
    if let Some(parent) = vm.config.get("parent") {
        current["parent"] = parent.into();
    }
    rows.push(current);
    Ok(rows.into())
}

fn find(call: &Call, answer: impl FnOnce(&Vm, &Snapshot) -> Reply) -> ApiResult<Reply> {
    let world = call.sim.world();
    let vm = world.vm(call.node(), call.vmid())?;
    let name = call.params.need("snapname");
    let snapshot = vm.snapshots.get(name).ok_or_else(|| ApiError::die(format!("snapshot '{name}' does not exist")))?;
    Ok(answer(vm, snapshot))
}

fn take(call: &Call) -> ApiResult<Reply> {
    let name = call.params.need("snapname").to_owned();
    if name == "current" || name == "pending" {
        return Err(ApiError::die(format!("unable to use snapshot name '{name}' (reserved name)")));
    }
    call.sim.world().vm(call.node(), call.vmid())?;
    let (vmid, description) = (call.vmid(), call.params.get("description").map(str::to_owned));
    let upid =
        call.sim.fork(&call.identity, call.node(), ("qmsnapshot", &vmid.to_string()), move |worker| async move {
            change(&worker, vmid, |vm| {
                if vm.is_template() {
                    return Err("you can't take a snapshot if it's a template".to_owned());
                }
                if vm.snapshots.contains_key(&name) {
                    return Err(format!("snapshot name '{name}' already used"));
                }
                let parent = vm.config.get("parent").map(str::to_owned);
                let snapshot = Snapshot { config: vm.config.clone(), description, parent, taken: now() };
                vm.snapshots.insert(name.clone(), snapshot);
                vm.config.set("parent", name);
                Ok(())
            })
            .await
        });
    Ok(upid.into())
}

fn delete(call: &Call) -> ApiResult<Reply> {
    let (vmid, name) = (call.vmid(), call.params.need("snapname").to_owned());
    call.sim.world().vm(call.node(), vmid)?;
    let upid =
        call.sim.fork(&call.identity, call.node(), ("qmdelsnapshot", &vmid.to_string()), move |worker| async move {
            change(&worker, vmid, |vm| {
                let removed = vm.snapshots.remove(&name).ok_or_else(|| format!("snapshot '{name}' does not exist"))?;
                if vm.config.get("parent") == Some(&name) {
                    vm.config.remove("parent");
                    if let Some(parent) = removed.parent {
                        vm.config.set("parent", parent);
                    }
                }
                Ok(())
            })
            .await
        });
    Ok(upid.into())
}

async fn change(worker: &Worker, vmid: u32, change: impl FnOnce(&mut Vm) -> Result<(), String>) -> Result<(), String> {
    let host = worker.upid.host.clone();
    let _lock = worker.sim.lock_guest(&host, vmid).await?;
    worker.work(0.5).await?;
    let mut world = worker.sim.world();
    let vm = world.vm_mut(&host, vmid).map_err(|error| error.message)?;
    vm.check_lock()?;
    change(vm)
}
