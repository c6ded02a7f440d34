//! The real actions against the lab, through the life of a cluster: nothing that was taken back may have left a trace.
//!
//! Before a playbook does its part of the life, it is put through every harm: each of its steps fails for good *after*
//! it has acted, is cancelled while it acts, and its process dies at a commit, which is durable or lost. After each,
//! hypervisors, nodes, clusters and both inventories must be as before, and with every action done twice they must be as
//! after the run in which nothing goes wrong. A playbook whose deeds cannot be taken back is put through one kind of harm
//! in each life. Its plan, made before all that, changes nothing and tells of every step that then runs.

mod broken;
pub mod datacenter;
pub mod death;
mod firm;
pub mod footprint;
mod risky;
pub mod side;
pub mod trouble;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::Context;
pub use broken::Bug;
use datacenter::Datacenter;
use engine::{
    plan::Plan,
    report::{Report, StepStatus},
};
use firm::{Harm, Stays};
use footprint::Footprint;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, runtime::wait::await_condition};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};
use side::Side;
use talos_contractor::manifest;

use super::plans;

/// How much of it is tried.
#[derive(Clone, Debug)]
pub struct Options {
    /// Every so many steps and commits are put to the test. 1 takes all, and one life for each kind of harm.
    pub every: usize,
    /// Of what is left to chance: which ones, and which kind of harm where there is one life.
    pub seed: u64,
    /// Only playbooks with this in their name are put to the test; the others do their part of the life.
    pub playbook: String,
}

/// What was tried with one playbook.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The playbook.
    pub playbook: String,
    /// Those that it has called.
    pub called: BTreeSet<String>,
    /// Its step instances.
    pub steps: usize,
    /// How many runs.
    pub runs: usize,
    /// What is wrong.
    pub failures: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// The two contractors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Party {
    Infrastructure,
    Talos,
}

/// A playbook with its input.
#[derive(Clone, Copy)]
struct Deed<'d> {
    party: Party,
    playbook: &'d str,
    input: &'d Value,
}

struct Life<'t> {
    datacenter: Datacenter,
    options: Options,
    random: StdRng,
    /// What befalls playbooks that cannot be taken back.
    harm: Harm,
    /// Whether the others are put through every harm. A later life only needs what they do.
    is_first: bool,
    tell: &'t mut dyn FnMut(&Tried),
}

/// More than any of the nodes has.
const GREEDY: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: greedy, namespace: default }
spec:
  containers: [{ name: one, image: "registry.example/one:1", resources: { requests: { cpu: "64" } } }]
"#;

/// A cluster is made, grows, shrinks and goes; each playbook's part of it is put through harm first.
///
/// # Errors
/// If the life itself does not go on. What the harms bring to light is in what is told.
pub fn live(options: Options, tell: &mut dyn FnMut(&Tried)) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(options.seed);
    let harms: Vec<_> = match options.every {
        0 | 1 => Harm::ALL.to_vec(),
        _ => Harm::ALL.choose(&mut random).copied().into_iter().collect(),
    };
    for (at, harm) in harms.into_iter().enumerate() {
        let (random, options) = (StdRng::seed_from_u64(random.random()), options.clone());
        let datacenter = Datacenter::start(None)?;
        Life { datacenter, options, random, harm, is_first: at == 0, tell: &mut *tell }.pass()?;
    }
    Ok(())
}

/// What is complained of when a cluster's machines are made, and taken back, by actions with this bug.
///
/// # Errors
/// If there is no datacenter.
pub fn found(bug: &Bug) -> anyhow::Result<Vec<String>> {
    // No step by itself: it shows in the whole.
    let options = Options { every: usize::MAX, seed: 1, playbook: String::new() };
    let (datacenter, random) = (Datacenter::start(Some(bug.clone()))?, StdRng::seed_from_u64(options.seed));
    let mut life = Life { datacenter, options, random, harm: Harm::ALL[0], is_first: true, tell: &mut |_| {} };
    let mut tried = Tried::of("provision-vms");
    let deed = Deed { party: Party::Infrastructure, playbook: "provision-vms", input: &request() };
    let ended = life.harmed(deed, &mut tried);
    tried.failures.extend(ended.err().map(|error| format!("{error:#}")));
    Ok(tried.failures)
}

/// For the cluster of the life.
fn request() -> Value {
    json!({
        "request_type": "provision_cluster", "cluster_name": "prod", "pattern": "edge", "worker_nodes": 1,
        "service_account_key": "ecdsa-p256",
    })
}

/// What a plan does not say, as failures.
fn untold(plan: &Plan, report: &Report) -> Vec<String> {
    plans::untold(plan, report).into_iter().map(|step| format!("the plan says nothing of step {step}")).collect()
}

fn done(report: &Report) -> BTreeSet<String> {
    let done = report.steps.iter().filter(|step| step.status == StepStatus::Succeeded);
    done.map(|step| step.step.clone()).collect()
}

