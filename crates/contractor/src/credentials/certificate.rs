//! What the dates of certificates say.

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use x509_parser::{certificate::X509Certificate, pem::Pem, prelude::FromDer, time::ASN1Time};

/// A certificate that this contractor uses or keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What it is: the setting that names its file, or `Talos API authority`.
    pub object: String,
    /// Whose it is, where it is a cluster's.
    pub cluster: Option<String>,
    /// Where it is read; none where it is kept sealed.
    pub file: Option<PathBuf>,
    /// Until when it is good.
    pub dates: Dates,
    /// What to do before it ends.
    pub mend: String,
}

impl Certificate {
    /// Names this very certificate in this very place.
    pub(crate) fn id(&self) -> String {
        let cluster = self.cluster.as_deref().unwrap_or_default();
        let digest = Sha256::digest(format!("{cluster}\n{}\n{}", self.object, self.dates.fingerprint));
        hex::encode(&digest[..16])
    }

    /// One sentence for people.
    pub(crate) fn told(&self, now: Timestamp) -> String {
        let of = self.cluster.as_ref().map(|cluster| format!(" of cluster {cluster}")).unwrap_or_default();
        let file = self.file.as_ref().map(|file| format!(" {}", file.display())).unwrap_or_default();
        let Dates { subject, not_after, .. } = &self.dates;
        let when = match self.dates.wrong_at(now) {
            Some(reason) => reason,
            None => format!("expires in {} days, at {not_after}", self.dates.days_left(now)),
        };
        format!("{}{of}{file}: certificate {subject} {when}: {}", self.object, self.mend)
    }
}

/// From when to when one certificate is good, and which it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dates {
    /// Its subject, as OpenSSL writes it.
    pub subject: String,
    /// SHA-256 of its DER, in hexadecimal.
    pub fingerprint: String,
    /// Its first moment.
    pub not_before: Timestamp,
    /// Its last moment.
    pub not_after: Timestamp,
}

impl Dates {
    /// The certificates of a PEM text, in order.
    ///
    /// # Errors
    /// What is wrong with the text; that it holds none.
    pub fn read(pem: &[u8]) -> Result<Vec<Self>, String> {
        let mut found = Vec::new();
        for block in Pem::iter_from_buffer(pem) {
            let block = block.map_err(|error| format!("it is not PEM: {error}"))?;
            if block.label != "CERTIFICATE" {
                continue;
            }
            found.push(Self::of(&block.contents).ok_or("it holds a certificate that cannot be read")?);
        }
        if found.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(found) }
    }

    /// Those of a certificate in DER; none if it cannot be read.
    pub fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject().to_string();
        let validity = certificate.validity();
        Some(Self {
            subject: if subject.is_empty() { "without a subject".to_owned() } else { subject },
            fingerprint: hex::encode(Sha256::digest(der)),
            not_before: moment(validity.not_before),
            not_after: moment(validity.not_after),
        })
    }

    /// Why it is no good at `now`.
    pub fn wrong_at(&self, now: Timestamp) -> Option<String> {
        if now > self.not_after {
            return Some(format!("expired at {}", self.not_after));
        }
        (now < self.not_before).then(|| format!("is not good before {}", self.not_before))
    }

    /// Whether it ends within `period`, or has ended.
    pub fn ends_within(&self, period: SignedDuration, now: Timestamp) -> bool {
        self.not_after.duration_since(now) <= period
    }

    /// Whole days until it ends; negative when it has.
    pub fn days_left(&self, now: Timestamp) -> i64 {
        self.not_after.duration_since(now).as_hours().div_euclid(24)
    }
}

/// "No end" is written as the last second of the year 9999, which is past what a timestamp can hold.
fn moment(time: ASN1Time) -> Timestamp {
    let seconds = time.timestamp();
    Timestamp::from_second(seconds).unwrap_or(if seconds > 0 { Timestamp::MAX } else { Timestamp::MIN })
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    /// A self-signed certificate for tests.
    pub(crate) fn pem(name: &str, from: (i32, u8, u8), to: (i32, u8, u8)) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    #[test]
    fn dates_without_an_end_are_read_and_days_are_counted_down_past_zero() {
        let [endless] = &Dates::read(pem("endless", (1975, 1, 1), (9999, 12, 31)).as_bytes()).unwrap()[..] else {
            panic!("one certificate")
        };
        assert_eq!((endless.wrong_at(Timestamp::now()), endless.subject.as_str()), (None, "CN=endless"));
        let [short] = &Dates::read(pem("short", (2026, 1, 1), (2026, 2, 1)).as_bytes()).unwrap()[..] else {
            panic!("one certificate")
        };
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let days = |text: &str| short.days_left(at(text));
        let wanted = [("2026-01-02T00:00:00Z", 30), ("2026-01-31T01:00:00Z", 0), ("2026-02-01T01:00:00Z", -1)];
        for (now, left) in wanted {
            assert_eq!(days(now), left, "{now}");
        }
        let month = SignedDuration::from_hours(30 * 24);
        assert!(!short.ends_within(month, at("2026-01-01T23:59:59Z")));
        assert!(short.ends_within(month, at("2026-01-02T00:00:00Z")));
        assert!(short.ends_within(month, at("2027-01-01T00:00:00Z")));
    }
}
