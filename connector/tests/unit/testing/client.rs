//! The client's end of a socket. It has a parser of its own for what the connector writes.

use crate::limits::QueueLimits;
use crate::transport::Connection;
use serde_json::Value;
use socket2::SockRef;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use wire::WireFormat;

/// A message that a client gets.
#[derive(Debug, PartialEq)]
pub(crate) enum Told {
    Push {
        route: String,
        body: Value,
    },
    Reply {
        id: u64,
        body: Value,
    },
    Kick(Value),
    Close {
        code: u16,
        reason: String,
    },
    /// The end of the socket.
    End,
}

/// Epoch, offset and reason of an `onPosition`.
pub(crate) type Moved = (String, u64, String);

pub(crate) struct Client {
    stream: TcpStream,
    format: WireFormat,
    unread: Vec<u8>,
    /// The `onPosition` pushes that came. They are not publications of the channel.
    pub(crate) moved: Vec<Moved>,
    /// Kept open, as the task of a real connection keeps it.
    _server: OwnedReadHalf,
}

pub(crate) async fn connect(
    format: WireFormat,
    limits: &Arc<QueueLimits>,
) -> (Arc<Connection>, Client) {
    let (writer, client) = socket(format).await;
    let connection = Connection::new(writer, format, Arc::clone(limits));
    (connection, client)
}

/// A socket: the connector's end and the client's.
pub(crate) async fn socket(format: WireFormat) -> (OwnedWriteHalf, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (reader, writer) = accepted.unwrap().0.into_split();
    // Tokio does not know that the socket is writable before it has waited for that once.
    writer.writable().await.unwrap();
    let stream = stream.unwrap();
    // A dropped socket must be gone at once. Thousands that linger would use up the machine's ports.
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    let client = Client {
        stream,
        format,
        unread: Vec::new(),
        moved: Vec::new(),
        _server: reader,
    };
    (writer, client)
}

/// Limits that no test reaches by chance.
pub(crate) fn limits() -> Arc<QueueLimits> {
    QueueLimits::new(64 << 20, 512 << 20)
}

/// A client with ordinary limits.
pub(crate) async fn client(format: WireFormat) -> (Arc<Connection>, Client) {
    connect(format, &limits()).await
}

