//! The knobs of a running lab, and how tests wait for what they bring about.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use messages::query::FlowView;
use proxmox::Client;
use serde_json::{Value, json};
use simulators::faults::Fault;
use tests::hypervisor;
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

    /// Waits until so many calls of this name are held by a fault.
    pub(crate) fn held(&self, call: &str, count: u64) {
        self.until(&format!("{count} calls are held"), || {
            let rules = self.rules();
            let held = rules.iter().any(|rule| rule["call"] == call && rule["fired"] == count);
            held.then_some(()).ok_or_else(|| format!("{rules:?}"))
        });
    }

    /// Lifts the fault of this call alone.
    pub(crate) fn lift_one(&self, call: &str) {
        let rule = self.rules().into_iter().find(|rule| rule["call"] == call).expect("the fault is in force");
        let url = format!("{}/v1/faults/{}", self.world.facts.control, rule["id"]);
        let lifted = self.runtime.block_on(async { reqwest::Client::new().delete(url).send().await });
        assert!(lifted.expect("the lab answers").status().is_success());
    }

    /// Lifts every fault.
    pub(crate) fn lift(&self) {
        let url = format!("{}/v1/faults", self.world.facts.control);
        let lifted = self.runtime.block_on(async { reqwest::Client::new().delete(url).send().await });
        assert!(lifted.expect("the lab answers").status().is_success());
    }

    /// Lifts every fault but that of these calls.
    pub(crate) fn lift_all_but(&self, call: &str) {
        let url = format!("{}/v1/faults", self.world.facts.control);
        self.runtime.block_on(async {
            let rules: Vec<Value> = reqwest::get(&url).await.unwrap().json().await.unwrap();
            for rule in rules.iter().filter(|rule| rule["call"] != call) {
                let lifted = reqwest::Client::new().delete(format!("{url}/{}", rule["id"])).send().await;
                assert!(lifted.expect("the lab answers").status().is_success());
            }
        });
    }

    /// The planned faults that have not hit anything.
    pub(crate) fn idle_faults(&self) -> Vec<String> {
        self.rules().iter().filter(|rule| rule["fired"] == 0).map(|rule| rule["call"].to_string()).collect()
    }

    /// Counts calls of these names from now on.
    pub(crate) fn count(&self, calls: &[&str]) {
        for call in calls {
            let never = json!({ "call": call, "nth": u32::MAX, "action": "delay", "milliseconds": 0 });
            self.knob("faults", &never);
        }
    }

    /// How many calls of this name there were since they are counted.
    pub(crate) fn counted(&self, call: &str) -> u64 {
        let rules = self.rules();
        let rule = rules.iter().find(|rule| rule["call"] == call).expect("the call is counted");
        rule["seen"].as_u64().unwrap()
    }

    fn rules(&self) -> Vec<Value> {
        let url = format!("{}/v1/faults", self.world.facts.control);
        self.runtime.block_on(async { reqwest::get(url).await.unwrap().json().await.unwrap() })
    }

    /// What is sent to an address comes to this VM from now on.
    pub(crate) fn divert(&self, address: &str, vmid: u32, configured: bool) {
        self.knob(&format!("addresses/{address}"), &json!({ "vmid": vmid, "configured": configured }));
    }

    /// What is sent to an address comes to its owner again.
    pub(crate) fn restore(&self, address: &str) {
        let url = format!("{}/v1/addresses/{address}", self.world.facts.control);
        let restored = self.runtime.block_on(async { reqwest::Client::new().delete(url).send().await });
        assert!(restored.expect("the lab answers").status().is_success());
    }

    /// Id and address of a VM, as soon as it has an address.
    pub(crate) fn machine(&self, name: &str) -> (u32, String) {
        self.until(&format!("{name} is there"), || {
            let vms = self.vms();
            let (vmid, vm) = vms.get(name).ok_or_else(|| format!("{:?}", vms.keys()))?;
            let address = vm["addresses"][0].as_str().and_then(|address| address.split('/').next());
            address.map(|address| (*vmid, address.to_owned())).ok_or_else(|| vm.to_string())
        })
    }

    /// Cuts the power of a VM.
    pub(crate) fn crash(&self, name: &str) {
        let (vmid, _) = self.vms().remove(name).expect("the VM is there");
        self.knob(&format!("vms/{vmid}"), &json!("crash"));
    }

    /// What a VM has written on its console.
    pub(crate) fn console(&self, vmid: u32) -> String {
        let url = format!("{}/v1/vms/{vmid}/console", self.world.facts.control);
        self.runtime.block_on(async { reqwest::get(url).await.unwrap().text().await.unwrap() })
    }

    /// Cuts the power of a VM and gives it back.
    pub(crate) fn power_cycle(&self, name: &str) {
        self.crash(name);
        let (vmid, vm) = self.vms().remove(name).expect("the VM is there");
        let host = vm["host"].as_str().unwrap();
        self.runtime.block_on(self.root().start_vm(host, proxmox::VmId(vmid))).unwrap();
    }

    /// Somebody moves a VM with its disks to another host, as soon as no task works on it.
    pub(crate) fn move_by_hand(&self, name: &str) {
        self.until(&format!("{name} is moved"), || {
            let vms = self.vms();
            let (vmid, vm) = vms.get(name).ok_or_else(|| format!("{:?}", vms.keys()))?;
            let host = if vm["host"] == "pve2" { "pve3" } else { "pve2" };
            let url = format!("{}/v1/vms/{vmid}", self.world.facts.control);
            let order = reqwest::Client::new().post(url).json(&json!({ "move": host }));
            let answer = self.runtime.block_on(async { order.send().await }).expect("the lab answers");
            answer.status().is_success().then_some(()).ok_or_else(|| format!("{vm}"))
        });
    }

    /// Somebody with root on the hypervisors, by the API.
    pub(crate) fn root(&self) -> Client {
        let facts = &self.world.facts;
        hypervisor::root(&facts.proxmox, &facts.fingerprint).expect("the client can be made")
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

    /// Waits until this step of the flow has begun; the flow must not end before.
    pub(crate) fn begins(&self, flow: Uuid, step: &str) {
        self.until(&format!("step {step} begins"), || {
            let view = self.flow(flow);
            let over = ["succeeded", "failed", "cancelled"].contains(&view.state.as_str());
            assert!(!over, "the flow is {} before {step} begins: {}", view.state, reasons(&view).join("\n"));
            let steps = view.runs.iter().flat_map(|run| &run.steps);
            let states: Vec<_> = steps.map(|it| format!("{} {}", it.step, it.state)).collect();
            let begun = ["running", "waiting", "retrying", "succeeded"].map(|state| format!("{step} {state}"));
            states.iter().any(|it| begun.contains(it)).then_some(()).ok_or_else(|| states.join(", "))
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
