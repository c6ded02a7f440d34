//! What a connection has seen of the other side, and what it makes of a failure.
//!
//! In TLS 1.3 a client's handshake is over before the server has looked at the client's certificate: a refusal comes as an
//! alert in the place of the first answer, where HTTP/2 would tell only of a broken connection.

use std::{
    fmt, io,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use rustls::AlertDescription;
use rustls_pki_types::UnixTime;
use tokio::sync::watch;

use super::{Error, Peer};

/// From when and until when a certificate is valid.
pub(super) type Dates = (Timestamp, Timestamp);

/// What one connection, with all its attempts, has seen.
#[derive(Debug)]
pub(super) struct Sight {
    seen: Mutex<Seen>,
    /// Whether the last attempt has come to an answer or broke.
    progress: watch::Sender<Progress>,
    /// Of our own certificate, if there is one.
    ours: Option<Dates>,
}

#[derive(Debug, Default)]
struct Seen {
    peer: Option<Peer>,
    trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Dialling,
    Heard,
    Broken,
}

/// Why one side refused the other.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// Its certificate is out of its dates at this time of ours.
    Dates(UnixTime),
    /// Its certificate does not name the address.
    Name,
    /// Another authority has issued it.
    Authority,
    /// It has another key than the one that is expected.
    Key,
    /// Its certificate is broken in another way.
    Other(String),
    /// It refuses us.
    Alert(AlertDescription),
}

impl Sight {
    pub(super) fn new(ours: Option<Dates>) -> Self {
        Self { seen: Mutex::default(), progress: watch::Sender::new(Progress::Dialling), ours }
    }

    /// A new attempt: what the last one saw does not count any more.
    pub(super) fn dials(&self) {
        *self.lock() = Seen::default();
        self.progress.send_replace(Progress::Dialling);
    }

    pub(super) fn saw(&self, peer: Peer) {
        self.lock().peer = Some(peer);
    }

    pub(super) fn refused(&self, trouble: Trouble) {
        self.lock().trouble = Some(trouble);
    }

    /// The other side has answered, so it took us.
    pub(super) fn heard(&self) {
        self.progress.send_replace(Progress::Heard);
    }

    /// The connection ended, with an alert if the other side said why.
    pub(super) fn broke(&self, error: Option<&io::Error>) {
        if let Some(alert) = error.and_then(alert) {
            self.refused(Trouble::Alert(alert));
        }
        self.progress.send_replace(Progress::Broken);
    }

    /// Waits for the first answer; false if the connection broke instead.
    pub(super) async fn answers(&self) -> bool {
        let mut progress = self.progress.subscribe();
        let settled = progress.wait_for(|progress| *progress != Progress::Dialling).await;
        settled.is_ok_and(|progress| *progress == Progress::Heard)
    }

    /// What the failure of the last attempt comes to, if either side refused the other.
    pub(super) fn error(&self, address: IpAddr) -> Option<Error> {
        let seen = self.lock();
        let (peer, trouble) = (seen.peer.clone()?, seen.trouble.clone()?);
        let clocks = |ours, now| Error::Clock(Box::new(Clocks { peer: peer.clone(), ours, now }));
        let strange = match trouble {
            Trouble::Dates(now) => {
                let now = i64::try_from(now.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
                return Some(clocks(None, now.unwrap_or_else(Timestamp::now)));
            }
            Trouble::Alert(AlertDescription::CertificateExpired) if self.ours.is_some() => {
                return Some(clocks(self.ours, Timestamp::now()));
            }
            Trouble::Name => Strange::Name,
            Trouble::Authority => Strange::Authority,
            Trouble::Key => Strange::Key,
            Trouble::Other(reason) => Strange::Broken(reason),
            Trouble::Alert(_) if self.ours.is_none() => Strange::Configured,
            Trouble::Alert(alert) => Strange::Refuses(format!("{alert:?}")),
        };
        Some(Error::Stranger { address, seen: Box::new(peer), strange })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// In what way whoever answers is not the node that was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strange {
    /// The authority is the cluster's, the address is not the node's.
    Name,
    /// Another authority: another cluster, or a machine without a configuration.
    Authority,
    /// Not the pinned key, or not the one of the connection that broke.
    Key,
    /// A certificate that cannot be used, and why.
    Broken(String),
    /// It wants a client certificate where a machine without a configuration would not.
    Configured,
    /// It does not take our certificate; the alert it gave.
    Refuses(String),
}

impl fmt::Display for Strange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("whose certificate does not name this address"),
            Self::Authority => f.write_str("whose certificate is not of the cluster's authority"),
            Self::Key => f.write_str("whose key is not the expected one"),
            Self::Broken(reason) => write!(f, "whose certificate cannot be used ({reason})"),
            Self::Configured => f.write_str("which has a configuration already: it wants a client certificate"),
            Self::Refuses(alert) => write!(f, "which does not take our certificate ({alert})"),
        }
    }
}

/// Two clocks that disagree about a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// The node, and when its clock made its certificate.
    pub peer: Peer,
    /// The dates of our certificate, if the node refused that one.
    pub ours: Option<(Timestamp, Timestamp)>,
    /// The time here.
    pub now: Timestamp,
}

impl fmt::Display for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Peer { not_before, not_after, .. } = self.peer;
        // To the minute, so that what is said does not change with every look.
        let now = self.now.strftime("%Y-%m-%dT%H:%MZ");
        match self.ours {
            None => {
                let verdict = if self.now < not_before {
                    "its clock is ahead, or the one here behind"
                } else {
                    "its clock is behind, or the one here ahead"
                };
                write!(
                    f,
                    "the certificate of {} is valid from {not_before} to {not_after}, and here it is {now}: {verdict}",
                    self.peer
                )
            }
            Some((from, to)) => write!(
                f,
                "{} refuses our certificate, valid from {from} to {to}, for its dates, and here it is {now}: its clock is \
                 off; by it, its own certificate was made at {not_before}",
                self.peer
            ),
        }
    }
}
