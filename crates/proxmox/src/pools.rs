//! `/pools`: where a least-privilege token has its rights on VMs.

use serde::Deserialize;

use crate::{Client, Result, VmId, form::Params};

/// A row of `/pools`.
#[derive(Clone, Debug, Deserialize)]
pub struct Pool {
    /// Its name, perhaps nested: `a/b`.
    pub poolid: String,
}

impl Client {
    /// The pools that we may see.
    pub async fn pools(&self) -> Result<Vec<Pool>> {
        self.get("/pools", &Params::default()).await
    }

    /// Puts a VM into a pool, out of any other.
    pub async fn add_to_pool(&self, pool: &str, vmid: VmId) -> Result<()> {
        let params = Params::default().with("poolid", pool).with("vms", vmid).with_flag("allow-move", true);
        self.put::<serde_json::Value>("/pools", &params).await.map(drop)
    }
}
