//! A client that shows every byte: raw HTTP/1.1 over TLS, trusting only the cluster's CA.

use std::{net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use simulators::{
    faults::Faults,
    pace::Pace,
    proxmox::{InertMachines, Options, Proxmox},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

pub(crate) const TOKEN: &str = "PVEAPIToken=cortex@pve!infrastructure=11111111-2222-4333-8444-555555555555";

/// How to talk to an API, and as whom.
pub(crate) struct Api {
    address: SocketAddr,
    ca_pem: String,
    /// The whole header line.
    pub(crate) authorization: String,
}

/// A cluster and its machines.
pub(crate) struct Cluster {
    pub(crate) proxmox: Proxmox,
    pub(crate) machines: Arc<InertMachines>,
    pub(crate) api: Api,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) reason: String,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn data(&self) -> Value {
        assert_eq!(self.code, 200, "{self:?}");
        self.json()["data"].clone()
    }
}

impl Cluster {
    pub(crate) async fn start(change: impl FnOnce(&mut Options)) -> Self {
        Self::start_at(change, Pace::instant()).await
    }

    pub(crate) async fn start_at(change: impl FnOnce(&mut Options), pace: Pace) -> Self {
        let mut options = Options::default();
        change(&mut options);
        let machines = Arc::new(InertMachines::default());
        let proxmox = Proxmox::start(options, machines.clone(), pace, Faults::default()).await.unwrap();
        let api = Api::new(&proxmox, TOKEN);
        Self { proxmox, machines, api }
    }

    /// Everything as root with a ticket would see it.
    pub(crate) async fn with_root(mut self) -> Self {
        self.api.authorization = "X-None: 1".to_owned();
        let answer = self.post("/access/ticket", "username=root@pam&password=lab").await;
        let data = answer.data();
        let (ticket, csrf) = (data["ticket"].as_str().unwrap(), data["CSRFPreventionToken"].as_str().unwrap());
        self.api.authorization = format!("Cookie: PVEAuthCookie={ticket}\r\nCSRFPreventionToken: {csrf}");
        self
    }
}

impl Deref for Cluster {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Api {
    /// The API of a cluster, with the value of an Authorization header.
    pub(crate) fn new(proxmox: &Proxmox, authorization: &str) -> Self {
        let authorization = format!("Authorization: {authorization}");
        Self { address: proxmox.address(), ca_pem: proxmox.ca_pem().to_owned(), authorization }
    }

    pub(crate) async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::from(self.address.ip());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// Sends bytes as they are and reads until the server closes.
    pub(crate) async fn raw(&self, request: &str) -> Option<Answer> {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // A server that drops the connection without close_notify is an error to TLS, not to us.
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let (status, headers) = head.split_once("\r\n")?;
        let mut parts = status.splitn(3, ' ').skip(1);
        let code = parts.next()?.parse().unwrap();
        Some(Answer { code, reason: parts.next()?.to_owned(), headers: headers.to_owned(), body: body.to_owned() })
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        let form = if body.is_empty() { "" } else { "Content-Type: application/x-www-form-urlencoded\r\n" };
        let request = format!(
            "{method} /api2/json{path} HTTP/1.1\r\nHost: pve\r\n{}\r\nConnection: close\r\n{form}Content-Length: {}\r\n\r\n{body}",
            self.authorization,
            body.len()
        );
        self.raw(&request).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &str) -> Answer {
        self.send("PUT", path, body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, "").await
    }

    /// Polls a task at its node until it stopped; its exit status.
    pub(crate) async fn finish(&self, answer: &Answer) -> String {
        let upid = answer.data().as_str().unwrap_or_else(|| panic!("no UPID in {answer:?}")).to_owned();
        let node = upid.split(':').nth(1).unwrap().to_owned();
        for _ in 0..2000 {
            let status = self.get(&format!("/nodes/{node}/tasks/{upid}/status")).await.data();
            if status["status"] == "stopped" {
                return status["exitstatus"].as_str().unwrap().to_owned();
            }
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("{upid} does not end");
    }

    pub(crate) async fn create(&self, vmid: u32, more: &str) -> String {
        let body = format!(
            "vmid={vmid}&pool=cortex&name=vm-{vmid}&memory=2048&cores=2&net0=virtio%2Cbridge%3Dvmbr0&scsi0=local-lvm:8{more}"
        );
        let answer = self.post("/nodes/pve1/qemu", &body).await;
        self.finish(&answer).await
    }
}
