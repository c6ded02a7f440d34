//! The files of a node that its API shows: read, listed, summed up and copied (talos.md 3.9).

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt as _, stream};
use talos::proto::common::Data;
use talos::proto::machine::{
    CopyRequest, DiskUsageInfo, DiskUsageRequest, FileInfo, ListRequest, list_request::Type as ListType,
};
use tonic::Status;

use super::files::chunks;
use super::{Api, Frames, plain};

/// The boot id's file.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const DIRECTORIES: &[&str] = &[
    "/bin",
    "/boot",
    "/dev",
    "/etc/cri",
    "/etc/kubernetes/manifests",
    "/lib",
    "/opt",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/system/state",
    "/tmp",
    "/usr",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/log/pods",
];
/// The mode bits of Go's directories, `os.ModeDir`.
const DIRECTORY_BIT: u32 = 1 << 31;

/// What a path leads to: a file's content; directories have none.
type Content = Option<Vec<u8>>;
/// Every path below the root.
type Tree = BTreeMap<String, Content>;

impl Api {
    fn tree(&self) -> Tree {
        let boot = &self.boot;
        let mut tree = Tree::new();
        DIRECTORIES.iter().for_each(|path| add(&mut tree, path, None));
        let tag = boot.release.to_string();
        let release = format!(
            "NAME=\"Talos\"\nID=talos\nVERSION_ID={tag}\nPRETTY_NAME=\"Talos ({tag})\"\nHOME_URL=\"https://www.talos.dev/\"\n"
        );
        let version = format!("Linux version {} (talos@buildkitsandbox) #1 SMP\n", boot.release.kernel());
        let host = format!("{}\n", boot.name());
        let hosts = format!(
            "127.0.0.1 localhost\n{} {}\n",
            boot.address().map_or_else(String::new, |it| it.to_string()),
            boot.name()
        );
        let memory = self.memory_info().meminfo.unwrap_or_default();
        let meminfo = format!(
            "MemTotal: {} kB\nMemFree: {} kB\nMemAvailable: {} kB\n",
            memory.memtotal, memory.memfree, memory.memavailable
        );
        for (path, content) in [
            (BOOT_ID, format!("{}\n", boot.boot_id)),
            ("/proc/version", version),
            ("/proc/cmdline", format!("{}\n", crate::talos::publish::kernel_command_line(boot))),
            ("/proc/meminfo", meminfo),
            ("/proc/uptime", format!("{:.2} 0.00\n", boot.started.elapsed().map_or(0.0, |age| age.as_secs_f64()))),
            ("/proc/sys/kernel/hostname", host.clone()),
            ("/etc/hostname", host),
            ("/etc/hosts", hosts),
            ("/etc/resolv.conf", "nameserver 127.0.0.53\n".to_owned()),
            ("/etc/os-release", release),
        ] {
            add(&mut tree, path, Some(content.into_bytes()));
        }
        if let Some(config) = boot.disk.read(|saved| saved.config.clone()) {
            add(&mut tree, "/system/state/config.yaml", Some(config.into_bytes()));
        }
        if boot.disk.read(|saved| saved.etcd.is_some()) {
            add(&mut tree, "/var/lib/etcd/member/wal", None);
            add(&mut tree, "/var/lib/etcd/member/snap", None);
        }
        for id in boot.logs.ids() {
            let lines = boot.logs.follow(&id, None).map(|(lines, _)| lines.join("\n")).unwrap_or_default();
            add(&mut tree, &format!("/var/log/{id}.log"), Some(lines.into_bytes()));
        }
        self.add_control_groups(&mut tree);
        tree
    }

    /// `/sys/fs/cgroup` with what `talosctl cgroups` shows of it.
    fn add_control_groups(&self, tree: &mut Tree) {
        let memory: u64 = 60 << 20;
        let running = self.boot.services.list().into_iter().filter(|service| service.state == "Running");
        let services: Vec<String> = running.map(|service| format!("/system/{}", service.id)).collect();
        let groups = ["", "/init", "/system", "/podruntime", "/kubepods"].map(str::to_owned);
        for (group, at) in groups.into_iter().chain(services).zip(1u64..) {
            for (file, content) in [
                ("cgroup.procs", format!("{}\n", if group == "/init" { 1 } else { 2500 + 7 * at })),
                ("cgroup.controllers", "cpuset cpu io memory pids\n".to_owned()),
                ("cgroup.subtree_control", "cpuset cpu io memory pids\n".to_owned()),
                ("cpu.max", "max 100000\n".to_owned()),
                ("cpu.weight", "100\n".to_owned()),
                ("cpu.stat", format!("usage_usec {}\nuser_usec {}\nsystem_usec {}\n", at * 900, at * 600, at * 300)),
                ("memory.current", format!("{}\n", memory + at * 4096)),
                ("memory.peak", format!("{}\n", 2 * memory)),
                ("memory.min", "0\n".to_owned()),
                ("memory.low", "0\n".to_owned()),
                ("memory.high", "max\n".to_owned()),
                ("memory.max", "max\n".to_owned()),
                ("memory.swap.current", "0\n".to_owned()),
                ("memory.swap.max", "max\n".to_owned()),
                ("pids.current", format!("{}\n", at + 4)),
                ("pids.max", "max\n".to_owned()),
            ] {
                add(tree, &format!("/sys/fs/cgroup{group}/{file}"), Some(content.into_bytes()));
            }
        }
    }

