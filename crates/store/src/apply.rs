//! Turns a commit into the rows of one batch, checking what it expects; nothing is written here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::{
    archive, audit,
    commit::{
        Commit, CommitError, Committed, Definition, InboxKey, InventoryChange, Lane, Outgoing, Precondition, RunAppend,
    },
    draft::Draft,
    keys,
    record::VALUE_CAP,
    rows::{InboxRow, RunRow},
    seal::Sealer,
};

/// How many generations of a secret are kept.
const GENERATIONS_KEPT: u64 = 8;
/// Cap of one secret in bytes.
const SECRET_CAP: usize = 4 * 1024 * 1024;

/// What grows and is never reused; one row of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Every batch of any kind.
    pub(crate) batches: u64,
    /// Commits: the revision of what they wrote.
    pub(crate) revision: u64,
    /// Newest message of the handoff lane.
    pub(crate) handoff: u64,
    /// Newest message of the event lane.
    pub(crate) event: u64,
    /// Newest message of the dead-letter lane.
    #[serde(default)]
    pub(crate) dead_letter: u64,
}

impl Counters {
    fn next(&mut self, lane: Lane) -> u64 {
        let counter = match lane {
            Lane::Handoff => &mut self.handoff,
            Lane::Event => &mut self.event,
            Lane::DeadLetter => &mut self.dead_letter,
        };
        *counter += 1;
        *counter
    }

    /// The sequence of a lane's newest message.
    pub(crate) fn newest(&self, lane: Lane) -> u64 {
        match lane {
            Lane::Handoff => self.handoff,
            Lane::Event => self.event,
            Lane::DeadLetter => self.dead_letter,
        }
    }
}

/// An inventory row.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InventoryRow<T> {
    pub(crate) revision: u64,
    pub(crate) updated_at: Timestamp,
    pub(crate) value: T,
}

/// The newest generation of a secret and where its parts are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SecretHead {
    /// The newest generation.
    pub(crate) generation: u64,
    /// Number of rows, by generation kept.
    pub(crate) parts: BTreeMap<u64, usize>,
}

/// An outbox row.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredMessage {
    pub(crate) at: Timestamp,
    pub(crate) message: Outgoing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parked: Option<Parked>,
}

/// Why and when a message left its lane.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Parked {
    pub(crate) reason: String,
    pub(crate) at: Timestamp,
}

/// A secret, sealed before it came to the writer.
pub(crate) struct SealedPut {
    name: String,
    sealed: Option<Vec<u8>>,
}

/// A commit whose secrets are sealed.
pub(crate) struct Sealed {
    commit: Commit,
    secrets: Vec<SealedPut>,
}

impl Sealed {
    /// Seals the secrets of `commit` on the caller's thread.
    pub(crate) fn new(mut commit: Commit, sealer: Option<&Sealer>) -> Result<Self, CommitError> {
        use secrecy::ExposeSecret;
        let mut secrets = Vec::with_capacity(commit.secrets.len());
        for put in commit.secrets.drain(..) {
            keys::check_name("secret name", &put.name).map_err(CommitError::Invalid)?;
            let sealed = match put.plain {
                None => None,
                Some(plain) => {
                    let size = plain.expose_secret().len();
                    if size > SECRET_CAP {
                        return Err(CommitError::TooLarge {
                            what: format!("secret `{}`", put.name),
                            size,
                            cap: SECRET_CAP,
                        });
                    }
                    let sealer = sealer.ok_or_else(|| {
                        CommitError::Invalid("secrets need a store that was opened with a key file".to_owned())
                    })?;
                    Some(sealer.seal(&put.name, &plain).map_err(CommitError::Invalid)?)
                }
            };
            secrets.push(SealedPut { name: put.name, sealed });
        }
        Ok(Self { commit, secrets })
    }

    /// Writes everything into `draft`, or says why not.
    pub(crate) fn draft(self, draft: &mut Draft<'_>, counters: &mut Counters) -> Result<Committed, CommitError> {
        let at = Timestamp::now();
        let Self { commit, secrets } = self;
        counters.revision += 1;
        if let Some(key) = &commit.inbox {
            let row = InboxRow { at, run: commit.run.as_ref().map(|run| run.run), said: commit.said };
            take_message(draft, key, row)?;
        }
        let run_seq = commit.run.map(|append| append_events(draft, append, at)).transpose()?;
        for definition in commit.definitions {
            put_definition(draft, definition)?;
        }
        for change in commit.inventory {
            change_inventory(draft, change, counters.revision, at)?;
        }
        let mut generations = BTreeMap::new();
        for put in secrets {
            let name = put.name.clone();
            if let Some(generation) = put_secret(draft, put)? {
                generations.insert(name, generation);
            }
        }
        let mut outgoing = Vec::with_capacity(commit.outgoing.len());
        for message in commit.outgoing {
            outgoing.push(put_message(draft, counters, message, at)?);
        }
        for run in commit.archive {
            archive::archive(draft, run)?;
        }
        for deed in commit.audit {
            audit::append(draft, deed, at)?;
        }
        Ok(Committed { revision: counters.revision, run_seq, generations, outgoing })
    }
}

