//! Prometheus file discovery: one file per cluster in a folder that Prometheus watches.
//!
//! A cluster's file is written when it is ready; from then on it changes with the nodes that come and go, and is itself what
//! the next change starts from.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use contractor::action::StepError;
use ipnet::IpNet;
use messages::name::ClusterName;
use serde::{Deserialize, Serialize};

use crate::inventory::Cluster;

/// The files of all clusters. What it does may be done twice.
#[derive(Debug, Default)]
pub(crate) struct Monitoring {
    folder: Option<PathBuf>,
    /// Machines of one cluster are released at the same time: one changes its file after the other.
    turn: Mutex<()>,
}

/// One of `file_sd_configs`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Group {
    labels: BTreeMap<String, String>,
    targets: Vec<String>,
}

impl Monitoring {
    /// Files in this folder, or none at all.
    pub(crate) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, turn: Mutex::default() }
    }

    /// The file of a cluster, if files are written.
    pub(crate) fn file(&self, cluster: &ClusterName) -> Option<PathBuf> {
        self.folder.as_deref().map(|folder| file(folder, cluster))
    }

    /// Writes a cluster's file as talos-contractor has told what there is to scrape.
    pub(crate) fn write(&self, cluster: &Cluster) -> Result<(), StepError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let _turn = self.turn();
        replace(&file(folder, &cluster.name), &told(cluster)).map_err(|error| cannot_write(folder, &error))
    }

    /// Removes a cluster's file; none there is fine.
    pub(crate) fn forget(&self, cluster: &ClusterName) -> Result<(), StepError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let _turn = self.turn();
        let path = file(folder, cluster);
        unless_missing(fs::remove_file(unfinished(&path)))
            .and_then(|()| unless_missing(fs::remove_file(path)))
            .and_then(|()| unless_missing(sync(folder)))
            .map_err(|error| StepError::retry(format!("cannot remove the file below {}: {error}", folder.display())))
    }

    /// Machines at these addresses are no nodes any more. `nodes` are those of the cluster, asked for only if its file is
    /// damaged.
    pub(crate) fn leave(
        &self,
        cluster: &Cluster,
        leaving: &[IpAddr],
        nodes: impl FnOnce() -> Result<Vec<IpAddr>, StepError>,
    ) -> Result<(), StepError> {
        self.change(cluster, nodes, |groups| drop_targets(groups, |address| leaving.contains(&address)))
    }

    /// Machines at these addresses have become nodes: what is scraped of `nodes` is scraped of them, too.
    pub(crate) fn join(&self, cluster: &Cluster, joined: &[IpAddr], nodes: &[IpAddr]) -> Result<(), StepError> {
        let known = || Ok(nodes.to_vec());
        self.change(cluster, known, |groups| add_targets(groups, joined, nodes))
    }

    /// Changes the file of a cluster that was ready; if there is none, nobody wants it.
    fn change(
        &self,
        cluster: &Cluster,
        nodes: impl FnOnce() -> Result<Vec<IpAddr>, StepError>,
        change: impl FnOnce(&mut Vec<Group>),
    ) -> Result<(), StepError> {
        let Some(folder) = self.folder.as_ref().filter(|_| cluster.ready.is_some()) else { return Ok(()) };
        let failed = |error: io::Error| cannot_write(folder, &error);
        let _turn = self.turn();
        let path = file(folder, &cluster.name);
        let content = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            content => content.map_err(failed)?,
        };
        let before: Option<Vec<Group>> = serde_json::from_slice(&content)
            .inspect_err(|error| tracing::warn!(cluster = %cluster.name, %error, "a file for Prometheus is damaged"))
            .ok();
        let mut groups = match &before {
            Some(groups) => groups.clone(),
            None => told_of(cluster, &nodes()?),
        };
        change(&mut groups);
        // Whoever made it so may have died before it was durable.
        let written = if before.as_ref() == Some(&groups) { sync(folder) } else { replace(&path, &groups) };
        written.map_err(failed)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file(folder: &Path, cluster: &ClusterName) -> PathBuf {
    folder.join(format!("{cluster}.json"))
}

fn cannot_write(folder: &Path, error: &io::Error) -> StepError {
    StepError::retry(format!("cannot write below {}: {error}", folder.display()))
}