impl Life<'_> {
    fn pass(&mut self) -> anyhow::Result<()> {
        use Party::{Infrastructure, Talos};
        let begin = self.datacenter.calm()?;
        let made = self.risky((Infrastructure, "provision-vms"), &request(), "vm_provisioned")?;
        let ready = self.risky((Talos, "bootstrap-cluster"), &made, "cluster_ready")?;
        self.firm((Infrastructure, "register-monitoring"), &ready, Stays::Nothing)?;
        let prod = json!({ "cluster": "prod" });
        for playbook in ["install-cni-cilium", "install-storage-local-path", "install-storage-longhorn"] {
            self.firm((Talos, playbook), &prod, Stays::All)?;
        }
        self.firm((Talos, "check-clusters"), &json!({}), Stays::Nothing)?;

        let up = self.pressure()?;
        let made = self.risky((Infrastructure, "scale-pool"), &up, "vm_provisioned")?;
        let joined = self.risky((Talos, "join-nodes"), &made, "nodes_ready")?;
        self.firm((Infrastructure, "record-nodes"), &joined, Stays::Nothing)?;

        let down = json!({ "cluster_name": "prod", "pool": "worker", "count": 1 });
        let asked = self.risky((Infrastructure, "scale-pool"), &down, "scale_request")?;
        self.firm((Talos, "remove-nodes"), &asked, Stays::Nothing)?;
        let removed = self.datacenter.talos.last("node_removed")?;
        self.firm((Infrastructure, "release-vms"), &removed, Stays::Nothing)?;

        let gone = json!({ "cluster_name": "prod" });
        let asked = self.risky((Infrastructure, "decommission-cluster"), &gone, "decommission_request")?;
        self.firm((Talos, "forget-cluster"), &asked, Stays::Nothing)?;
        let removed = self.datacenter.talos.last("cluster_removed")?;
        self.firm((Infrastructure, "destroy-cluster"), &removed, Stays::Nothing)?;
        let end = self.datacenter.calm()?;
        let hosts = end.images().collect();
        let left = begin.with_images_of(&end, &hosts)?.difference(&end);
        anyhow::ensure!(left.is_none(), "the life of a cluster leaves something: {}", left.unwrap_or_default());
        Ok(())
    }

    /// A pod finds no room, and more is asked for; it is gone then.
    fn pressure(&mut self) -> anyhow::Result<Value> {
        let client = self.datacenter.client("prod")?;
        let pods = Api::<Pod>::namespaced(client.clone(), "default");
        let refused = |pod: Option<&Pod>| {
            let conditions = pod.and_then(|pod| pod.status.as_ref()).and_then(|status| status.conditions.as_ref());
            conditions.into_iter().flatten().any(|is| is.reason.as_deref() == Some("Unschedulable"))
        };
        self.datacenter.talos.block_on(async {
            manifest::apply(&client, &manifest::objects(GREEDY)?).await?;
            await_condition(pods, "greedy", refused).await.context("the pod finds room")
        })??;
        let pool =
            |pool: &str, role: &str| json!({ "pool": pool, "role": role, "count": 1, "machines": 1, "generation": 1 });
        let pools = [pool("cp", "controlplane"), pool("worker", "worker")];
        let input = json!({ "cluster_name": "prod", "pools": pools });
        self.firm((Party::Talos, "scale-on-pressure"), &input, Stays::Nothing)?;
        // Another client: the process that the first one was of has died since.
        let pods = Api::<Pod>::namespaced(self.datacenter.client("prod")?, "default");
        self.datacenter.talos.block_on(pods.delete("greedy", &Default::default()))??;
        let mut asked = self.datacenter.talos.last("scale_request")?;
        // It is another with each change that is taken back, and a request that names an earlier one comes too late.
        asked.as_object_mut().and_then(|asked| asked.remove("generation")).context("it names the pool's generation")?;
        Ok(asked)
    }

    /// Whether it is put through every harm here that can be taken back.
    fn is_tried(&self, playbook: &str) -> bool {
        self.is_first && playbook.contains(&self.options.playbook)
    }

    fn side(&self, party: Party) -> &Side {
        match party {
            Party::Infrastructure => &self.datacenter.infrastructure,
            Party::Talos => &self.datacenter.talos,
        }
    }

    fn side_mut(&mut self, party: Party) -> &mut Side {
        match party {
            Party::Infrastructure => &mut self.datacenter.infrastructure,
            Party::Talos => &mut self.datacenter.talos,
        }
    }

    /// What it would do; finding that out changes nothing.
    fn plan(&self, deed: Deed<'_>, before: &Footprint) -> anyhow::Result<Plan> {
        let plan = self.side(deed.party).plan(deed.playbook, deed.input)?;
        let changed = self.datacenter.differs(&|now| before.difference(now))?;
        anyhow::ensure!(changed.is_none(), "the plan of {} changed {}", deed.playbook, changed.unwrap_or_default());
        Ok(plan)
    }

    /// Takes back a run, every undo twice.
    fn take_back(&self, deed: Deed<'_>, report: &Report) -> anyhow::Result<Report> {
        let side = self.side(deed.party);
        side.trouble.undo_twice();
        let undone = side.undo(report);
        side.trouble.clear();
        undone
    }

    /// Every so many of them, beginning somewhere.
    fn sample<T>(&mut self, all: Vec<T>) -> Vec<T> {
        let every = self.options.every.max(1);
        let skip = self.random.random_range(0..every);
        all.into_iter().skip(skip).step_by(every).collect()
    }
}

impl Tried {
    fn of(playbook: &str) -> Self {
        let (playbook, called, failures) = (playbook.to_owned(), BTreeSet::new(), Vec::new());
        Self { playbook, called, steps: 0, runs: 0, failures, took: Duration::ZERO }
    }

    /// What is wrong with one run, if something is.
    fn note(&mut self, what: &str, found: anyhow::Result<Option<String>>) {
        self.runs += 1;
        match found {
            Ok(None) => {}
            Ok(Some(left)) => self.failures.push(format!("{what}: {left}")),
            Err(error) => self.failures.push(format!("{what}: {error:#}")),
        }
    }

    fn ended(mut self, began: Instant, tell: &mut dyn FnMut(&Self)) {
        self.took = began.elapsed();
        tell(&self);
    }
}
