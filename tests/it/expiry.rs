//! Credentials for Proxmox VE that come to their end in the middle of a deployment.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use tests::world::WorldOptions;

use crate::{
    proxmox_faults::{expect_one_vm_per_node, request},
    scenario::Scenario,
};

const LOGIN: &str = "pve POST /access/ticket";
/// Whom the contractor works as.
const USER: &str = "cortex@pve";

fn start() -> Scenario {
    Scenario::start(&WorldOptions { speed: 100.0, ..WorldOptions::default() })
}

/// Gives infrastructure-contractor another credential, as its documentation says: into the file, and a start.
fn hand_over(scenario: &mut Scenario, credential: &str) {
    fs::write(scenario.world.folder.join("proxmox-token"), credential).unwrap();
    let infrastructure = &mut scenario.world.infrastructure;
    assert!(infrastructure.stop(Duration::from_secs(15)).unwrap().success());
    infrastructure.start(false).unwrap();
    scenario.world.wait_ready().unwrap();
}

#[test]
fn tickets_that_expire_in_the_middle_of_a_deployment_are_renewed_and_refused_ones_waited_for() {
    let mut scenario = start();
    let secret = scenario.world.facts.api_token.split_once('=').unwrap().1.to_owned();
    hand_over(&mut scenario, &format!("{USER}:{secret}"));
    scenario.count(&[LOGIN]);
    // A ticket lives for a second or two, and the machines are longer in the making.
    scenario.knob("tickets", &json!({ "lifetime_seconds": 2 }));
    scenario.plan(&["pve task qmcreate *x*=delay:8000"]);
    let flow = scenario.submit("provision_cluster", &request("edge")).unwrap();
    scenario.until("two tickets are used up", || match scenario.counted(LOGIN) {
        logins @ 0..=2 => Err(format!("{logins} logins")),
        _ => Ok(()),
    });
    // Fresh ones are refused, too, as by nodes whose clocks are apart.
    scenario.knob("tickets", &json!({ "lifetime_seconds": 0 }));
    scenario.says(flow, "401 Authentication failed!; give the contractor a valid API token or password");
    scenario.knob("tickets", &json!({ "lifetime_seconds": 2 }));
    expect_one_vm_per_node(&scenario, flow, "edge");
}

#[test]
fn a_token_that_expires_while_machines_are_made_is_named_and_a_renewed_one_goes_on() {
    let mut scenario = start();
    let root = Root::log_in(&scenario);
    let short = root.token(&scenario, "short");
    hand_over(&mut scenario, &short);
    // One machine is being made, and the order for the other one is on its way.
    scenario.plan(&["pve POST /nodes/*/qemu#2x*=delay:5000", "pve task qmcreate *=delay:5000"]);
    let flow = scenario.submit("provision_cluster", &request("edge")).unwrap();
    scenario.until("both machines are asked for", || {
        let idle = scenario.idle_faults();
        idle.is_empty().then_some(()).ok_or_else(|| idle.join(", "))
    });
    root.call(&scenario, reqwest::Method::PUT, &format!("/access/users/{USER}/token/short"), &[("expire", "1")]);
    scenario.says(flow, "/qemu: 401 Authentication failed!; give the contractor a valid API token or password");
    assert_eq!(scenario.machines(), 1, "the order for the second one was refused");
    scenario.lift();
    let renewed = root.token(&scenario, "renewed");
    hand_over(&mut scenario, &renewed);
    expect_one_vm_per_node(&scenario, flow, "edge");
}

/// An administrator of the hypervisors.
struct Root {
    api: String,
    client: reqwest::Client,
    cookie: String,
    csrf: String,
}

impl Root {
    fn log_in(scenario: &Scenario) -> Self {
        let api = format!("{}/api2/json", scenario.world.facts.proxmox);
        // Whose certificate it is, the contractors look at.
        let client = reqwest::Client::builder().danger_accept_invalid_certs(true).build().unwrap();
        let mut root = Self { api, client, cookie: String::new(), csrf: String::new() };
        let login = [("username", "root@pam"), ("password", "lab")];
        let ticket = root.call(scenario, reqwest::Method::POST, "/access/ticket", &login);
        root.cookie = format!("PVEAuthCookie={}", ticket["ticket"].as_str().unwrap());
        root.csrf = ticket["CSRFPreventionToken"].as_str().unwrap().to_owned();
        root
    }

    /// A new token of the contractor's user with all of its rights, as a credential file holds it.
    fn token(&self, scenario: &Scenario, id: &str) -> String {
        let path = format!("/access/users/{USER}/token/{id}");
        let made = self.call(scenario, reqwest::Method::POST, &path, &[("privsep", "0")]);
        format!("{}={}", made["full-tokenid"].as_str().unwrap(), made["value"].as_str().unwrap())
    }

    fn call(&self, scenario: &Scenario, method: reqwest::Method, path: &str, form: &[(&str, &str)]) -> Value {
        let form = form.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("&");
        let request = self.client.request(method, format!("{}{path}", self.api)).body(form);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let request = request.header("cookie", &self.cookie).header("csrfpreventiontoken", &self.csrf);
        scenario.runtime.block_on(async {
            let answer = request.send().await.unwrap();
            assert!(answer.status().is_success(), "{path}: {answer:?}");
            answer.json::<Value>().await.unwrap()["data"].take()
        })
    }
}