    pub(super) fn read_file(&self, path: &str) -> Result<Frames<Data>, Status> {
        match self.tree().remove(&normal(path)) {
            None => Err(Status::not_found(format!("stat {path}: no such file or directory"))),
            Some(None) => Err(plain("path must be a regular file")),
            Some(Some(content)) => Ok(chunks(content)),
        }
    }

    pub(super) fn list_files(&self, request: &ListRequest) -> Result<Frames<FileInfo>, Status> {
        let root = normal(&request.root);
        let depth = match (request.recurse, request.recursion_depth) {
            (false, _) => 1,
            (true, 0) => usize::MAX,
            (true, depth) => usize::try_from(depth).unwrap_or(usize::MAX),
        };
        let wanted = |content: &Option<Vec<u8>>| {
            let kind = if content.is_none() { ListType::Directory } else { ListType::Regular };
            request.types.is_empty() || request.types().any(|it| it == kind)
        };
        let modified = self.boot.started.duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let info = |(path, content): (String, Content)| FileInfo {
            relative_name: relative(&root, &path),
            name: path,
            size: content.as_ref().map_or(4096, |content| i64::try_from(content.len()).unwrap_or(0)),
            mode: if content.is_none() { DIRECTORY_BIT | 0o755 } else { 0o644 },
            modified: i64::try_from(modified).unwrap_or(0),
            is_dir: content.is_none(),
            ..FileInfo::default()
        };
        let files =
            self.below(&root)?.into_iter().filter(|(path, content)| wanted(content) && depth_of(&root, path) <= depth);
        Ok(stream::iter(files.map(info).map(Ok).collect::<Vec<_>>()).boxed())
    }

    /// Sums of what is below each directory, or of each file with `all`.
    pub(super) fn usage(&self, request: &DiskUsageRequest) -> Frames<DiskUsageInfo> {
        let mut frames = Vec::new();
        let depth = usize::try_from(request.recursion_depth).unwrap_or(usize::MAX);
        for asked in &request.paths {
            let root = normal(asked);
            let entries = match self.below(&root) {
                Ok(entries) => entries,
                Err(status) => {
                    let error = status.message().to_owned();
                    frames.push(DiskUsageInfo { name: root, error, ..DiskUsageInfo::default() });
                    continue;
                }
            };
            for (path, content) in &entries {
                let shown = content.is_none() || request.all || *path == root;
                if !shown || depth_of(&root, path) > depth {
                    continue;
                }
                let inside = entries
                    .iter()
                    .filter(|(it, _)| it == path || it.starts_with(&format!("{}/", path.trim_end_matches('/'))));
                let size: i64 = inside
                    .map(|(_, content)| content.as_ref().map_or(4096, |it| i64::try_from(it.len()).unwrap_or(0)))
                    .sum();
                let over = request.threshold == 0
                    || (request.threshold > 0 && size >= request.threshold)
                    || (request.threshold < 0 && size <= -request.threshold);
                if over {
                    let relative_name = relative(&root, path);
                    frames.push(DiskUsageInfo { name: path.clone(), size, relative_name, ..DiskUsageInfo::default() });
                }
            }
        }
        stream::iter(frames.into_iter().map(Ok)).boxed()
    }

    /// A compressed archive of everything below a path.
    pub(super) fn copy_files(&self, request: &CopyRequest) -> Result<Frames<Data>, Status> {
        let root = normal(&request.root_path);
        let failed = |error: std::io::Error| plain(error.to_string());
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        for (path, content) in self.below(&root)? {
            let mut header = tar::Header::new_gnu();
            header.set_mtime(u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0));
            let is_root_file = path == root && content.is_some();
            let name = if is_root_file {
                path.rsplit('/').next().unwrap_or_default().to_owned()
            } else {
                relative(&root, &path)
            };
            let (kind, mode) =
                if content.is_some() { (tar::EntryType::Regular, 0o644) } else { (tar::EntryType::Directory, 0o755) };
            let content = content.unwrap_or_default();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content.as_slice()).map_err(failed)?;
        }
        let mut compressed = archive.into_inner().map_err(failed)?;
        compressed.flush().map_err(failed)?;
        Ok(chunks(compressed.finish().map_err(failed)?))
    }

    /// A path and everything below it, in order.
    fn below(&self, root: &str) -> Result<Vec<(String, Content)>, Status> {
        let tree = self.tree();
        if !tree.contains_key(root) {
            return Err(plain(format!("lstat {root}: no such file or directory")));
        }
        let prefix = format!("{}/", root.trim_end_matches('/'));
        Ok(tree.into_iter().filter(|(path, _)| path == root || path.starts_with(&prefix)).collect())
    }
}

/// Adds an entry and the directories that lead to it.
fn add(tree: &mut Tree, path: &str, content: Content) {
    tree.entry("/".to_owned()).or_default();
    for (at, _) in path.match_indices('/').skip(1) {
        tree.entry(path[..at].to_owned()).or_default();
    }
    tree.insert(path.to_owned(), content);
}

fn normal(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    format!("/{}", parts.join("/"))
}

fn relative(root: &str, path: &str) -> String {
    match path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path).trim_start_matches('/') {
        "" => ".".to_owned(),
        below => below.to_owned(),
    }
}

fn depth_of(root: &str, path: &str) -> usize {
    match relative(root, path).as_str() {
        "." => 0,
        below => below.split('/').count(),
    }
}
