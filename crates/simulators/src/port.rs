//! Listening on a port; where it is taken, the error says by whom, as far as that can be known.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use tokio::net::TcpListener;

/// Listens on `address`.
///
/// # Errors
/// With the address, and with the process that holds the port where the system tells.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| explain(address, error))
}

/// The error of a bind, with the address and whoever holds the port.
pub fn explain(address: SocketAddr, error: io::Error) -> io::Error {
    let text = match holder(address) {
        Some(holder) => format!("port {} of {} is held by {holder}", address.port(), address.ip()),
        None => format!("cannot listen on {address}: {error}"),
    };
    io::Error::new(error.kind(), text)
}

/// `nats-server (process 4711)`: who listens there. Read from Linux's `/proc`; `None` elsewhere, and where processes of
/// other users may not be looked at.
pub fn holder(address: SocketAddr) -> Option<String> {
    let sockets = fs::read_to_string("/proc/net/tcp").ok()?;
    let socket = sockets.lines().skip(1).find_map(|line| listening(line, address))?;
    let link = format!("socket:[{socket}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        // `self` and its like stand there, too.
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        if files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link.as_str()))
        {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {id})", name.trim()));
        }
    }
    None
}

/// The inode of the socket of one line of `/proc/net/tcp`, if it listens where `wanted` would.
fn listening(line: &str, wanted: SocketAddr) -> Option<&str> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (ip, port) = local.split_once(':')?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_le_bytes());
    let port = u16::from_str_radix(port, 16).ok()?;
    let same = port == wanted.port() && (ip.is_unspecified() || IpAddr::V4(ip) == wanted.ip());
    (same && *state == LISTEN).then_some(*inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_its_holder() {
        let first = listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = first.local_addr().unwrap();
        let error = listen(address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(text.starts_with(&format!("port {} of 127.0.0.1 is held by ", address.port())), "{text}");
        assert!(text.ends_with(&format!("(process {})", std::process::id())), "{text}");
    }
}
