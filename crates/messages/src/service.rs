//! The queries and commands that contractors answer at once, over NATS services: a list that daemons serve by and
//! `schemas/asyncapi.yaml` is made from.

use serde_json::Value;

use crate::subject::Party;

/// One query or command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Who answers it.
    pub parties: &'static [Party],
    /// `cortex.query.…`, which only reads, or `cortex.cmd.…`, which must be signed.
    pub reads: bool,
    /// Sources that may ask it; one that ends in `/*` stands for everything below it.
    pub givers: &'static [&'static str],
    /// `flows.show`
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// What it is asked with.
    pub arguments: &'static [Argument],
}

/// A field of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: &'static str,
    /// Its JSON type.
    pub kind: &'static str,
    /// Whether it must be given.
    pub required: bool,
    /// What it says.
    pub meaning: &'static str,
}

impl Service {
    /// The subject on which `party` is asked.
    pub fn subject(&self, party: Party) -> String {
        let family = if self.reads { "query" } else { "cmd" };
        format!("cortex.{family}.{party}.{}", self.name)
    }

    /// Whether a source may ask it.
    pub fn may_come_from(&self, source: &str) -> bool {
        self.givers.iter().any(|giver| match giver.strip_suffix('*') {
            Some(folder) => source.starts_with(folder),
            None => source == *giver,
        })
    }

