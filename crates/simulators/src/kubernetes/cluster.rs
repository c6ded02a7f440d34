//! What API servers, controllers and kubelets of one cluster share.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::api::error::ApiError;
use super::api::tokens::TokenKey;
use super::object::{name, namespace, now, text, uid};
use super::resources::Registry;
use super::settings::ClusterIdentity;
use super::storage::Store;
use crate::faults::{FaultAction, Faults};

/// One cluster's state and settings.
pub(crate) struct Cluster {
    pub(crate) identity: ClusterIdentity,
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    /// `None` when the service-account key is not usable; then no token is valid.
    pub(crate) tokens: Option<TokenKey>,
    speed: f64,
    quorum: AtomicBool,
    api_servers: AtomicUsize,
    next_pod_address: AtomicU64,
    faults: OnceLock<Faults>,
}

impl Cluster {
    pub(crate) fn new(identity: ClusterIdentity, speed: f64) -> Self {
        let tokens = TokenKey::from_pem(&identity.service_account_key_pem);
        Self {
            identity,
            store: Store::empty(),
            registry: Registry::built_in(),
            tokens,
            speed: if speed.is_finite() && speed > 0.0 { speed } else { 1.0 },
            quorum: AtomicBool::new(true),
            api_servers: AtomicUsize::new(0),
            next_pod_address: AtomicU64::new(2),
            faults: OnceLock::new(),
        }
    }

    /// From now on calls fail as planned; a second plan changes nothing.
    pub(crate) fn obey(&self, faults: Faults) {
        // The first plan stays: it is the lab's.
        let _ = self.faults.set(faults);
    }

    /// What is planned for a call of this name.
    pub(crate) fn fault(&self, call: &str) -> Option<FaultAction> {
        self.faults.get()?.take(call)
    }

    /// Waits until nothing holds calls of this name any more.
    pub(crate) async fn lifted(&self, call: &str) {
        if let Some(faults) = self.faults.get() {
            faults.lifted(call).await;
        }
    }

    /// How long a real duration takes here.
    pub(crate) fn scaled(&self, real: Duration) -> Duration {
        real.div_f64(self.speed)
    }

    /// Real seconds that correspond to seconds passed here.
    pub(crate) fn speed(&self) -> f64 {
        self.speed
    }

    pub(crate) fn set_quorum(&self, quorum: bool) {
        self.quorum.store(quorum, Ordering::SeqCst);
    }

    pub(crate) fn has_quorum(&self) -> bool {
        self.quorum.load(Ordering::SeqCst)
    }

