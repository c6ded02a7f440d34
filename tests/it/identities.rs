//! What each nkey may do at the broker, written down apart from the code, and every other subject tried.

use std::collections::BTreeSet;

use async_nats::{Client, ConnectOptions, Event, ServerError};
use bus::identity::{Identity, read_seed};
use secrecy::ExposeSecret;
use tests::nats::NatsServer;
use tokio::sync::mpsc;

const PARTIES: [&str; 3] = ["infrastructure", "talos", "mcp"];
const STREAMS: [&str; 4] = ["CORTEX_REQUESTS", "CORTEX_HANDOFFS", "CORTEX_EVENTS", "CORTEX_DEADLETTER"];
const CONSUMERS: [&str; 5] =
    ["requests-infrastructure", "requests-talos", "handoffs-infrastructure", "handoffs-talos", "some"];
/// Refusals are told in the order of what was asked: when this one is, all before it were.
const LAST: &str = "nobody.may.this";

/// Subjects that an identity may publish on, with `*` for a token and `>` for the rest, and those it may subscribe to.
fn rights(identity: Identity) -> (Vec<String>, Vec<String>) {
    let owned = |subjects: &[&str]| subjects.iter().map(ToString::to_string).collect::<Vec<_>>();
    let tail = |stream: &str| {
        [
            "STREAM.INFO.S",
            "CONSUMER.CREATE.S",
            "CONSUMER.CREATE.S.>",
            "CONSUMER.INFO.S.*",
            "CONSUMER.DELETE.S.*",
            "CONSUMER.MSG.NEXT.S.*",
        ]
        .map(|call| format!("$JS.API.{}", call.replace(".S", &format!(".{stream}"))))
    };
    let asks = ["cortex.request.*.*", "$SRV.INFO", "$SRV.PING", "$JS.API.INFO"];
    let hears =
        |own: &str| vec![format!("_INBOX.{own}.>"), format!("cortex.reply.{own}.>"), "cortex.event.>".to_owned()];
    match identity {
        Identity::Infrastructure => contractor("infrastructure", "talos"),
        Identity::Talos => contractor("talos", "infrastructure"),
        Identity::Coordinator => {
            let mut publish = owned(&asks);
            publish.extend(owned(&["cortex.cmd.*.submit", "cortex.query.>"]));
            publish.extend(tail("CORTEX_EVENTS"));
            (publish, hears("coordinator"))
        }
        Identity::Mcp => {
            let mut publish = owned(&asks);
            publish.extend(owned(&["cortex.cmd.*.submit", "cortex.query.>", "cortex.event.mcp.*.*"]));
            publish.extend(tail("CORTEX_EVENTS"));
            (publish, hears("mcp"))
        }
        Identity::Operator => {
            let mut publish = owned(&asks);
            publish.extend(owned(&["cortex.cmd.>", "cortex.query.>"]));
            publish.extend(["CORTEX_EVENTS", "CORTEX_DEADLETTER"].into_iter().flat_map(tail));
            for stream in STREAMS {
                publish.extend([format!("$JS.API.DIRECT.GET.{stream}"), format!("$JS.API.STREAM.INFO.{stream}")]);
            }
            publish
                .extend(owned(&["$JS.API.CONSUMER.INFO.CORTEX_REQUESTS.*", "$JS.API.CONSUMER.INFO.CORTEX_HANDOFFS.*"]));
            (publish, hears("operator"))
        }
        Identity::Admin => (owned(&["$JS.API.>"]), owned(&["_INBOX.admin.>"])),
    }
}

