//! The playbooks that infrastructure-contractor ships with.

/// File name and text of each.
pub fn shipped() -> Vec<(String, String)> {
    [
        ("provision-vms.yaml", include_str!("../../../playbooks/provision-vms.yaml")),
        ("make-vms.yaml", include_str!("../../../playbooks/make-vms.yaml")),
        ("scale-pool.yaml", include_str!("../../../playbooks/scale-pool.yaml")),
        ("register-monitoring.yaml", include_str!("../../../playbooks/register-monitoring.yaml")),
        ("record-nodes.yaml", include_str!("../../../playbooks/record-nodes.yaml")),
        ("release-vms.yaml", include_str!("../../../playbooks/release-vms.yaml")),
        ("decommission-cluster.yaml", include_str!("../../../playbooks/decommission-cluster.yaml")),
        ("destroy-cluster.yaml", include_str!("../../../playbooks/destroy-cluster.yaml")),
    ]
    .map(|(file, text)| (file.to_owned(), text.to_owned()))
    .to_vec()
}