    pub(crate) fn api_server_started(&self) {
        self.api_servers.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn api_server_stopped(&self) {
        self.api_servers.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn api_servers(&self) -> usize {
        self.api_servers.load(Ordering::SeqCst)
    }

    /// True when controllers and kubelets can read and write: an API server is up and etcd has quorum.
    pub(crate) fn is_available(&self) -> bool {
        self.has_quorum() && self.api_servers() > 0
    }

    /// Changes an object on behalf of a controller or kubelet; absent objects are left alone.
    pub(crate) fn change(&self, resource: &str, object: &Value, change: impl FnOnce(&mut Value)) {
        let result = self.store.update::<ApiError>(resource, namespace(object), name(object), |current| {
            if uid(current) == uid(object) {
                change(current);
            }
            Ok(())
        });
        drop(result);
    }

    /// Changes the object of the same name and namespace as the one given.
    pub(crate) fn change_named(&self, resource: &str, like: &Value, change: impl FnOnce(&mut Value)) {
        let result = self.store.update::<ApiError>(resource, namespace(like), name(like), |current| {
            change(current);
            Ok(())
        });
        drop(result);
    }

    /// Creates an object unless there is one of that name. True when it was made.
    pub(crate) fn ensure(&self, resource: &str, mut object: Value) -> bool {
        super::defaults::apply(Some(self), resource, &mut object);
        self.store.create(resource, object).is_some()
    }

    /// The next pod address of a node that no pod has: of the node's own subnet, else of that of all pods.
    pub(crate) fn pod_address(&self, node: &str) -> String {
        let node = self.store.get("nodes", "", node);
        let own = node.as_ref().map(|node| text(node, "/spec/podCIDR")).filter(|subnet| !subnet.is_empty());
        let offset = self.next_pod_address.fetch_add(1, Ordering::Relaxed);
        let Some(subnet) = own else {
            let address = nth_address(&self.identity.pod_subnet, 256 + offset % 60_000);
            return address.unwrap_or_else(|| "10.244.0.2".into());
        };
        let pods = self.store.list("pods", None);
        let used: Vec<&str> = pods.iter().map(|pod| text(pod, "/status/podIP")).collect();
        // The first of a /24 is the gateway, the last the broadcast address.
        let candidates = (0..253).filter_map(|step| nth_address(subnet, 2 + (offset + step) % 253));
        candidates.into_iter().find(|address| !used.contains(&address.as_str())).unwrap_or_else(|| "10.244.0.2".into())
    }

    /// The address of the service `kubernetes` (n = 1) or of cluster DNS (n = 10).
    pub(crate) fn service_address(&self, n: u64) -> String {
        nth_address(&self.identity.service_subnet, n).unwrap_or_else(|| "10.96.0.1".into())
    }

    /// A service address that no Service uses.
    pub(crate) fn free_service_address(&self) -> String {
        let used: Vec<String> =
            self.store.list("services", None).iter().map(|it| text(it, "/spec/clusterIP").to_owned()).collect();
        (0..1000)
            .map(|_| self.service_address(rand::random_range(256..60_000)))
            .find(|address| !used.contains(address))
            .unwrap_or_default()
    }

    /// Records an Event about an object, counting up an earlier one of the same kind as real recorders do.
    pub(crate) fn event(&self, about: &Value, event: &Event<'_>) {
        let in_namespace = match namespace(about) {
            "" => "default",
            given => given,
        };
        let same = |it: &Value| {
            text(it, "/involvedObject/uid") == uid(about)
                && text(it, "/reason") == event.reason
                && text(it, "/message") == event.message
        };
        if let Some(earlier) = self.store.list("events", Some(in_namespace)).into_iter().find(|it| same(it)) {
            self.change("events", &earlier, |it| {
                it["count"] = json!(it["count"].as_i64().unwrap_or(1) + 1);
                it["lastTimestamp"] = json!(now());
            });
            return;
        }
        let at = now();
        let made = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {
                "name": format!("{}.{:016x}", name(about), rand::random::<u64>()), "namespace": in_namespace,
            },
            "involvedObject": {
                "apiVersion": text(about, "/apiVersion"), "kind": text(about, "/kind"), "name": name(about),
                "namespace": namespace(about), "uid": uid(about),
                "resourceVersion": text(about, "/metadata/resourceVersion"),
            },
            "type": event.kind, "reason": event.reason, "message": event.message,
            "source": {"component": event.component}, "reportingComponent": event.component, "reportingInstance": "",
            "firstTimestamp": at, "lastTimestamp": at, "count": 1,
        });
        drop(self.store.create("events", made));
    }
}

/// What a recorder says about an object.
pub(crate) struct Event<'a> {
    /// `Normal` or `Warning`.
    pub(crate) kind: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
    pub(crate) component: &'a str,
}

/// The nth address of a subnet.
pub(crate) fn nth_address(subnet: &str, n: u64) -> Option<String> {
    match subnet.parse::<IpNet>().ok()? {
        IpNet::V4(net) => {
            let first = u32::from(net.network());
            let address = first.checked_add(u32::try_from(n).ok()?)?;
            Some(IpAddr::V4(Ipv4Addr::from(address)).to_string())
        }
        IpNet::V6(net) => Some(std::net::Ipv6Addr::from(u128::from(net.network()) + u128::from(n)).to_string()),
    }
}
