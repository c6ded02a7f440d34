//! Tickets, CSRF tokens and API tokens in a request (proxmox.md 1.5).

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use http::{HeaderMap, header};
use rand::Rng;
use sha2::{Sha256, Sha512};

use super::{
    access::{Identity, TokenRefused},
    error::{ApiError, ApiResult},
    params::percent_decode,
    sim::{Sim, now},
};

/// Seconds a clock may be ahead.
const GRACE: i64 = 300;

/// Signs tickets and CSRF tokens.
#[derive(Clone)]
pub(crate) struct TicketKey([u8; 32]);

impl TicketKey {
    pub(crate) fn generate(rng: &mut impl Rng) -> Self {
        Self(rng.random())
    }

    /// `PVE:<user@realm>:<hex time>::<signature>`; the real one is signed with RSA, which a client cannot tell.
    pub(crate) fn ticket(&self, user: &str, at: i64) -> String {
        let plain = format!("PVE:{user}:{at:08X}");
        format!("{plain}::{}", self.sign_ticket(&plain))
    }

    pub(crate) fn csrf_token(&self, user: &str, at: i64) -> String {
        format!("{at:08X}:{}", self.sign_csrf(user, at))
    }

    /// The user of a good ticket.
    pub(crate) fn verify(&self, ticket: &str, lifetime: i64) -> Option<String> {
        let (plain, signature) = ticket.rsplit_once("::")?;
        let (user, time) = plain.strip_prefix("PVE:")?.rsplit_once(':')?;
        let age = now() - i64::from_str_radix(time, 16).ok()?;
        (signature == self.sign_ticket(plain) && age > -GRACE && age < lifetime).then(|| user.to_owned())
    }

    fn verify_csrf(&self, user: &str, token: &str, lifetime: i64) -> bool {
        let Some((time, signature)) = token.split_once(':') else { return false };
        let Ok(at) = i64::from_str_radix(time, 16) else { return false };
        let age = now() - at;
        signature == self.sign_csrf(user, at) && age > -GRACE && age < lifetime
    }

    fn sign_ticket(&self, plain: &str) -> String {
        let mut mac = <Hmac<Sha512> as Mac>::new_from_slice(&self.0).expect("HMAC takes any key");
        mac.update(plain.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }

    fn sign_csrf(&self, user: &str, at: i64) -> String {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("HMAC takes any key");
        mac.update(format!("{at:08X}:{user}").as_bytes());
        STANDARD.encode(mac.finalize().into_bytes()).trim_end_matches('=').to_owned()
    }
}

/// Credentials as the request carries them.
enum Credentials {
    Ticket(String),
    Token { full: String, secret: String },
}

/// Who makes a request, or the 401 it gets. The caller delays that answer.
pub(crate) fn authenticate(sim: &Sim, headers: &HeaderMap, needs_csrf: bool) -> ApiResult<Identity> {
    let credentials = credentials(headers).ok_or_else(|| ApiError::bare(401, "No ticket"))?;
    let old_texts = sim.world().version.is_8();
    let text = |old: &str| ApiError::bare(401, if old_texts { old } else { "Authentication failed!" });
    let ticket = match credentials {
        Credentials::Ticket(ticket) => ticket,
        Credentials::Token { full, secret } => {
            let world = sim.world();
            return world.access.authenticate_token(&full, &secret, now()).map_err(|refused| match refused {
                TokenRefused::NoToken(identity) => {
                    let token = identity.token.unwrap_or_default();
                    text(&format!("no such token '{token}' for user '{}'", identity.user))
                }
                TokenRefused::NoUser => {
                    text(&format!("no such user ('{}')", full.split('!').next().unwrap_or_default()))
                }
                TokenRefused::Expired => text("token expired"),
                TokenRefused::WrongSecret => text("invalid token value!"),
                TokenRefused::Malformed => text("no tokenid specified"),
            });
        }
    };
    let lifetime = sim.ticket_lifetime.load(std::sync::atomic::Ordering::Relaxed);
    let user = sim.tickets.verify(&ticket, lifetime).ok_or_else(|| text("permission denied - invalid PVE ticket"))?;
    if !sim.world().access.users.get(&user).is_some_and(|user| user.enabled) {
        return Err(text("permission denied - invalid PVE ticket"));
    }
    let csrf = headers.get("csrfpreventiontoken").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if needs_csrf && !sim.tickets.verify_csrf(&user, csrf, lifetime) {
        return Err(ApiError::bare(401, "Permission denied - invalid csrf token"));
    }
    Ok(Identity::user(&user))
}

/// The cookie wins over a ticket in the Authorization header, which wins over a token.
fn credentials(headers: &HeaderMap) -> Option<Credentials> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let cookie = cookies.flat_map(|line| line.split(';')).find_map(|pair| auth_value(pair.trim(), "PVEAuthCookie"));
    if let Some(ticket) = cookie {
        return Some(Credentials::Ticket(ticket));
    }
    let authorization = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    if let Some(ticket) = auth_value(authorization, "PVEAuthCookie") {
        return Some(Credentials::Ticket(ticket));
    }
    let token = auth_value(authorization, "PVEAPIToken")?;
    let (full, secret) = token.split_once('=')?;
    Some(Credentials::Token { full: full.to_owned(), secret: secret.to_owned() })
}

/// `NAME=VALUE`, or a space instead of the first `=`.
fn auth_value(text: &str, name: &str) -> Option<String> {
    let rest = text.strip_prefix(name)?;
    let value = rest.strip_prefix(['=', ' '])?.trim_start_matches(' ').trim_matches('"');
    Some(percent_decode(value)).filter(|value| !value.is_empty())
}