/// One group for each endpoint that talos-contractor has told of.
fn told(cluster: &Cluster) -> Vec<Group> {
    let endpoints = cluster.ready.iter().flat_map(|ready| &ready.metrics_endpoints);
    let groups = endpoints.filter_map(|url| {
        let (scheme, rest) = url.split_once("://")?;
        let (target, path) =
            rest.split_once('/').map_or((rest, "/metrics".to_owned()), |(target, path)| (target, format!("/{path}")));
        let labels = [
            ("__scheme__", scheme.to_owned()),
            ("__metrics_path__", path),
            ("cluster", cluster.name.to_string()),
            ("cluster_uid", cluster.uid.to_string()),
        ];
        let labels = labels.into_iter().map(|(label, value)| (label.to_owned(), value)).collect();
        Some(Group { labels, targets: vec![target.to_owned()] })
    });
    groups.collect()
}

/// The same as it is with these nodes. Other addresses of the cluster's network were nodes' and may be anybody's by now.
fn told_of(cluster: &Cluster, nodes: &[IpAddr]) -> Vec<Group> {
    let network = IpNet::new(cluster.network.gateway, cluster.network.prefix).ok();
    let is_within = |address: IpAddr| network.is_none_or(|network| network.contains(&address));
    let mut groups = told(cluster);
    drop_targets(&mut groups, |address| is_within(address) && !nodes.contains(&address));
    add_targets(&mut groups, nodes, nodes);
    groups
}

fn drop_targets(groups: &mut Vec<Group>, is_gone: impl Fn(IpAddr) -> bool) {
    groups.retain_mut(|group| {
        group.targets.retain(|target| !split(target).is_some_and(|(address, _)| is_gone(address)));
        !group.targets.is_empty()
    });
}

/// Adds for each of `addresses` what there is of `nodes`, unless it is there.
fn add_targets(groups: &mut Vec<Group>, addresses: &[IpAddr], nodes: &[IpAddr]) {
    let mut patterns = Vec::new();
    for group in &*groups {
        let targets = group.targets.iter().filter_map(|target| split(target));
        let of_nodes = targets.filter(|(address, _)| nodes.contains(address));
        for pattern in of_nodes.map(|(_, port)| (group.labels.clone(), port.to_owned())) {
            if !patterns.contains(&pattern) {
                patterns.push(pattern);
            }
        }
    }
    for address in addresses {
        for (labels, port) in &patterns {
            let target = match address {
                IpAddr::V4(address) => format!("{address}{port}"),
                IpAddr::V6(address) => format!("[{address}]{port}"),
            };
            if !groups.iter().any(|group| group.labels == *labels && group.targets.contains(&target)) {
                groups.push(Group { labels: labels.clone(), targets: vec![target] });
            }
        }
    }
}

/// The address of a target, and its port with the colon, if it has one; none of a target with a name.
fn split(target: &str) -> Option<(IpAddr, &str)> {
    let bracketed = target.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = bracketed.unwrap_or_else(|| target.split_at(target.find(':').unwrap_or(target.len())));
    Some((host.parse().ok()?, port))
}

/// Writes a file so that after a crash either the old or the new content is there.
fn replace(path: &Path, groups: &[Group]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let fresh = unfinished(path);
    fs::create_dir_all(folder)?;
    let mut file = fs::File::create(&fresh)?;
    file.write_all(format!("{}\n", serde_json::to_string_pretty(groups)?).as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    sync(folder)
}

/// Where new content is until it is whole; Prometheus does not look there.
fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("json.new")
}

