//! Tickets, users, API tokens, roles, access control (proxmox.md 1.5 and 8).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::proxmox::{
    access::{Identity, Subject, Token},
    call::{Call, Reply},
    error::{ApiError, ApiResult},
    roles,
    sim::now,
    world::World,
};

pub(super) fn dispatch(call: &Call, method: &str, template: &str) -> Option<ApiResult<Reply>> {
    let path = template.strip_prefix("/access")?;
    Some(match (method, path) {
        ("GET", "/ticket") => Ok(Reply::NULL),
        ("POST", "/ticket") => ticket(call),
        ("GET", "/domains") => Ok(domains()),
        ("GET", "/permissions") => permissions(call),
        ("GET", "/roles") => Ok(list_roles(call)),
        ("GET", "/roles/{roleid}") => role(call),
        ("POST", "/roles") => create_role(call),
        ("PUT", "/roles/{roleid}") => update_role(call),
        ("DELETE", "/roles/{roleid}") => delete_role(call),
        ("GET", "/acl") => Ok(list_acl(call)),
        ("PUT", "/acl") => update_acl(call),
        ("GET", "/users") => Ok(list_users(call)),
        ("GET", "/users/{userid}") => user(call),
        ("POST", "/users") => create_user(call),
        ("DELETE", "/users/{userid}") => delete_user(call),
        ("GET", "/users/{userid}/token") => tokens(call),
        ("GET", "/users/{userid}/token/{tokenid}") => token(call),
        ("POST", "/users/{userid}/token/{tokenid}") => create_token(call),
        ("PUT", "/users/{userid}/token/{tokenid}") => update_token(call),
        ("DELETE", "/users/{userid}/token/{tokenid}") => delete_token(call),
        _ => return None,
    })
}

/// A password, or a still valid ticket in its place, for a new ticket.
fn ticket(call: &Call) -> ApiResult<Reply> {
    let failure = || ApiError::with_code(401, "authentication failure");
    let name = call.params.need("username");
    let user = match call.params.get("realm") {
        Some(realm) if !name.contains('@') => format!("{name}@{realm}"),
        _ => name.to_owned(),
    };
    let password = call.params.need("password");
    let lifetime = call.sim.ticket_lifetime.load(std::sync::atomic::Ordering::Relaxed);
    let world = call.sim.world();
    let known = world.access.users.get(&user).filter(|user| user.enabled).ok_or_else(failure)?;
    let renewed = call.sim.tickets.verify(password, lifetime).as_deref() == Some(user.as_str());
    if !renewed && known.password.as_deref() != Some(password) {
        return Err(failure());
    }
    let at = now();
    let mut answer = json!({
        "ticket": call.sim.tickets.ticket(&user, at),
        "CSRFPreventionToken": call.sim.tickets.csrf_token(&user, at),
        "username": user,
        "cap": capabilities(&world, &Identity::user(&user)),
    });
    if world.hosts.len() > 1 {
        answer["clustername"] = world.cluster.clone().into();
    }
    Ok(answer.into())
}

/// The privileges that the web interface shows or hides things by.
fn capabilities(world: &World, identity: &Identity) -> Value {
    let areas = [
        ("vms", "/vms"),
        ("storage", "/storage"),
        ("nodes", "/nodes"),
        ("dc", "/"),
        ("access", "/access"),
        ("sdn", "/sdn"),
        ("mapping", "/mapping"),
    ];
    let of = |path: &str| {
        world.privileges(identity, path).into_keys().map(|key| (key, Value::from(1))).collect::<Map<_, _>>()
    };
    areas.iter().map(|(name, path)| ((*name).to_owned(), Value::from(of(path)))).collect::<Map<_, _>>().into()
}

fn domains() -> Reply {
    json!([
        { "realm": "pam", "type": "pam", "comment": "Linux PAM standard authentication" },
        { "realm": "pve", "type": "pve", "comment": "Proxmox VE authentication server" },
    ])
    .into()
}

