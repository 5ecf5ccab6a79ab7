//! A network that can fail: a TCP proxy on loopback that can stall, cut connections, redirect them, or drop Redis's
//! pushes.

use crate::resp::frame_length;
use bytes::{Bytes, BytesMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// How a relay behaves now.
#[derive(Debug, Clone, Copy)]
struct Behaviour {
    target: SocketAddr,
    /// Connections stay open and new ones are accepted, but nothing is forwarded.
    stalled: bool,
    /// New connections are closed at once.
    refusing: bool,
    /// A connection that began with another value is closed.
    cut: u64,
    /// In a connection that began with another value nothing arrives any more, not even its end.
    swallowed: u64,
}

/// A proxy between a service and a server.
pub struct Relay {
    address: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    drops_pushes: Arc<AtomicBool>,
    dropped: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Relay {
    /// A relay that forwards any bytes.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn to(target: SocketAddr) -> Self {
        Self::start(target, false).await
    }

    /// A relay for Redis's protocol, which can drop pushes.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn to_redis(target: SocketAddr) -> Self {
        Self::start(target, true).await
    }

    async fn start(target: SocketAddr, frames: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("the kernel has a free port");
        let address = listener.local_addr().expect("it is bound");
        let behaviour = watch::Sender::new(Behaviour {
            target,
            stalled: false,
            refusing: false,
            cut: 0,
            swallowed: 0,
        });
        let drops_pushes = Arc::new(AtomicBool::new(false));
        let dropped = Arc::new(AtomicUsize::new(0));
        let filter = frames.then(|| Filter {
            drops_pushes: Arc::clone(&drops_pushes),
            dropped: Arc::clone(&dropped),
        });
        let task = tokio::spawn(accept(listener, behaviour.subscribe(), filter)).abort_handle();
        Self {
            address,
            behaviour,
            drops_pushes,
            dropped,
            task,
        }
    }

    /// The address to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL for the flags of the product.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Sends new connections to another server. Present ones stay where they are.
    pub fn redirect_to(&self, target: SocketAddr) {
        self.behaviour
            .send_modify(|behaviour| behaviour.target = target);
    }

    /// From now on nothing is forwarded. Connections stay open, and new ones are accepted.
    pub fn stall(&self) {
        self.behaviour
            .send_modify(|behaviour| behaviour.stalled = true);
    }

    /// Forwards again, beginning with what has been waiting.
    pub fn resume(&self) {
        self.behaviour
            .send_modify(|behaviour| behaviour.stalled = false);
    }

    /// Closes all present connections. What was waiting in them is lost.
    pub fn cut(&self) {
        self.behaviour.send_modify(|behaviour| behaviour.cut += 1);
    }

    /// Turns all present connections into black holes: what either side sends is lost, and neither side learns that the
    /// other has closed. New connections work.
    pub fn swallow(&self) {
        self.behaviour
            .send_modify(|behaviour| behaviour.swallowed += 1);
    }

    /// Closes all present connections, and each new one at once, until [`Relay::admit`].
    pub fn refuse(&self) {
        self.behaviour.send_modify(|behaviour| {
            behaviour.refusing = true;
            behaviour.cut += 1;
        });
    }

    /// Lets connections through again.
    pub fn admit(&self) {
        self.behaviour
            .send_modify(|behaviour| behaviour.refusing = false);
    }

    /// Begins or stops to drop Redis's pushes. Everything else is forwarded.
    pub fn drop_pushes(&self, drop: bool) {
        self.drops_pushes.store(drop, Ordering::Relaxed);
    }

    /// How many pushes it has dropped.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Filter {
    drops_pushes: Arc<AtomicBool>,
    dropped: Arc<AtomicUsize>,
}

impl Filter {
    /// Takes the complete frames out of the buffer, and returns those that are forwarded.
    fn pass(&self, buffer: &mut BytesMut) -> Bytes {
        let mut passing = BytesMut::new();
        while let Some(length) = frame_length(buffer) {
            let frame = buffer.split_to(length);
            if frame[0] == b'>' && self.drops_pushes.load(Ordering::Relaxed) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            } else {
                passing.extend_from_slice(&frame);
            }
        }
        passing.freeze()
    }
}

