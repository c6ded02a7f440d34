//! Planned failures: which call, counted how, fails in which way.
//!
//! A call is named by one line, such as `pve POST /nodes/pve1/qemu`, `pve task qmcreate 100`,
//! `talos 127.20.1.2 /machine.MachineService/Bootstrap` or `kube PATCH /api/v1/nodes/a`; every simulator may ask
//! for the fault of a call it is about to serve.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The planned faults of one lab; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    plan: Arc<Mutex<Plan>>,
    lifted: Arc<watch::Sender<()>>,
}

#[derive(Debug, Default)]
struct Plan {
    next_id: u64,
    latency: Duration,
    rules: Vec<Rule>,
}

/// A fault as it is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Matched against the call's name; `*` is any run of characters without a slash or space, `**` any at all.
    pub call: String,
    /// The first matching call that fails, counted from one.
    #[serde(default = "one")]
    pub nth: u64,
    /// How many matching calls fail from there on; none means all.
    #[serde(default = "once")]
    pub times: Option<u64>,
    #[serde(flatten)]
    pub action: FaultAction,
}

/// What happens instead of, or around, a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum FaultAction {
    /// Answer with a status code and a message without doing anything. A task fails with the message.
    Error {
        #[serde(default = "internal_error")]
        code: u16,
        #[serde(default)]
        message: String,
        /// Reason phrase only, as errors of the node-to-node proxy have it.
        #[serde(default)]
        empty_body: bool,
    },
    /// Do it, then close the connection without an answer.
    DropReply,
    /// Do it, then answer with a status code and without a body, as the node-to-node proxy does that lost the answer.
    LateError { code: u16, message: String },
    /// Close the connection without doing anything.
    DropRequest,
    /// Answer, pass so many frames of the answer's body, then close the connection in the middle of it. An answer of
    /// Proxmox is of one piece: there it is as good as a lost one.
    Break { frames: u64 },
    /// Answer nothing for as long as the client waits.
    Hang,
    /// Wait, in real milliseconds, then go on normally.
    Delay { milliseconds: u64 },
    /// Wait until the fault is taken back, then go on normally.
    Hold,
    /// A task does its work and ends with this many warnings.
    Warnings { count: usize },
}

/// A fault in force, with what has become of it.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    pub id: u64,
    #[serde(flatten)]
    pub fault: Fault,
    /// Calls that matched so far.
    pub seen: u64,
    /// Calls that were made to fail so far.
    pub fired: u64,
}

impl Fault {
    /// The next call of this name fails once.
    pub fn once(call: impl Into<String>, action: FaultAction) -> Self {
        Self { call: call.into(), nth: 1, times: Some(1), action }
    }

    /// Every call of this name fails.
    pub fn always(call: impl Into<String>, action: FaultAction) -> Self {
        Self { call: call.into(), nth: 1, times: None, action }
    }

    /// The short form of the command line: `CALL[#NTH][xTIMES|x*]=ACTION[:ARGUMENTS]`.
    ///
    /// `pve POST /nodes/*/qemu#2=error:500:got no worker upid - start worker failed`, `pve **=delay:200`, `…=drop-reply`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (call, action) = text.split_once('=').ok_or_else(|| format!("fault {text:?} has no `=ACTION`"))?;
        let (call, times) = match call
            .rsplit_once('x')
            .filter(|(_, n)| *n == "*" || (!n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())))
        {
            Some((call, "*")) => (call, None),
            Some((call, count)) => (call, count.parse().ok()),
            None => (call, Some(1)),
        };
        let (call, nth) = match call.rsplit_once('#') {
            Some((call, nth)) => (call, nth.parse().map_err(|_| format!("{nth:?} is no count in fault {text:?}"))?),
            None => (call, 1),
        };
        let (name, rest) = action.split_once(':').unwrap_or((action, ""));
        let action = match name {
            "error" => {
                let (code, message) = rest.split_once(':').unwrap_or((rest, ""));
                let code = if code.is_empty() {
                    500
                } else {
                    code.parse().map_err(|_| format!("{code:?} is no status code"))?
                };
                FaultAction::Error { code, message: message.to_owned(), empty_body: message.is_empty() || code > 590 }
            }
            "drop-reply" => FaultAction::DropReply,
            "late-error" => {
                let (code, message) = rest.split_once(':').unwrap_or((rest, ""));
                let code = code.parse().map_err(|_| format!("{code:?} is no status code"))?;
                FaultAction::LateError { code, message: message.to_owned() }
            }
            "hold" => FaultAction::Hold,
            "drop-request" => FaultAction::DropRequest,
            "break" => {
                FaultAction::Break { frames: rest.parse().map_err(|_| format!("{rest:?} is no count of frames"))? }
            }
            "hang" => FaultAction::Hang,
            "delay" => FaultAction::Delay { milliseconds: rest.parse().map_err(|_| format!("{rest:?} is no delay"))? },
            "warnings" => FaultAction::Warnings { count: rest.parse().unwrap_or(1) },
            other => {
                return Err(format!(
                    "unknown fault action {other:?}, expected error, late-error, drop-reply, drop-request, break, hang, hold, \
                     delay or warnings"
                ));
            }
        };
        Ok(Self { call: call.trim().to_owned(), nth, times, action })
    }
}

