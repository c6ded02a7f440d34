//! The kubeconfig that a control plane hands out: gzip of a tar whose end is missing (talos.md 3.9).

use std::io::{Error as IoError, Read};

use flate2::read::GzDecoder;
use secrecy::SecretString;

use super::{Client, Error};

/// Refused above this: a kubeconfig has a few KiB.
const LIMIT: u64 = 1024 * 1024;

impl Client {
    /// An administrator's kubeconfig, fresh, valid for a year; control planes only.
    pub async fn kubeconfig(&self) -> Result<SecretString, Error> {
        let stream = self.machine().kubeconfig(self.unary(())).await.map_err(self.failed("Kubeconfig"))?;
        let archive = self.collect("Kubeconfig", stream.into_inner()).await?;
        first_file(&archive).map_err(|source| Error::Archive { node: self.name(), source })
    }
}

/// Reads exactly one entry: after it the archive may just stop.
fn first_file(archive: &[u8]) -> Result<SecretString, IoError> {
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    let entry = archive.entries()?.next().ok_or_else(|| IoError::other("it is empty"))??;
    let mut text = String::new();
    entry.take(LIMIT).read_to_string(&mut text)?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn an_archive_without_its_end_is_read() {
        let body = b"apiVersion: v1\nkind: Config\n";
        let mut header = tar::Header::new_gnu();
        header.set_path("kubeconfig").unwrap();
        header.set_size(body.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(header.as_bytes()).unwrap();
        gzip.write_all(body).unwrap();
        let read = first_file(&gzip.finish().unwrap()).unwrap();
        assert_eq!(read.expose_secret().as_bytes(), body);
    }
}
