//! What comes over the bus: envelopes with their signatures, and bodies.

use std::sync::LazyLock;

use contractor::trust::{Signed, Trust};
use jiff::SignedDuration;
use messages::{
    catalogue::{self, Family},
    envelope::{Envelope, Headers},
    json, schema, signature,
    subject::Subject,
};
use nkeys::{KeyPair, KeyPairType};

use super::{Target, Verdict};

/// A value that no word about a refusal may repeat.
pub(super) const CANARY: &str = "hunter2";

pub(super) static ENVELOPE: Target = Target {
    name: "envelope",
    promise: "an envelope that is read prints to one that reads the same, a refusal names its header; signed by a pinned key \
              it is believed on its own route only, and with anything altered never",
    check: envelope,
    words: &[
        "ce-id",
        "ce-source",
        "ce-type",
        "ce-time",
        "ce-subject",
        "ce-sequence",
        "cortex-correlation-id",
        "cortex-key",
        "cortex.handoff.infrastructure.cluster_ready.v1",
        "2026-11-20T12:00:00Z",
        "/talos",
        "/operator/ada",
        "_",
    ],
};

pub(super) static BODY: Target = Target {
    name: "body",
    promise: "JSON that is read prints to JSON that reads the same; every violation has a pointer and shows no value",
    check: body,
    words: &[
        "\"cluster_name\"",
        "\"pattern\"",
        "\"pools\"",
        "\"nodes\"",
        "\"approval\"",
        "\"spec\"",
        "\"ha\"",
        "\"count\"",
        ":",
        ",",
        "{\"a\":1,\"a\":2}",
        "hunter2",
    ],
};

struct Believed {
    trust: Trust,
    talos: KeyPair,
    stranger: KeyPair,
}

static BELIEVED: LazyLock<Believed> = LazyLock::new(|| {
    let key = |fill: u8| KeyPair::new_from_raw(KeyPairType::User, [fill; 32]).expect("32 bytes make a key");
    let (talos, stranger) = (key(1), key(2));
    let trust = Trust {
        pinned: [("/talos".to_owned(), vec![talos.public_key()])].into(),
        stale_after: SignedDuration::from_hours(1),
        anonymous: Vec::new(),
    };
    Believed { trust, talos, stranger }
});

/// First line the subject, then `header: value` lines, a blank line, the body.
fn envelope(input: &[u8]) -> Result<Verdict, String> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(Verdict::Refused) };
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let Ok(subject) = lines.next().unwrap_or_default().parse::<Subject>() else { return Ok(Verdict::Refused) };
    if subject.to_string().parse::<Subject>().as_ref() != Ok(&subject) {
        return Err(format!("{subject} does not read as itself"));
    }
    let headers: Headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let envelope = match Envelope::parse(&headers, &subject) {
        Ok(envelope) => envelope,
        Err(error) => {
            let told = error.to_string();
            let names_one = ["ce-", "cortex-", "traceparent"].iter().any(|name| told.contains(name));
            return if names_one { Ok(Verdict::Refused) } else { Err(format!("the refusal names no header: {told}")) };
        }
    };
    match Envelope::parse(&envelope.headers(), &subject) {
        Ok(again) if again == envelope => {}
        other => return Err(format!("{envelope:?} prints to what reads as {other:?}")),
    }
    signed(&envelope, &subject, body.as_bytes())?;
    Ok(Verdict::TAKEN)
}

fn signed(envelope: &Envelope, subject: &Subject, body: &[u8]) -> Result<(), String> {
    let Believed { trust, talos, stranger } = &*BELIEVED;
    let on = subject.to_string();
    let is_believed = |headers: &Headers, body: &[u8]| {
        trust.check(envelope, subject, Signed { subject: &on, headers, body }, envelope.time).is_ok()
    };
    let sign = |key: &KeyPair| {
        let mut headers = envelope.headers();
        signature::sign(key, &on, &mut headers, body).map(|()| headers).map_err(|error| error.to_string())
    };
    let headers = sign(talos)?;
    let may_send = envelope.source == "/talos" && gives(subject);
    if is_believed(&headers, body) != may_send {
        return Err(format!("{} on {on} is believed where it should not be, or not where it should", envelope.source));
    }
    if is_believed(&sign(stranger)?, body) {
        return Err("the key of a stranger is believed".to_owned());
    }
    let longer = [body, b" "].concat();
    let mut altered = vec![(headers.clone(), longer)];
    for name in headers.keys().filter(|name| name.starts_with("ce-") || name.starts_with("cortex-")) {
        let mut changed = headers.clone();
        changed.entry(name.clone()).and_modify(|value| value.push('x'));
        altered.push((changed, body.to_vec()));
        let mut without = headers.clone();
        without.remove(name);
        altered.push((without, body.to_vec()));
    }
    match altered.iter().find(|(headers, body)| is_believed(headers, body)) {
        None => Ok(()),
        Some((headers, _)) => Err(format!("altered, it is believed: {headers:?}")),
    }
}

/// Whether talos may send on this subject: a handoff of its own, or anything that is no handoff.
fn gives(subject: &Subject) -> bool {
    let Subject::Handoff { to, kind } = subject else { return true };
    catalogue::find(Family::Handoff, kind).is_some_and(|kind| {
        let routes = kind.routes.iter();
        routes.filter(|(taker, _)| taker == to).any(|(_, givers)| givers.iter().any(|giver| giver.source() == "/talos"))
    })
}

fn body(input: &[u8]) -> Result<Verdict, String> {
    let value = match json::parse(input) {
        Ok(value) => value,
        Err(error) => {
            // The name of a key that stands twice is told on purpose, as every path tells names of keys.
            let told = error.to_string();
            let is_value = told.contains(CANARY) && !told.contains("duplicate key");
            return if is_value { Err(format!("a value is told: {told}")) } else { Ok(Verdict::Refused) };
        }
    };
    let printed = serde_json::to_vec(&value).map_err(|error| error.to_string())?;
    match json::parse(&printed) {
        Ok(again) if again == value => {}
        other => return Err(format!("it prints to what reads as {other:?}")),
    }
    let mut taken = Vec::new();
    for kind in catalogue::all().iter().filter(|kind| kind.family != Family::Event) {
        let Err(violations) = schema::validate(kind.family, kind.name, &value) else {
            taken.push(kind.name);
            continue;
        };
        if violations.is_empty() {
            return Err(format!("{} is refused without a reason", kind.name));
        }
        for violation in violations {
            if !violation.path.is_empty() && !violation.path.starts_with('/') || violation.rule.is_empty() {
                return Err(format!("{}: {violation:?} has no pointer or no rule", kind.name));
            }
            if violation.got.contains(CANARY) || violation.expected.contains(CANARY) {
                return Err(format!("{}: a value is told: {violation}", kind.name));
            }
        }
    }
    Ok(Verdict::by(taken))
}