fn contractor(own: &str, other: &str) -> (Vec<String>, Vec<String>) {
    let mut publish = vec![
        format!("cortex.handoff.{other}.*"),
        format!("cortex.event.{own}.*.*"),
        format!("cortex.deadletter.{own}"),
        format!("cortex.query.{other}.>"),
        "cortex.reply.>".to_owned(),
        "$JS.API.INFO".to_owned(),
    ];
    publish.extend(STREAMS.map(|stream| format!("$JS.API.STREAM.INFO.{stream}")));
    publish.push("$JS.API.DIRECT.GET.CORTEX_HANDOFFS".to_owned());
    for (stream, kind) in [("CORTEX_REQUESTS", "requests"), ("CORTEX_HANDOFFS", "handoffs")] {
        publish.push(format!("$JS.API.CONSUMER.INFO.{stream}.{kind}-{own}"));
        publish.push(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{kind}-{own}"));
        publish.push(format!("$JS.ACK.{stream}.{kind}-{own}.>"));
        publish.push(format!("$JS.ACK.*.*.{stream}.{kind}-{own}.>"));
    }
    let mut subscribe = vec![format!("_INBOX.{own}.>"), format!("cortex.query.{own}.>"), format!("cortex.cmd.{own}.>")];
    for verb in ["PING", "INFO", "STATS"] {
        subscribe.extend(
            ["", ".NAME", ".NAME.*"]
                .map(|of| format!("$SRV.{verb}{}", of.replace("NAME", &format!("{own}-contractor")))),
        );
    }
    (publish, subscribe)
}

/// Every kind of subject that there is: of the contract, of JetStream, of services, of the server itself.
fn subjects() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for party in PARTIES {
        for subject in [
            "cortex.request.@.provision_cluster",
            "cortex.handoff.@.vm_provisioned",
            "cortex.handoff.@.scale_request",
            "cortex.event.@._.step_started",
            "cortex.event.@.prod.audit_head",
            "cortex.deadletter.@",
            "cortex.query.@.clusters.list",
            "cortex.cmd.@.submit",
            "cortex.cmd.@.flows.cancel",
            "cortex.cmd.@.approve",
            "cortex.cmd.@.kubeconfig",
            "cortex.cmd.@.redeliver",
            "cortex.cmd.@.store.export",
            "cortex.cmd.@.talosconfig",
            "$SRV.PING.@-contractor",
            "$SRV.INFO.@-contractor.id",
            "$SRV.STATS.@-contractor",
        ] {
            all.insert(subject.replace('@', party));
        }
    }
    for identity in Identity::ALL {
        all.extend([format!("cortex.reply.{identity}.x"), format!("_INBOX.{identity}.x")]);
    }
    for stream in STREAMS {
        for call in [
            "CREATE",
            "UPDATE",
            "DELETE",
            "INFO",
            "PURGE",
            "MSG.GET",
            "MSG.DELETE",
            "SNAPSHOT",
            "RESTORE",
            "LEADER.STEPDOWN",
            "PEER.REMOVE",
        ] {
            all.insert(format!("$JS.API.STREAM.{call}.{stream}"));
        }
        for call in ["DIRECT.GET", "CONSUMER.CREATE", "CONSUMER.NAMES", "CONSUMER.LIST"] {
            all.insert(format!("$JS.API.{call}.{stream}"));
        }
        // The newest message of a subject; flow control, and the parts of backups, which are no calls of the API.
        all.insert(format!("$JS.API.DIRECT.GET.{stream}.cortex.event.talos._.x"));
        all.insert(format!("$JS.FC.{stream}.some.1"));
        all.insert(format!("$JS.SNAPSHOT.ACK.{stream}.x"));
        all.insert(format!("$JS.SNAPSHOT.RESTORE.{stream}.x"));
        for consumer in CONSUMERS {
            for call in
                ["CREATE", "DURABLE.CREATE", "INFO", "DELETE", "MSG.NEXT", "PAUSE", "UNPIN", "RESET", "LEADER.STEPDOWN"]
            {
                all.insert(format!("$JS.API.CONSUMER.{call}.{stream}.{consumer}"));
            }
            all.insert(format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}.cortex.event.talos._.x"));
            all.insert(format!("$JS.ACK.{stream}.{consumer}.1.1.1.1.1"));
            all.insert(format!("$JS.ACK._.hash.{stream}.{consumer}.1.1.1.1.1"));
            // The server's own word, which CORTEX_DEADLETTER records: who could say it, could make dead letters.
            for word in ["MAX_DELIVERIES", "MSG_TERMINATED", "MSG_NAKED"] {
                all.insert(format!("$JS.EVENT.ADVISORY.CONSUMER.{word}.{stream}.{consumer}"));
            }
        }
    }
    all.extend(
        [
            "$JS.API.INFO",
            "$JS.API.STREAM.NAMES",
            "$JS.API.STREAM.LIST",
            "$JS.API.STREAM.CREATE.OTHER",
            "$JS.API.STREAM.TEMPLATE.CREATE.x",
            "$JS.API.STREAM.TEMPLATE.INFO.x",
            "$JS.API.STREAM.TEMPLATE.DELETE.x",
            "$JS.API.STREAM.TEMPLATES",
            "$JS.API.ACCOUNT.PURGE.A",
            "$JS.EVENT.ADVISORY.API",
            "$JS.API.SERVER.REMOVE",
            "$JS.API.META.LEADER.STEPDOWN",
            "$SRV.PING",
            "$SRV.INFO",
            "$SRV.STATS",
            "$SYS.REQ.SERVER.PING",
            "$SYS.REQ.USER.INFO",
            "$SYS.ACCOUNT.A.CONNECT",
            "$KV.x.y",
            "$O.x.C.y",
            "cortex",
            "cortex.other",
            "x",
        ]
        .map(str::to_owned),
    );
    // The same calls, addressed to a JetStream domain.
    let of_domain = |call: &String| call.strip_prefix("$JS.API.").map(|call| format!("$JS.hub.API.{call}"));
    let of_domains: Vec<String> = all.iter().filter_map(of_domain).collect();
    all.extend(of_domains);
    all
}

