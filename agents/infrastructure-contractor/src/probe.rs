//! Whether somebody uses an address already, tried before it is given out.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::future::join_all;
use tokio::{net::TcpStream, time::timeout};

/// Talos API, Kubernetes API, SSH, HTTPS.
const PORTS: [u16; 4] = [50000, 6443, 22, 443];
const PATIENCE: Duration = Duration::from_millis(400);

/// Which of `addresses` are in use: somebody accepts or refuses a connection. On loopback a refusal says nothing,
/// since the machine itself refuses.
pub(crate) async fn in_use(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let probes = addresses.iter().map(|address| async move {
        let answers = join_all(PORTS.map(|port| answers(SocketAddr::new(*address, port)))).await;
        answers.contains(&true).then_some(*address)
    });
    join_all(probes).await.into_iter().flatten().collect()
}

async fn answers(target: SocketAddr) -> bool {
    match timeout(PATIENCE, TcpStream::connect(target)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.kind() == ErrorKind::ConnectionRefused && !target.ip().is_loopback(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_listening_machine_is_seen_and_an_idle_loopback_address_is_free() {
        let busy: IpAddr = "127.254.254.1".parse().unwrap();
        let idle: IpAddr = "127.254.254.2".parse().unwrap();
        let _listener = TcpListener::bind(SocketAddr::new(busy, 50000)).await.unwrap();
        assert_eq!(in_use(&[busy, idle]).await, [busy]);
    }
}
