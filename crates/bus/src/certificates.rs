//! The certificates of a bus: its own CA, and what that issues for the server and for clients.
//!
//! A certificate stays for as long as it is good: for the names that are wanted, for the key beside it, and for a while yet.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp, Zoned, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::ring,
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};

use crate::{
    connect,
    server_config::{GenerateError, read, replace, write, write_secret},
};

/// Days that the CA's certificate lives.
const AUTHORITY_DAYS: i64 = 20 * 365;
/// Days that a certificate lives that it issues.
const ISSUED_DAYS: i64 = 825;
/// One that ends within so many days is renewed. More than the contractors' `certificates.warn_before` (30 days), so that
/// renewing ends their warning.
const RENEW_DAYS: u64 = 90;

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Files {
    pub(crate) fn named(folder: &Path, name: &str) -> Self {
        Self { certificate: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) }
    }

    /// Whether the two belong together, and clients of a bus will take them for these names, in [`RENEW_DAYS`] too.
    fn serve(&self, bus: &Path, names: &[String], now: Timestamp) -> bool {
        let Ok(roots) = connect::roots(&Self::named(bus, "ca").certificate) else { return false };
        let Ok(certificate) = CertificateDer::from_pem_file(&self.certificate) else { return false };
        let Ok(key) = PrivateKeyDer::from_pem_file(&self.key) else { return false };
        let Ok(parsed) = ParsedCertificate::try_from(&certificate) else { return false };
        let provider = ring::default_provider();
        let algorithms = provider.signature_verification_algorithms.all;
        let then = u64::try_from(now.as_second()).unwrap_or(0) + RENEW_DAYS * 86_400;
        let then = UnixTime::since_unix_epoch(Duration::from_secs(then));
        // A person's name may be none of a server, and nobody looks for it as one.
        let mut names = names.iter().filter_map(|name| ServerName::try_from(name.as_str()).ok());
        CertifiedKey::from_der(vec![certificate.clone()], key, &provider).is_ok()
            && verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], then, algorithms).is_ok()
            && names.all(|name| verify_server_name(&parsed, &name).is_ok())
    }
}

/// The bus's own CA.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

/// Makes a CA where there is none. Its key may be elsewhere, as it is needed for new certificates only; a key alone, as a call
/// that was killed leaves it, gets its certificate.
pub(crate) fn ensure_authority(folder: &Path, now: Timestamp) -> Result<(), GenerateError> {
    let files = Files::named(folder, "ca");
    if files.certificate.exists() {
        return Ok(());
    }
    if !files.key.exists() {
        write_secret(&files.key, &KeyPair::generate()?.serialize_pem())?;
    }
    let pair = KeyPair::from_pem(&read(&files.key)?)?;
    let mut params = CertificateParams::default();
    limit(&mut params, now, AUTHORITY_DAYS);
    params.distinguished_name.push(DnType::CommonName, "cortex bus CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    write(&files.certificate, &params.self_signed(&pair)?.pem())
}

impl Authority {
    fn load(folder: &Path) -> Result<Self, GenerateError> {
        let files = Files::named(folder, "ca");
        if !files.key.exists() {
            return Err(GenerateError::AuthorityKey(files.key));
        }
        let pair = KeyPair::from_pem(&read(&files.key)?)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&read(&files.certificate)?, pair)? })
    }
}

/// A certificate of the CA in the folder `bus` for `names`, for both ends of a connection, unless there is one that serves; whether it
/// is new.
pub(crate) fn issue(
    bus: &Path,
    files: &Files,
    (name, names): (&str, &[String]),
    now: Timestamp,
) -> Result<bool, GenerateError> {
    if files.serve(bus, names, now) {
        return Ok(false);
    }
    let Authority { issuer } = Authority::load(bus)?;
    let pair = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.to_vec())?;
    limit(&mut params, now, ISSUED_DAYS);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("cortex {name}"));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&pair, &issuer)?.pem();
    if files.key.exists() {
        replace(&files.key, &pair.serialize_pem())?;
    } else {
        write_secret(&files.key, &pair.serialize_pem())?;
    }
    replace(&files.certificate, &certificate)?;
    Ok(true)
}

/// From a day ago, as clocks differ, in whole days.
fn limit(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let day = |days: i64| {
        let at: Zoned =
            now.saturating_add(SignedDuration::from_hours(24 * days)).unwrap_or(now).to_zoned(TimeZone::UTC);
        rcgen::date_time_ymd(i32::from(at.year()), at.month().unsigned_abs(), at.day().unsigned_abs())
    };
    (params.not_before, params.not_after) = (day(-1), day(days));
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_certificate_stays_until_it_is_about_to_end_or_other_names_are_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        ensure_authority(folder.path(), now).unwrap();
        let server = Files::named(folder.path(), "server");
        let issue = |wanted: &[&str], now| issue(folder.path(), &server, ("server", &names(wanted)), now).unwrap();
        let wanted = ["10.20.0.5", "bus.example.com", "fd00:0::5"];
        assert!(issue(&wanted, now), "there is none");
        assert!(!issue(&wanted, now + DAY * 734), "it ends after 825 days");
        assert!(issue(&wanted, now + DAY * 736));
        assert!(!issue(&wanted, now + DAY * 737), "it was renewed");
        assert!(issue(&["10.20.0.6"], now), "another name");
        assert!(issue(&wanted, now));
        // A call that was killed after it had made the key.
        fs::write(&server.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(issue(&wanted, now), "the key is another's");
        fs::write(&server.certificate, "").unwrap();
        assert!(issue(&wanted, now), "it is empty");
        for file in ["ca.pem", "ca.key"] {
            fs::remove_file(folder.path().join(file)).unwrap();
        }
        ensure_authority(folder.path(), now).unwrap();
        assert!(issue(&wanted, now), "it is of a CA that clients do not know any more");
        assert!(!issue(&wanted, now));
    }

    #[test]
    fn a_new_certificate_has_its_owners_alone_to_read_its_key() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        ensure_authority(folder.path(), now).unwrap();
        let server = Files::named(folder.path(), "server");
        for wanted in ["a.example.com", "b.example.com"] {
            assert!(issue(folder.path(), &server, ("server", &names(&[wanted])), now).unwrap());
            let mode = fs::metadata(&server.key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        fs::remove_file(folder.path().join("ca.key")).unwrap();
        let error = issue(folder.path(), &server, ("server", &names(&["c.example.com"])), now).unwrap_err();
        assert!(error.to_string().contains("ca.key is not there"), "{error}");
        assert!(server.serve(folder.path(), &names(&["b.example.com"]), now), "and what there was is left");
    }
}
