//! The static permission check of a call, read from its row in the schema (proxmox.md 8).

use super::{
    access::Identity,
    config,
    error::{ApiError, ApiResult},
    formats,
    params::Params,
    schema::Call,
    world::World,
};

/// Checks what the schema says about a call; what it only describes in words is checked in the call's code.
pub(crate) fn check(world: &World, call: &Call, identity: &Identity, params: &Params) -> ApiResult<()> {
    let rule = call.privilege(world.version);
    match (call.method, call.template) {
        ("POST", "/nodes/{node}/qemu/{vmid}/clone") => return check_clone(world, identity, params),
        ("POST", "/nodes/{node}/storage/{storage}/download-url") => {
            let storage = format!("/storage/{}", params.need("storage"));
            world.check(identity, &storage, &["Datastore.AllocateTemplate"])?;
            return check_network_access(world, identity, params.need("node"));
        }
        ("GET", "/nodes/{node}/query-url-metadata") => {
            return check_network_access(world, identity, params.need("node"));
        }
        _ => {}
    }
    if rule.starts_with("root@pam only") && !identity.is_root() {
        return Err(ApiError::permission(Some("user != root@pam")));
    }
    let Some((privileges, path)) = simple(rule) else { return Ok(()) };
    let path = fill(path, params);
    let any: Vec<&str> = privileges.split('|').collect();
    if any.len() == 1 { world.check(identity, &path, &any) } else { world.check_any(identity, &path, &any) }
}

fn check_clone(world: &World, identity: &Identity, params: &Params) -> ApiResult<()> {
    world.check(identity, &format!("/vms/{}", params.need("vmid")), &["VM.Clone"])?;
    let target = world.may(identity, &format!("/vms/{}", params.need("newid")), &["VM.Allocate"]);
    let pool = params.get("pool").is_some_and(|pool| world.may(identity, &format!("/pool/{pool}"), &["VM.Allocate"]));
    if target || pool { Ok(()) } else { Err(ApiError::permission(None)) }
}

fn check_network_access(world: &World, identity: &Identity, node: &str) -> ApiResult<()> {
    let root = world.may(identity, "/", &["Sys.Audit"]) && world.may(identity, "/", &["Sys.Modify"]);
    if root || world.may(identity, &format!("/nodes/{node}"), &["Sys.AccessNetwork"]) {
        return Ok(());
    }
    Err(ApiError::permission(None))
}

/// Whether an identity may use a volume that exists; that of its own VM it always may.
pub(crate) fn check_volume(world: &World, identity: &Identity, volume: &str, own: Option<u32>) -> ApiResult<()> {
    let (storage, name) = formats::parse_volume_id(volume).unwrap_or_default();
    let path = format!("/storage/{storage}");
    let owner = config::owner(volume);
    match (name.split_once('/').map(|(folder, _)| folder), owner) {
        (Some("iso" | "vztmpl" | "import"), _) => {
            world.check_any(identity, &path, &["Datastore.AllocateSpace", "Datastore.Audit"])
        }
        (_, Some(owner)) if Some(owner) == own => Ok(()),
        (_, Some(owner)) => {
            world.check(identity, &path, &["Datastore.Audit"])?;
            world.check(identity, &format!("/vms/{owner}"), &["VM.Config.Disk"])
        }
        _ if world.may(identity, &path, &["Datastore.Allocate"]) => Ok(()),
        _ => Err(ApiError::die(format!("missing privileges to access {volume}"))),
    }
}

/// `A|B @ /path` as its two halves.
fn simple(rule: &str) -> Option<(&str, &str)> {
    let (privileges, path) = rule.split_once(" @ ")?;
    let path = path.split(';').next()?.trim();
    let plain = privileges.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'|'));
    (plain && path.starts_with('/') && !path.contains(' ')).then_some((privileges, path))
}

/// Puts parameters in place of `{name}`.
fn fill(path: &str, params: &Params) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, tail) = after.split_once('}').unwrap_or((after, ""));
        out.push_str(before);
        out.push_str(params.need(name));
        rest = tail;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_rules_are_read_and_worded_ones_are_left_to_the_code() {
        assert_eq!(simple("Sys.Audit @ /nodes/{node}"), Some(("Sys.Audit", "/nodes/{node}")));
        assert_eq!(simple("A.B|C.D @ /storage/{storage}"), Some(("A.B|C.D", "/storage/{storage}")));
        assert_eq!(simple("Sys.Audit @ /; Sys.Audit on / for the full set"), Some(("Sys.Audit", "/")));
        assert_eq!(simple("any user; rows filtered by VM.Audit on /vms/ID"), None);
        assert_eq!(simple("(VM.Clone @ /vms/{vmid} AND x)"), None);
    }
}