impl Client {
    /// The opcode and the payload of the next frame; `None` at the end of the socket.
    pub(crate) async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((opcode, start, end)) = frame_in(&self.unread) {
                let payload = self.unread[start..end].to_vec();
                self.unread.drain(..end);
                return Some((opcode, payload));
            }
            let read = self.stream.read_buf(&mut self.unread).await;
            if read.unwrap_or(0) == 0 {
                assert!(self.unread.is_empty(), "half a frame at the end");
                return None;
            }
        }
    }

    /// The next message. An `onPosition` is kept in `moved` and skipped.
    pub(crate) async fn next(&mut self) -> Told {
        loop {
            match self.next_of_all().await {
                Told::Push { route, body } if route == "onPosition" => {
                    self.moved.push(moved_by(&body));
                }
                told => return told,
            }
        }
    }

    async fn next_of_all(&mut self) -> Told {
        let Some((opcode, payload)) = super::soon(self.frame()).await else {
            return Told::End;
        };
        match (opcode, self.format) {
            (8, _) => Told::Close {
                code: u16::from_be_bytes([payload[0], payload[1]]),
                reason: String::from_utf8(payload[2..].to_vec()).unwrap(),
            },
            (2, WireFormat::POMELO) => of_pomelo(&payload),
            (2, WireFormat::POMELO_POSITIONS) => match of_pomelo(&payload) {
                Told::Push { route, body } if route == "onKick" => Told::Kick(body),
                Told::Push { route, mut body } => {
                    assert_eq!(body["channel"], "room");
                    let body = body["body"].take();
                    Told::Push { route, body }
                }
                told => told,
            },
            (1, WireFormat::JSON) => of_json(&payload),
            _ => panic!("opcode {opcode}"),
        }
    }

    /// Waits for an `onPosition`.
    pub(crate) async fn next_moved(&mut self) -> Moved {
        match self.next_of_all().await {
            Told::Push { route, body } if route == "onPosition" => moved_by(&body),
            other => panic!("this is not an onPosition: {other:?}"),
        }
    }

    /// All positions until the end of the socket, in order: that of each push, and that of each `onPosition` with its
    /// reason.
    pub(crate) async fn history(&mut self) -> Vec<(String, u64, Option<String>)> {
        let mut history = Vec::new();
        loop {
            match self.next_of_all().await {
                Told::Push { route, body } if route == "onPosition" => {
                    let (epoch, offset, reason) = moved_by(&body);
                    history.push((epoch, offset, Some(reason)));
                }
                Told::Push { body, .. } => {
                    let (epoch, offset) = position_of(&body);
                    history.push((epoch, offset, None));
                }
                Told::Reply { .. } | Told::Kick(_) | Told::Close { .. } => {}
                Told::End => return history,
            }
        }
    }

    /// The epoch and the offset of the next push.
    pub(crate) async fn position(&mut self) -> (String, u64) {
        match self.next().await {
            Told::Push { body, .. } => position_of(&body),
            other => panic!("this is not a push: {other:?}"),
        }
    }

    /// The offsets of the next `count` pushes.
    pub(crate) async fn offsets(&mut self, count: usize) -> Vec<u64> {
        let mut offsets = Vec::new();
        while offsets.len() < count {
            offsets.push(self.position().await.1);
        }
        offsets
    }

    /// Everything until the end of the socket: the positions of the pushes, and the code of the close frame.
    pub(crate) async fn rest(&mut self) -> (Vec<(String, u64)>, Option<u16>) {
        let mut positions = Vec::new();
        let mut code = None;
        loop {
            match self.next().await {
                Told::Push { body, .. } => positions.push(position_of(&body)),
                Told::Close { code: reason, .. } => code = Some(reason),
                Told::Reply { .. } | Told::Kick(_) => {}
                Told::End => return (positions, code),
            }
        }
    }

    /// True if nothing has arrived that was not read. Does not wait.
    pub(crate) fn has_nothing(&mut self) -> bool {
        let mut byte = [0];
        let read = self.stream.try_read(&mut byte);
        self.unread.is_empty()
            && read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

fn moved_by(body: &Value) -> Moved {
    (
        body["epoch"].as_str().unwrap().to_owned(),
        body["offset"].as_u64().unwrap(),
        body["reason"].as_str().unwrap().to_owned(),
    )
}

fn position_of(body: &Value) -> (String, u64) {
    (
        body["e"].as_str().unwrap().to_owned(),
        body["o"].as_u64().unwrap(),
    )
}

/// The opcode, and where the payload starts and ends, once the first frame is complete.
pub(crate) fn frame_in(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(first & 0xf0, 0x80, "whole messages only");
    let (start, length) = match second {
        126 => (
            4,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap())),
        ),
        127 => {
            let length = u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap());
            (10, usize::try_from(length).unwrap())
        }
        length => (2, usize::from(length)),
    };
    (bytes.len() >= start + length).then_some((first & 0x0f, start, start + length))
}

pub(crate) fn of_json(payload: &[u8]) -> Told {
    let mut message: Value = serde_json::from_slice(payload).unwrap();
    let body = message["body"].take();
    match (message["id"].as_u64(), message["route"].as_str()) {
        (Some(id), None) => Told::Reply { id, body },
        (None, Some("onKick")) => Told::Kick(body),
        (None, Some(route)) => Told::Push {
            route: route.to_owned(),
            body,
        },
        _ => panic!("{message}"),
    }
}

fn of_pomelo(package: &[u8]) -> Told {
    let json = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
    match package[0] {
        5 => Told::Kick(json(&package[4..])),
        4 if package[4] == 3 << 1 => {
            let end = 6 + usize::from(package[5]);
            Told::Push {
                route: String::from_utf8(package[6..end].to_vec()).unwrap(),
                body: json(&package[end..]),
            }
        }
        // An id below 128 takes one byte.
        4 if package[4] == 2 << 1 => Told::Reply {
            id: package[5].into(),
            body: json(&package[6..]),
        },
        kind => panic!("package {kind}"),
    }
}
