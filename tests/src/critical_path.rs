//! The shortest time in which a deployment could have come about, from the delays that the lab recorded of it.
//!
//! An orchestrator that costs nothing still waits for the datacenter. What necessarily follows what there:
//!
//! - One machine's delays follow each other in the order in which it had them; what it does at the same time counts once.
//! - A machine is made when there is an image: the first download that ended.
//! - Control planes join when the first one's etcd has begun, one after the other: etcd takes one learner at a time.
//! - Kubelets find the first API server that stands, and pods run on it.
//! - Cilium's pods follow the end of its installer, and the pod of the smoke test is ready after the first DNS server.
//!
//! The longest chain of such delays is the critical path. Nothing else makes one delay wait for another: an orchestrator
//! that makes one machine after the other takes longer, and its critical path is the same. So does one that waits for all
//! machines where one would do. What was going on already when it became necessary counts from then on; so does the pause
//! before a look that found what it looked for. What the order on one machine cannot show is an orchestrator that has the same
//! machine do things one after the other which it could do at once.

use simulators::delays::Delay;

/// The longest chain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Path {
    /// Seconds.
    pub seconds: f64,
    /// What it consists of, first to last.
    pub links: Vec<Link>,
}

/// One delay of the chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// `qemu/101`
    pub machine: String,
    /// `etcd member`
    pub what: String,
    /// What of it adds to the chain.
    pub seconds: f64,
}

/// What starts with the second text waits for the first delay that starts with the first text, on whichever machine.
const RULES: [(&str, &str); 8] = [
    ("download", "qmcreate"),
    ("etcd begins", "etcd's look for peers"),
    ("etcd begins", MEMBER),
    ("kube-apiserver", "kubelet's look for an API server"),
    ("kube-apiserver", "pull "),
    ("kube-apiserver", "start "),
    ("run kube-system/cilium-install", "pull kube-system/cilium"),
    ("start kube-system/coredns", "start cortex-smoke"),
];
const MEMBER: &str = "etcd member";

/// The delays of what somebody asked for between two moments, in Unix seconds. That a pod ends is waited for by nobody.
pub fn between(delays: &[Delay], begin: f64, end: f64) -> Vec<Delay> {
    let counts = |delay: &&Delay| delay.begin >= begin && delay.end <= end && !delay.what.starts_with("end ");
    delays.iter().filter(counts).cloned().collect()
}

/// The longest chain of delays that necessarily follow one another.
pub fn critical_path(delays: &[Delay]) -> Path {
    let mut delays: Vec<&Delay> = delays.iter().collect();
    delays.sort_by(|left, right| left.end.total_cmp(&right.end));
    let mut chains: Vec<Chain> = Vec::new();
    for (at, delay) in delays.iter().enumerate() {
        let lasts = if is_look(delay) { 0.0 } else { delay.end - delay.begin };
        let alone = Chain { ends: lasts, adds: lasts, after: None };
        let after = waits_for(&delays, at).into_iter().map(|before| {
            let since = delay.end - delay.begin.max(delays[before].end);
            // Who looks for something has to wait for that, not for the end of a look that was in vain anyway.
            let adds = if is_look(delay) && !is_found(delays[before], delay) { 0.0 } else { since };
            Chain { ends: chains[before].ends + adds, adds, after: Some(before) }
        });
        let longest = after.chain([alone]).max_by(|left, right| left.ends.total_cmp(&right.ends));
        chains.extend(longest);
    }
    let last = (0..chains.len()).max_by(|left, right| chains[*left].ends.total_cmp(&chains[*right].ends));
    let mut links = Vec::new();
    let mut next = last;
    while let Some(at) = next {
        let Delay { machine, what, .. } = delays[at];
        links.push(Link { machine: machine.clone(), what: what.clone(), seconds: chains[at].adds });
        next = chains[at].after;
    }
    links.reverse();
    Path { seconds: last.map_or(0.0, |at| chains[at].ends), links }
}

/// Seconds between two moments in which no delay was running.
pub fn idle(delays: &[Delay], begin: f64, end: f64) -> f64 {
    let mut delays: Vec<&Delay> = delays.iter().collect();
    delays.sort_by(|left, right| left.begin.total_cmp(&right.begin));
    let (mut idle, mut until) = (0.0, begin);
    for delay in delays {
        idle += (delay.begin.min(end) - until).max(0.0);
        until = until.max(delay.end);
    }
    idle + (end - until).max(0.0)
}

/// The longest chain that ends with a delay.
struct Chain {
    /// Seconds from its begin to the delay's end.
    ends: f64,
    /// What of that the delay adds.
    adds: f64,
    after: Option<usize>,
}

/// The delays that one waits for; all of them ended before it did. `delays` are sorted by their end.
fn waits_for(delays: &[&Delay], at: usize) -> Vec<usize> {
    let (delay, before) = (delays[at], &delays[..at]);
    let mut causes: Vec<usize> = (0..at).filter(|other| before[*other].machine == delay.machine).collect();
    let rules = RULES.iter().filter(|(_, then)| delay.what.starts_with(then));
    causes.extend(rules.filter_map(|(first, _)| before.iter().position(|other| other.what.starts_with(first))));
    if delay.what == MEMBER {
        // The first member founded the cluster and was no learner.
        let learners = (0..at).filter(|other| before[*other].what == MEMBER).skip(1);
        causes.extend(learners.filter(|other| before[*other].end <= delay.begin));
    }
    causes
}

