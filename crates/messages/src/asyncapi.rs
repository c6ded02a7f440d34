//! `schemas/asyncapi.yaml`: every channel of the bus, made from the catalogue.

use serde_json::{Map, Value, json};

use crate::{
    catalogue::{self, Family, Kind},
    service::{self, Service},
    subject::Party,
};

/// The AsyncAPI 3.0 document.
pub fn document() -> Value {
    let mut channels = Map::new();
    let mut operations = Map::new();
    let mut messages = Map::new();
    for kind in catalogue::all() {
        let message = format!("{}_{}", kind.family.as_str(), kind.name);
        messages.insert(message.clone(), message_of(kind));
        for (channel, address, description) in channels_of(kind) {
            channels.insert(channel.clone(), channel_of(&address, &description, &message, kind));
            let action = if kind.family == Family::Event { "send" } else { "receive" };
            operations.insert(
                format!("{action}_{channel}"),
                json!({
                    "action": action,
                    "summary": kind.summary,
                    "channel": { "$ref": format!("#/channels/{channel}") },
                }),
            );
        }
    }
    for party in Party::ALL {
        for service in service::of(party) {
            let name = service.name.replace('.', "_");
            let channel = format!("{}_{party}_{name}", if service.reads { "query" } else { "command" });
            channels.insert(channel.clone(), question_channel(service, party));
            operations.insert(format!("receive_{channel}"), question_operation(service, &channel));
        }
    }
    channels.insert("answer".into(), answer_channel());
    channels.insert("reply".into(), reply_channel());
    messages.insert("answer".into(), answer_message());
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Contractors for Kubernetes platforms on Proxmox VE",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Requests, handoffs and events over NATS JetStream. CloudEvents 1.0 in binary mode: the attributes are headers.",
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages, "schemas": { "headers": headers() } },
    })
}

fn channels_of(kind: &Kind) -> Vec<(String, String, String)> {
    let (family, name) = (kind.family.as_str(), kind.name);
    match kind.family {
        Family::Event if name == "dead_letter" => {
            vec![("deadletter".into(), "cortex.deadletter.{at}".into(), "Messages that were put aside.".into())]
        }
        Family::Event => {
            vec![(format!("event_{name}"), format!("cortex.event.{{from}}.{{cluster}}.{name}"), kind.summary.into())]
        }
        Family::Request | Family::Handoff => kind
            .routes
            .iter()
            .map(|(to, _)| {
                (format!("{family}_{to}_{name}"), format!("cortex.{family}.{to}.{name}"), kind.summary.to_owned())
            })
            .collect(),
    }
}

fn channel_of(address: &str, description: &str, message: &str, kind: &Kind) -> Value {
    let stream = match kind.family {
        Family::Request => "CORTEX_REQUESTS",
        Family::Handoff => "CORTEX_HANDOFFS",
        Family::Event if kind.name == "dead_letter" => "CORTEX_DEADLETTER",
        Family::Event => "CORTEX_EVENTS",
    };
    let mut channel = json!({
        "address": address,
        "description": description,
        "messages": { message: { "$ref": format!("#/components/messages/{message}") } },
        "x-jetstream-stream": stream,
    });
    let parameters: Map<String, Value> = [
        ("from", "Who tells: infrastructure, talos or mcp."),
        ("at", "Who refused: infrastructure, talos or mcp."),
        ("cluster", "The cluster, or _ where none is meant."),
    ]
    .into_iter()
    .filter(|(name, _)| address.contains(&format!("{{{name}}}")))
    .map(|(name, description)| (name.to_owned(), json!({ "description": description })))
    .collect();
    if !parameters.is_empty() {
        channel["parameters"] = parameters.into();
    }
    channel
}

fn question_channel(service: &Service, party: Party) -> Value {
    let kinds = service
        .arguments
        .iter()
        .map(|argument| (argument.name.to_owned(), json!({ "type": argument.kind, "description": argument.meaning })));
    let properties: Map<String, Value> = kinds.collect();
    let required: Vec<&str> =
        service.arguments.iter().filter(|argument| argument.required).map(|argument| argument.name).collect();
    let mut payload = json!({ "type": "object", "description": "Its arguments." });
    if !properties.is_empty() {
        payload["properties"] = properties.into();
    }
    if !required.is_empty() {
        payload["required"] = required.into();
    }
    if service.name == "submit" {
        payload["description"] = "A request, as the channels cortex.request.<to>.<type> take it.".into();
    }
    let mut channel = json!({
        "address": service.subject(party),
        "description": service.summary,
        "messages": { "question": {
            "name": service.name,
            "contentType": "application/json",
            "headers": { "$ref": "#/components/schemas/headers" },
            "payload": payload,
        } },
        "x-nats-service": format!("{party}-contractor"),
    });
    if !service.reads {
        channel["x-sources"] = json!(service.givers);
    }
    channel
}