/// What somebody curious would listen to besides.
const WIDE: [&str; 14] = [
    ">",
    "cortex.>",
    "cortex.*.>",
    "cortex.request.>",
    "cortex.handoff.>",
    "cortex.deadletter.>",
    "cortex.reply.>",
    "cortex.cmd.>",
    "_INBOX.>",
    "$JS.>",
    "$JS.API.>",
    "$JS.EVENT.>",
    "$SYS.>",
    "$SRV.>",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_identity_may_do_its_part_and_is_refused_everything_else() {
    let folder = tempfile::tempdir().unwrap();
    let server = NatsServer::start(folder.path()).unwrap();
    server.init().await.unwrap();
    let subjects = subjects();
    assert!(subjects.len() > 600, "{} subjects are not all there are", subjects.len());
    for identity in Identity::ALL {
        let (publish, subscribe) = rights(identity);
        let may = |rights: &[String], subject: &str| rights.iter().any(|right| covers(right, subject));
        let mut heard = Refusals::connect(&server, identity).await;
        let refused = heard.of(&subjects, true).await;
        let wanted: BTreeSet<String> = subjects.iter().filter(|subject| !may(&publish, subject)).cloned().collect();
        differ(identity, "publish", &wanted, &refused);
        let listened: BTreeSet<String> = subjects.iter().cloned().chain(WIDE.map(str::to_owned)).collect();
        let refused = heard.of(&listened, false).await;
        let wanted: BTreeSet<String> = listened.iter().filter(|subject| !may(&subscribe, subject)).cloned().collect();
        differ(identity, "subscribe", &wanted, &refused);
    }
}

fn differ(identity: Identity, verb: &str, wanted: &BTreeSet<String>, refused: &BTreeSet<String>) {
    let let_through: Vec<_> = wanted.difference(refused).collect();
    let kept_out: Vec<_> = refused.difference(wanted).collect();
    assert!(
        let_through.is_empty() && kept_out.is_empty(),
        "{identity} may {verb} {let_through:?} and may not {kept_out:?}"
    );
}

/// Whether a right with wildcards covers a subject, wildcards of the subject included.
fn covers(right: &str, subject: &str) -> bool {
    let (mut right, mut subject) = (right.split('.'), subject.split('.'));
    loop {
        match (right.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(wanted), Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
}

/// A plain client that collects what the server refuses it.
struct Refusals {
    client: Client,
    told: mpsc::UnboundedReceiver<String>,
}

impl Refusals {
    async fn connect(server: &NatsServer, identity: Identity) -> Self {
        let setup = server.setup();
        let seed = read_seed(&setup.keys[&identity]).unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        let client = ConnectOptions::new()
            .nkey(seed.expose_secret().to_owned())
            .add_root_certificates(setup.root_ca.clone())
            .require_tls(true)
            .event_callback(move |event| {
                let tell = tell.clone();
                async move {
                    if let Event::ServerError(ServerError::Other(text)) = event {
                        let _ = tell.send(text);
                    }
                }
            })
            .connect(server.url())
            .await
            .unwrap();
        Self { client, told }
    }

    /// Which of the subjects are refused. In small parts: the client drops what it cannot hand on at once.
    async fn of(&mut self, subjects: &BTreeSet<String>, publishing: bool) -> BTreeSet<String> {
        let mut refused = BTreeSet::new();
        let all: Vec<&String> = subjects.iter().collect();
        for part in all.chunks(16) {
            let mut open = Vec::new();
            for subject in part {
                if publishing {
                    self.client.publish((*subject).clone(), "".into()).await.unwrap();
                } else {
                    open.push(self.client.subscribe((*subject).clone()).await.unwrap());
                }
            }
            self.client.publish(LAST, "".into()).await.unwrap();
            self.client.flush().await.unwrap();
            loop {
                let patience = std::time::Duration::from_secs(20);
                let text = tokio::time::timeout(patience, self.told.recv()).await.expect("a refusal").unwrap();
                let subject = text.split('"').nth(1).unwrap_or_default().to_owned();
                if subject == LAST {
                    break;
                }
                refused.insert(subject);
            }
        }
        refused
    }
}
