//! The files with keys and certificates that a configuration names: who may read them, and until when they are good.

mod certificate;
mod watch;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bus::Bus;
use jiff::Timestamp;

use crate::{
    cli::Finding,
    config::{Common, Config, Sections},
};

pub use certificate::{Certificate, Dates};
pub use watch::Watcher;

/// A file that a contractor reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFile {
    /// The setting that names it, `bus.seed_file`.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is in it.
    pub holds: Holds,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A seed, key, token or password: nobody but its owner may read it.
    Secret,
    /// Certificates: everybody may read them, and they must be good now.
    Certificates,
}

impl CredentialFile {
    /// A file that nobody but its owner may read.
    pub fn secret(setting: &'static str, path: &Path) -> Self {
        Self { setting, path: path.to_owned(), holds: Holds::Secret }
    }

    /// A file with certificates.
    pub fn certificates(setting: &'static str, path: &Path) -> Self {
        Self { setting, path: path.to_owned(), holds: Holds::Certificates }
    }

    /// What forbids to use it.
    pub fn problems(&self, now: Timestamp) -> Vec<Finding> {
        match self.holds {
            Holds::Secret => self.exposed(),
            Holds::Certificates => match self.certificates_in_it() {
                Ok(certificates) => self.out_of_date(&certificates, now),
                Err(finding) => Some(finding),
            },
        }
        .into_iter()
        .collect()
    }

    /// The certificates in it, with their dates; what is wrong with the file where it has none that can be read.
    pub fn certificates_in_it(&self) -> Result<Vec<Certificate>, Finding> {
        let text = fs::read(&self.path).map_err(|error| self.unreadable(&error))?;
        let dates = Dates::read(&text).map_err(|reason| self.finding(&reason, None))?;
        let named = |dates| Certificate {
            object: self.setting.to_owned(),
            cluster: None,
            file: Some(self.path.clone()),
            dates,
            mend: format!("put a renewed certificate into {} and start the daemon again", self.path.display()),
        };
        Ok(dates.into_iter().map(named).collect())
    }

    /// One certificate that is good is enough: bundles keep the old one beside the new while they change.
    fn out_of_date(&self, certificates: &[Certificate], now: Timestamp) -> Option<Finding> {
        if certificates.iter().any(|certificate| certificate.dates.wrong_at(now).is_none()) {
            return None;
        }
        let reasons: Vec<String> = certificates
            .iter()
            .filter_map(|of| Some(format!("certificate {} {}", of.dates.subject, of.dates.wrong_at(now)?)))
            .collect();
        Some(self.finding(&reasons.join("; "), Some("put a renewed certificate there, or set this machine's clock")))
    }

    #[cfg(unix)]
    fn exposed(&self) -> Option<Finding> {
        use std::os::unix::fs::PermissionsExt;
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) => return Some(self.unreadable(&error)),
        };
        let mode = metadata.permissions().mode() & 0o777;
        let whom = match (mode & 0o070, mode & 0o007) {
            (0, 0) => return None,
            (_, 0) => "its group",
            _ => "everybody",
        };
        let problem = format!("it holds a secret and is open to {whom} (mode {mode:04o})");
        Some(self.finding(&problem, Some(&format!("chmod 600 {}", self.path.display()))))
    }

    #[cfg(not(unix))]
    fn exposed(&self) -> Option<Finding> {
        fs::metadata(&self.path).err().map(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &io::Error) -> Finding {
        self.finding(&format!("it cannot be read: {error}"), None)
    }

    fn finding(&self, problem: &str, mend: Option<&str>) -> Finding {
        let problem = format!("{} {}: {problem}", self.setting, self.path.display());
        Finding { problem, mend: mend.map(str::to_owned) }
    }
}

/// Every file with a key or certificates that this configuration names.
pub fn files<S: Sections>(config: &Config<S>) -> Vec<CredentialFile> {
    let mut files = of_common(&config.common);
    files.extend(config.own.credential_files());
    files
}

/// What forbids to use `files`, all of it at once.
pub fn problems(files: &[CredentialFile], now: Timestamp) -> Vec<Finding> {
    files.iter().flat_map(|file| file.problems(now)).collect()
}

