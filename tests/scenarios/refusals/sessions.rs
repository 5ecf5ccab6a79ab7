//! One client for each protocol, with the same questions.

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use std::net::SocketAddr;
use testkit::SOON;
use testkit::link::Link;
use testkit::pace::timeout;
use testkit::polling::Poller;
use testkit::pomelo::{self, DATA, HANDSHAKE, HANDSHAKE_ACK, HELLO, LOGIN, Message};
use testkit::socket_io::{self, Packets};
use testkit::sse::{self, Ask, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How a client reaches a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Json,
    Pomelo,
    PomeloOverTcp,
    SocketIo,
    Sse,
    Polls,
}

impl Way {
    pub(super) const ALL: [Self; 6] = [
        Self::Json,
        Self::Pomelo,
        Self::PomeloOverTcp,
        Self::SocketIo,
        Self::Sse,
        // Last, because sessions that poll stay for a while.
        Self::Polls,
    ];
}

/// A connection that has no user yet.
pub(super) enum Session {
    Json(testkit::json::Client),
    Pomelo(pomelo::Client),
    PomeloOverTcp(Box<Tcp>),
    SocketIo(Link<Packets>, u32),
    Sse(SocketAddr, Option<Stream>),
    Polls(Box<Poller>, u32),
}

impl Session {
    pub(super) async fn open(way: Way, address: SocketAddr) -> Self {
        let path = "/socket.io/?EIO=3&transport=websocket";
        match way {
            Way::Json => Self::Json(testkit::json::Client::connect(address).await),
            Way::Pomelo => Self::Pomelo(pomelo::Client::connect(address).await),
            Way::PomeloOverTcp => Self::PomeloOverTcp(Box::new(Tcp::connect(address).await)),
            Way::SocketIo => Self::SocketIo(socket_io::connect(address, path).await, 0),
            Way::Sse => Self::Sse(address, None),
            Way::Polls => {
                let poller = Poller::open(address, 3).await.expect("it may poll");
                Self::Polls(Box::new(poller), 0)
            }
        }
    }

    /// The answer to a request.
    pub(super) async fn ask(&mut self, route: &str, body: &Value) -> Value {
        let text = match self {
            Self::Json(client) => return client.request(route, body.clone()).await,
            Self::Pomelo(client) => client.request(route, &body.to_string()).await,
            Self::PomeloOverTcp(client) => client.ask(route, body).await,
            Self::SocketIo(link, last) => {
                *last += 1;
                let id = *last;
                socket_io::say(link, &socket_io::request(id, route, body)).await;
                let came = link.inbox().until(SOON, |record| {
                    let packets = record.packets.iter();
                    let messages = packets.filter(|it| it.starts_with("42"));
                    let mut messages = messages.map(|it| socket_io::message(it));
                    messages.find(|it| it["id"] == id)
                });
                let message = came.await.expect("an answer in time");
                return message["body"].clone();
            }
            Self::Sse(address, stream) if route == LOGIN => {
                let opened = Stream::open(*address, Ask::of(query(body))).await;
                if opened.status() == 200 {
                    opened.until("onSession").await;
                    *stream = Some(opened);
                    return json!({"code": 0});
                }
                opened.end(SOON).await;
                opened.inbox().read().body.clone()
            }
            Self::Sse(address, stream) => {
                let session = stream.as_ref().map_or_else(String::new, Stream::session);
                let request = json!({"id": 1, "route": route, "body": body});
                let (status, answer) = sse::post(*address, &session, &request).await;
                if stream.is_none() {
                    // Who is not logged in has no session to which a request could go.
                    assert_eq!(
                        (status, &answer["reason"]),
                        (404, &json!("UNKNOWN_SESSION"))
                    );
                    return json!({"code": 1, "reason": "NOT_LOGGED_IN"});
                }
                assert_eq!(status, 200, "{answer}");
                return answer["body"].clone();
            }
            Self::Polls(poller, last) => {
                *last += 1;
                let packet = socket_io::request(*last, route, body);
                poller.post(&[&packet]).await.expect("it may post");
                return polled(poller, *last).await;
            }
        };
        serde_json::from_str(&text).expect("JSON")
    }
}

/// The query that asks for what is the body of a login elsewhere.
fn query(login: &Value) -> String {
    let names = [
        ("token", "token"),
        ("userId", "userId"),
        ("lessonId", "channel"),
    ];
    let given = names.iter().filter_map(|(field, name)| {
        let value = login[field].as_str()?;
        let plain = |byte: u8| match byte {
            byte if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        };
        let value: String = value.bytes().map(plain).collect();
        Some(format!("{name}={value}"))
    });
    given.collect::<Vec<_>>().join("&")
}

/// Polls until the answer to this request has come.
async fn polled(poller: &mut Poller, id: u32) -> Value {
    let polling = async {
        loop {
            let (_, body) = poller.poll().await.expect("it may poll");
            // Each packet of version 3 has its length before it, and a colon.
            let mut rest = body.as_str();
            while let Some((length, after)) = rest.split_once(':') {
                let length: usize = length.parse().expect("a length");
                let end = after.char_indices().nth(length);
                let (packet, next) = after.split_at(end.map_or(after.len(), |(at, _)| at));
                rest = next;
                if packet.starts_with("42") {
                    let message = socket_io::message(packet);
                    if message["id"] == id {
                        return message["body"].clone();
                    }
                }
            }
        }
    };
    timeout(SOON, polling).await.expect("an answer in time")
}

/// A client of Pomelo without WebSocket.
pub(super) struct Tcp {
    socket: TcpStream,
    received: BytesMut,
    last: u64,
}

impl Tcp {
    async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("a connector");
        let mut this = Self {
            socket,
            received: BytesMut::new(),
            last: 0,
        };
        this.write(&pomelo::package(HANDSHAKE, HELLO.as_bytes()))
            .await;
        this.package().await;
        this.write(&pomelo::package(HANDSHAKE_ACK, b"")).await;
        this
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("written");
    }

    /// The same, if the other side has not closed already.
    pub(super) async fn try_write(&mut self, bytes: &[u8]) {
        drop(self.socket.write_all(bytes).await);
    }

    /// Waits for the end of the connection.
    pub(super) async fn until_end(&mut self) {
        let ending =
            async { while matches!(self.socket.read_buf(&mut self.received).await, Ok(1..)) {} };
        timeout(SOON, ending).await.expect("it ends in time");
    }

    /// The next package without its head.
    async fn package(&mut self) -> Bytes {
        loop {
            if let Some(&[_, a, b, c]) = self.received.first_chunk() {
                let length = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
                if self.received.len() >= length {
                    return self.received.split_to(length).freeze().slice(4..);
                }
            }
            let read = timeout(SOON, self.socket.read_buf(&mut self.received)).await;
            let read = read.expect("the connector answers in time").expect("bytes");
            assert!(read > 0, "the connection goes on");
        }
    }

    async fn ask(&mut self, route: &str, body: &Value) -> String {
        self.last += 1;
        let request = pomelo::request(self.last, route, body.to_string().as_bytes());
        self.write(&pomelo::package(DATA, &request)).await;
        loop {
            let package = self.package().await;
            // A heartbeat has no content.
            if package.is_empty() {
                continue;
            }
            match Message::parse(&package).expect("a message") {
                Message::Response { id, body } if id == self.last => {
                    return String::from_utf8(body.to_vec()).expect("text");
                }
                _ => {}
            }
        }
    }
}
