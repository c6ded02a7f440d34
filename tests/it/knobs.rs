//! The knobs of a running lab, and how tests wait for what they bring about.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use messages::query::FlowView;
use proxmox::{
    Client,
    options::{Options, Timeouts},
    targets::AllowedTargets,
    trust::Trust,
};
use serde_json::{Value, json};
use simulators::faults::Fault;
use uuid::Uuid;

use crate::scenario::Scenario;

/// Nothing that a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(90);

impl Scenario {
    /// Puts faults in force, in the words of `lab --fault`.
    pub(crate) fn plan(&self, faults: &[&str]) {
        for fault in faults {
            let fault = Fault::parse(fault).unwrap_or_else(|error| panic!("{error}"));
            self.knob("faults", &json!(fault));
        }
    }

    /// Turns a knob of the lab's control endpoint.
    pub(crate) fn knob(&self, path: &str, body: &Value) {
        let url = format!("{}/v1/{path}", self.world.facts.control);
        let answer = self.runtime.block_on(async { reqwest::Client::new().post(url).json(body).send().await });
        let answer = answer.expect("the lab answers");
        assert!(answer.status().is_success(), "{path} {body}: {answer:?}");
    }

    /// Lifts every fault.
    pub(crate) fn lift(&self) {
        let url = format!("{}/v1/faults", self.world.facts.control);
        let lifted = self.runtime.block_on(async { reqwest::Client::new().delete(url).send().await });
        assert!(lifted.expect("the lab answers").status().is_success());
    }

    /// The planned faults that have not hit anything.
    pub(crate) fn idle_faults(&self) -> Vec<String> {
        let url = format!("{}/v1/faults", self.world.facts.control);
        let rules: Vec<Value> = self.runtime.block_on(async { reqwest::get(url).await.unwrap().json().await.unwrap() });
        rules.iter().filter(|rule| rule["fired"] == 0).map(|rule| rule["call"].to_string()).collect()
    }

    /// Somebody with root on the hypervisors, by the API.
    pub(crate) fn root(&self) -> Client {
        let facts = &self.world.facts;
        let options = Options {
            endpoints: vec![facts.proxmox.parse().unwrap()],
            credentials: proxmox::options::Credentials::parse("root@pam:lab").unwrap(),
            trust: Trust::Fingerprints(vec![facts.fingerprint.parse().unwrap()]),
            allowed_targets: AllowedTargets::new(["127.0.0.0/8".parse().unwrap()]),
            timeouts: Timeouts::default(),
        };
        Client::new(options).expect("the client can be made")
    }

    /// Waits until the flow says `part` about itself or one of its steps; it must not end before.
    pub(crate) fn says(&self, flow: Uuid, part: &str) {
        self.until(&format!("the flow says {part:?}"), || {
            let view = self.flow(flow);
            let over = ["succeeded", "failed", "cancelled"].contains(&view.state.as_str());
            assert!(!over, "the flow is {} before it says {part:?}: {}", view.state, reasons(&view).join("\n"));
            let told = reasons(&view);
            told.iter().any(|reason| reason.contains(part)).then_some(()).ok_or_else(|| told.join("\n"))
        });
    }

    /// Looks again until the condition holds.
    pub(crate) fn until<T>(&self, what: &str, condition: impl Fn() -> Result<T, String>) -> T {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match condition() {
                Ok(value) => return value,
                Err(seen) => assert!(Instant::now() < give_up, "not within {PATIENCE:?}: {what}; seen last: {seen}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The VMs of the lab by name.
    pub(crate) fn vms(&self) -> BTreeMap<String, (u32, Value)> {
        let snapshot = self.snapshot();
        let vms = snapshot["vms"].as_object().expect("a map of VMs").clone();
        vms.into_iter()
            .map(|(id, vm)| (vm["name"].as_str().unwrap_or_default().to_owned(), (id.parse().unwrap(), vm)))
            .collect()
    }
}

/// Everything that a flow says about why it does not go on.
pub(crate) fn reasons(view: &FlowView) -> Vec<String> {
    let of_runs = view
        .runs
        .iter()
        .flat_map(|run| run.reason.clone().into_iter().chain(run.steps.iter().filter_map(|step| step.reason.clone())));
    view.reason.clone().into_iter().chain(of_runs).collect()
}