/// The problems as one text, for a daemon that does not start because of them.
pub fn refusal(problems: &[Finding]) -> Option<String> {
    let line = |finding: &Finding| {
        let mend = finding.mend.as_ref().map(|mend| format!("\n    {mend}")).unwrap_or_default();
        format!("\n- {}{mend}", finding.problem)
    };
    let lines: String = problems.iter().map(line).collect();
    (!problems.is_empty()).then(|| format!("keys and certificates cannot be used:{lines}"))
}

fn of_common(common: &Common) -> Vec<CredentialFile> {
    let bus = &common.bus;
    let mut files = vec![CredentialFile::secret("bus.seed_file", &bus.seed_file)];
    files.extend(bus.ca_file.iter().map(|path| CredentialFile::certificates("bus.ca_file", path)));
    let own = bus.client_certificate_file.iter();
    files.extend(own.map(|path| CredentialFile::certificates("bus.client_certificate_file", path)));
    files.extend(bus.client_key_file.iter().map(|path| CredentialFile::secret("bus.client_key_file", path)));
    // It is made at the first start.
    if common.store.key_file.exists() {
        files.push(CredentialFile::secret("store.key_file", &common.store.key_file));
    }
    files
}

/// The certificate that the broker has shown.
pub fn shown_by(bus: &Bus) -> Vec<Certificate> {
    let dates = bus.server_certificate().and_then(|der| Dates::of(&der));
    let named = |dates| Certificate {
        object: "the broker".to_owned(),
        cluster: None,
        file: None,
        dates,
        mend: "renew the certificate of nats-server and let it read its configuration again".to_owned(),
    };
    dates.map(named).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn secrets_that_others_may_read_are_refused_with_the_line_that_mends_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, "x").unwrap();
        let file = CredentialFile::secret("proxmox.credential_file", &path);
        for (mode, whom) in [(0o644, "everybody"), (0o640, "its group"), (0o602, "everybody"), (0o660, "its group")] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let [found] = &file.problems(Timestamp::now())[..] else { panic!("mode {mode:o} is not seen") };
            assert!(found.problem.starts_with("proxmox.credential_file "), "{}", found.problem);
            assert!(found.problem.contains(&format!("open to {whom} (mode {mode:04o})")), "{}", found.problem);
            assert_eq!(found.mend, Some(format!("chmod 600 {}", path.display())));
        }
        for mode in [0o600, 0o400] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(file.problems(Timestamp::now()), []);
        }
        fs::remove_file(&path).unwrap();
        assert!(file.problems(Timestamp::now())[0].problem.contains("cannot be read"));
    }

    #[test]
    fn certificates_are_refused_outside_their_dates_by_file_and_date() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let file = CredentialFile::certificates("bus.ca_file", &path);
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let old = certificate::tests::pem("old", (2020, 1, 1), (2025, 3, 1));
        let new = certificate::tests::pem("new", (2026, 6, 1), (2036, 6, 1));
        let told = |pem: &str, now: &str| {
            fs::write(&path, pem).unwrap();
            refusal(&file.problems(at(now)))
        };
        let refused = told(&old, "2026-11-01T00:00:00Z").unwrap();
        for wanted in ["bus.ca_file", "ca.pem", "CN=old", "expired at 2025-03-01T00:00:00Z", "renewed certificate"] {
            assert!(refused.contains(wanted), "{wanted} is not told: {refused}");
        }
        let refused = told(&new, "2026-05-01T00:00:00Z").unwrap();
        assert!(refused.contains("is not good before 2026-06-01T00:00:00Z"), "{refused}");
        assert_eq!(told(&new, "2026-11-01T00:00:00Z"), None);
        // A bundle in the middle of a change.
        assert_eq!(told(&format!("{old}{new}"), "2026-11-01T00:00:00Z"), None);
        let refused = told("no certificate at all", "2026-11-01T00:00:00Z").unwrap();
        assert!(refused.contains("holds no certificate"), "{refused}");
    }
}
