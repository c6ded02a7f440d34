//! Users, API tokens, roles and the access control list with its inheritance rules (proxmox.md 8).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    error::{ApiError, ApiResult},
    roles,
    version::Version,
};

/// Who makes a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `user@realm`.
    pub(crate) user: String,
    /// The token's id below the user.
    pub(crate) token: Option<String>,
}

impl Identity {
    pub(crate) fn user(user: &str) -> Self {
        Self { user: user.to_owned(), token: None }
    }

    /// `user@realm` or `user@realm!token`, as UPIDs carry it.
    pub(crate) fn full(&self) -> String {
        self.token.as_ref().map_or_else(|| self.user.clone(), |token| format!("{}!{token}", self.user))
    }

    /// Only the ticket of root itself; a token of root does not count.
    pub(crate) fn is_root(&self) -> bool {
        self.user == "root@pam" && self.token.is_none()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) password: Option<String>,
    pub(crate) enabled: bool,
    pub(crate) comment: Option<String>,
    pub(crate) groups: BTreeSet<String>,
    pub(crate) tokens: BTreeMap<String, Token>,
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) secret: String,
    pub(crate) privsep: bool,
    pub(crate) comment: Option<String>,
    /// Unix seconds, zero for never.
    pub(crate) expire: i64,
}

/// Whom an access control entry is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    User(String),
    Group(String),
    Token(String),
}

/// Propagation per role, per subject, per path.
type Entries = BTreeMap<String, BTreeMap<Subject, BTreeMap<String, bool>>>;

#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) users: BTreeMap<String, User>,
    pub(crate) custom_roles: BTreeMap<String, BTreeSet<String>>,
    pub(crate) entries: Entries,
    version: Version,
}

impl Access {
    /// Only `root@pam`, with its password.
    pub(crate) fn new(root_password: &str, version: Version) -> Self {
        let mut access =
            Self { users: BTreeMap::new(), custom_roles: BTreeMap::new(), entries: Entries::new(), version };
        access.add_user("root@pam", Some(root_password));
        access
    }

    pub(crate) fn add_user(&mut self, user: &str, password: Option<&str>) {
        let user_entry = User {
            password: password.map(str::to_owned),
            enabled: true,
            comment: None,
            groups: BTreeSet::new(),
            tokens: BTreeMap::new(),
        };
        self.users.insert(user.to_owned(), user_entry);
    }

    pub(crate) fn grant(&mut self, path: &str, subject: Subject, role: &str, propagate: bool) {
        let subjects = self.entries.entry(path.to_owned()).or_default();
        subjects.entry(subject).or_default().insert(role.to_owned(), propagate);
    }

    pub(crate) fn revoke(&mut self, path: &str, subject: &Subject, role: &str) {
        if let Some(roles) = self.entries.get_mut(path).and_then(|subjects| subjects.get_mut(subject)) {
            roles.remove(role);
        }
    }

    /// Takes a role away, and with it the entries that name it: an unknown role in the list is ignored when it is read.
    pub(crate) fn remove_role(&mut self, name: &str) -> bool {
        for roles in self.entries.values_mut().flat_map(BTreeMap::values_mut) {
            roles.remove(name);
        }
        self.custom_roles.remove(name).is_some()
    }

    /// The privileges of a role; none if it is unknown.
    pub(crate) fn role(&self, name: &str) -> Option<BTreeSet<String>> {
        let built_in =
            || roles::built_in(name, self.version).map(|privs| privs.iter().map(|p| (*p).to_owned()).collect());
        self.custom_roles.get(name).cloned().or_else(built_in)
    }

    /// The roles a subject has at a path: the most specific entry replaces what is above it.
    fn roles(&self, subject: &Subject, path: &str) -> BTreeMap<String, bool> {
        let groups: Vec<Subject> = match subject {
            Subject::User(user) => {
                let groups = self.users.get(user).map(|user| user.groups.iter());
                groups.into_iter().flatten().map(|group| Subject::Group(group.clone())).collect()
            }
            _ => Vec::new(),
        };
        let mut effective = BTreeMap::new();
        for level in levels(path) {
            let Some(subjects) = self.entries.get(level) else { continue };
            let applies = |roles: &BTreeMap<String, bool>| {
                let here = roles.iter().filter(|(_, propagate)| level == path || **propagate);
                here.map(|(role, propagate)| (role.clone(), *propagate)).collect::<BTreeMap<_, _>>()
            };
            let own = subjects.get(subject).map(applies).filter(|roles| !roles.is_empty());
            let of_groups = || {
                let all: BTreeMap<_, _> =
                    groups.iter().filter_map(|group| subjects.get(group)).flat_map(applies).collect();
                Some(all).filter(|roles| !roles.is_empty())
            };
            if let Some(roles) = own.or_else(of_groups) {
                effective = roles;
            }
        }
        if effective.contains_key("NoAccess") {
            effective.retain(|role, _| role == "NoAccess");
        }
        effective
    }

    /// Privileges of a subject at a path, with those that pools add to their members.
    fn privileges_of(&self, subject: &Subject, path: &str, pools: &[String]) -> BTreeMap<String, bool> {
        let mut roles = self.roles(subject, path);
        if !roles.contains_key("NoAccess") {
            for role in pools.iter().flat_map(|pool| self.roles(subject, &format!("/pool/{pool}")).into_keys()) {
                // What comes from a pool is for its members alone.
                roles.insert(role, false);
            }
        }
        if roles.contains_key("NoAccess") {
            return BTreeMap::new();
        }
        let mut privileges = BTreeMap::new();
        for (role, propagate) in roles {
            for privilege in self.role(&role).unwrap_or_default() {
                *privileges.entry(privilege).or_insert(false) |= propagate;
            }
        }
        privileges
    }

