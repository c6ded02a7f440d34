//! The playbooks that ship with this contractor; operators may replace them by files of the same name.

/// File name and text of each.
pub fn playbooks() -> Vec<(String, String)> {
    SHIPPED.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect()
}

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        [$((concat!($name, ".yaml"), include_str!(concat!("../../../playbooks/", $name, ".yaml")))),+]
    };
}

const SHIPPED: [(&str, &str); 10] = shipped![
    "bootstrap-cluster",
    "check-clusters",
    "forget-cluster",
    "install-cni-cilium",
    "install-storage-local-path",
    "install-storage-longhorn",
    "join-nodes",
    "remove-node",
    "remove-nodes",
    "scale-on-pressure",
];
