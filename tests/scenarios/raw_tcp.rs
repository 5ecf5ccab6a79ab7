//! Pomelo's packages over TCP without WebSocket, on the same port. The first byte distinguishes them from HTTP.

use bytes::{Bytes, BytesMut};
use std::net::SocketAddr;
use std::time::Duration;
use testkit::SOON;
use testkit::pace::timeout;
use testkit::pomelo::{self, DATA, HANDSHAKE, HANDSHAKE_ACK, HELLO, LOGIN, SEND};
use testkit::system::Plan;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A client's socket, and the bytes that have come and were not read yet.
struct Client {
    socket: TcpStream,
    received: BytesMut,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("a connector");
        socket.set_nodelay(true).expect("a socket");
        Self {
            socket,
            received: BytesMut::new(),
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("written");
    }

    /// The next package, its head included; `None` at the end of the connection.
    async fn package(&mut self) -> Option<Bytes> {
        loop {
            if let Some(&[_, a, b, c]) = self.received.first_chunk() {
                let length = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
                if self.received.len() >= length {
                    return Some(self.received.split_to(length).freeze());
                }
            }
            let read = timeout(SOON, self.socket.read_buf(&mut self.received)).await;
            match read.expect("the connector answers in time") {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    /// The next `count` packages.
    async fn packages(&mut self, count: usize) -> Vec<Bytes> {
        let mut packages = Vec::new();
        for _ in 0..count {
            packages.push(self.package().await.expect("the connection goes on"));
        }
        packages
    }
}

/// What a client sends from the handshake to its first message.
fn conversation() -> Vec<u8> {
    let login = pomelo::request(1, LOGIN, br#"{"userId":"tcp","lessonId":1}"#);
    let send = pomelo::request(2, SEND, br#"{"type":1}"#);
    [
        pomelo::package(HANDSHAKE, HELLO.as_bytes()),
        pomelo::package(HANDSHAKE_ACK, b""),
        pomelo::package(DATA, &login),
        pomelo::package(DATA, &send),
    ]
    .concat()
}

/// The packages that answer it: handshake, heartbeat, login's answer, onJoin, onMessage, send's answer.
const ANSWERS: usize = 6;

#[tokio::test]
async fn a_stream_is_understood_byte_by_byte_and_all_at_once() {
    // The same user logs in again and again, perhaps before its last login is removed.
    let system = Plan::of(1, 1).login_policy("allow").start().await;
    let address = system.connectors[0].address();
    let mut told = Vec::new();
    for piece in [1, 7, usize::MAX] {
        let mut client = Client::connect(address).await;
        let conversation = conversation();
        for bytes in conversation.chunks(piece.min(conversation.len())) {
            client.write(bytes).await;
            tokio::task::yield_now().await;
        }
        let mut packages = client.packages(ANSWERS).await;
        // The client's own message and the answer come in either order.
        packages[4..].sort();
        told.push(packages);
        // It must have left, or the next one would not be announced.
        drop(client);
        system.until_members("1", &[]).await;
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0], told[2]);
}

#[tokio::test]
async fn a_stream_is_answered_as_recorded() {
    let system = Plan::of(1, 1).start().await;
    let recording = testkit::recording::text("hybrid-13");
    let mut client = Client::connect(system.connectors[0].address()).await;
    let mut steps = 0;
    // The second part sends a wrong type, the third the handshake byte by byte: they have tests of their own.
    let first_part = recording.split("###").next().expect("a first part");
    for line in first_part.lines() {
        if let Some(hex) = line.strip_prefix("C->S ") {
            client.write(&unhex(hex)).await;
        } else if let Some(hex) = line.strip_prefix("S->C ") {
            let recorded = Bytes::from(unhex(hex));
            let mut recorded = pomelo::packages(&recorded).expect("whole packages");
            let mut packages = client.packages(recorded.len()).await;
            for package in &mut recorded {
                *package = testkit::recording::expected(package);
            }
            recorded.sort();
            packages.sort();
            assert_eq!(packages, recorded);
            steps += 1;
        }
    }
    assert_eq!(steps, 5);
}

fn unhex(text: &str) -> Vec<u8> {
    let bytes = text.split_whitespace();
    bytes
        .map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"))
        .collect()
}

#[tokio::test]
async fn bytes_that_are_no_package_end_the_connection() {
    let system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    for bytes in [&[9, 0, 0, 0][..], &[0], &[5, 0, 0, 0]] {
        let mut client = Client::connect(address).await;
        client.write(bytes).await;
        assert_eq!(client.package().await, None, "{bytes:?}");
    }
}

/// So its library can tell the user, instead of sending the same message again and again.
#[tokio::test]
async fn a_client_that_sends_too_much_is_kicked_and_told_the_limit() {
    let system = Plan::of(1, 1).start().await;
    let mut client = Client::connect(system.connectors[0].address()).await;
    client.write(&conversation()).await;
    client.packages(ANSWERS).await;
    client.write(&[DATA, 2, 0, 1]).await;
    let kick = client.package().await.expect("a KICK");
    let told = pomelo::package(pomelo::KICK, br#"{"reason":"too-big","limit":131072}"#);
    assert_eq!(&kick[..], told);
    assert_eq!(client.package().await, None);
}

/// A request that was carried out is answered, whatever follows it: here a byte that begins no package, or the end.
#[tokio::test]
async fn requests_are_answered_before_the_stream_ends() {
    let system = Plan::of(1, 1).login_policy("allow").start().await;
    for end in [&[9][..], &[]] {
        let mut client = Client::connect(system.connectors[0].address()).await;
        client.write(&[&conversation(), end].concat()).await;
        if end.is_empty() {
            client.socket.shutdown().await.expect("a socket");
        }
        let mut answered = 0;
        while let Some(package) = client.package().await {
            // A response has the flag 4.
            answered += usize::from(package[0] == DATA && package[4] == 4);
        }
        assert_eq!(answered, 2, "login and send, before {end:?}");
    }
}

#[tokio::test]
async fn a_client_that_sends_nothing_or_half_a_package_is_dropped() {
    let plan = Plan::of(1, 1).connector_flags(&["--handshake-timeout", "300ms"]);
    let system = plan.start().await;
    for bytes in [&[][..], &[1, 0, 0]] {
        let mut client = Client::connect(system.connectors[0].address()).await;
        client.write(bytes).await;
        assert_eq!(client.package().await, None, "{bytes:?}");
    }
}

/// Native clients take a KICK as final and never connect again. So when a connector stops, the stream just ends, as
/// with the original.
#[tokio::test]
async fn a_client_on_a_stream_sees_a_stop_as_the_end_of_the_stream() {
    let mut system = Plan::of(1, 1).start().await;
    let mut client = Client::connect(system.connectors[0].address()).await;
    client.write(&conversation()).await;
    client.packages(ANSWERS).await;
    let connector = &mut system.connectors[0];
    connector.terminate();
    assert_eq!(client.package().await, None);
    drop(client);
    let status = connector.ended_within(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
}
