//! What must be there before a pod's containers can start: config maps, secrets, claims.

use serde_json::Value;

use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{flag, items, namespace, text};

/// Why a pod's volumes cannot be mounted, in the words of the real kubelet's event.
pub(super) fn obstacle(cluster: &Cluster, pod: &Value) -> Option<String> {
    let at = namespace(pod);
    for volume in items(pod, "/spec/volumes") {
        let called = text(volume, "/name");
        for (pointer, resource, kind) in [("/configMap", "configmaps", "configmap"), ("/secret", "secrets", "secret")] {
            let key = if kind == "secret" { "secretName" } else { "name" };
            let wanted = text(volume, &format!("{pointer}/{key}"));
            let optional = flag(volume, &format!("{pointer}/optional"));
            if !wanted.is_empty() && !optional && cluster.store.get(resource, at, wanted).is_none() {
                return Some(format!("MountVolume.SetUp failed for volume {called:?} : {kind} {wanted:?} not found"));
            }
        }
        let claim = text(volume, "/persistentVolumeClaim/claimName");
        if !claim.is_empty() {
            let bound = cluster
                .store
                .get("persistentvolumeclaims", at, claim)
                .is_some_and(|it| text(&it, "/status/phase") == "Bound");
            if !bound {
                return Some(format!(
                    "Unable to attach or mount volumes: unmounted volumes=[{called}]: claim {claim:?} is not bound"
                ));
            }
        }
    }
    None
}