fn permissions(call: &Call) -> ApiResult<Reply> {
    let identity = match call.params.get("userid") {
        Some(other) if other != call.identity.full() => {
            call.check("/access", &["Sys.Audit"])?;
            match other.split_once('!') {
                Some((user, token)) => Identity { user: user.to_owned(), token: Some(token.to_owned()) },
                None => Identity::user(other),
            }
        }
        _ => call.identity.clone(),
    };
    let world = call.sim.world();
    let mut paths: BTreeSet<String> =
        ["/", "/access", "/nodes", "/pool", "/sdn", "/storage", "/vms"].map(str::to_owned).into_iter().collect();
    paths.extend(world.access.entries.keys().cloned());
    paths.extend(world.pools.values().flat_map(|pool| pool.vms.iter()).map(|vmid| format!("/vms/{vmid}")));
    if let Some(path) = call.params.get("path") {
        paths = BTreeSet::from([path.to_owned()]);
    }
    let mut answer = Map::new();
    for path in paths {
        let privileges: Map<String, Value> = world
            .privileges(&identity, &path)
            .into_iter()
            .map(|(name, propagate)| (name, u8::from(propagate).into()))
            .collect();
        if !privileges.is_empty() {
            answer.insert(path, privileges.into());
        }
    }
    Ok(Value::from(answer).into())
}

fn list_roles(call: &Call) -> Reply {
    let world = call.sim.world();
    let row = |id: &str, privs: String, special: u8| json!({ "roleid": id, "privs": privs, "special": special });
    let built_in = roles::built_ins(world.version).iter().map(|(id, privs)| row(id, privs.join(","), 1));
    let custom = world
        .access
        .custom_roles
        .iter()
        .map(|(id, privs)| row(id, privs.iter().cloned().collect::<Vec<_>>().join(","), 0));
    Value::from(built_in.chain(custom).collect::<Vec<_>>()).into()
}

fn role(call: &Call) -> ApiResult<Reply> {
    let id = call.params.need("roleid");
    let privileges =
        call.sim.world().access.role(id).ok_or_else(|| ApiError::die(format!("role '{id}' does not exist")))?;
    let row: Map<String, Value> = privileges.into_iter().map(|name| (name, 1.into())).collect();
    Ok(Value::from(row).into())
}

fn given_privileges(call: &Call) -> ApiResult<BTreeSet<String>> {
    let privileges = call.params.list("privs");
    let world = call.sim.world();
    privileges.iter().try_for_each(|name| world.access.check_privilege_name(name))?;
    Ok(privileges.into_iter().collect())
}

fn create_role(call: &Call) -> ApiResult<Reply> {
    let id = call.params.need("roleid");
    let privileges = given_privileges(call)?;
    let mut world = call.sim.world();
    if world.access.role(id).is_some() {
        return Err(ApiError::die(format!("create role failed: role '{id}' already exists")));
    }
    world.access.custom_roles.insert(id.to_owned(), privileges);
    Ok(Reply::NULL)
}

fn update_role(call: &Call) -> ApiResult<Reply> {
    let id = call.params.need("roleid");
    let privileges = given_privileges(call)?;
    let mut world = call.sim.world();
    let role =
        world.access.custom_roles.get_mut(id).ok_or_else(|| ApiError::die(format!("role '{id}' does not exist")))?;
    if !call.params.flag("append") {
        role.clear();
    }
    role.extend(privileges);
    Ok(Reply::NULL)
}

fn delete_role(call: &Call) -> ApiResult<Reply> {
    let id = call.params.need("roleid");
    match call.sim.world().access.remove_role(id) {
        true => Ok(Reply::NULL),
        false => Err(ApiError::die(format!("role '{id}' does not exist"))),
    }
}

fn list_acl(call: &Call) -> Reply {
    let world = call.sim.world();
    let mut rows = Vec::new();
    for (path, subjects) in &world.access.entries {
        if !world.may(&call.identity, path, &["Permissions.Modify"]) {
            continue;
        }
        for (subject, roles) in subjects {
            let (kind, id) = match subject {
                Subject::User(id) => ("user", id),
                Subject::Group(id) => ("group", id),
                Subject::Token(id) => ("token", id),
            };
            for (role, propagate) in roles {
                rows.push(json!({ "path": path, "type": kind, "ugid": id, "roleid": role, "propagate": u8::from(*propagate) }));
            }
        }
    }
    Value::from(rows).into()
}