fn question_operation(service: &Service, channel: &str) -> Value {
    json!({
        "action": "receive",
        "summary": service.summary,
        "channel": { "$ref": format!("#/channels/{channel}") },
        "reply": {
            "channel": { "$ref": "#/channels/answer" },
            "messages": [{ "$ref": "#/channels/answer/messages/answer" }],
        },
    })
}

/// Where a question's answer goes: the reply subject that the NATS client makes.
fn answer_channel() -> Value {
    json!({
        "address": null,
        "description": "The reply subject of the question, `_INBOX.<identity>.…`.",
        "messages": { "answer": { "$ref": "#/components/messages/answer" } },
    })
}

/// Where the sender of a request wants to be told what became of it.
fn reply_channel() -> Value {
    json!({
        "address": "cortex.reply.{identity}.{token}",
        "description": "What a request's header cortex-reply-to names: accepted or rejected, as `submit` answers.",
        "messages": { "answer": { "$ref": "#/components/messages/answer" } },
        "parameters": {
            "identity": { "description": "The sender's identity at the bus." },
            "token": { "description": "Chosen by the sender." },
        },
    })
}

fn answer_message() -> Value {
    let violation = json!({
        "type": "object",
        "required": ["path", "rule", "expected", "got"],
        "properties": {
            "path": { "type": "string", "description": "JSON Pointer into the message." },
            "rule": { "type": "string", "description": "The schema keyword or check." },
            "expected": { "type": "string", "description": "What would be right." },
            "got": { "type": "string", "description": "What was there, without its value." },
            "did_you_mean": { "type": "string", "description": "The nearest right spelling." },
        },
    });
    let error = json!({
        "type": "object",
        "description": "Why not.",
        "required": ["kind", "message"],
        "properties": {
            "kind": { "enum": ["invalid", "forbidden", "not_found", "conflict", "changed", "unavailable"], "description": "For programs." },
            "message": { "type": "string", "description": "For people." },
            "hint": { "type": "string", "description": "What to do about it." },
            "violations": { "type": "array", "items": violation, "description": "Everything that is wrong." },
        },
    });
    json!({
        "name": "answer",
        "title": "answer",
        "summary": "What a contractor answers: `ok` with the answer, or `error`.",
        "contentType": "application/json",
        "payload": {
            "type": "object",
            "oneOf": [{ "required": ["ok"] }, { "required": ["error"] }],
            "properties": { "ok": { "description": "The answer." }, "error": error },
        },
    })
}

fn message_of(kind: &Kind) -> Value {
    json!({
        "name": kind.ce_type(),
        "title": kind.name,
        "summary": kind.summary,
        "contentType": "application/json",
        "headers": { "$ref": "#/components/schemas/headers" },
        "payload": { "$ref": format!("./{}", kind.file()) },
    })
}

fn headers() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "type": "object",
        "required": ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"],
        "properties": {
            "ce-specversion": { "type": "string", "const": "1.0" },
            "ce-id": text("Unique per source."),
            "ce-source": text("/infrastructure, /talos, /mcp, /operator/<name>, …"),
            "ce-type": text("cortex.<family>.<type>.v1"),
            "ce-time": { "type": "string", "format": "date-time" },
            "ce-subject": text("The cluster."),
            "ce-dataschema": text("The schema's $id."),
            "ce-sequence": text("Rises per source and cluster."),
            "Nats-Msg-Id": text("ce-source/ce-id; the stream's deduplication id."),
            "traceparent": text("W3C trace context."),
            "cortex-correlation-id": text("The flow."),
            "cortex-causation-id": text("The message that caused this one."),
            "cortex-reply-to": text("Where the sender wants to be told accepted or rejected."),
            "cortex-key": text("The sender's public nkey."),
            "cortex-signature": text("Ed25519 over subject, sorted ce- and cortex- headers and body; base64url."),
        },
    })
}
