//! Attacks on chat's port with HTTP/2 frames that are written by hand (RFC 9113).

use super::histories::HEAVY;
use crate::impact::load::{Attack, Target};
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

/// Calls on one connection whose answers are never read.
const UNREAD_CALLS: u32 = 100;
/// Connections with such calls.
const UNREAD_CONNECTIONS: usize = 3;
const UNREAD_CALLS_AT_ONCE: u32 = 4;
/// Acknowledgements in one write, of pings that nobody sent.
const PINGS: usize = 1_000;
/// Writes with such acknowledgements.
const PING_WRITES: usize = 100;
/// Connections that send nothing, or only half of the preface.
const SILENT: usize = 256;
/// Calls without a body, or streams without a message, on one connection.
const OPEN_CALLS: u32 = 520;
/// Connections with such calls.
const OPEN_CONNECTIONS: usize = 2;
/// Calls that begin at the same time, before a pause. All at once they would be a burst, and the test would measure the
/// burst instead of what open calls cost.
const CALLS_AT_ONCE: u32 = 20;
const PACE: Duration = Duration::from_millis(10);

/// What the attackers do on chat's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http2 {
    /// They ask for pages of history with a window of zero.
    UnreadPages,
    /// They acknowledge pings that were not sent.
    Pings,
    /// They connect, and send nothing or half of the preface.
    Silent,
    /// They begin calls and send no body.
    Bodiless,
    /// They open streams of sends and send nothing.
    IdleStreams,
    /// All of this at the same time.
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

/// Opens a connection. This is how much chat may send on each stream before the client reads.
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

/// The headers of a call, each as a literal without indexing (RFC 7541, section 6.2.2).
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
            // All of them are short enough for a length of one byte.
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

/// Throws away what comes, window updates too, until the server closes the connection.
async fn until_cut_off(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    while stream.read(&mut bytes).await? > 0 {}
    Err(io::ErrorKind::UnexpectedEof.into())
}