    /// Whether a question has the arguments that it may have; `null` counts as left out.
    ///
    /// # Errors
    /// Which one is unknown, missing, or of another JSON type.
    pub fn fits(&self, arguments: &Value) -> Result<(), String> {
        let given = arguments.as_object().ok_or("the arguments must be a JSON object")?;
        let is_known = |name: &str| self.arguments.iter().any(|argument| argument.name == name);
        if let Some(unknown) = given.keys().find(|name| !is_known(name)) {
            let known: Vec<_> = self.arguments.iter().map(|argument| argument.name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(format!("argument `{unknown}` is unknown; {} takes {known}", self.name));
        }
        for argument in self.arguments {
            match given.get(argument.name).filter(|value| !value.is_null()) {
                None if argument.required => return Err(format!("argument `{}` is missing", argument.name)),
                Some(value) if !argument.takes(value) => {
                    return Err(format!("argument `{}` must be of type {}", argument.name, argument.kind));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Argument {
    /// Whether it may have this value; every integer is a count or a place.
    fn takes(&self, value: &Value) -> bool {
        match self.kind {
            "integer" => value.is_u64(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => value.is_string(),
        }
    }
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Service> {
    QUERIES.iter().chain(COMMANDS)
}

/// Those that `party` answers.
pub fn of(party: Party) -> impl Iterator<Item = &'static Service> {
    all().filter(move |service| service.parties.contains(&party))
}

/// The one of that name.
pub fn find(party: Party, name: &str, reads: bool) -> Option<&'static Service> {
    of(party).find(|service| service.name == name && service.reads == reads)
}

const BOTH: &[Party] = &[Party::Infrastructure, Party::Talos];
const INFRASTRUCTURE: &[Party] = &[Party::Infrastructure];
const TALOS: &[Party] = &[Party::Talos];
const ANYONE: &[&str] = &["/*"];
const OPERATORS: &[&str] = &["/operator/*"];

const fn needed(name: &'static str, kind: &'static str, meaning: &'static str) -> Argument {
    Argument { name, kind, required: true, meaning }
}

const fn optional(name: &'static str, kind: &'static str, meaning: &'static str) -> Argument {
    Argument { name, kind, required: false, meaning }
}

const fn query(
    parties: &'static [Party],
    name: &'static str,
    summary: &'static str,
    arguments: &'static [Argument],
) -> Service {
    Service { parties, reads: true, givers: ANYONE, name, summary, arguments }
}

const fn command(
    parties: &'static [Party],
    givers: &'static [&'static str],
    name: &'static str,
    summary: &'static str,
    arguments: &'static [Argument],
) -> Service {
    Service { parties, reads: false, givers, name, summary, arguments }
}

const CLUSTER: Argument = needed("cluster", "string", "The cluster's name.");
const ONE_CLUSTER: Argument = optional("cluster", "string", "Only of this cluster.");
const LIMIT: Argument = optional("limit", "integer", "At most so many; default 100, never more than 300.");
const ROWS: Argument = optional("limit", "integer", "At most so many; default 1000, and never more.");
const AFTER: Argument = optional("after", "string", "Only what comes behind this, the `next` of the answer before.");
const FLOW: Argument = needed("flow", "string", "The flow's id.");
const RUN: Argument = needed("run", "string", "The run's id.");
const RECIPIENT: Argument = needed("recipient", "string", "age recipient that the answer is encrypted for.");

const QUERIES: &[Service] = &[
    query(
        BOTH,
        "audit.list",
        "The audit log, oldest first.",
        &[
            optional("from", "integer", "From this record on; default 1."),
            optional("limit", "integer", "At most so many, and never more than a page of them."),
        ],
    ),
    query(
        BOTH,
        "audit.verify",
        "Whether the audit log is the one that was written.",
        &[needed("heads", "array", "Heads that were told, to compare it with; may be empty.")],
    ),
    query(BOTH, "clusters.list", "The clusters that the contractor knows.", &[ROWS, AFTER]),
    query(BOTH, "clusters.show", "What the contractor believes of a cluster.", &[CLUSTER]),
    query(BOTH, "clusters.status", "How a cluster is, asked of the world now.", &[CLUSTER]),
    query(
        BOTH,
        "consider",
        "Whether a message would be taken, before what leads to it is begun; nothing is planned or done.",
        &[
            needed("type", "string", "The message's type."),
            optional("family", "string", "request or handoff; default: request."),
            needed("body", "object", "The message's body."),
        ],
    ),
    query(
        BOTH,
        "flows.list",
        "Flows, newest first; where there are more than asked for, those that are open rather than those that have ended.",
        &[ONE_CLUSTER, LIMIT],
    ),
    query(BOTH, "flows.show", "One flow with the contractor's runs and their steps.", &[FLOW]),
    query(TALOS, "nodes.list", "Nodes of the clusters.", &[ONE_CLUSTER, ROWS, AFTER]),
    query(INFRASTRUCTURE, "pools.list", "The pools of a cluster: wanted, present, generation.", &[CLUSTER]),
    query(
        BOTH,
        "plan",
        "What a message would do, without doing it.",
        &[
            needed("type", "string", "The message's type."),
            optional("family", "string", "request or handoff; default: request."),
            needed("body", "object", "The message's body."),
            optional("flow", "string", "The flow that it is planned for."),
        ],
    ),
    query(
        BOTH,
        "playbooks.check",
        "Whether playbooks would load, with everything that they refer to.",
        &[needed("files", "object", "Their texts by file name.")],
    ),
    query(BOTH, "playbooks.list", "The playbooks that the contractor has loaded.", &[]),
    query(
        BOTH,
        "playbooks.show",
        "One playbook with its text.",
        &[needed("playbook", "string", "The playbook's name.")],
    ),
    query(
        INFRASTRUCTURE,
        "quarantine.list",
        "Ids and addresses that are kept from use, with the reason.",
        &[ROWS, AFTER],
    ),
    query(
        BOTH,
        "runs.list",
        "Runs, newest first.",
        &[
            ONE_CLUSTER,
            optional("flow", "string", "Only of this flow."),
            optional("playbook", "string", "Only of this playbook."),
            optional("state", "string", "Only in this state."),
            LIMIT,
        ],
    ),
    query(BOTH, "runs.show", "One run with its steps.", &[RUN]),
    query(BOTH, "store.verify", "Whether every row of the store can be read and fits the others.", &[]),
    query(INFRASTRUCTURE, "vms.list", "Virtual machines of the clusters.", &[ONE_CLUSTER, ROWS, AFTER]),
];

const COMMANDS: &[Service] = &[
    command(
        BOTH,
        OPERATORS,
        "approve",
        "Consents to the plan that a flow waits with.",
        &[FLOW, needed("plan_hash", "string", "The plan's hash, as it was shown.")],
    ),
    command(BOTH, OPERATORS, "flows.cancel", "Cancels a flow: running steps end, then the failure policy.", &[FLOW]),
    command(BOTH, OPERATORS, "flows.resume", "Lets the paused and stuck runs of a flow go on.", &[FLOW]),
    command(TALOS, OPERATORS, "kubeconfig", "An admin kubeconfig, as age ciphertext.", &[CLUSTER, RECIPIENT]),
    command(BOTH, OPERATORS, "outbox.retry", "Publishes again what the bus refused for good.", &[]),
    command(
        INFRASTRUCTURE,
        OPERATORS,
        "quarantine.lift",
        "Gives a quarantined id or address back to use.",
        &[needed("what", "string", "What, as quarantine.list names it.")],
    ),
    command(
        BOTH,
        OPERATORS,
        "redeliver",
        "Takes a handoff again that the bus gave up, as the stream has it, with its sender's signature.",
        &[needed("sequence", "integer", "Its place in CORTEX_HANDOFFS.")],
    ),
    command(BOTH, OPERATORS, "runs.resume", "Lets a paused or stuck run go on.", &[RUN]),
    command(BOTH, OPERATORS, "store.compact", "Gives disk space back.", &[]),
    command(
        BOTH,
        OPERATORS,
        "store.export",
        "Writes the store into a new file on the daemon's machine; secrets stay sealed.",
        &[needed("file", "string", "Its whole path; nothing is there yet, and it is not in the store's folder.")],
    ),
    command(
        BOTH,
        // It holds a request, and who may send that is asked as on the stream.
        ANYONE,
        "submit",
        "Takes a request and answers when it is durable: same body, envelope and checks as on the stream.",
        &[],
    ),
    command(
        TALOS,
        OPERATORS,
        "talosconfig",
        "A talosconfig, as age ciphertext.",
        &[
            CLUSTER,
            RECIPIENT,
            optional("role", "string", "os:admin, os:operator or os:reader; default: os:reader."),
            optional("ttl", "string", "How long it is good for; default: 8h."),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_service_is_named_once() {
        for party in Party::ALL {
            let mut names: Vec<String> = of(party).map(|service| service.subject(party)).collect();
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }

    #[test]
    fn only_operators_give_commands_and_anyone_may_submit_or_ask() {
        for service in all() {
            let free = service.reads || service.name == "submit";
            for source in ["/coordinator/a", "/mcp/a", "/talos", "/infrastructure", "/operator", "/operatorx/a"] {
                assert_eq!(service.may_come_from(source), free, "{} from {source}", service.name);
            }
            assert!(service.may_come_from("/operator/ada"), "{}", service.name);
        }
    }

    #[test]
    fn arguments_that_do_not_fit_are_named() {
        let runs = find(Party::Talos, "runs.list", true).unwrap();
        for (arguments, said) in [
            (json!({}), Ok(())),
            (json!({ "limit": 3, "cluster": null, "state": "stuck" }), Ok(())),
            (json!([]), Err("the arguments must be a JSON object")),
            (json!({ "limit": "3" }), Err("argument `limit` must be of type integer")),
            (json!({ "limit": -3 }), Err("argument `limit` must be of type integer")),
            (
                json!({ "clusters": "a" }),
                Err("argument `clusters` is unknown; runs.list takes cluster, flow, playbook, state, limit"),
            ),
        ] {
            assert_eq!(runs.fits(&arguments), said.map_err(str::to_owned), "{arguments}");
        }
        let show = find(Party::Talos, "runs.show", true).unwrap();
        assert_eq!(show.fits(&json!({ "run": null })), Err("argument `run` is missing".to_owned()));
        let bare = find(Party::Talos, "store.compact", false).unwrap();
        let said = "argument `now` is unknown; store.compact takes none";
        assert_eq!(bare.fits(&json!({ "now": true })), Err(said.to_owned()));
    }
}