/// A pause between two looks for something, of which the last is recorded.
fn is_look(delay: &Delay) -> bool {
    delay.what.contains("'s look for ")
}

/// Whether this is what was looked for.
fn is_found(cause: &Delay, look: &Delay) -> bool {
    RULES.iter().any(|(first, then)| cause.what.starts_with(first) && look.what.starts_with(then))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delay(machine: u32, what: &str, begin: f64, lasts: f64) -> Delay {
        Delay { machine: format!("qemu/{machine}"), what: what.to_owned(), begin, end: begin + lasts }
    }

    /// Three control planes, each made so long after the one before; bootstrapped and joined as soon as all are there.
    fn deployment(apart: f64) -> Vec<Delay> {
        let mut delays = vec![delay(0, "download", 0.0, 2.0)];
        for machine in 1..=3 {
            let begin = 2.0 + apart * f64::from(machine - 1);
            delays.push(delay(machine, "qmcreate", begin, 3.0));
            delays.push(delay(machine, "firmware", begin + 3.0, 8.0));
        }
        let there = 2.0 + apart * 2.0 + 11.0;
        delays.push(delay(1, "etcd begins", there, 0.0));
        delays.push(delay(1, MEMBER, there, 5.0));
        delays.push(delay(1, "kube-apiserver", there + 5.0, 5.0));
        delays.push(delay(2, "etcd's look for peers", there - 2.0, 3.0));
        delays.push(delay(2, MEMBER, there + 1.0, 5.0));
        delays.push(delay(3, MEMBER, there + 6.0, 5.0));
        delays.push(delay(3, "kubelet's look for an API server", there + 9.0, 2.0));
        delays.push(delay(3, "pull kube-system/cilium-install-x", there + 11.0, 2.0));
        delays.push(delay(3, "start kube-system/cilium-install-x", there + 13.0, 1.0));
        delays.push(delay(3, "run kube-system/cilium-install-x", there + 14.0, 2.0));
        delays.push(delay(2, "pull kube-system/cilium-y", there + 16.0, 2.0));
        delays
    }

    fn end(delays: &[Delay]) -> f64 {
        delays.iter().map(|delay| delay.end).fold(0.0, f64::max)
    }

    #[test]
    fn a_datacenter_that_never_waits_for_anybody_is_its_own_critical_path() {
        let delays = deployment(0.0);
        let path = critical_path(&delays);
        // Image, machine, etcd, API server, the kubelet's last look as far as it came after that, three steps, the agent.
        assert!((path.seconds - (2.0 + 11.0 + 10.0 + 1.0 + 5.0 + 2.0)).abs() < 1e-9, "{path:?}");
        assert!((end(&delays) - path.seconds).abs() < 1e-9, "{path:?}");
        let whats: Vec<&str> = path.links.iter().map(|link| link.what.as_str()).collect();
        assert_eq!(whats[..6], ["download", "qmcreate", "firmware", "etcd begins", MEMBER, "kube-apiserver"]);
        assert!((path.links.iter().map(|link| link.seconds).sum::<f64>() - path.seconds).abs() < 1e-9);
    }

    #[test]
    fn one_machine_after_the_other_takes_longer_and_is_no_longer_path() {
        let (together, apart) = (deployment(0.0), deployment(11.0));
        assert!((end(&apart) - end(&together) - 22.0).abs() < 1e-9);
        assert!((critical_path(&apart).seconds - critical_path(&together).seconds).abs() < 1e-9);
    }

    #[test]
    fn what_a_machine_does_at_the_same_time_counts_once() {
        let delays = [delay(1, "service apid", 0.0, 1.0), delay(1, "service cri", 0.0, 2.0), delay(1, "x", 5.0, 1.0)];
        assert!((critical_path(&delays).seconds - 3.0).abs() < 1e-9);
    }

    #[test]
    fn learners_join_one_after_the_other() {
        let delays = [
            delay(1, "etcd begins", 0.0, 0.0),
            delay(1, MEMBER, 0.0, 5.0),
            delay(2, MEMBER, 0.0, 5.0),
            delay(3, MEMBER, 5.0, 5.0),
        ];
        assert!((critical_path(&delays).seconds - 10.0).abs() < 1e-9, "{:?}", critical_path(&delays));
    }

    #[test]
    fn time_without_any_delay_is_idle_and_what_was_not_asked_for_does_not_count() {
        let delays = [delay(1, "early", 0.0, 2.0), delay(1, "a", 3.0, 2.0), delay(2, "b", 4.0, 2.0)];
        let counted = between(&delays, 2.5, 10.0);
        assert_eq!(counted.len(), 2);
        assert!((idle(&counted, 2.5, 10.0) - (0.5 + 4.0)).abs() < 1e-9);
    }
}
