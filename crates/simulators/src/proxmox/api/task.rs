//! Queries of worker tasks (proxmox.md 2.3).

use serde_json::{Map, Value, json};

use crate::proxmox::{
    call::{Call, Reply},
    error::{ApiError, ApiResult},
    params::split_list,
    task::{Task, Upid},
};

pub(super) fn dispatch(call: &Call, method: &str, template: &str) -> Option<ApiResult<Reply>> {
    Some(match (method, template.strip_prefix("/nodes/{node}/tasks")?) {
        ("GET", "") => Ok(list(call)),
        ("GET", "/{upid}") => Ok(json!([{ "name": "log" }, { "name": "status" }]).into()),
        ("GET", "/{upid}/status") => status(call),
        ("GET", "/{upid}/log") => log(call),
        ("DELETE", "/{upid}") => stop(call),
        _ => return None,
    })
}

/// A row of a task list.
pub(super) fn row(task: &Task) -> Map<String, Value> {
    let mut row = common(task);
    if let Some(end) = &task.end {
        row.insert("endtime".to_owned(), end.at.into());
        row.insert("status".to_owned(), end.status.clone().into());
    }
    row
}

fn common(task: &Task) -> Map<String, Value> {
    let Upid { host, pid, pstart, started, kind, id, .. } = &task.upid;
    let mut row = Map::new();
    row.insert("upid".to_owned(), task.upid.to_string().into());
    row.insert("node".to_owned(), host.clone().into());
    row.insert("pid".to_owned(), (*pid).into());
    row.insert("pstart".to_owned(), (*pstart).into());
    row.insert("starttime".to_owned(), (*started).into());
    row.insert("type".to_owned(), kind.clone().into());
    row.insert("id".to_owned(), id.clone().into());
    row.insert("user".to_owned(), task.owner.user.clone().into());
    if let Some(token) = &task.owner.token {
        row.insert("tokenid".to_owned(), token.clone().into());
    }
    row
}

fn list(call: &Call) -> Reply {
    let params = &call.params;
    let all = call.may(&call.sim.world(), &format!("/nodes/{}", call.node()), &["Sys.Audit"]);
    let source = params.get("source").unwrap_or("archive");
    let number = |key: &str| params.int(key);
    let wanted = |task: &Task| {
        let upid = &task.upid;
        let ended = task.end.is_some();
        let of_source = match source {
            "active" => !ended,
            "all" => true,
            _ => ended,
        };
        let failed = task.end.as_ref().is_some_and(|end| end.status != "OK" && !end.status.starts_with("WARNINGS:"));
        upid.host == call.node()
            && (all || is_own(call, task))
            && of_source
            && (!params.flag("errors") || failed)
            && params.get("userfilter").is_none_or(|filter| task.owner.full().contains(filter))
            && params.get("typefilter").is_none_or(|filter| upid.kind == filter)
            && params.get("vmid").is_none_or(|vmid| upid.id == vmid)
            && number("since").is_none_or(|since| upid.started >= since)
            && number("until").is_none_or(|until| upid.started <= until)
            && params.get("statusfilter").is_none_or(|filter| split_list(filter).iter().any(|kind| kind == class(task)))
    };
    let rows: Vec<Value> = {
        let tasks = call.sim.tasks();
        let rows = tasks.newest().filter(|task| wanted(task));
        rows.map(|task| {
            let mut row = row(task);
            if task.end.is_none() && source != "archive" {
                row.insert("status".to_owned(), "RUNNING".into());
            }
            Value::from(row)
        })
        .collect()
    };
    let total = rows.len();
    let start = number("start").unwrap_or(0) as usize;
    let limit = number("limit").unwrap_or(50) as usize;
    let page: Vec<Value> = rows.into_iter().skip(start).take(limit).collect();
    Reply::Counted(page.into(), total)
}

/// The word a status filter uses.
fn class(task: &Task) -> &'static str {
    match task.end.as_ref().map(|end| end.status.as_str()) {
        Some("OK") => "ok",
        Some(status) if status.starts_with("WARNINGS:") => "warning",
        Some("unexpected status") | None => "unknown",
        Some(_) => "error",
    }
}

/// Whether a task is the caller's: a token owns what it started, a user also what the user's tokens did.
pub(super) fn is_own(call: &Call, task: &Task) -> bool {
    let caller = &call.identity;
    task.owner == *caller || (caller.token.is_none() && task.owner.user == caller.user)
}

/// Finds a task that the caller may see, or change with another privilege.
fn find(call: &Call, privilege: &str) -> ApiResult<Task> {
    let text = call.params.need("upid");
    let upid = Upid::parse(text).ok_or_else(|| ApiError::param("upid", "unable to parse worker upid"))?;
    let task = call.sim.tasks().get(&upid).cloned();
    let task = task.filter(|task| task.upid.host == call.node());
    let task = task.ok_or_else(|| ApiError::param("upid", "no such task"))?;
    if !is_own(call, &task) {
        call.check(&format!("/nodes/{}", call.node()), &[privilege])?;
    }
    Ok(task)
}

fn status(call: &Call) -> ApiResult<Reply> {
    let task = find(call, "Sys.Audit")?;
    let mut row = common(&task);
    match &task.end {
        Some(end) => {
            row.insert("status".to_owned(), "stopped".into());
            row.insert("exitstatus".to_owned(), end.status.clone().into());
        }
        None => {
            row.insert("status".to_owned(), "running".into());
        }
    }
    Ok(Value::from(row).into())
}

fn log(call: &Call) -> ApiResult<Reply> {
    let task = find(call, "Sys.Audit")?;
    if call.params.flag("download") {
        return Ok(Reply::Text(task.log.iter().map(|line| format!("{line}\n")).collect()));
    }
    let start = call.params.int("start").unwrap_or(0) as usize;
    let limit = match call.params.int("limit").unwrap_or(50) {
        0 => usize::MAX,
        limit => limit as usize,
    };
    let lines = task.log.iter().enumerate().skip(start).take(limit);
    let rows: Vec<Value> = lines.map(|(at, text)| json!({ "n": at + 1, "t": text })).collect();
    if task.log.is_empty() {
        return Ok(Reply::Counted(json!([{ "n": 1, "t": "no content" }]), 1));
    }
    Ok(Reply::Counted(rows.into(), task.log.len()))
}

fn stop(call: &Call) -> ApiResult<Reply> {
    find(call, "Sys.Modify")?.interrupt.cancel();
    Ok(Reply::NULL)
}
