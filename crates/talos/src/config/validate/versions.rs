//! What a running node checks besides: that its Talos runs the Kubernetes the configuration asks for (talos.md 1.3).

use semver::Version;

use crate::config::yaml::Value;
use crate::config::{MachineConfig, compat};

use super::{Errors, Invalid};

/// The images whose tags are Kubernetes versions: component, document, path in the main document.
const IMAGES: [(&str, &str, &[&str]); 4] = [
    ("kubelet", "KubeletConfig", &["machine", "kubelet", "image"]),
    ("kube-apiserver", "KubeAPIServerConfig", &["cluster", "apiServer", "image"]),
    ("kube-controller-manager", "KubeControllerManagerConfig", &["cluster", "controllerManager", "image"]),
    ("kube-scheduler", "KubeSchedulerConfig", &["cluster", "scheduler", "image"]),
];

/// Checks every Kubernetes image against the Talos version that is to run it.
pub(in crate::config) fn check(config: &MachineConfig, talos: &Version) -> Result<(), Invalid> {
    let mut errors = Errors::default();
    for (component, kind, path) in IMAGES {
        let in_document = config.document(kind).and_then(|document| document.root().text("image"));
        let in_main = config.main().and_then(|main| main.root().get(path[0])?.at(&path[1..])).and_then(Value::text);
        if let Some(error) = in_document.or(in_main).and_then(|image| check_tag(image, talos)) {
            errors.add(format!("{component} image is not valid: {error}"));
        }
    }
    if errors.0.is_empty() {
        return Ok(());
    }
    Err(Invalid { text: errors.to_string(), problems: errors.0 })
}

/// Why the tag of an image is not fit.
fn check_tag(image: &str, talos: &Version) -> Option<String> {
    let unreadable =
        |why: String| Some(format!("failed to parse Kubernetes version from image reference {image:?}: {why}"));
    let Some((_, tag)) = image.rsplit_once(":v") else {
        return unreadable(format!("invalid image reference: {image:?}"));
    };
    let tag = tag.split('@').next().unwrap_or(tag);
    // Kubelet images have variants such as v1.36.3-slim, which are not pre-releases.
    let tag = tag.trim_end_matches("-slim").trim_end_matches("-fat");
    match Version::parse(tag) {
        Ok(kubernetes) => compat::check_kubernetes(talos, &kubernetes).err().map(|error| error.to_string()),
        Err(error) => unreadable(error.to_string()),
    }
}
