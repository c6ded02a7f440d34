//! The bus against a real server with nkeys, TLS and least rights.

use std::{collections::BTreeMap, time::Duration};

use ::bus::{Bus, Link, Outgoing, PublishError, RequestError, ServiceSpec, TailFrom, identity::Identity, streams};
use bytes::Bytes;
use messages::subject::Party;
use tests::nats::NatsServer;

use crate::command::call;

const PATIENCE: Duration = Duration::from_secs(20);

async fn server() -> (tempfile::TempDir, NatsServer) {
    let folder = tempfile::tempdir().unwrap();
    let server = NatsServer::start(folder.path()).unwrap();
    server.init().await.unwrap();
    (folder, server)
}

fn message(id: &str, subject: &str) -> Outgoing {
    let headers = BTreeMap::from([("Nats-Msg-Id".to_owned(), id.to_owned()), ("ce-id".to_owned(), id.to_owned())]);
    Outgoing { subject: subject.to_owned(), headers, body: Bytes::from_static(b"{}") }
}

async fn handoffs(bus: &Bus, party: Party) -> ::bus::Deliveries {
    bus.deliveries(streams::HANDOFFS, &streams::handoffs_of(party)).await.unwrap()
}

#[tokio::test]
async fn a_message_is_stored_once_delivered_once_and_acknowledged() {
    let (_folder, server) = server().await;
    let infrastructure = server.connect(Identity::Infrastructure).await.unwrap();
    let talos = server.connect(Identity::Talos).await.unwrap();
    assert_eq!(::bus::check(&infrastructure).await.unwrap(), []);

    let handoff = message("/infrastructure/1", "cortex.handoff.talos.vm_provisioned");
    let first = infrastructure.publish(&handoff).await.unwrap();
    let again = infrastructure.publish(&handoff).await.unwrap();
    assert!(!first.duplicate && again.duplicate && first.sequence == again.sequence);

    let mut deliveries = handoffs(&talos, Party::Talos).await;
    let delivery = deliveries.next_within(PATIENCE).await.unwrap();
    assert_eq!((delivery.headers["ce-id"].as_str(), delivery.attempt), ("/infrastructure/1", 1));
    delivery.retry_later(Duration::from_millis(1)).await.unwrap();
    let delivery = deliveries.next_within(PATIENCE).await.unwrap();
    assert_eq!(delivery.attempt, 2);
    delivery.ack_confirmed().await.unwrap();
    assert!(deliveries.next_within(Duration::from_millis(200)).await.is_none());
}

