//! HTTP/2 by hand, frame by frame (RFC 9113), against chat's port.

use super::histories::HEAVY;
use crate::beside::load::{Attack, Target};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Calls whose answers nobody takes, on so many connections.
const UNREAD_CALLS: u32 = 100;
const UNREAD_CONNECTIONS: usize = 3;
const UNREAD_CALLS_AT_ONCE: u32 = 4;
/// Acknowledgements of pings that were not sent: so many at once, and so many times.
const PINGS: usize = 1_000;
const PING_WRITES: usize = 100;
/// Connections that say nothing.
const SILENT: usize = 256;
/// Calls without a body, and streams without a message, on each of so many connections.
const OPEN_CALLS: u32 = 520;
const OPEN_CONNECTIONS: usize = 2;
/// So many of them at once, and the pause between: a burst would be measured instead of the places that they take.
const CALLS_AT_ONCE: u32 = 20;
const PACE: Duration = Duration::from_millis(10);

/// What an attacker does on chat's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http2 {
    /// Asks for pages of history with a window of zero.
    UnreadPages,
    /// Acknowledges pings that were not sent.
    Pings,
    /// Connects, and says nothing or the preface alone.
    Silent,
    /// Begins calls and sends no body.
    Bodiless,
    /// Opens streams of sends and sends nothing.
    IdleStreams,
    /// All of it at once.
    Everything,
}

impl Attack for Http2 {
    async fn run(self, target: Target) {
        let mut connections = JoinSet::new();
        let does = |kind| self == kind || self == Self::Everything;
        if does(Self::UnreadPages) {
            for _ in 0..UNREAD_CONNECTIONS {
                connections.spawn(counted(target.clone(), ask_and_never_read(target.chat)));
            }
        }
        if does(Self::Pings) {
            connections.spawn(counted(target.clone(), acknowledge(target.chat)));
        }
        if does(Self::Silent) {
            for number in 0..SILENT {
                connections.spawn(counted(target.clone(), say_nothing(target.chat, number)));
            }
        }
        for (kind, path) in [
            (Self::Bodiless, "ListMembers"),
            (Self::IdleStreams, "SendStream"),
        ] {
            if does(kind) {
                for _ in 0..OPEN_CONNECTIONS {
                    connections.spawn(counted(target.clone(), begin(target.chat, path)));
                }
            }
        }
        connections.join_all().await;
    }
}

async fn counted(target: Target, attack: impl Future<Output = io::Result<()>>) {
    target.tally.count("connections");
    if attack.await.is_err() {
        target.tally.count("attackers cut off");
    }
}

/// A connection whose peer's stream window is this; everything that comes is thrown away.
async fn connect(chat: SocketAddr, window: u32) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(chat).await?;
    let mut begin = PREFACE.to_vec();
    let mut settings = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    settings.extend(window.to_be_bytes());
    frame(&mut begin, SETTINGS, 0, 0, &settings);
    frame(&mut begin, SETTINGS, ACK, 0, &[]);
    stream.write_all(&begin).await?;
    Ok(stream)
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or_default();
    out.extend(&length.to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

/// The headers of a call, each a literal that nobody indexes (RFC 7541, section 6.2.2).
fn headers(method: &str) -> Vec<u8> {
    let path = format!("/chat.v1.ChatService/{method}");
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            // All of them are shorter than what takes a second byte.
            block.push(u8::try_from(text.len()).unwrap_or_default());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// `HistoryRequest { channel, page_size: 1000 }` as gRPC frames it.
fn history() -> Vec<u8> {
    let mut message = vec![0x0a, u8::try_from(HEAVY.len()).unwrap_or_default()];
    message.extend(HEAVY.as_bytes());
    message.extend([0x20, 0xe8, 0x07]);
    let mut body = vec![0];
    body.extend(
        u32::try_from(message.len())
            .unwrap_or_default()
            .to_be_bytes(),
    );
    body.extend(message);
    body
}

async fn ask_and_never_read(chat: SocketAddr) -> io::Result<()> {
    let mut stream = connect(chat, 0).await?;
    let mut pace = interval(PACE);
    for call in 0..UNREAD_CALLS {
        if call % UNREAD_CALLS_AT_ONCE == 0 {
            pace.tick().await;
        }
        let id = 2 * call + 1;
        let mut begun = Vec::new();
        frame(&mut begun, HEADERS, END_HEADERS, id, &headers("History"));
        frame(&mut begun, DATA, END_STREAM, id, &history());
        stream.write_all(&begun).await?;
    }
    until_cut_off(stream).await
}

async fn acknowledge(chat: SocketAddr) -> io::Result<()> {
    let mut pings = Vec::new();
    for _ in 0..PINGS {
        frame(&mut pings, PING, ACK, 0, &[7; 8]);
    }
    let mut stream = connect(chat, 65_535).await?;
    let mut pace = interval(PACE);
    for _ in 0..PING_WRITES {
        pace.tick().await;
        stream.write_all(&pings).await?;
    }
    until_cut_off(stream).await
}

async fn say_nothing(chat: SocketAddr, number: usize) -> io::Result<()> {
    let turn = u32::try_from(number).unwrap_or_default();
    sleep(PACE / 10 * turn).await;
    let mut stream = TcpStream::connect(chat).await?;
    if number % 2 == 1 {
        stream.write_all(&PREFACE[..12]).await?;
    }
    until_cut_off(stream).await
}

async fn begin(chat: SocketAddr, method: &str) -> io::Result<()> {
    let mut stream = connect(chat, 65_535).await?;
    let mut pace = interval(PACE);
    for call in 0..OPEN_CALLS {
        if call % CALLS_AT_ONCE == 0 {
            pace.tick().await;
        }
        let mut begun = Vec::new();
        frame(
            &mut begun,
            HEADERS,
            END_HEADERS,
            2 * call + 1,
            &headers(method),
        );
        stream.write_all(&begun).await?;
    }
    until_cut_off(stream).await
}

/// Throws away what comes, windows and all, until the server has had enough.
async fn until_cut_off(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    while stream.read(&mut bytes).await? > 0 {}
    Err(io::ErrorKind::UnexpectedEof.into())
}
