//! A TCP proxy that hurts: delays, cuts after so many bytes, swallows, half closes, resets.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::broadcast,
};
use tokio_util::sync::CancellationToken;

/// What a proxy does to the connections made through it; a change counts for bytes that are yet to pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Harm {
    /// Every piece of data waits this long, in milliseconds.
    pub delay_ms: u64,
    /// What happens after `after_bytes`; none lets everything through.
    pub cut: Option<Cut>,
    /// Bytes in the harmed direction that pass first.
    pub after_bytes: u64,
    pub direction: Direction,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Cut {
    /// Both ends see an orderly close.
    Close,
    /// Both ends see a reset.
    Reset,
    /// The receiver sees the end of the data; the other direction goes on.
    HalfClose,
    /// Nothing more arrives, and nobody is told.
    BlackHole,
}

/// Which bytes are harmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    #[default]
    Down,
    Both,
}

/// A running proxy; dropping it cuts everything.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    target: SocketAddr,
    way: Way,
    stop: CancellationToken,
}

/// What the proxy and its connections share.
#[derive(Clone, Debug)]
struct Way {
    harm: Arc<Mutex<Harm>>,
    /// Tells every open connection at once.
    cuts: broadcast::Sender<Cut>,
}

impl Way {
    fn harm(&self) -> Harm {
        self.harm.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Proxy {
    /// Listens on one address and connects to another.
    pub async fn start(listen: SocketAddr, target: SocketAddr, harm: Harm) -> io::Result<Self> {
        let listener = sockets::listen(listen).await?;
        let address = listener.local_addr()?;
        let way = Way { harm: Arc::new(Mutex::new(harm)), cuts: broadcast::channel(16).0 };
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, target, way.clone(), stop.clone()));
        Ok(Self { address, target, way, stop })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where connections go.
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// Changes what it does, also to connections that are open.
    pub fn set_harm(&self, harm: Harm) {
        *self.way.harm.lock().unwrap_or_else(PoisonError::into_inner) = harm;
    }

    /// What it does to connections now.
    pub fn harm(&self) -> Harm {
        self.way.harm()
    }

    /// How many connections are open through it.
    pub fn connections(&self) -> usize {
        self.way.cuts.receiver_count()
    }

    /// Does this to every open connection at once, whether data flows or not.
    pub fn cut(&self, cut: Cut) {
        // Without a connection there is nothing to cut.
        let _ = self.way.cuts.send(cut);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, way: Way, stop: CancellationToken) {
    loop {
        let client = tokio::select! {
            (client, _) = sockets::accept(&listener) => client,
            () = stop.cancelled() => return,
        };
        let (way, cuts, stop) = (way.clone(), way.cuts.subscribe(), stop.child_token());
        tokio::spawn(async move {
            tokio::select! {
                result = forward(client, target, &way.harm, cuts) => drop(result),
                () = stop.cancelled() => {}
            }
        });
    }
}

/// How one direction came to its end.
enum Ended {
    /// The sender was done, or the cut leaves the other direction alone.
    Quietly,
    Cut(Cut),
}

async fn forward(
    client: TcpStream,
    target: SocketAddr,
    harm: &Mutex<Harm>,
    mut cuts: broadcast::Receiver<Cut>,
) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut ordered = None;
    let ended = {
        let both = async {
            let up = pump(&mut from_client, &mut to_server, (harm, Direction::Up));
            let down = pump(&mut from_server, &mut to_client, (harm, Direction::Down));
            tokio::pin!(up, down);
            let (first, was_up) = tokio::select! {
                ended = &mut up => (ended?, true),
                ended = &mut down => (ended?, false),
            };
            match first {
                Ended::Quietly if was_up => down.await,
                Ended::Quietly => up.await,
                cut => Ok(cut),
            }
        };
        tokio::select! {
            ended = both => ended?,
            Ok(cut) = cuts.recv() => {
                ordered = Some(cut);
                Ended::Cut(cut)
            }
        }
    };
    match (ordered, ended) {
        (_, Ended::Cut(Cut::Reset)) => {
            let ends = [from_client.reunite(to_client).ok(), from_server.reunite(to_server).ok()];
            ends.into_iter().flatten().try_for_each(|stream| stream.set_zero_linger())
        }
        (Some(Cut::HalfClose), _) => {
            to_client.shutdown().await?;
            swallow(&mut [from_client, from_server]).await
        }
        (Some(Cut::BlackHole), _) => swallow(&mut [from_client, from_server]).await,
        _ => Ok(()),
    }
}

/// Reads what comes and passes nothing on, until the proxy goes.
async fn swallow([client, server]: &mut [OwnedReadHalf; 2]) -> io::Result<()> {
    let sink = |half| async move { tokio::io::copy(half, &mut tokio::io::sink()).await };
    let _ = tokio::join!(sink(client), sink(server));
    std::future::pending().await
}

async fn pump(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    (harm, way): (&Mutex<Harm>, Direction),
) -> io::Result<Ended> {
    let mut passed: u64 = 0;
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            to.shutdown().await?;
            return Ok(Ended::Quietly);
        }
        let now = harm.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let harmed = now.direction == Direction::Both || now.direction == way;
        if harmed && now.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(now.delay_ms)).await;
        }
        let Some(cut) = now.cut.filter(|_| harmed && passed + count as u64 > now.after_bytes) else {
            to.write_all(&buffer[..count]).await?;
            passed += count as u64;
            continue;
        };
        let left = usize::try_from(now.after_bytes.saturating_sub(passed)).unwrap_or(count).min(count);
        to.write_all(&buffer[..left]).await?;
        match cut {
            Cut::Close | Cut::Reset => return Ok(Ended::Cut(cut)),
            Cut::HalfClose => {
                to.shutdown().await?;
                // What else comes this way is read and thrown away, so that the sender notices nothing.
                while from.read(&mut buffer).await? > 0 {}
                return Ok(Ended::Quietly);
            }
            Cut::BlackHole => {
                while from.read(&mut buffer).await? > 0 {}
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn through(harm: Harm) -> (Proxy, TcpStream) {
        let proxy = Proxy::start("127.0.0.1:0".parse().unwrap(), echo().await, harm).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(b"hello world").await.unwrap();
        (proxy, stream)
    }

    #[tokio::test]
    async fn a_close_lets_exactly_the_asked_bytes_through() {
        let harm = Harm { cut: Some(Cut::Close), after_bytes: 5, ..Harm::default() };
        let (_proxy, mut stream) = through(harm).await;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"hello");
    }

    #[tokio::test]
    async fn a_reset_is_seen_as_one() {
        let harm = Harm { cut: Some(Cut::Reset), after_bytes: 0, ..Harm::default() };
        let (_proxy, mut stream) = through(harm).await;
        let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test(start_paused = true)]
    async fn every_piece_waits_for_the_delay_of_its_direction() {
        let (proxy, mut stream) = through(Harm::default()).await;
        let mut bytes = [0; 11];
        stream.read_exact(&mut bytes).await.unwrap();
        for (direction, pieces) in [(Direction::Down, 1), (Direction::Up, 1), (Direction::Both, 2)] {
            proxy.set_harm(Harm { delay_ms: 300, direction, ..Harm::default() });
            // The clock goes on only where somebody sleeps, and by whole milliseconds.
            let begun = tokio::time::Instant::now();
            stream.write_all(b"hello again").await.unwrap();
            stream.read_exact(&mut bytes).await.unwrap();
            let (took, wanted) = (begun.elapsed().as_millis(), 300 * pieces);
            assert!((wanted..=wanted + pieces).contains(&took), "{direction:?}: {took} ms");
        }
    }

    #[tokio::test]
    async fn a_half_close_ends_one_direction_only() {
        let harm = Harm { cut: Some(Cut::HalfClose), after_bytes: 5, direction: Direction::Up, ..Harm::default() };
        let (_proxy, mut stream) = through(harm).await;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"hello", "the server saw five bytes and the end, and its echo came back");
        stream.write_all(b"still open").await.unwrap();
    }

    #[tokio::test]
    async fn an_idle_connection_is_cut_when_told_and_later_ones_are_not() {
        let (proxy, mut stream) = through(Harm::default()).await;
        let mut bytes = [0; 11];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(proxy.connections(), 1);
        proxy.cut(Cut::Reset);
        let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut fresh = TcpStream::connect(proxy.address()).await.unwrap();
        fresh.write_all(b"hello again").await.unwrap();
        fresh.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello again");
    }

    #[tokio::test]
    async fn a_black_hole_says_nothing_and_a_clean_proxy_everything() {
        let harm = Harm { cut: Some(Cut::BlackHole), ..Harm::default() };
        let (proxy, mut stream) = through(harm).await;
        let mut byte = [0];
        let silence = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut byte)).await;
        assert!(silence.is_err());
        proxy.set_harm(Harm::default());
        let mut fresh = TcpStream::connect(proxy.address()).await.unwrap();
        fresh.write_all(b"x").await.unwrap();
        fresh.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"x");
    }
}
