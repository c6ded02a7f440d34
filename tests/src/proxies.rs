//! Fault proxies of the lab between the daemons and what they reach: the hypervisors and the bus.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use simulators::lab::Harm;

/// The ways on which a daemon can be harmed.
#[derive(Clone, Debug)]
pub struct Proxies {
    /// From infrastructure-contractor to the Proxmox VE API.
    pub proxmox: Way,
    /// From both contractors to the bus.
    pub bus: Way,
}

/// One proxy.
#[derive(Clone, Debug)]
pub struct Way {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it is changed.
    control: String,
}

impl Proxies {
    /// Lets the lab put up a proxy before the Proxmox VE API, `https://address:port`, and one before the bus.
    ///
    /// # Errors
    /// What the lab says.
    pub async fn put_up(control: &str, proxmox: &str, bus: SocketAddr) -> anyhow::Result<Self> {
        let proxmox = proxmox.strip_prefix("https://").context("the API is not at a URL")?.parse()?;
        Ok(Self { proxmox: Way::put_up(control, proxmox).await?, bus: Way::put_up(control, bus).await? })
    }
}

impl Way {
    async fn put_up(control: &str, to: SocketAddr) -> anyhow::Result<Self> {
        let proxies = format!("{control}/v1/proxies");
        let made = post(&proxies, &json!({ "listen": "127.0.0.1:0", "to": to })).await?;
        let address = made["listen"].as_str().context("the proxy listens nowhere")?.parse()?;
        Ok(Self { address, control: format!("{proxies}/{}", made["id"]) })
    }

    /// Does this to what passes from now on, on open connections, too.
    ///
    /// # Errors
    /// What the lab says.
    pub async fn harm(&self, harm: &Harm) -> anyhow::Result<()> {
        post(&self.control, &json!(harm)).await.map(drop)
    }

    /// How many connections go through it.
    ///
    /// # Errors
    /// If the lab does not answer.
    pub async fn connections(&self) -> anyhow::Result<u64> {
        let shown: Value = reqwest::get(&self.control).await?.json().await?;
        shown["connections"].as_u64().context("the lab counts connections")
    }
}

async fn post(url: &str, body: &Value) -> anyhow::Result<Value> {
    let answer = reqwest::Client::new().post(url).json(body).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    if !status.is_success() {
        bail!("{url} {body}: {status} {text}");
    }
    Ok(serde_json::from_str(&text)?)
}
