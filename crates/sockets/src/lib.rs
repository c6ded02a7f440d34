//! Listening on a port; where it is taken, the error says by whom, as far as that can be known. Accepting without a rush.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream};

/// How long nothing is accepted after a failure: one for want of file descriptors comes again at once, for ever.
const PAUSE: Duration = Duration::from_millis(50);

/// Listens on `address`.
///
/// # Errors
/// With the address, and with the process that holds the port where the system tells.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| explain(address, error))
}

/// The next connection, and where it comes from. Failures are outlasted.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    patiently(|| listener.accept()).await
}

async fn patiently<T, F: Future<Output = io::Result<T>>>(mut attempt: impl FnMut() -> F) -> T {
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// The error of a bind, with the address and whoever holds the port.
pub fn explain(address: SocketAddr, error: io::Error) -> io::Error {
    let holder = (error.kind() == io::ErrorKind::AddrInUse).then(|| holder(address)).flatten();
    let text = match holder {
        Some(holder) => format!("port {} of {} is held by {holder}", address.port(), address.ip()),
        None => format!("cannot listen on {address}: {error}"),
    };
    io::Error::new(error.kind(), text)
}

/// `nats-server (process 4711)`: who listens there. Read from Linux's `/proc`; `None` elsewhere, and where processes of
/// other users may not be looked at.
pub fn holder(address: SocketAddr) -> Option<String> {
    let socket = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let sockets = fs::read_to_string(table).ok()?;
        sockets.lines().skip(1).find_map(|line| listening(line, address)).map(str::to_owned)
    })?;
    let link = format!("socket:[{socket}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        // `self` and its like stand there, too.
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        if files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link.as_str()))
        {
            return Some(format!("{} (process {id})", name(&process.path())));
        }
    }
    None
}

/// The program of a process. Its `comm` is cut off after 15 characters, so the command line goes first.
fn name(process: &Path) -> String {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let program = String::from_utf8_lossy(line.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    let program = Path::new(&program).file_name().map(|name| name.to_string_lossy().into_owned());
    program.unwrap_or_else(|| fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned())
}

/// The inode of the socket of one line of `/proc/net/tcp` or `tcp6`, if it listens where `wanted` would.
fn listening(line: &str, wanted: SocketAddr) -> Option<&str> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (ip, port) = local.split_once(':')?;
    let ip = address(ip)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // One that listens on all addresses of IPv6 has those of IPv4, too.
    let same = port == wanted.port() && (ip.is_unspecified() || ip == wanted.ip() || wanted.ip().is_unspecified());
    (same && *state == LISTEN).then_some(*inode)
}

/// `0100007F`, or four such words: the bytes of each word stand in the order of the machine.
fn address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (part, at) in bytes.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                part.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands in the error for a port of `wanted` that somebody holds on `held`.
    async fn told(held: IpAddr, wanted: IpAddr) -> (u16, String) {
        let first = listen((held, 0).into()).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let error = listen((wanted, port).into()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        (port, error.to_string())
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_its_holder() {
        let program = std::env::current_exe().unwrap();
        let program = program.file_name().unwrap().to_string_lossy().into_owned();
        assert!(program.len() > 15, "longer than the system's short names are");
        let (loopback, all) = (Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED);
        for (held, wanted) in [(loopback, loopback), (all, loopback), (loopback, all)] {
            let (port, text) = told(held.into(), wanted.into()).await;
            let holder = format!("{program} (process {})", std::process::id());
            assert_eq!(text, format!("port {port} of {wanted} is held by {holder}"), "held on {held}");
        }
    }

    #[tokio::test]
    async fn one_that_listens_on_all_addresses_of_ipv6_holds_those_of_ipv4() {
        if TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.is_err() {
            return;
        }
        let (_, text) = told(Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()).await;
        assert!(text.ends_with(&format!("(process {})", std::process::id())), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_the_next_connection_is_not_asked_for_at_once() {
        let mut left = 3;
        let begun = tokio::time::Instant::now();
        let accepted = patiently(|| {
            left -= 1;
            std::future::ready(if left > 0 { Err(io::Error::from(io::ErrorKind::Other)) } else { Ok(left) })
        });
        assert_eq!(accepted.await, 0);
        assert_eq!(begun.elapsed(), 2 * PAUSE);
    }

    #[tokio::test]
    async fn an_address_that_nobody_holds_is_not_blamed_on_one_who_holds_another() {
        // Documentation addresses are on no machine.
        let text = listen((Ipv4Addr::new(192, 0, 2, 1), 0).into()).await.unwrap_err().to_string();
        assert!(text.starts_with("cannot listen on 192.0.2.1:0: "), "{text}");
    }
}
