//! Which resources the API serves: the built-in table, and what CustomResourceDefinitions add.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use serde_json::Value;

use super::object::{flag, items, text};

/// One resource in one version, as discovery names it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) namespaced: bool,
    pub(crate) has_status: bool,
    pub(crate) has_scale: bool,
    pub(crate) categories: Vec<String>,
    /// The definition's version entry, for what a CustomResourceDefinition made.
    pub(crate) custom: Option<Arc<Value>>,
}

impl Resource {
    /// The name of the store's table, in the form of a CRD's name: `pods`, `deployments.apps`.
    ///
    /// Events of `events.k8s.io` are those of the core group.
    pub(crate) fn id(&self) -> String {
        if self.group == "events.k8s.io" {
            return "events".to_owned();
        }
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `v1`, `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// True when the API only answers to a POST and keeps nothing: reviews.
    pub(crate) fn is_review(&self) -> bool {
        self.kind.ends_with("Review")
    }

    /// True when objects are computed and read only: metrics.
    pub(crate) fn is_metrics(&self) -> bool {
        self.group == "metrics.k8s.io"
    }

    /// The verbs discovery lists.
    pub(crate) fn verbs(&self) -> &'static [&'static str] {
        if self.is_review() {
            &["create"]
        } else if self.is_metrics() {
            &["get", "list"]
        } else {
            &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        }
    }

    /// The subresources that discovery lists, with their kind and verbs.
    pub(crate) fn subresources(&self) -> Vec<(&'static str, &'static str, &'static [&'static str])> {
        let mut all: Vec<(&str, &str, &[&str])> = Vec::new();
        if self.has_status {
            all.push(("status", "", &["get", "patch", "update"]));
        }
        if self.has_scale {
            all.push(("scale", "Scale", &["get", "patch", "update"]));
        }
        match self.id().as_str() {
            "pods" => {
                all.push(("binding", "Binding", &["create"]));
                all.push(("eviction", "Eviction", &["create"]));
                all.push(("log", "Pod", &["get"]));
            }
            "namespaces" => all.push(("finalize", "Namespace", &["update"])),
            "serviceaccounts" => all.push(("token", "TokenRequest", &["create"])),
            "certificatesigningrequests.certificates.k8s.io" => {
                all.push(("approval", "CertificateSigningRequest", &["get", "patch", "update"]));
            }
            _ => {}
        }
        all
    }
}

/// Every served resource. Reads are cheap; it changes when a CRD does.
pub(crate) struct Registry {
    all: RwLock<Arc<Vec<Arc<Resource>>>>,
}

impl Registry {
    pub(crate) fn built_in() -> Self {
        Self { all: RwLock::new(Arc::new(built_in().into_iter().map(Arc::new).collect())) }
    }

    pub(crate) fn all(&self) -> Arc<Vec<Arc<Resource>>> {
        Arc::clone(&self.all.read().expect("no panic while the lock is held"))
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.all().iter().find(|it| it.group == group && it.version == version && it.plural == plural).cloned()
    }

    pub(crate) fn find_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        self.all().iter().find(|it| it.kind == kind && it.api_version() == api_version).cloned()
    }

    /// The resource of a store table, in the first version served.
    pub(crate) fn find_id(&self, id: &str) -> Option<Arc<Resource>> {
        self.all().iter().find(|it| it.id() == id).cloned()
    }

    /// The groups in order, each with its versions in order of preference; the core group is the empty name.
    pub(crate) fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for resource in self.all().iter() {
            let at = groups.iter().position(|(group, _)| *group == resource.group).unwrap_or_else(|| {
                groups.push((resource.group.clone(), Vec::new()));
                groups.len() - 1
            });
            if !groups[at].1.contains(&resource.version) {
                groups[at].1.push(resource.version.clone());
            }
        }
        groups
    }

    /// Serves exactly the established definitions given, beside what is built in.
    pub(crate) fn set_custom(&self, definitions: &[Arc<Value>]) {
        let mut all: Vec<Arc<Resource>> = self.all().iter().filter(|it| it.custom.is_none()).cloned().collect();
        for definition in definitions {
            all.extend(custom(definition).into_iter().map(Arc::new));
        }
        let mut current = self.all.write().expect("no panic while the lock is held");
        if **current != all {
            *current = Arc::new(all);
        }
    }
}

/// What one CustomResourceDefinition serves, storage version first.
fn custom(definition: &Value) -> Vec<Resource> {
    let names = &definition["spec"]["names"];
    let strings = |key: &str| -> Vec<String> {
        items(names, key).iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let mut versions: Vec<&Value> =
        items(definition, "/spec/versions").iter().filter(|version| flag(version, "/served")).collect();
    versions.sort_by_key(|version| !flag(version, "/storage"));
    versions
        .into_iter()
        .map(|version| Resource {
            group: text(definition, "/spec/group").into(),
            version: text(version, "/name").into(),
            kind: text(names, "/kind").into(),
            plural: text(names, "/plural").into(),
            singular: text(names, "/singular").into(),
            short_names: strings("/shortNames"),
            namespaced: text(definition, "/spec/scope") == "Namespaced",
            has_status: version.pointer("/subresources/status").is_some(),
            has_scale: version.pointer("/subresources/scale").is_some(),
            categories: strings("/categories"),
            custom: Some(Arc::new(version.clone())),
        })
        .collect()
}

/// Group, version, kind, plural, short names, flags (`n` namespaced, `s` status, `c` scale, `a` in category `all`).
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const BUILT_IN: &[Row] = &[
    ("", "v1", "ConfigMap", "configmaps", "cm", "n"),
    ("", "v1", "Endpoints", "endpoints", "ep", "n"),
    ("", "v1", "Event", "events", "ev", "n"),
    ("", "v1", "LimitRange", "limitranges", "limits", "n"),
    ("", "v1", "Namespace", "namespaces", "ns", "s"),
    ("", "v1", "Node", "nodes", "no", "s"),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "pvc", "ns"),
    ("", "v1", "PersistentVolume", "persistentvolumes", "pv", "s"),
    ("", "v1", "Pod", "pods", "po", "nsa"),
    ("", "v1", "PodTemplate", "podtemplates", "", "n"),
    ("", "v1", "ReplicationController", "replicationcontrollers", "rc", "nsca"),
    ("", "v1", "ResourceQuota", "resourcequotas", "quota", "ns"),
    ("", "v1", "Secret", "secrets", "", "n"),
    ("", "v1", "ServiceAccount", "serviceaccounts", "sa", "n"),
    ("", "v1", "Service", "services", "svc", "nsa"),
    ("apiregistration.k8s.io", "v1", "APIService", "apiservices", "", "s"),
    ("events.k8s.io", "v1", "Event", "events", "ev", "n"),
    ("apps", "v1", "ControllerRevision", "controllerrevisions", "", "n"),
    ("apps", "v1", "DaemonSet", "daemonsets", "ds", "nsa"),
    ("apps", "v1", "Deployment", "deployments", "deploy", "nsca"),
    ("apps", "v1", "ReplicaSet", "replicasets", "rs", "nsca"),
    ("apps", "v1", "StatefulSet", "statefulsets", "sts", "nsca"),
    ("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", "", ""),
    ("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "", ""),
    ("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", "", "n"),
    ("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "", ""),
    ("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "", ""),
    ("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", "", ""),
    ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", "nsa"),
    ("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "hpa", "nsa"),
    ("batch", "v1", "CronJob", "cronjobs", "cj", "nsa"),
    ("batch", "v1", "Job", "jobs", "", "nsa"),
    ("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests", "csr", "s"),
    ("networking.k8s.io", "v1", "IPAddress", "ipaddresses", "ip", ""),
    ("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", "", "s"),
    ("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "", ""),
    ("networking.k8s.io", "v1", "Ingress", "ingresses", "ing", "ns"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "netpol", "n"),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "pdb", "ns"),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", "", ""),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "", ""),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "", "n"),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", "", "n"),
    ("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "", ""),
    ("storage.k8s.io", "v1", "CSINode", "csinodes", "", ""),
    ("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", "", "n"),
    ("storage.k8s.io", "v1", "StorageClass", "storageclasses", "sc", ""),
    ("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses", "vac", ""),
    ("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", "", "s"),
    ("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", "", ""),
    ("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", "", ""),
    ("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", "", "s"),
    ("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", "", ""),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", "crd,crds", "s"),
    ("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "pc", ""),
    ("coordination.k8s.io", "v1", "Lease", "leases", "", "n"),
    ("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "", ""),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "", "n"),
    ("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", "", "s"),
    ("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations", "", "s"),
    ("metrics.k8s.io", "v1beta1", "NodeMetrics", "nodes", "", ""),
    ("metrics.k8s.io", "v1beta1", "PodMetrics", "pods", "", "n"),
];

fn built_in() -> Vec<Resource> {
    let singulars: BTreeMap<&str, &str> = BTreeMap::from([("NodeMetrics", ""), ("PodMetrics", "")]);
    BUILT_IN
        .iter()
        .map(|(group, version, kind, plural, short, flags)| Resource {
            group: (*group).into(),
            version: (*version).into(),
            kind: (*kind).into(),
            plural: (*plural).into(),
            singular: singulars.get(kind).map_or_else(|| kind.to_lowercase(), |singular| (*singular).into()),
            short_names: short.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            namespaced: flags.contains('n'),
            has_status: flags.contains('s'),
            has_scale: flags.contains('c'),
            categories: if flags.contains('a') { vec!["all".into()] } else { Vec::new() },
            custom: None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_serves_its_versions_with_the_stored_one_first() {
        let registry = Registry::built_in();
        let definition = serde_json::json!({"spec": {
            "group": "longhorn.io", "scope": "Namespaced",
            "names": {"kind": "Volume", "plural": "volumes", "singular": "volume", "shortNames": ["lhv"]},
            "versions": [
                {"name": "v1beta1", "served": true, "storage": false},
                {"name": "v1beta2", "served": true, "storage": true, "subresources": {"status": {}}},
            ],
        }});
        registry.set_custom(&[Arc::new(definition)]);
        assert_eq!(registry.find_id("volumes.longhorn.io").map(|it| it.version.clone()).as_deref(), Some("v1beta2"));
        assert_eq!(registry.groups().last(), Some(&("longhorn.io".into(), vec!["v1beta2".into(), "v1beta1".into()])));
        registry.set_custom(&[]);
        assert!(registry.find_id("volumes.longhorn.io").is_none());
    }
}
