//! The sockets of a node, as `netstat` shows them.

use talos::proto::machine::ConnectRecord;
use talos::proto::machine::{Netstat, NetstatRequest, connect_record as record, netstat_request::Filter};

use super::Api;
use crate::talos::services::State;

/// Service, its process, and the TCP ports it listens on.
const LISTENERS: [(&str, &str, &[u32]); 4] = [
    ("apid", "apid", &[50_000]),
    ("trustd", "trustd", &[50_001]),
    ("etcd", "etcd", &[2379, 2380]),
    ("kubelet", "kubelet", &[10_250, 10_248]),
];
const SPARE_PROCESS: u32 = 2600;

impl Api {
    pub(super) fn sockets(&self, request: &NetstatRequest) -> Netstat {
        let protocols = request.l4proto.unwrap_or_default();
        let wanted = protocols.tcp || protocols.tcp6 || request.l4proto.is_none();
        let with_process = request.feature.is_some_and(|feature| feature.pid);
        let running =
            |(service, _, _): &&(&str, &str, &[u32])| self.boot.services.state(service) == Some(State::Running);
        let api_server = self.boot.is_control_plane() && self.boot.services.state("kubelet") == Some(State::Running);
        let own: &[(&str, &str, &[u32])] = if api_server { &[("kubelet", "kube-apiserver", &[6443])] } else { &[] };
        let sockets =
            LISTENERS.iter().filter(running).chain(own).zip(SPARE_PROCESS..).flat_map(|((_, name, ports), pid)| {
                ports.iter().map(move |port| ConnectRecord {
                    l4proto: "tcp6".to_owned(),
                    localip: "::".to_owned(),
                    localport: *port,
                    remoteip: "::".to_owned(),
                    state: record::State::Listen.into(),
                    inode: u64::from(*port) + 20_000,
                    process: with_process.then(|| record::Process { pid, name: (*name).to_owned() }),
                    ..ConnectRecord::default()
                })
            });
        let listening = wanted && request.filter() != Filter::Connected;
        Netstat { metadata: None, connectrecord: if listening { sockets.collect() } else { Vec::new() } }
    }
}
