//! The wire facts of proxmox.md section 1, checked against a server that answers with canned bytes.

use std::{sync::Arc, time::Duration};

use proxmox::{
    Client, VmId,
    error::Kind,
    form::Params,
    options::{Credentials, Options, Timeouts},
    targets::AllowedTargets,
    trust::{Fingerprint, Trust},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// What the server does with the next request it reads.
enum Answer {
    /// Sends these bytes and keeps the connection.
    Say(String),
    /// Sends these bytes and closes.
    SayAndClose(String),
    /// Closes without an answer.
    Drop,
}

/// A TLS server that records requests and answers by script.
struct Script {
    endpoint: String,
    fingerprint: Fingerprint,
    requests: mpsc::UnboundedReceiver<(usize, String)>,
    _serving: JoinHandle<()>,
}

impl Script {
    async fn start(answers: Vec<Answer>) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key is made");
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).expect("an address is a name");
        let certificate = params.self_signed(&key).expect("a certificate is made");
        let der: CertificateDer<'static> = certificate.der().clone();
        let fingerprint = Fingerprint::of(&der);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![der], key)
            .expect("key and certificate belong together");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let endpoint = format!("https://{}", listener.local_addr().expect("it is bound"));
        let (sender, requests) = mpsc::unbounded_channel();
        let serving = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), answers, sender));
        Self { endpoint, fingerprint, requests, _serving: serving }
    }

    /// The next request and the number of the connection it came on.
    async fn request(&mut self) -> (usize, String) {
        self.requests.recv().await.expect("the server still serves")
    }

    fn options(&self) -> Options {
        Options {
            endpoints: vec![self.endpoint.parse().expect("it is an endpoint")],
            credentials: Credentials::parse("cortex@pve!infra=0000-secret").expect("it is a token"),
            trust: Trust::Fingerprints(vec![self.fingerprint]),
            allowed_targets: AllowedTargets::loopback(),
            timeouts: Timeouts { request: Duration::from_secs(10), ..Timeouts::default() },
        }
    }
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    answers: Vec<Answer>,
    requests: mpsc::UnboundedSender<(usize, String)>,
) {
    let mut answers = answers.into_iter().peekable();
    let mut connection = 0;
    while answers.peek().is_some() {
        let (tcp, _) = listener.accept().await.expect("a client comes");
        connection += 1;
        let Ok(mut stream) = tls.accept(tcp).await else { continue };
        while let Some(request) = read_request(&mut stream).await {
            requests.send((connection, request)).expect("the test listens");
            match answers.next() {
                Some(Answer::Say(bytes)) => stream.write_all(bytes.as_bytes()).await.expect("the client reads"),
                Some(Answer::SayAndClose(bytes)) => {
                    stream.write_all(bytes.as_bytes()).await.expect("the client reads");
                    break;
                }
                Some(Answer::Drop) | None => break,
            }
        }
    }
}

async fn read_request(stream: &mut TlsStream<tokio::net::TcpStream>) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

const VERSION: &str = r#"{"data":{"version":"9.1.3","release":"9.1","repoid":"deadbeef"}}"#;
const LOGIN: &str = r#"{"data":{"ticket":"PVE:root@pam:65F00000::ab+/==","CSRFPreventionToken":"65F00000:xy"}}"#;
const NULL: &str = r#"{"data":null}"#;

/// A success with this body, on a connection that stays open.
fn ok(body: &str) -> Answer {
    Answer::Say(http(200, "OK", body))
}

/// A failure, after which Proxmox closes.
fn refuse(status: u16, reason: &str, body: &str) -> Answer {
    Answer::SayAndClose(http(status, reason, body))
}

fn http(status: u16, reason: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} {reason}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_change_is_a_form_with_a_length_and_the_token() {
    let mut script = Script::start(vec![ok(NULL)]).await;
    let client = Client::new(script.options()).unwrap();
    let params = Params::default().with("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0").with("tags", "a;b");
    client.set_vm_config("pve1", VmId(100), &params, Some("abc")).await.unwrap();
    let (_, request) = script.request().await;
    assert!(request.starts_with("PUT /api2/json/nodes/pve1/qemu/100/config HTTP/1.1\r\n"), "{request}");
    let head = request.to_ascii_lowercase();
    assert!(head.contains("authorization: pveapitoken=cortex@pve!infra=0000-secret\r\n"));
    assert!(head.contains("content-type: application/x-www-form-urlencoded\r\n"));
    assert!(!head.contains("transfer-encoding") && head.contains("content-length: "));
    assert!(request.ends_with("net0=virtio%3DBC%3A24%3A11%3A00%3A00%3A01%2Cbridge%3Dvmbr0&tags=a%3Bb&digest=abc"));
}