fn sync(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

fn unless_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::sample;

    /// Files of a cluster that was told to have these endpoints, in a folder of their own.
    struct Watched {
        folder: tempfile::TempDir,
        monitoring: Monitoring,
        cluster: Cluster,
    }

    impl Watched {
        fn of(endpoints: &[&str]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let monitoring = Monitoring::new(Some(folder.path().join("prometheus")));
            let found = Self { folder, monitoring, cluster: sample::cluster(endpoints) };
            found.monitoring.write(&found.cluster).unwrap();
            found
        }

        fn file(&self) -> PathBuf {
            self.monitoring.file(&self.cluster.name).unwrap()
        }

        fn text(&self) -> String {
            fs::read_to_string(self.file()).unwrap()
        }

        /// What is scraped, as URLs.
        fn scraped(&self) -> Vec<String> {
            let groups: Vec<Group> = serde_json::from_str(&self.text()).unwrap();
            let url = |group: &Group| {
                let (scheme, path) = (&group.labels["__scheme__"], &group.labels["__metrics_path__"]);
                assert_eq!(group.labels["cluster_uid"], self.cluster.uid.to_string());
                format!("{scheme}://{}{path}", group.targets.join(","))
            };
            groups.iter().map(url).collect()
        }

        fn leave(&self, leaving: &[&str]) {
            self.monitoring.leave(&self.cluster, &addresses(leaving), || panic!("the file is whole")).unwrap();
        }

        fn join(&self, joined: &[&str], nodes: &[&str]) {
            self.monitoring.join(&self.cluster, &addresses(joined), &addresses(nodes)).unwrap();
        }

        /// The names of all files.
        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.folder.path().join("prometheus")).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    const NODES: [&str; 3] = ["192.168.1.10", "192.168.1.11", "192.168.1.12"];
    const ENDPOINTS: [&str; 4] = [
        "https://192.168.1.10:10250",
        "https://192.168.1.11:10250",
        "https://192.168.1.12:10250",
        "http://metrics.example:9090/federate",
    ];

    #[test]
    fn an_endpoint_becomes_a_group_as_prometheus_reads_it() {
        let watched = Watched::of(&["https://192.168.1.10:10250/metrics/cadvisor"]);
        let groups: Value = serde_json::from_str(&watched.text()).unwrap();
        let expected = serde_json::json!([{
            "labels": {
                "__metrics_path__": "/metrics/cadvisor", "__scheme__": "https",
                "cluster": "prod-k8s", "cluster_uid": watched.cluster.uid,
            },
            "targets": ["192.168.1.10:10250"],
        }]);
        assert_eq!(groups, expected);
        assert_eq!(watched.text(), format!("{expected:#}\n"));
        assert_eq!(watched.names(), ["prod-k8s.json"]);
    }

    #[test]
    fn who_has_left_stays_away_when_the_next_leaves() {
        let watched = Watched::of(&ENDPOINTS);
        watched.leave(&["192.168.1.12"]);
        watched.leave(&["192.168.1.11"]);
        let left = ["https://192.168.1.10:10250/metrics", "http://metrics.example:9090/federate"];
        assert_eq!(watched.scraped(), left);
        let before = watched.text();
        watched.leave(&["192.168.1.12", "192.168.1.11"]);
        assert_eq!(watched.text(), before, "again");
    }

    #[test]
    fn all_may_leave_and_join_at_once() {
        let endpoints: Vec<_> = (10..30).map(|last| format!("https://192.168.1.{last}:10250")).collect();
        let watched = Watched::of(&endpoints.iter().map(String::as_str).collect::<Vec<_>>());
        std::thread::scope(|scope| {
            let watched = &watched;
            for last in 11..30 {
                scope.spawn(move || watched.leave(&[&format!("192.168.1.{last}")]));
                scope.spawn(move || watched.join(&[&format!("192.168.1.{}", last + 100)], &NODES[..1]));
            }
        });
        let mut scraped = watched.scraped();
        scraped.sort();
        let stays = [10].into_iter().chain(111..130).map(|last| format!("https://192.168.1.{last}:10250/metrics"));
        assert_eq!(scraped, stays.collect::<Vec<_>>());
        assert_eq!(watched.names(), ["prod-k8s.json"]);
    }

    #[test]
    fn whoever_joins_is_scraped_like_the_nodes_and_leaves_no_trace() {
        let watched = Watched::of(&[
            "https://192.168.1.10:10250",
            "https://192.168.1.10:10250/metrics/cadvisor",
            "https://192.168.1.11:10250",
            "http://192.168.1.200:9100",
        ]);
        let before = watched.text();
        for _ in 0..2 {
            watched.join(&["192.168.1.13", "192.168.1.12"], &NODES);
            let joined = [
                "https://192.168.1.13:10250/metrics",
                "https://192.168.1.13:10250/metrics/cadvisor",
                "https://192.168.1.12:10250/metrics",
                "https://192.168.1.12:10250/metrics/cadvisor",
            ];
            assert_eq!(watched.scraped()[4..], joined);
        }
        for _ in 0..2 {
            watched.leave(&["192.168.1.12", "192.168.1.13"]);
            assert_eq!(watched.text(), before);
        }
    }

    #[test]
    fn an_address_of_version_6_leaves_and_joins() {
        let watched = Watched::of(&["https://[fd00::1]:10250", "http://[fd00::2]/probe"]);
        let before = watched.text();
        watched.join(&["fd00::3"], &["fd00::1", "fd00::2"]);
        let joined = ["https://[fd00::3]:10250/metrics", "http://[fd00::3]/probe"];
        assert_eq!(watched.scraped()[2..], joined);
        watched.leave(&["fd00::3"]);
        assert_eq!(watched.text(), before);
        watched.leave(&["fd00::2"]);
        assert_eq!(watched.scraped(), ["https://[fd00::1]:10250/metrics"]);
    }

    #[test]
    fn what_is_no_nodes_stays_and_is_no_example() {
        let foreign = ["http://192.168.1.200:9100", "http://10.0.0.9:9090", "https://metrics.example"];
        let watched = Watched::of(&foreign);
        let before = watched.text();
        watched.join(&["192.168.1.13"], &NODES);
        watched.leave(&NODES);
        assert_eq!(watched.text(), before);
    }

    #[test]
    fn nobody_misses_a_file_that_is_not_there() {
        let watched = Watched::of(&ENDPOINTS);
        for _ in 0..2 {
            watched.monitoring.forget(&watched.cluster.name).unwrap();
            watched.leave(&["192.168.1.12"]);
            watched.join(&["192.168.1.13"], &NODES);
            assert!(watched.names().is_empty());
        }
        let nowhere = Monitoring::new(Some(watched.folder.path().join("nowhere")));
        nowhere.forget(&watched.cluster.name).unwrap();
        let none = Monitoring::default();
        none.write(&watched.cluster).unwrap();
        none.join(&watched.cluster, &addresses(&NODES), &[]).unwrap();
        none.forget(&watched.cluster.name).unwrap();
        assert_eq!(none.file(&watched.cluster.name), None);
    }

    #[test]
    fn what_was_never_ready_has_no_file_to_change() {
        let mut watched = Watched::of(&ENDPOINTS);
        let before = watched.text();
        watched.cluster.ready = None;
        watched.leave(&NODES);
        watched.join(&["192.168.1.13"], &NODES);
        assert_eq!(watched.text(), before);
    }

    #[test]
    fn a_damaged_file_is_made_anew_of_what_was_told_and_of_the_nodes() {
        let all = [&ENDPOINTS[..], &["http://192.168.1.200:9100", "http://10.0.0.9:9090"]].concat();
        let watched = Watched::of(&all);
        // 192.168.1.11 was released, 192.168.1.13 has joined since; 192.168.1.200 may be anybody's now.
        let nodes = || Ok(addresses(&["192.168.1.10", "192.168.1.12", "192.168.1.13"]));
        for damage in ["", "[{", "{}", "[{\"targets\": [\"192.168.1.10:10250\"]"] {
            fs::write(watched.file(), damage).unwrap();
            watched.monitoring.leave(&watched.cluster, &addresses(&["192.168.1.12"]), nodes).unwrap();
            let anew = [
                "https://192.168.1.10:10250/metrics",
                "http://metrics.example:9090/federate",
                "http://10.0.0.9:9090/metrics",
                "https://192.168.1.13:10250/metrics",
            ];
            assert_eq!(watched.scraped(), anew, "{damage}");
        }
    }

    #[test]
    fn a_folder_that_is_none_is_told() {
        let watched = Watched::of(&ENDPOINTS);
        let monitoring = Monitoring::new(Some(watched.file()));
        let told = format!("cannot write below {}: ", watched.file().display());
        for result in [monitoring.write(&watched.cluster), monitoring.join(&watched.cluster, &[], &[])] {
            let Err(StepError::Retry(failure)) = result else { panic!("{result:?}") };
            assert!(failure.message.starts_with(&told), "{failure:?}");
        }
    }
}
