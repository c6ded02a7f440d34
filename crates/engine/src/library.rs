//! The playbooks of one contractor, read, checked against its actions, and linked to what they call.

/// Checked playbooks by name.
#[derive(Clone, Debug, Default)]
pub struct Library {}
