//! Client certificates of the Talos API: the roles are the Organization values of the subject, and nothing else is in it.
//!
//! rcgen keeps one value per type of name, so a certificate with several roles is written here, DER by DER.

use std::{fmt, str::FromStr, time::Duration};

use rcgen::SigningKey as _;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};
use yasna::{
    DERWriter, Tag,
    models::{ObjectIdentifier, UTCTime},
};

use super::{Algorithm, CertificateAndKey, Error, PrivateKey, encode_pem, random_serial};

const ED25519: [u64; 4] = [1, 3, 101, 112];
const ORGANIZATION: [u64; 4] = [2, 5, 4, 10];
const KEY_USAGE: [u64; 4] = [2, 5, 29, 15];
const EXTENDED_KEY_USAGE: [u64; 4] = [2, 5, 29, 37];
const AUTHORITY_KEY_IDENTIFIER: [u64; 4] = [2, 5, 29, 35];
const CLIENT_AUTH: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 2];

/// What a caller of the Talos API may do (talos.md 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Admin,
    EtcdBackup,
    ImageVerifier,
    Impersonator,
    MetaWriter,
    Operator,
    Reader,
}

impl Role {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 7] = [
        Self::Admin,
        Self::EtcdBackup,
        Self::ImageVerifier,
        Self::Impersonator,
        Self::MetaWriter,
        Self::Operator,
        Self::Reader,
    ];

    /// The Organization value, `os:admin` for example.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "os:admin",
            Self::EtcdBackup => "os:etcd:backup",
            Self::ImageVerifier => "os:image:verifier",
            Self::Impersonator => "os:impersonator",
            Self::MetaWriter => "os:meta:writer",
            Self::Operator => "os:operator",
            Self::Reader => "os:reader",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| Error::Role(text.to_owned()))
    }
}

/// A set of roles, sorted and without duplicates, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles(Vec<Role>);

impl Roles {
    /// `None` when there is no role.
    pub fn new(roles: impl IntoIterator<Item = Role>) -> Option<Self> {
        let mut roles: Vec<_> = roles.into_iter().collect();
        roles.sort_unstable_by_key(|role| role.as_str());
        roles.dedup();
        (!roles.is_empty()).then_some(Self(roles))
    }

    /// The roles in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = Role> + '_ {
        self.0.iter().copied()
    }
}

impl From<Role> for Roles {
    fn from(role: Role) -> Self {
        Self(vec![role])
    }
}

/// An Ed25519 client certificate of the Talos API's authority: `O=` per role, KU digitalSignature, EKU clientAuth.
pub fn client_certificate(
    authority: &CertificateAndKey,
    roles: &Roles,
    lifetime: Duration,
    now: jiff::Timestamp,
) -> Result<CertificateAndKey, Error> {
    let issuer_der = authority.certificate()?;
    let (_, issuer) =
        X509Certificate::from_der(&issuer_der).map_err(|error| Error::Der(format!("the authority: {error}")))?;
    let signer = authority.private_key()?.signer()?;
    let key = PrivateKey::generate(Algorithm::Ed25519)?;
    let body = to_be_signed(&issuer, roles, key.signer()?.public_key_raw(), validity(now, lifetime));
    let signature = signer.sign(&body)?;
    let certificate = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(&body);
            write_algorithm(writer.next());
            writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    });
    Ok(CertificateAndKey { crt: encode_pem("CERTIFICATE", certificate), key: key.to_pem() })
}

fn validity(now: jiff::Timestamp, lifetime: Duration) -> (UTCTime, UTCTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let begin = epoch + Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
    (UTCTime::from_datetime(begin), UTCTime::from_datetime(begin + lifetime))
}

fn to_be_signed(issuer: &X509Certificate<'_>, roles: &Roles, public: &[u8], validity: (UTCTime, UTCTime)) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
            writer.next().write_bigint_bytes(&random_serial(), true);
            write_algorithm(writer.next());
            writer.next().write_der(issuer.subject().as_raw());
            writer.next().write_sequence(|writer| {
                writer.next().write_utctime(&validity.0);
                writer.next().write_utctime(&validity.1);
            });
            write_subject(writer.next(), roles);
            writer.next().write_sequence(|writer| {
                write_algorithm(writer.next());
                writer.next().write_bitvec_bytes(public, public.len() * 8);
            });
            writer.next().write_tagged(Tag::context(3), |writer| write_extensions(writer, issuer));
        });
    })
}

fn write_algorithm(writer: DERWriter<'_>) {
    writer.write_sequence(|writer| writer.next().write_oid(&ObjectIdentifier::from_slice(&ED25519)));
}

fn write_subject(writer: DERWriter<'_>, roles: &Roles) {
    writer.write_sequence(|writer| {
        // One relative name with all values, as Go's encoder groups values of one attribute type.
        writer.next().write_set_of(|writer| {
            for role in roles.iter() {
                writer.next().write_sequence(|writer| {
                    writer.next().write_oid(&ObjectIdentifier::from_slice(&ORGANIZATION));
                    writer.next().write_printable_string(role.as_str());
                });
            }
        });
    });
}

fn write_extensions(writer: DERWriter<'_>, issuer: &X509Certificate<'_>) {
    let digital_signature = yasna::construct_der(|writer| writer.write_bitvec_bytes(&[0x80], 1));
    let client_auth = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| writer.next().write_oid(&ObjectIdentifier::from_slice(&CLIENT_AUTH)));
    });
    writer.write_sequence(|writer| {
        write_extension(writer.next(), &KEY_USAGE, true, &digital_signature);
        write_extension(writer.next(), &EXTENDED_KEY_USAGE, false, &client_auth);
        if let Some(identifier) = subject_key_identifier(issuer) {
            let authority = yasna::construct_der(|writer| {
                writer.write_sequence(|writer| {
                    writer.next().write_tagged_implicit(Tag::context(0), |writer| writer.write_bytes(identifier));
                });
            });
            write_extension(writer.next(), &AUTHORITY_KEY_IDENTIFIER, false, &authority);
        }
    });
}

fn write_extension(writer: DERWriter<'_>, oid: &[u64], critical: bool, content: &[u8]) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&ObjectIdentifier::from_slice(oid));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(content);
    });
}

fn subject_key_identifier<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0),
        _ => None,
    })
}