fn update_acl(call: &Call) -> ApiResult<Reply> {
    let params = &call.params;
    let path = params.need("path").to_owned();
    let mut world = call.sim.world();
    world.check(&call.identity, &path, &["Permissions.Modify"])?;
    let delete = params.flag("delete");
    let propagate = params.get("propagate") != Some("0");
    let subjects: Vec<Subject> = [
        params.list("users").into_iter().map(Subject::User as fn(String) -> Subject).collect::<Vec<_>>(),
        params.list("groups").into_iter().map(Subject::Group as fn(String) -> Subject).collect(),
        params.list("tokens").into_iter().map(Subject::Token as fn(String) -> Subject).collect(),
    ]
    .concat();
    if subjects.is_empty() {
        return Err(ApiError::param("users", "either 'users', 'groups' or 'tokens' is required."));
    }
    for role in params.list("roles") {
        if world.access.role(&role).is_none() {
            return Err(ApiError::die(format!("role '{role}' does not exist")));
        }
        for subject in &subjects {
            if let Subject::User(user) = subject
                && !world.access.users.contains_key(user)
            {
                return Err(ApiError::die(format!("user '{user}' does not exist")));
            }
            if delete {
                world.access.revoke(&path, subject, &role);
            } else {
                world.access.grant(&path, subject.clone(), &role, propagate);
            }
        }
    }
    Ok(Reply::NULL)
}

fn list_users(call: &Call) -> Reply {
    let world = call.sim.world();
    let all = world.may(&call.identity, "/access/groups", &["User.Modify", "Sys.Audit"]);
    let seen = world.access.users.iter().filter(|(id, _)| all || **id == call.identity.user);
    let rows = seen.map(|(id, user)| json!({ "userid": id, "enable": u8::from(user.enabled), "expire": 0, "realm-type": id.rsplit('@').next() }));
    Value::from(rows.collect::<Vec<_>>()).into()
}

fn user(call: &Call) -> ApiResult<Reply> {
    let id = call.params.need("userid");
    let world = call.sim.world();
    if id != call.identity.user {
        world.check_any(&call.identity, "/access/groups", &["User.Modify", "Sys.Audit"])?;
    }
    let user = world.access.users.get(id).ok_or_else(|| ApiError::die(format!("no such user ('{id}')")))?;
    let tokens: BTreeMap<&String, Value> = user.tokens.iter().map(|(id, token)| (id, token_row(token))).collect();
    Ok(json!({ "enable": u8::from(user.enabled), "expire": 0, "groups": user.groups, "tokens": tokens, "comment": user.comment }).into())
}

fn create_user(call: &Call) -> ApiResult<Reply> {
    let id = call.params.need("userid").to_owned();
    let mut world = call.sim.world();
    let realm = id.rsplit('@').next().unwrap_or_default().to_owned();
    world.check(&call.identity, &format!("/access/realm/{realm}"), &["Realm.AllocateUser"])?;
    world.check(&call.identity, "/access/groups", &["User.Modify"])?;
    if world.access.users.contains_key(&id) {
        return Err(ApiError::die(format!("create user failed: user '{id}' already exists")));
    }
    world.access.add_user(&id, call.params.get("password"));
    if let Some(user) = world.access.users.get_mut(&id) {
        user.enabled = call.params.get("enable") != Some("0");
        user.comment = call.params.get("comment").map(str::to_owned);
        user.groups = call.params.list("groups").into_iter().collect();
    }
    Ok(Reply::NULL)
}

