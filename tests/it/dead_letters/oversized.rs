//! Messages that are larger than the stream, the store or the server takes.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bus::{PublishError, identity::Identity};
use messages::subject::Party;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tests::world::WorldOptions;

use super::{LANES, Lane, SECRET, SOON, answered_after};
use crate::{
    letter::{Letter, key_of, raw_client},
    scenario::{Scenario, told},
};

/// More than the server takes at all (512 KiB).
const BEYOND_SERVER: usize = 600 * 1024;
/// More than the streams and the store take, less than the server does.
const BEYOND_STREAM: usize = 400 * 1024;

#[test]
fn what_is_too_large_is_refused_and_the_next_good_one_is_answered_within_a_second() {
    let scenario = Scenario::start(&WorldOptions::default());
    let request = json!({ "request_type": "provision_cluster", "cluster_name": "edge", "pattern": "single" });
    let made = scenario.ask("provision_cluster", &request).unwrap();
    assert_eq!(made.state, "succeeded", "{}", told(&made));
    for (lane, number) in LANES.iter().zip(0..) {
        let large = json!({ "cluster_name": "edge", "x": "y".repeat(BEYOND_STREAM) });
        let large = Letter::new(lane.subject, lane.source, &large).signed(&key_of(&scenario, lane.sender));
        let refused = scenario.runtime.block_on(async {
            let sender = scenario.world.nats.connect(lane.sender).await.unwrap();
            sender.publish(&large).await.unwrap_err()
        });
        assert!(matches!(refused, PublishError::TooLarge(_)), "{refused}");
        flood(&scenario, lane.sender, lane.subject);
        expect_soon(&scenario, lane, number);
    }
    for (lane, number) in [&LANES[0], &LANES[2]].into_iter().zip(10..) {
        flood(&scenario, Identity::Coordinator, &format!("cortex.cmd.{}.submit", lane.at));
        expect_soon(&scenario, lane, number);
        let answers = [large_patches(), json!({ "request_type": "provision_cluster", "x": SECRET.repeat(20 << 10) })];
        for body in answers {
            let answer = submitted(&scenario, lane.at, &body);
            let why = answer["error"]["message"].as_str().unwrap_or_else(|| panic!("{answer}"));
            assert!(!why.is_empty() && !answer.to_string().contains(SECRET), "{answer}");
            expect_soon(&scenario, lane, number + 10);
        }
    }
    let log = fs::read_to_string(scenario.world.nats.log_file()).unwrap().to_lowercase();
    let refused = log.matches("maximum payload exceeded").count();
    assert_eq!(refused, LANES.len() + 2, "the server refuses each: {log}");
    assert_eq!(scenario.machines(), 1);
}

#[track_caller]
fn expect_soon(scenario: &Scenario, lane: &Lane, number: usize) {
    let bad = Letter { body: Vec::new(), ..Letter::new(lane.subject, lane.source, &Value::Null) };
    let took = answered_after(scenario, lane, &bad.signed(&key_of(scenario, lane.sender)), number);
    assert!(took <= SOON, "{}: {took:?}", lane.consumer);
}

/// A request that validates and is larger than what the store takes.
fn large_patches() -> Value {
    let patch = format!("machine:\n  sysctls:\n    a: \"{}\"\n", "y".repeat(BEYOND_STREAM));
    json!({
        "request_type": "provision_cluster", "cluster_name": "large", "pattern": "single", "patches": { "all": [patch] },
    })
}

/// What a contractor answers to a request that is called, not published.
fn submitted(scenario: &Scenario, at: Party, body: &Value) -> Value {
    let subject = format!("cortex.cmd.{at}.submit");
    let request = format!("cortex.request.{at}.provision_cluster");
    let mut letter =
        Letter::new(&request, "/coordinator/cortex", body).with("ce-type", "cortex.request.provision_cluster.v1");
    // The signature is over the subject of the call.
    let mut headers = letter.clone().signed(&key_of(scenario, Identity::Coordinator)).headers;
    let body = std::mem::take(&mut letter.body);
    messages::signature::sign(&key_of(scenario, Identity::Coordinator), &subject, &mut headers, &body).unwrap();
    scenario.runtime.block_on(async {
        let client = raw_client(scenario, Identity::Coordinator).await;
        let mut map = async_nats::HeaderMap::new();
        for (name, value) in &headers {
            map.insert(name.as_str(), value.as_str());
        }
        let asked = client.send_request(
            subject,
            async_nats::Request::new().headers(map).payload(body.into()).timeout(Some(Duration::from_secs(20))),
        );
        serde_json::from_slice(&asked.await.expect("an answer comes").payload).unwrap()
    })
}

/// Publishes more than the server takes; its client would not, so this speaks the protocol itself. The server closes the
/// connection.
fn flood(scenario: &Scenario, identity: Identity, subject: &str) {
    let setup = scenario.world.nats.setup();
    let mut plain = TcpStream::connect(scenario.world.nats.listen()).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut info = String::new();
    BufReader::new(plain.try_clone().unwrap()).read_line(&mut info).unwrap();
    let info: Value = serde_json::from_str(info.strip_prefix("INFO ").unwrap()).unwrap();
    assert!(info["max_payload"].as_u64() < Some(BEYOND_SERVER as u64), "{info}");

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&setup.root_ca).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let key = key_of(scenario, identity);
    let signed = key.sign(info["nonce"].as_str().unwrap().as_bytes()).unwrap();
    let connect = json!({
        "verbose": false, "pedantic": false, "tls_required": true, "lang": "rust", "version": "0", "protocol": 1,
        "nkey": key.public_key(), "sig": BASE64_URL_SAFE_NO_PAD.encode(signed),
    });
    let mut stream = StreamOwned::new(connection, &mut plain);
    write!(stream, "CONNECT {connect}\r\nPING\r\n").unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"PONG\r\n");
    write!(stream, "PUB {subject} {BEYOND_SERVER}\r\n").unwrap();
    let piece = [b'y'; 16 * 1024];
    // It closes as soon as it has read the size, so the rest may not find it any more; its log tells what it did.
    let _ = (0..BEYOND_SERVER).step_by(piece.len()).try_for_each(|_| stream.write_all(&piece));
    let _ = stream.read_to_end(&mut Vec::new());
}