impl Faults {
    /// Puts a fault in force and names it.
    pub fn add(&self, fault: Fault) -> u64 {
        let mut plan = self.lock();
        plan.next_id += 1;
        let id = plan.next_id;
        plan.rules.push(Rule { id, fault, seen: 0, fired: 0 });
        id
    }

    /// Takes a fault back; false if there is none of that id.
    pub fn remove(&self, id: u64) -> bool {
        let mut plan = self.lock();
        let before = plan.rules.len();
        plan.rules.retain(|rule| rule.id != id);
        let removed = plan.rules.len() < before;
        drop(plan);
        self.lifted.send_replace(());
        removed
    }

    pub fn clear(&self) {
        self.lock().rules.clear();
        self.lifted.send_replace(());
    }

    /// Waits until nothing holds calls of this name any more.
    pub async fn lifted(&self, call: &str) {
        let holds = |rule: &Rule| rule.fault.action == FaultAction::Hold && matches(&rule.fault.call, call);
        let mut lifted = self.lifted.subscribe();
        // The sender is in these faults, so the wait ends only by its word.
        let _ = lifted.wait_for(|()| !self.lock().rules.iter().any(holds)).await;
    }

    pub fn rules(&self) -> Vec<Rule> {
        self.lock().rules.clone()
    }

    /// What every call waits, in real time, besides what is planned for it.
    pub fn latency(&self) -> Duration {
        self.lock().latency
    }

    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Counts a call and says what shall happen to it.
    pub fn take(&self, call: &str) -> Option<FaultAction> {
        let mut plan = self.lock();
        let mut action = None;
        for rule in plan.rules.iter_mut().filter(|rule| matches(&rule.fault.call, call)) {
            rule.seen += 1;
            let due = rule.seen >= rule.fault.nth && rule.fault.times.is_none_or(|times| rule.fired < times);
            if due && action.is_none() {
                rule.fired += 1;
                action = Some(rule.fault.action.clone());
            }
        }
        action
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Glob over a call's name.
fn matches(pattern: &str, text: &str) -> bool {
    fn at(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', b'*', rest @ ..] => (0..=text.len()).any(|skip| at(rest, &text[skip..])),
            [b'*', rest @ ..] => {
                let run = text.iter().position(|b| matches!(b, b'/' | b' ')).unwrap_or(text.len());
                (0..=run).any(|skip| at(rest, &text[skip..]))
            }
            [first, rest @ ..] => text.first() == Some(first) && at(rest, &text[1..]),
        }
    }
    at(pattern.as_bytes(), text.as_bytes())
}

fn one() -> u64 {
    1
}

#[expect(clippy::unnecessary_wraps, reason = "serde defaults have the field's type")]
fn once() -> Option<u64> {
    Some(1)
}

fn internal_error() -> u16 {
    500
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_counted_calls_fail() {
        let faults = Faults::default();
        faults.add(Fault::parse("pve POST /nodes/*/qemu#2x2=error:500:boom").unwrap());
        let fired: Vec<bool> = (0..5).map(|_| faults.take("pve POST /nodes/pve1/qemu").is_some()).collect();
        assert_eq!(fired, [false, true, true, false, false]);
        assert!(faults.take("pve POST /nodes/pve1/qemu/100/status/start").is_none());
    }

    #[tokio::test]
    async fn held_calls_go_on_when_the_fault_is_taken_back() {
        let faults = Faults::default();
        let held = faults.add(Fault::parse("pve POST /a=hold").unwrap());
        faults.add(Fault::parse("pve POST /b=hold").unwrap());
        assert_eq!(faults.take("pve POST /a"), Some(FaultAction::Hold));
        let waiting = faults.lifted("pve POST /a");
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        assert!(faults.remove(held));
        waiting.await;
        assert_eq!(faults.take("pve POST /a"), None);
    }

    #[test]
    fn short_and_json_forms_say_the_same() {
        let short = Fault::parse("pve GET /**=error:595:No route to host").unwrap();
        let json =
            r#"{"call":"pve GET /**","action":"error","code":595,"message":"No route to host","empty_body":true}"#;
        assert_eq!(serde_json::from_str::<Fault>(json).unwrap(), short);
        let late = Fault::parse("pve POST /a=late-error:596:Connection timed out").unwrap();
        let message = "Connection timed out".to_owned();
        assert_eq!(late.action, FaultAction::LateError { code: 596, message });
        let broken = r#"{"call":"talos * /x/Watch","nth":2,"action":"break","frames":1}"#;
        assert_eq!(serde_json::from_str::<Fault>(broken).unwrap(), Fault::parse("talos * /x/Watch#2=break:1").unwrap());
        assert!(["pve x", "a=explode", "a=break"].iter().all(|wrong| Fault::parse(wrong).is_err()));
    }
}