    /// Everything an identity may do at a path; a privilege-separated token gets the intersection with its user.
    pub(crate) fn privileges(&self, identity: &Identity, path: &str, pools: &[String]) -> BTreeMap<String, bool> {
        let of_user = if identity.user == "root@pam" {
            roles::all(self.version).iter().map(|privilege| ((*privilege).to_owned(), true)).collect()
        } else {
            self.privileges_of(&Subject::User(identity.user.clone()), path, pools)
        };
        let Some(id) = &identity.token else { return of_user };
        let separated = self.token(identity).is_none_or(|token| token.privsep);
        if !separated {
            return of_user;
        }
        let of_token = self.privileges_of(&Subject::Token(format!("{}!{id}", identity.user)), path, pools);
        of_token.into_iter().filter(|(privilege, _)| of_user.contains_key(privilege)).collect()
    }

    pub(crate) fn token(&self, identity: &Identity) -> Option<&Token> {
        self.users.get(&identity.user)?.tokens.get(identity.token.as_ref()?)
    }

    /// Takes `PVEAPIToken=` credentials.
    pub(crate) fn authenticate_token(&self, full: &str, secret: &str, now: i64) -> Result<Identity, TokenRefused> {
        let (user, id) = full.split_once('!').ok_or(TokenRefused::Malformed)?;
        let entry = self.users.get(user).filter(|user| user.enabled).ok_or(TokenRefused::NoUser)?;
        let identity = Identity { user: user.to_owned(), token: Some(id.to_owned()) };
        let token = entry.tokens.get(id).ok_or(TokenRefused::NoToken(identity.clone()))?;
        if token.expire != 0 && token.expire < now {
            return Err(TokenRefused::Expired);
        }
        if token.secret == secret { Ok(identity) } else { Err(TokenRefused::WrongSecret) }
    }

    /// Whether a privilege name exists in this version.
    pub(crate) fn check_privilege_name(&self, name: &str) -> ApiResult<()> {
        if roles::all(self.version).contains(&name) {
            return Ok(());
        }
        Err(ApiError::with_code(400, format!("invalid privilege '{name}'")))
    }
}

/// Why a token was refused.
#[derive(Debug)]
pub(crate) enum TokenRefused {
    Malformed,
    NoUser,
    NoToken(Identity),
    Expired,
    WrongSecret,
}

/// `/`, `/a`, `/a/b` for `/a/b`.
fn levels(path: &str) -> impl Iterator<Item = &str> {
    let inner = path.match_indices('/').skip(1).map(|(at, _)| &path[..at]);
    let own = (path != "/").then_some(path);
    std::iter::once("/").chain(inner).chain(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let mut access = Access::new("secret", Version::V9);
        access.add_user("cortex@pve", None);
        let token = Token { secret: "s".into(), privsep: true, comment: None, expire: 0 };
        access.users.get_mut("cortex@pve").unwrap().tokens.insert("t".into(), token);
        access
    }

    fn may(access: &Access, identity: &Identity, path: &str, privilege: &str) -> bool {
        access.privileges(identity, path, &[]).contains_key(privilege)
    }

    #[test]
    fn the_most_specific_path_replaces_what_it_would_inherit() {
        let mut access = access();
        let user = Identity::user("cortex@pve");
        access.grant("/", Subject::User("cortex@pve".into()), "PVEVMAdmin", true);
        access.grant("/vms/100", Subject::User("cortex@pve".into()), "PVEAuditor", true);
        access.grant("/vms/200", Subject::User("cortex@pve".into()), "NoAccess", true);
        assert!(may(&access, &user, "/vms/300", "VM.PowerMgmt"));
        assert!(!may(&access, &user, "/vms/100", "VM.PowerMgmt") && may(&access, &user, "/vms/100", "VM.Audit"));
        assert!(!may(&access, &user, "/vms/200", "VM.Audit"));
    }

    #[test]
    fn a_separated_token_has_only_what_both_have() {
        let mut access = access();
        let token = Identity { user: "cortex@pve".into(), token: Some("t".into()) };
        access.grant("/", Subject::Token("cortex@pve!t".into()), "PVEVMAdmin", true);
        assert!(!may(&access, &token, "/vms/100", "VM.Audit"));
        access.grant("/vms", Subject::User("cortex@pve".into()), "PVEAuditor", true);
        assert!(may(&access, &token, "/vms/100", "VM.Audit") && !may(&access, &token, "/vms/100", "VM.Allocate"));
    }

    #[test]
    fn pool_roles_are_added_for_members() {
        let mut access = access();
        access.grant("/pool/talos", Subject::User("cortex@pve".into()), "PVEVMAdmin", true);
        let user = Identity::user("cortex@pve");
        assert!(access.privileges(&user, "/vms/100", &[]).is_empty());
        let of_pool = access.privileges(&user, "/vms/100", &["talos".into()]);
        assert_eq!(of_pool.get("VM.Allocate"), Some(&false), "and do not propagate");
        access.grant("/pool/shut", Subject::User("cortex@pve".into()), "NoAccess", true);
        assert!(access.privileges(&user, "/vms/100", &["talos".into(), "shut".into()]).is_empty());
    }
}
