//! The connection to the bus: where it may lead, whether the bus is set up, and whether it lets this contractor work.

use std::time::Duration;

use bus::{
    Bus,
    identity::{self, Identity},
    streams,
};
use ipnet::IpNet;
use messages::subject::Party;
use secrecy::SecretString;

use crate::{agent::Agent, cli::Finding, config::Common, intake::chain};

/// A connection to a bus that is set up as it must be.
pub(super) async fn reach_bus(party: Party, common: &Common, seed: SecretString) -> Result<Bus, String> {
    let bus = connect(party, common, seed).await?;
    verify_bus(&bus, party).await?;
    Ok(bus)
}

async fn connect(party: Party, common: &Common, seed: SecretString) -> Result<Bus, String> {
    are_allowed(common).await?;
    let options = bus::Options {
        servers: common.bus.servers.clone(),
        name: format!("{party}-contractor"),
        seed,
        identity: party.to_string(),
        root_ca: common.bus.ca_file.clone(),
        client_certificate: common.bus.client_certificate_file.clone().zip(common.bus.client_key_file.clone()),
        connect_timeout: Duration::from_secs(30),
    };
    Bus::connect(options).await.map_err(|error| chain(&error))
}

/// Whether the bus is where outgoing connections may go. A name whose addresses are not known now is left to the client.
async fn are_allowed(common: &Common) -> Result<(), String> {
    let allowed: Vec<IpNet> = common.allowed_targets.iter().filter_map(|text| text.parse().ok()).collect();
    for server in &common.bus.servers {
        let host = bus::host_of(server).unwrap_or_default();
        let Ok(addresses) = tokio::net::lookup_host((host.as_str(), 0)).await else { continue };
        let mut addresses = addresses.map(|address| address.ip());
        if let Some(outside) = addresses.find(|address| !allowed.iter().any(|network| network.contains(address))) {
            return Err(format!(
                "bus.servers: {server} is at {outside}, outside of allowed_targets ({}); add its network if it is meant \
                 to be reached",
                common.allowed_targets.join(", ")
            ));
        }
    }
    Ok(())
}

/// Whether the bus can be reached, is set up, and lets this contractor do its work.
pub async fn check_bus(agent: &dyn Agent, common: &Common) -> Vec<Finding> {
    let finding = |problem: String, mend: Option<&str>| Finding { problem, mend: mend.map(str::to_owned) };
    let seed = match identity::read_seed(&common.bus.seed_file) {
        Ok(seed) => seed,
        Err(error) => return vec![finding(error.to_string(), Some("cortexctl bus configure makes the key files"))],
    };
    let bus = match connect(agent.party(), common, seed).await {
        Ok(bus) => bus,
        Err(problem) => return vec![finding(problem, None)],
    };
    let mut findings: Vec<Finding> = match differences(&bus, agent.party()).await {
        Ok(differences) => {
            let lines = differences.iter().map(ToString::to_string);
            lines.map(|line| finding(line, Some("cortexctl bus init"))).collect()
        }
        Err(error) => vec![finding(error.to_string(), None)],
    };
    let mend = "`cortexctl bus configure` writes the rights of every identity for the server's configuration";
    let missing = missing_rights(&bus, agent.party()).await;
    findings.extend(missing.into_iter().map(|problem| finding(problem, Some(mend))));
    bus.close().await;
    findings
}

/// Subjects that this contractor has to publish on and may not. Answers go where they are asked for and are not tried.
async fn missing_rights(bus: &Bus, party: Party) -> Vec<String> {
    let identity = match party {
        Party::Infrastructure => Identity::Infrastructure,
        Party::Talos => Identity::Talos,
        Party::Mcp => Identity::Mcp,
    };
    let needed = identity.permissions().publish.into_iter();
    let needed = needed.filter(|it| it.starts_with("cortex.") && !it.starts_with("cortex.reply."));
    let asked = needed.map(|pattern| async move {
        let subject = pattern.replace(['*', '>'], "may-it");
        match bus.may_publish(&subject, Duration::from_secs(5)).await {
            Ok(true) => None,
            Ok(false) => Some(format!("the bus does not let {identity} publish on {pattern}")),
            Err(error) => Some(format!("whether {identity} may publish on {pattern} is not known: {error}")),
        }
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

/// Streams and consumers are made by an administrator; a contractor only sees whether they are as it needs them.
async fn verify_bus(bus: &Bus, party: Party) -> Result<(), String> {
    // A server that has just started may still be reading its streams.
    let give_up = tokio::time::Instant::now() + Duration::from_secs(30);
    let differences = loop {
        match differences(bus, party).await {
            Ok(differences) => break differences,
            Err(error) if tokio::time::Instant::now() > give_up => return Err(error.to_string()),
            Err(error) => tracing::warn!(%error, "the bus does not say how it is set up; asking again"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    if differences.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = differences.iter().map(|difference| format!("\n  {difference}")).collect();
    Err(format!("the bus is not set up as it must be; `cortexctl bus init` sets it up:{}", lines.concat()))
}

async fn differences(bus: &Bus, party: Party) -> Result<Vec<bus::Difference>, bus::AdminError> {
    let own = [streams::requests_of(party), streams::handoffs_of(party)];
    let consumers: Vec<_> = streams::consumers().into_iter().filter(|spec| own.contains(&spec.name)).collect();
    let mut differences = bus::check(bus).await?;
    differences.extend(bus::check_consumers(bus, &consumers).await?);
    Ok(differences)
}