fn delete_user(call: &Call) -> ApiResult<Reply> {
    let id = call.params.need("userid");
    let mut world = call.sim.world();
    world.check(&call.identity, "/access/groups", &["User.Modify"])?;
    match world.access.users.remove(id) {
        Some(_) => Ok(Reply::NULL),
        None => Err(ApiError::die(format!("user '{id}' does not exist"))),
    }
}

/// Own tokens, or those of users one may change.
fn check_tokens(call: &Call) -> ApiResult<()> {
    if call.params.need("userid") == call.identity.user {
        return Ok(());
    }
    call.check("/access/groups", &["User.Modify"])
}

fn token_row(token: &Token) -> Value {
    let mut row = json!({ "privsep": u8::from(token.privsep), "expire": token.expire });
    if let Some(comment) = &token.comment {
        row["comment"] = comment.clone().into();
    }
    row
}

fn tokens(call: &Call) -> ApiResult<Reply> {
    check_tokens(call)?;
    let world = call.sim.world();
    let tokens = world.access.users.get(call.params.need("userid")).map(|user| &user.tokens);
    let rows = tokens.into_iter().flatten().map(|(id, token)| {
        let mut row = token_row(token);
        row["tokenid"] = id.clone().into();
        row
    });
    Ok(Value::from(rows.collect::<Vec<_>>()).into())
}

fn token(call: &Call) -> ApiResult<Reply> {
    check_tokens(call)?;
    let (user, id) = (call.params.need("userid"), call.params.need("tokenid"));
    let world = call.sim.world();
    let token = world.access.users.get(user).and_then(|user| user.tokens.get(id));
    let token = token.ok_or_else(|| ApiError::die(format!("no such token '{id}' for user '{user}'")))?;
    Ok(token_row(token).into())
}

fn create_token(call: &Call) -> ApiResult<Reply> {
    check_tokens(call)?;
    let (user, id) = (call.params.need("userid"), call.params.need("tokenid"));
    let mut world = call.sim.world();
    let secret = world.random_uuid().to_string();
    let entry = world.access.users.get_mut(user).ok_or_else(|| ApiError::die(format!("no such user ('{user}')")))?;
    if entry.tokens.contains_key(id) {
        return Err(ApiError::param("tokenid", "Token already exists."));
    }
    let token = Token {
        secret: secret.clone(),
        privsep: call.params.get("privsep") != Some("0"),
        comment: call.params.get("comment").map(str::to_owned),
        expire: call.params.int("expire").unwrap_or(0),
    };
    let info = token_row(&token);
    entry.tokens.insert(id.to_owned(), token);
    Ok(json!({ "full-tokenid": format!("{user}!{id}"), "value": secret, "info": info }).into())
}

fn update_token(call: &Call) -> ApiResult<Reply> {
    check_tokens(call)?;
    let (user, id) = (call.params.need("userid"), call.params.need("tokenid"));
    let mut world = call.sim.world();
    let token = world.access.users.get_mut(user).and_then(|user| user.tokens.get_mut(id));
    let token = token.ok_or_else(|| ApiError::die(format!("no such token '{id}' for user '{user}'")))?;
    if let Some(expire) = call.params.int("expire") {
        token.expire = expire;
    }
    if call.params.get("privsep").is_some() {
        token.privsep = call.params.flag("privsep");
    }
    if let Some(comment) = call.params.get("comment") {
        token.comment = Some(comment.to_owned());
    }
    for key in call.params.list("delete") {
        match key.as_str() {
            "comment" => token.comment = None,
            "expire" => token.expire = 0,
            "privsep" => token.privsep = true,
            other => return Err(ApiError::param("delete", format!("unknown option '{other}'"))),
        }
    }
    Ok(token_row(token).into())
}

fn delete_token(call: &Call) -> ApiResult<Reply> {
    check_tokens(call)?;
    let (user, id) = (call.params.need("userid"), call.params.need("tokenid"));
    let mut world = call.sim.world();
    match world.access.users.get_mut(user).and_then(|user| user.tokens.remove(id)) {
        Some(_) => Ok(Reply::NULL),
        None => Err(ApiError::die(format!("no such token '{id}' for user '{user}'"))),
    }
}
