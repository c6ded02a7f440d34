//! Links, addresses, routes and names.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::json;

use crate::talos::cosi::{kinds, named};
use crate::talos::network::{Link, Network};
use crate::talos::node::Boot;

/// Publishes the network as it is now.
pub(crate) fn network(boot: &Boot) {
    let network = boot.network();
    links(boot, &network);
    addresses(boot, &network);
    routes(boot, &network);
    let (host, domain) = network.hostname.split_once('.').unwrap_or((&network.hostname, ""));
    boot.cosi.put(kinds::HOSTNAME_STATUSES, "hostname", &json!({"hostname": host, "domainname": domain}));
    let resolvers = if network.resolvers.is_empty() { default_resolvers() } else { network.resolvers.clone() };
    let spec = json!({"dnsServers": resolvers, "searchDomains": network.search_domains});
    boot.cosi.put(kinds::RESOLVER_STATUSES, "resolvers", &spec);
    boot.cosi.put(kinds::TIME_SERVER_STATUSES, "timeservers", &json!({"timeServers": ["time.cloudflare.com"]}));
    let ready = network.primary().is_some();
    let status =
        json!({"addressReady": ready, "connectivityReady": ready, "hostnameReady": true, "etcFilesReady": true});
    boot.cosi.put(kinds::NETWORK_STATUSES, "status", &status);
}

fn default_resolvers() -> Vec<IpAddr> {
    vec![IpAddr::from([1, 1, 1, 1]), IpAddr::from([8, 8, 8, 8])]
}

fn links(boot: &Boot, network: &Network) {
    let loopback = json!({
        "index": 1, "type": named("loopback", 772), "flags": named("UP,LOOPBACK,RUNNING,LOWER_UP", 65609),
        "hardwareAddr": "00:00:00:00:00:00", "broadcastAddr": "00:00:00:00:00:00", "mtu": 65536, "queueDisc": "noqueue",
        "operationalState": named("unknown", 0), "linkState": true, "port": named("Other", 255), "duplex": named("Unknown", 255),
    });
    boot.cosi.put(kinds::LINK_STATUSES, "lo", &loopback);
    for link in &network.links {
        let (flags, state) = if link.up {
            (named("UP,BROADCAST,RUNNING,MULTICAST,LOWER_UP", 69699), named("up", 6))
        } else {
            (named("UP,BROADCAST,MULTICAST", 4099), named("down", 2))
        };
        let spec = json!({
            "index": link.index, "type": named("ether", 1), "flags": flags, "hardwareAddr": link.mac,
            "permanentAddr": link.mac, "broadcastAddr": "ff:ff:ff:ff:ff:ff", "mtu": link.mtu, "queueDisc": "pfifo_fast",
            "operationalState": state, "busPath": format!("0000:00:{:02x}.0", 0x12 + link.index - 7),
            "pciID": "1AF4:1000", "driver": "virtio_net", "driverVersion": "1.0.0", "vendor": "Red Hat, Inc.",
            "product": "Virtio network device", "vendorID": "0x1af4", "productID": "0x1000",
            "linkState": link.up, "speedMbit": 4294967295u32, "port": named("Other", 255), "duplex": named("Unknown", 255),
        });
        boot.cosi.put(kinds::LINK_STATUSES, &link.name, &spec);
    }
    if let Some(first) = network.links.first() {
        let spec = json!({"name": first.name, "hardwareAddr": first.mac});
        boot.cosi.put(kinds::HARDWARE_ADDRESSES, "first", &spec);
    }
}

fn addresses(boot: &Boot, network: &Network) {
    let mut ids = Vec::new();
    let mut put = |link: &str, index: u32, address: IpNet, scope| {
        let id = format!("{link}/{address}");
        let family = if address.addr().is_ipv4() { named("inet4", 2) } else { named("inet6", 10) };
        let spec = json!({
            "address": address.to_string(), "local": address.addr().to_string(), "linkIndex": index, "linkName": link,
            "family": family, "scope": scope, "flags": named("permanent", 128), "priority": 0,
        });
        boot.cosi.put(kinds::ADDRESS_STATUSES, &id, &spec);
        ids.push(id);
    };
    put("lo", 1, IpNet::from(ipnet::Ipv4Net::new_assert([127, 0, 0, 1].into(), 8)), named("host", 254));
    for link in network.links.iter().filter(|link| link.up) {
        link.addresses.iter().for_each(|address| put(&link.name, link.index, *address, named("global", 0)));
    }
    if let Some(link) = network.links.iter().find(|link| link.up) {
        let shared = network.virtual_addresses.iter().chain(&network.given).copied().map(IpNet::from);
        shared.for_each(|address| put(&link.name, link.index, address, named("global", 0)));
    }
    boot.cosi.retain(kinds::ADDRESS_STATUSES, &ids);
    let own: Vec<String> = network.links.iter().filter(|link| link.up).flat_map(of_link).collect();
    let shared =
        network.virtual_addresses.iter().chain(&network.given).map(|address| IpNet::from(*address).to_string());
    let current: Vec<String> = own.iter().cloned().chain(shared).collect();
    let algorithm = named("v1", 0);
    for (id, list) in
        [("default", &own[..own.len().min(1)]), ("current", &current), ("accumulative", &current), ("routed", &current)]
    {
        boot.cosi.put(kinds::NODE_ADDRESSES, id, &json!({"addresses": list, "sortAlgorithm": algorithm}));
    }
}

fn of_link(link: &Link) -> Vec<String> {
    link.addresses.iter().map(ToString::to_string).collect()
}

fn routes(boot: &Boot, network: &Network) {
    for link in network.links.iter().filter(|link| link.up) {
        if let Some(gateway) = link.gateway {
            let id = format!("inet4/{gateway}//1024");
            let spec = json!({
                "family": named("inet4", 2), "gateway": gateway.to_string(), "outLinkIndex": link.index,
                "outLinkName": link.name, "table": named("main", 254), "priority": 1024, "scope": named("global", 0),
                "type": named("unicast", 1), "flags": named("", 0), "protocol": named("static", 4),
            });
            boot.cosi.put(kinds::ROUTE_STATUSES, &id, &spec);
        }
        for address in &link.addresses {
            let id = format!("inet4//{}/0", address.trunc());
            let spec = json!({
                "family": named("inet4", 2), "dst": address.trunc().to_string(), "src": address.addr().to_string(),
                "outLinkIndex": link.index, "outLinkName": link.name, "table": named("main", 254), "priority": 0,
                "scope": named("link", 253), "type": named("unicast", 1), "flags": named("", 0),
                "protocol": named("kernel", 2),
            });
            boot.cosi.put(kinds::ROUTE_STATUSES, &id, &spec);
        }
    }
}