/// Accepts connections. They all end with this task.
async fn accept(
    listener: TcpListener,
    behaviour: watch::Receiver<Behaviour>,
    filter: Option<Filter>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if behaviour.borrow().refusing {
            continue;
        }
        connections.spawn(carry(client, behaviour.clone(), filter.clone()));
    }
}

/// Forwards one connection until either side closes it, or it is cut.
async fn carry(client: TcpStream, behaviour: watch::Receiver<Behaviour>, filter: Option<Filter>) {
    let begun = *behaviour.borrow();
    let mut watching = behaviour.clone();
    let carried = async {
        passing(&mut behaviour.clone()).await;
        let server = TcpStream::connect(begun.target).await.ok()?;
        client.set_nodelay(true).ok()?;
        server.set_nodelay(true).ok()?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            end = pump(from_client, to_server, behaviour.clone(), begun, None) => end,
            end = pump(from_server, to_client, behaviour, begun, filter) => end,
        }
    };
    tokio::select! {
        _ = carried => {}
        _ = watching.wait_for(|now| now.cut != begun.cut) => {}
    }
}

/// Returns as soon as the relay is not stalled.
async fn passing(behaviour: &mut watch::Receiver<Behaviour>) {
    // The sender lives as long as the relay, and this task ends with the relay.
    let _ = behaviour.wait_for(|now| !now.stalled).await;
}

/// Forwards one direction.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut behaviour: watch::Receiver<Behaviour>,
    begun: Behaviour,
    filter: Option<Filter>,
) -> Option<()> {
    let mut buffer = BytesMut::new();
    loop {
        let read = from.read_buf(&mut buffer).await.unwrap_or(0);
        if behaviour.borrow().swallowed != begun.swallowed {
            buffer.clear();
            if read == 0 {
                // The other side must not notice the end until the relay is dropped or the connection is cut.
                return std::future::pending().await;
            }
            continue;
        }
        if read == 0 {
            return None;
        }
        passing(&mut behaviour).await;
        let passing = match &filter {
            Some(filter) => filter.pass(&mut buffer),
            None => buffer.split().freeze(),
        };
        to.write_all(&passing).await.ok()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SOON;
    use tokio::time::timeout;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn says(stream: &mut TcpStream, text: &str) -> Option<String> {
        stream.write_all(text.as_bytes()).await.ok()?;
        let mut bytes = vec![0; 64];
        let read = timeout(
            std::time::Duration::from_millis(200),
            stream.read(&mut bytes),
        );
        let length = read.await.ok()?.ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    #[tokio::test]
    async fn a_stalled_relay_keeps_connections_and_forwards_nothing_until_it_resumes() {
        let relay = Relay::to(echo().await).await;
        let mut stream = TcpStream::connect(relay.address()).await.unwrap();
        assert_eq!(says(&mut stream, "a").await.as_deref(), Some("a"));
        relay.stall();
        assert_eq!(says(&mut stream, "b").await, None);
        relay.resume();
        let mut byte = [0];
        timeout(SOON, stream.read_exact(&mut byte))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&byte, b"b");
        relay.cut();
        let read = timeout(SOON, stream.read(&mut byte)).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }

    #[tokio::test]
    async fn a_black_hole_keeps_old_connections_open_and_forwards_new_ones() {
        let relay = Relay::to(echo().await).await;
        let mut old = TcpStream::connect(relay.address()).await.unwrap();
        assert_eq!(says(&mut old, "a").await.as_deref(), Some("a"));
        relay.swallow();
        assert_eq!(says(&mut old, "b").await, None);
        let mut new = TcpStream::connect(relay.address()).await.unwrap();
        assert_eq!(says(&mut new, "c").await.as_deref(), Some("c"));
        assert_eq!(says(&mut old, "d").await, None);
    }

    #[tokio::test]
    async fn only_pushes_are_dropped() {
        let relay = Relay::to_redis(echo().await).await;
        let mut stream = TcpStream::connect(relay.address()).await.unwrap();
        let push = ">2\r\n+message\r\n$1\r\nx\r\n";
        assert_eq!(says(&mut stream, push).await.as_deref(), Some(push));
        relay.drop_pushes(true);
        let all = format!("+OK\r\n{push}:1\r\n");
        assert_eq!(
            says(&mut stream, &all).await.as_deref(),
            Some("+OK\r\n:1\r\n")
        );
        assert_eq!(relay.dropped(), 1);
    }
}
