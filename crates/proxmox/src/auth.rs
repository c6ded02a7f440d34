//! Credentials on the wire: API token header, or ticket cookie with CSRF token and renewal.

use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, Method, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::{Error, Result, error::Kind, form::Params};

/// A ticket lives two hours (proxmox.md 1.5); renewed well before.
const RENEW_AFTER: Duration = Duration::from_secs(90 * 60);
/// A renewal needs a valid ticket; past this the password is used again.
const VALID_FOR: Duration = Duration::from_secs(115 * 60);

/// A ticket as `POST /access/ticket` answers it.
#[derive(Deserialize)]
struct Answer {
    ticket: SecretString,
    #[serde(rename = "CSRFPreventionToken")]
    csrf: Option<SecretString>,
    #[serde(rename = "NeedTFA", default, deserialize_with = "crate::lenient::flag")]
    needs_second_factor: bool,
}

/// A ticket in use.
#[derive(Clone)]
pub(crate) struct Ticket {
    ticket: SecretString,
    csrf: Option<SecretString>,
    since: Instant,
}

impl Ticket {
    /// Reads the answer of a login.
    pub(crate) fn from_answer(data: serde_json::Value) -> Result<Self> {
        let context = "POST /access/ticket";
        let answer: Answer = serde_json::from_value(data)
            .map_err(|_| Error::new(Kind::Protocol, context, "the answer holds no ticket"))?;
        if answer.needs_second_factor {
            let text = "the user needs a second factor; give the contractor an API token instead";
            return Err(Error::new(Kind::Authentication, context, text));
        }
        Ok(Self { ticket: answer.ticket, csrf: answer.csrf, since: Instant::now() })
    }

    /// Whether it is the very ticket of `other`.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.ticket.expose_secret() == other.ticket.expose_secret()
    }

    pub(crate) fn is_due(&self) -> bool {
        self.since.elapsed() > RENEW_AFTER
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.since.elapsed() < VALID_FOR
    }

    /// Cookie, and the CSRF token that everything but GET needs.
    pub(crate) fn headers(&self, method: &Method) -> Result<Vec<(HeaderName, HeaderValue)>> {
        let cookie = secret_value(&format!("PVEAuthCookie={}", cookie_escape(self.ticket.expose_secret())))?;
        let mut headers = vec![(header::COOKIE, cookie)];
        if let Some(csrf) = self.csrf.as_ref().filter(|_| method != Method::GET) {
            headers.push((HeaderName::from_static("csrfpreventiontoken"), secret_value(csrf.expose_secret())?));
        }
        Ok(headers)
    }
}

/// The login form: with the password, or with a ticket that is still valid in its place.
pub(crate) fn login_form(user: &str, password: &SecretString, current: Option<&Ticket>) -> Params {
    let secret = current.map_or(password, |ticket| &ticket.ticket);
    Params::default().with("username", user).with("password", secret.expose_secret())
}

/// `Authorization: PVEAPIToken=user@realm!token=secret`. Proxmox percent-decodes the value.
pub(crate) fn token_header(id: &str, secret: &SecretString) -> Result<(HeaderName, HeaderValue)> {
    let plain = |text: &str| text.replace('%', "%25");
    let value = secret_value(&format!("PVEAPIToken={}={}", plain(id), plain(secret.expose_secret())))?;
    Ok((header::AUTHORIZATION, value))
}

/// Proxmox percent-decodes the cookie; a ticket's base64 has `+`, `/` and `=`.
fn cookie_escape(ticket: &str) -> String {
    crate::form::segment(ticket)
}

fn secret_value(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Error::new(Kind::Authentication, "credentials", "they hold characters that no header can carry")
    })?;
    value.set_sensitive(true);
    Ok(value)
}