#[tokio::test]
async fn every_identity_is_refused_what_is_not_its_own() {
    let (_folder, server) = server().await;
    let refused = [
        (Identity::Infrastructure, "cortex.handoff.infrastructure.cluster_ready"),
        (Identity::Infrastructure, "cortex.event.talos._.cluster_ready"),
        (Identity::Infrastructure, "cortex.request.talos.backup_request"),
        (Identity::Talos, "cortex.handoff.talos.vm_provisioned"),
        (Identity::Talos, "cortex.deadletter.infrastructure"),
        (Identity::Coordinator, "cortex.handoff.talos.vm_provisioned"),
        (Identity::Coordinator, "cortex.event.talos._.cluster_ready"),
        (Identity::Operator, "cortex.event.talos._.cluster_ready"),
        (Identity::Mcp, "cortex.handoff.talos.vm_provisioned"),
    ];
    for (identity, subject) in refused {
        let bus = server.connect(identity).await.unwrap();
        let error = bus.publish(&message("x", subject)).await.unwrap_err();
        assert!(matches!(error, PublishError::Forbidden(_)), "{identity} on {subject}: {error}");
        let violation = bus.violation().borrow().clone().unwrap();
        assert_eq!((violation.verb, violation.subject.as_str()), ("publish", subject));
    }
    let coordinator = server.connect(Identity::Coordinator).await.unwrap();
    let none = BTreeMap::new();
    let api = format!("$JS.API.STREAM.DELETE.{}", streams::HANDOFFS);
    for subject in [api.as_str(), "cortex.cmd.talos.cancel"] {
        let error = coordinator.request(subject, &none, Bytes::new(), PATIENCE).await.unwrap_err();
        assert!(matches!(error, RequestError::Forbidden(_)), "{subject}: {error}");
    }
    // Refusals are heard, not waited for: each names the subject.
    let begun = std::time::Instant::now();
    let refusals = [
        ::bus::init(&coordinator).await.unwrap_err().to_string(),
        ::bus::check_consumers(&coordinator, &streams::consumers()).await.unwrap_err().to_string(),
        coordinator.fetch(streams::HANDOFFS, 1).await.unwrap_err().to_string(),
        coordinator.tail(streams::DEADLETTER, TailFrom::Start, &[]).await.err().unwrap().to_string(),
    ];
    for refusal in refusals {
        assert!(refusal.contains("the bus refuses subject $JS.API."), "{refusal}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "a refusal was taken for a server that is slow");
    let error = handoffs_as(&server, Identity::Infrastructure, Party::Talos).await;
    assert!(error.contains("handoffs-talos"), "{error}");
    let stranger = tempfile::tempdir().unwrap();
    let key = stranger.path().join("stranger.nk");
    ::bus::identity::ensure_key(&key).unwrap();
    let mut options = server.options(Identity::Operator).unwrap();
    options.seed = ::bus::identity::read_seed(&key).unwrap();
    let error = Bus::connect(options).await.unwrap_err();
    assert!(matches!(error, ::bus::ConnectError::NotAccepted { .. }), "{error}");
}

async fn handoffs_as(server: &NatsServer, identity: Identity, party: Party) -> String {
    let bus = server.connect(identity).await.unwrap();
    let opened = bus.deliveries(streams::HANDOFFS, &streams::handoffs_of(party)).await;
    opened.err().map(|error| error.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn a_rejected_message_reaches_the_dead_letter_stream_by_the_servers_advisory() {
    let (_folder, server) = server().await;
    let coordinator = server.connect(Identity::Coordinator).await.unwrap();
    let operator = server.connect(Identity::Operator).await.unwrap();
    let talos = server.connect(Identity::Talos).await.unwrap();
    let published = coordinator.publish(&message("r1", "cortex.request.talos.backup_request")).await.unwrap();
    let mut requests = talos.deliveries(streams::REQUESTS, &streams::requests_of(Party::Talos)).await.unwrap();
    requests.next_within(PATIENCE).await.unwrap().reject("not valid: 3 violations").await.unwrap();

    let mut dead = operator.tail(streams::DEADLETTER, TailFrom::Start, &[]).await.unwrap();
    let advisory = tokio::time::timeout(PATIENCE, dead.next()).await.unwrap().unwrap();
    let body: serde_json::Value = serde_json::from_slice(&advisory.body).unwrap();
    assert_eq!(body["reason"], "not valid: 3 violations");
    assert_eq!(body["stream_seq"], published.sequence);
    let original = operator.fetch(streams::REQUESTS, published.sequence).await.unwrap();
    assert_eq!(original.subject, "cortex.request.talos.backup_request");
    assert!(requests.next_within(Duration::from_millis(200)).await.is_none());
}

#[tokio::test]
async fn a_message_that_nobody_can_take_reaches_the_dead_letter_stream_after_its_deliveries() {
    let (_folder, server) = server().await;
    let infrastructure = server.connect(Identity::Infrastructure).await.unwrap();
    let talos = server.connect(Identity::Talos).await.unwrap();
    let operator = server.connect(Identity::Operator).await.unwrap();
    let published = infrastructure.publish(&message("m", "cortex.handoff.talos.vm_provisioned")).await.unwrap();
    let mut deliveries = handoffs(&talos, Party::Talos).await;
    let spec = streams::consumers().into_iter().find(|spec| spec.name == "handoffs-talos").unwrap();
    for attempt in 1..=spec.max_deliver {
        let delivery = deliveries.next_within(PATIENCE).await.unwrap();
        assert_eq!(delivery.attempt, attempt.unsigned_abs());
        delivery.retry_later(Duration::ZERO).await.unwrap();
    }
    let mut dead = operator.tail(streams::DEADLETTER, TailFrom::Start, &[]).await.unwrap();
    // The server notices when it would deliver once more: somebody must still be asking.
    let advisory = tokio::select! {
        advisory = dead.next_within(PATIENCE) => advisory.unwrap().unwrap(),
        delivery = deliveries.next() => panic!("delivered once too often: {delivery:?}"),
    };
    assert!(advisory.subject.contains("MAX_DELIVERIES.CORTEX_HANDOFFS.handoffs-talos"), "{}", advisory.subject);
    let body: serde_json::Value = serde_json::from_slice(&advisory.body).unwrap();
    assert_eq!(body["stream_seq"], published.sequence);
}

#[tokio::test]
async fn killing_the_server_loses_nothing_and_everybody_comes_back() {
    let (_folder, mut server) = server().await;
    let infrastructure = server.connect(Identity::Infrastructure).await.unwrap();
    let talos = server.connect(Identity::Talos).await.unwrap();
    let mut deliveries = handoffs(&talos, Party::Talos).await;
    let subject = "cortex.handoff.talos.vm_provisioned";
    for id in 0..20 {
        infrastructure.publish(&message(&format!("m{id}"), subject)).await.unwrap();
    }
    server.kill();
    let mut link = infrastructure.link();
    tokio::time::timeout(PATIENCE, link.wait_for(|link| *link == Link::Down)).await.unwrap().unwrap();
    let error = infrastructure.publish(&message("m20", subject)).await.unwrap_err();
    assert!(matches!(error, PublishError::Unknown(_)), "{error}");
    server.start_again().unwrap();
    tokio::time::timeout(PATIENCE, link.wait_for(|link| *link == Link::Up)).await.unwrap().unwrap();
    // The outbox repeats what is unknown, with its id.
    infrastructure.publish(&message("m20", subject)).await.unwrap();
    assert!(infrastructure.publish(&message("m3", subject)).await.unwrap().duplicate, "dedup survives the kill");

    let mut seen = Vec::new();
    while seen.len() < 21 {
        let delivery = deliveries.next_within(PATIENCE).await.expect("a delivery after the restart");
        let id = delivery.headers["ce-id"].clone();
        if !seen.contains(&id) {
            seen.push(id);
        }
        delivery.ack().await.unwrap();
    }
    assert_eq!(seen, (0..21).map(|id| format!("m{id}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_can_ask_for_certificates_besides_nkeys() {
    let folder = tempfile::tempdir().unwrap();
    let server = NatsServer::start_verifying(folder.path()).unwrap();
    server.init().await.unwrap();
    let mut options = server.options(Identity::Operator).unwrap();
    assert!(options.client_certificate.take().is_some());
    options.connect_timeout = Duration::from_secs(2);
    let error = Bus::connect(options).await.unwrap_err();
    assert!(matches!(error, ::bus::ConnectError::Unreachable { .. }), "{error}");
    server.connect(Identity::Operator).await.unwrap();
}

/// The server is to be known by another name: its certificate is made anew, and taken by a server that runs.
#[tokio::test]
async fn a_certificate_is_renewed_while_the_server_runs() {
    let (folder, server) = server().await;
    let before = server.connect(Identity::Infrastructure).await.unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (listen, store) = (server.listen().to_string(), path("jetstream"));
    let configure = ["bus", "configure", &path(""), "--listen", &listen, "--store", &store];
    let renewed = [&configure[..], &["--name", "bus.example.com"]].concat();
    let said = |arguments: &[&str]| call(arguments, &[], "").ok().err.clone();
    let (kept, new) = (said(&configure), said(&renewed));
    assert!(!kept.contains("new certificate"), "{kept}");
    assert!(new.contains(&format!("new certificate: {}", path("server.pem"))), "{new}");
    assert!(!said(&renewed).contains("new certificate"));
    server.reload().unwrap();
    let after = server.connect(Identity::Talos).await.unwrap();
    assert_ne!(before.server_certificate(), after.server_certificate());
    before.publish(&message("/infrastructure/1", "cortex.handoff.talos.vm_provisioned")).await.unwrap();
    let delivery = handoffs(&after, Party::Talos).await.next_within(PATIENCE).await.unwrap();
    assert_eq!(delivery.headers["ce-id"], "/infrastructure/1");
}

#[tokio::test]
async fn services_are_found_asked_and_answer() {
    let (_folder, server) = server().await;
    let talos = server.connect(Identity::Talos).await.unwrap();
    let operator = server.connect(Identity::Operator).await.unwrap();
    let none = BTreeMap::new();
    let error = operator.request("cortex.query.talos.status", &none, Bytes::new(), PATIENCE).await.unwrap_err();
    assert!(matches!(error, RequestError::NobodyThere(_)), "{error}");
    let spec = ServiceSpec {
        name: "talos-contractor".to_owned(),
        version: "0.1.0".to_owned(),
        description: "owns clusters".to_owned(),
        metadata: BTreeMap::from([("store".to_owned(), "ok".to_owned())]),
        subjects: vec!["cortex.query.talos.status".to_owned(), "cortex.cmd.talos.cancel".to_owned()],
    };
    let mut service = talos.serve(spec).await.unwrap();
    let serving = tokio::spawn(async move {
        let question = service.next().await.unwrap();
        question.answer(Bytes::from_static(b"fine")).await.unwrap();
        let command = service.next().await.unwrap();
        assert_eq!(command.subject, "cortex.cmd.talos.cancel");
        command.refuse(404, "no such flow").await.unwrap();
        service
    });
    let reply = operator.request("cortex.query.talos.status", &none, Bytes::new(), PATIENCE).await.unwrap();
    assert_eq!(reply.body.as_ref(), b"fine");
    let error = operator.request("cortex.cmd.talos.cancel", &none, Bytes::new(), PATIENCE).await.unwrap_err();
    assert!(matches!(&error, RequestError::Refused { code: 404, text } if text == "no such flow"), "{error}");
    let found = operator.discover(Duration::from_millis(500)).await.unwrap();
    assert_eq!((found[0].name.as_str(), found[0].endpoints.len()), ("talos-contractor", 2));
    serving.await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn events_are_tailed_from_any_point_on() {
    let (_folder, server) = server().await;
    let talos = server.connect(Identity::Talos).await.unwrap();
    let coordinator = server.connect(Identity::Coordinator).await.unwrap();
    for id in ["a", "b", "c"] {
        talos.publish(&message(id, &format!("cortex.event.talos.{id}.step_started"))).await.unwrap();
    }
    let mut tail = coordinator.tail(streams::EVENTS, TailFrom::Sequence(2), &[]).await.unwrap();
    assert_eq!(tail.pending, 2);
    let second = tail.next().await.unwrap();
    assert_eq!((second.sequence, second.pending, second.headers["ce-id"].as_str()), (2, 1, "b"));
    assert_eq!(tail.next().await.unwrap().pending, 0);
    talos.publish(&message("d", "cortex.event.talos.d.step_started")).await.unwrap();
    assert_eq!(tail.next_within(PATIENCE).await.unwrap().unwrap().sequence, 4);
    let only_a = ["cortex.event.*.a.*".to_owned()];
    let mut filtered = coordinator.tail(streams::EVENTS, TailFrom::Start, &only_a).await.unwrap();
    assert_eq!((filtered.pending, filtered.next().await.unwrap().sequence), (1, 1));
    let empty = coordinator.tail(streams::EVENTS, TailFrom::Now, &[]).await.unwrap();
    assert_eq!(empty.pending, 0);
}

/// `schemas/asyncapi.yaml` is made from the catalogue; here it is held against the streams that the server is given.
#[test]
fn every_channel_of_the_contract_is_recorded_by_the_stream_that_it_names() {
    let document = messages::asyncapi::document();
    let takes = |pattern: &str, address: &str| {
        let (pattern, address): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), address.split('.').collect());
        pattern.len() == address.len()
            && pattern.iter().zip(&address).all(|(want, token)| *want == "*" || want == token)
    };
    let mut recorded = 0;
    for channel in document["channels"].as_object().unwrap().values() {
        let Some(name) = channel["x-jetstream-stream"].as_str() else { continue };
        let address = channel["address"].as_str().unwrap();
        let by: Vec<_> = streams::streams()
            .into_iter()
            .filter(|stream| stream.subjects.iter().any(|pattern| takes(pattern, address)))
            .map(|stream| stream.name)
            .collect();
        assert_eq!(by, [name], "{address}");
        recorded += 1;
    }
    let routes: usize = messages::catalogue::all().iter().map(|kind| kind.routes.len().max(1)).sum();
    assert_eq!(recorded, routes, "every message has its channels");
}