fn take_message(draft: &mut Draft<'_>, key: &InboxKey, taken: InboxRow) -> Result<(), CommitError> {
    keys::check_name("message source", &key.source).map_err(CommitError::Invalid)?;
    keys::check_name("message id", &key.id).map_err(CommitError::Invalid)?;
    let row = keys::inbox(key);
    match draft.json::<InboxRow>(&row)? {
        // One that started nothing may be taken later.
        Some(first) if first.said.is_some() => draft.remove(keys::inbox_time(first.at, key)),
        Some(first) => return Err(CommitError::Duplicate { key: key.clone(), first: Box::new(first) }),
        None => {}
    }
    draft.put_json(row, &taken, "inbox row")?;
    draft.put_json(keys::inbox_time(taken.at, key), &(), "inbox index")
}

fn append_events(draft: &mut Draft<'_>, append: RunAppend, at: Timestamp) -> Result<u64, CommitError> {
    let RunAppend { run, expected_seq, events, summary } = append;
    let known: Option<RunRow> = draft.json(&keys::run(run))?;
    let actual = known.as_ref().map_or(0, |row| row.seq);
    if actual != expected_seq {
        return Err(CommitError::Sequence { run, expected: expected_seq, actual });
    }
    if known.as_ref().is_some_and(|row| row.archived) {
        return Err(CommitError::Invalid(format!("run {run} is archived: its flow has ended")));
    }
    let seq = expected_seq + events.len() as u64;
    for (event, at_seq) in events.iter().zip(expected_seq..) {
        draft.put_json(keys::journal(run, at_seq), event, &format!("event {at_seq} of run {run}"))?;
    }
    let row = match (known, summary) {
        (Some(row), None) => RunRow { seq, updated_at: at, ..row },
        (Some(row), Some(summary)) => {
            archive::unindex(draft, &row);
            RunRow { summary, seq, updated_at: at, ..row }
        }
        (None, Some(summary)) => RunRow { run, summary, seq, started_at: at, updated_at: at, archived: false },
        (None, None) => return Err(CommitError::Invalid(format!("new run {run} has no summary"))),
    };
    archive::index(draft, &row)?;
    draft.put_json(keys::run(run), &row, &format!("summary of run {run}"))?;
    Ok(seq)
}

fn put_definition(draft: &mut Draft<'_>, definition: Definition) -> Result<(), CommitError> {
    use sha2::{Digest, Sha256};
    let hash = hex::encode(Sha256::digest(definition.text.as_bytes()));
    if hash != definition.hash {
        return Err(CommitError::Invalid(format!("definition {} has the hash {hash}", definition.hash)));
    }
    let key = keys::definition(&hash);
    if draft.contains(&key)? {
        return Ok(());
    }
    draft.put_json(key, &definition.text, "playbook text")
}

fn change_inventory(
    draft: &mut Draft<'_>,
    change: InventoryChange,
    revision: u64,
    at: Timestamp,
) -> Result<(), CommitError> {
    let InventoryChange { key, precondition, value } = change;
    keys::check_name("inventory key", &key).map_err(CommitError::Invalid)?;
    let row = keys::inventory(&key);
    let actual = draft.json::<InventoryRow<IgnoredAny>>(&row)?.map(|row| row.revision);
    let holds = match precondition {
        Precondition::Any => true,
        Precondition::Absent => actual.is_none(),
        Precondition::Revision(expected) => actual == Some(expected),
    };
    if !holds {
        return Err(CommitError::Precondition { key, expected: precondition, actual });
    }
    match value {
        Some(value) => {
            let what = format!("inventory value `{key}`");
            draft.put_json(row, &InventoryRow { revision, updated_at: at, value }, &what)?;
        }
        None => draft.remove(row),
    }
    Ok(())
}

fn put_secret(draft: &mut Draft<'_>, put: SealedPut) -> Result<Option<u64>, CommitError> {
    let head_key = keys::secret_head(&put.name);
    let head: Option<SecretHead> = draft.json(&head_key)?;
    let Some(sealed) = put.sealed else {
        for generation in head.iter().flat_map(|head| head.parts.keys()) {
            draft.remove_all(&keys::secret_parts(&put.name, *generation))?;
        }
        // The head stays, so that a generation number never means two secrets.
        if let Some(head) = head {
            draft.put_json(head_key, &SecretHead { parts: BTreeMap::new(), ..head }, "secret head")?;
        }
        return Ok(None);
    };
    let mut head = head.unwrap_or(SecretHead { generation: 0, parts: BTreeMap::new() });
    head.generation += 1;
    let parts = draft.put_parts(&keys::secret_parts(&put.name, head.generation), &sealed, VALUE_CAP);
    head.parts.insert(head.generation, parts);
    while head.parts.len() as u64 > GENERATIONS_KEPT {
        if let Some((oldest, _)) = head.parts.pop_first() {
            draft.remove_all(&keys::secret_parts(&put.name, oldest))?;
        }
    }
    draft.put_json(head_key, &head, "secret head")?;
    Ok(Some(head.generation))
}

pub(crate) fn put_message(
    draft: &mut Draft<'_>,
    counters: &mut Counters,
    message: Outgoing,
    at: Timestamp,
) -> Result<u64, CommitError> {
    let seq = counters.next(message.lane);
    let key = keys::outbox(message.lane, seq);
    let what = format!("message {}", message.id);
    draft.put_json(key, &StoredMessage { at, message, parked: None }, &what)?;
    Ok(seq)
}