#[tokio::test]
async fn delete_arguments_travel_in_the_query_without_a_body() {
    let upid = r#"{"data":"UPID:pve1:00000001:00000002:65F00000:qmdestroy:100:a@pve!t:"}"#;
    let mut script = Script::start(vec![ok(upid)]).await;
    let client = Client::new(script.options()).unwrap();
    assert_eq!(client.destroy_vm("pve1", VmId(100)).await.unwrap().kind, "qmdestroy");
    let (_, request) = script.request().await;
    assert!(request.starts_with("DELETE /api2/json/nodes/pve1/qemu/100?purge=1&destroy-unreferenced-disks=1 HTTP/1.1"));
    assert!(!request.to_ascii_lowercase().contains("content-type"));
}

#[tokio::test]
async fn the_status_line_tells_what_an_empty_body_does_not() {
    let script = Script::start(vec![refuse(595, "No route to host", "")]).await;
    let client = Client::new(script.options()).unwrap();
    let error = client.vm_status("pve3", VmId(100)).await.unwrap_err();
    assert_eq!((error.kind.clone(), error.status), (Kind::NodeOffline, Some(595)));
    assert!(error.to_string().contains("No route to host"), "{error}");
}

#[tokio::test]
async fn an_old_body_without_message_leaves_the_reason_phrase() {
    let gone = "Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist";
    let script = Script::start(vec![refuse(500, gone, NULL)]).await;
    let client = Client::new(script.options()).unwrap();
    assert!(client.vm_config("pve1", VmId(100)).await.unwrap_err().is_missing_vm());
}

#[tokio::test]
async fn a_connection_serves_until_a_failure_and_is_then_left() {
    let mut script =
        Script::start(vec![ok(VERSION), ok(VERSION), refuse(500, "VM is locked (clone)", NULL), ok(VERSION)]).await;
    let client = Client::new(script.options()).unwrap();
    client.version().await.unwrap();
    client.version().await.unwrap();
    assert_eq!(client.version().await.unwrap_err().kind, Kind::Locked("clone".into()));
    assert_eq!(client.version().await.unwrap().to_string(), "9.1");
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(script.request().await.0);
    }
    assert_eq!(connections, [1, 1, 1, 2]);
}

#[tokio::test]
async fn a_read_whose_reply_was_lost_is_asked_again_and_a_change_is_not() {
    let script = Script::start(vec![ok(VERSION), Answer::Drop, ok(VERSION), Answer::Drop]).await;
    let client = Client::new(script.options()).unwrap();
    client.version().await.unwrap();
    client.version().await.expect("a read may be repeated on a new connection");
    let error = client.start_vm("pve1", VmId(100)).await.unwrap_err();
    assert_eq!(error.kind, Kind::ReplyLost);
    assert!(error.may_have_run());
}

#[tokio::test]
async fn another_endpoint_takes_over_when_the_first_is_dead() {
    let script = Script::start(vec![ok(VERSION)]).await;
    let mut options = script.options();
    let dead = TcpListener::bind("127.0.0.1:0").await.expect("a port is free").local_addr().unwrap();
    options.endpoints.insert(0, format!("https://{dead}").parse().unwrap());
    Client::new(options).unwrap().version().await.unwrap();
}

#[tokio::test]
async fn an_address_outside_the_allowed_targets_is_never_dialled() {
    let mut options = Script::start(vec![]).await.options();
    options.endpoints = vec!["https://192.168.1.10:8006".parse().unwrap()];
    let error = Client::new(options).unwrap().version().await.unwrap_err();
    assert_eq!(error.kind, Kind::TargetRefused);
    assert!(error.to_string().contains("127.0.0.0/8"), "{error}");
}

#[tokio::test]
async fn another_certificate_is_refused_and_its_fingerprint_named() {
    let script = Script::start(vec![ok(VERSION)]).await;
    let mut options = script.options();
    options.trust = Trust::Fingerprints(vec![Fingerprint::of(b"another")]);
    let error = Client::new(options).unwrap().version().await.unwrap_err();
    assert_eq!(error.kind, Kind::Untrusted);
    assert!(error.to_string().contains(&script.fingerprint.to_string()), "{error}");
}

#[tokio::test]
async fn a_password_becomes_a_ticket_that_is_renewed_when_refused() {
    let mut script =
        Script::start(vec![ok(LOGIN), refuse(401, "Authentication failed!", ""), ok(LOGIN), ok(NULL)]).await;
    let mut options = script.options();
    options.credentials = Credentials::parse("root@pam:pa ss;word=").unwrap();
    let client = Client::new(options).unwrap();
    let params = Params::default().with_flag("protection", true);
    client.set_vm_config("pve1", VmId(100), &params, None).await.unwrap();
    let (_, first) = script.request().await;
    assert!(first.ends_with("username=root%40pam&password=pa%20ss%3Bword%3D"), "{first}");
    let (_, refused) = script.request().await;
    assert!(refused.contains("PVEAuthCookie=PVE:root@pam:65F00000::ab%2B%2F%3D%3D"), "{refused}");
    assert!(refused.to_ascii_lowercase().contains("csrfpreventiontoken: 65f00000:xy\r\n"), "{refused}");
    script.request().await;
    assert!(script.request().await.1.starts_with("PUT "));
}
