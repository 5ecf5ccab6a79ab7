//! The bystanders: one idle member of a room for each protocol. They only stay connected.

use crate::polling::Poller;
use crate::pomelo::{
    DATA, HANDSHAKE, HANDSHAKE_ACK, HEARTBEAT, HELLO, KICK, LOGIN, login_body, package, request,
};
use crate::socket_io;
use crate::websocket::{self, BINARY, CLOSE, PING, PONG, Reader, TEXT, Terms, Writer};
use crate::{SOON, wait};
use bytes::BytesMut;
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::interval;

/// The room of the bystanders.
pub const ROOM: &str = "bystanders";

/// The interval of their heartbeats. It is short enough for every heartbeat that a test configures.
const BEAT: Duration = Duration::from_millis(400);

/// Their names, which say what they speak.
const NAMES: [&str; 5] = ["json", "pomelo", "tcp", "socketio", "poller"];

#[derive(Default)]
struct Notes {
    /// All that has been received, one message after the other.
    heard: BytesMut,
    ended: Option<String>,
}

type Shared = Arc<Mutex<Notes>>;

/// Bystanders that are logged in.
pub struct Bystanders {
    notes: Vec<(&'static str, Shared)>,
    _tasks: JoinSet<()>,
}

impl Bystanders {
    /// Connects and logs in all of them.
    ///
    /// # Panics
    /// If one can't log in.
    pub async fn gather(connector: SocketAddr) -> Self {
        let mut tasks = JoinSet::new();
        let mut notes = Vec::new();
        for name in NAMES {
            let shared = Shared::default();
            notes.push((name, Arc::clone(&shared)));
            tasks.spawn(async move {
                let ended = stay(name, connector, &shared).await;
                let why = ended
                    .err()
                    .map_or_else(|| "the end".to_owned(), |e| e.to_string());
                lock(&shared).ended = Some(why);
            });
        }
        let bystanders = Self {
            notes,
            _tasks: tasks,
        };
        let missing = bystanders.without("onJoin", SOON).await;
        assert!(missing.is_empty(), "not logged in: {missing:?}");
        bystanders
    }

    /// Waits until all bystanders have received this text. Returns those that have not received it in time, or are
    /// disconnected.
    pub async fn without(&self, what: &str, within: Duration) -> Vec<String> {
        let missing = || {
            let notes = self.notes.iter().filter_map(|(name, notes)| {
                let notes = lock(notes);
                let is_there = contains(&notes.heard, what.as_bytes()) && notes.ended.is_none();
                (!is_there).then(|| format!("{name} ({:?})", notes.ended))
            });
            notes.collect::<Vec<_>>()
        };
        let _ = wait::within(within, async || missing().is_empty().then_some(())).await;
        missing()
    }

    /// The bystanders that are disconnected, and how that happened.
    #[must_use]
    pub fn ended(&self) -> Vec<String> {
        let notes = self.notes.iter().filter_map(|(name, notes)| {
            let ended = lock(notes).ended.clone()?;
            Some(format!("{name}: {ended}"))
        });
        notes.collect()
    }

    /// How many onLeave of other bystanders they have received.
    #[must_use]
    pub fn leaves_told(&self) -> usize {
        let told = self.notes.iter().map(|(_, notes)| {
            let notes = lock(notes);
            let windows = notes.heard.windows(b"onLeave".len());
            windows.filter(|window| *window == b"onLeave").count()
        });
        told.sum()
    }

    /// The members that must be listed, each with one session, sorted by name.
    #[must_use]
    pub fn members() -> Vec<(String, u32)> {
        let mut names = NAMES.map(|name| (name.to_owned(), 1));
        names.sort();
        names.to_vec()
    }
}

fn lock(notes: &Shared) -> std::sync::MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

async fn stay(name: &str, connector: SocketAddr, notes: &Shared) -> io::Result<()> {
    match name {
        "json" => {
            let socket = websocket::connect(connector, "/ws", Terms::default()).await?;
            let login =
                json!({ "id": 1, "route": LOGIN, "body": { "userId": name, "lessonId": ROOM } });
            over_websocket(
                socket,
                vec![(TEXT, login.to_string().into_bytes())],
                None,
                notes,
            )
            .await
        }
        "pomelo" => {
            let socket = websocket::connect(connector, "/", Terms::default()).await?;
            let said = pomelo_login(name).map(|package| (BINARY, package));
            let beat = (BINARY, package(HEARTBEAT, &[]));
            over_websocket(socket, said.to_vec(), Some(beat), notes).await
        }
        "tcp" => over_tcp(connector, name, notes).await,
        "socketio" => {
            let path = "/socket.io/?EIO=4&transport=websocket";
            let socket = websocket::connect(connector, path, Terms::default()).await?;
            let said = [b"40".to_vec(), event_login(name).into_bytes()];
            let said = said.map(|packet| (TEXT, packet));
            over_websocket(socket, said.to_vec(), None, notes).await
        }
        _ => over_polls(connector, name, notes).await,
    }
}

fn pomelo_login(name: &str) -> [Vec<u8>; 3] {
    [
        package(HANDSHAKE, HELLO.as_bytes()),
        package(HANDSHAKE_ACK, &[]),
        package(DATA, &request(1, LOGIN, login_body(name, ROOM).as_bytes())),
    ]
}

fn event_login(name: &str) -> String {
    socket_io::request(1, LOGIN, &json!({ "userId": name, "lessonId": ROOM }))
}

async fn over_websocket(
    (mut writer, mut reader): (Writer, Reader),
    said: Vec<(u8, Vec<u8>)>,
    beat: Option<(u8, Vec<u8>)>,
    notes: &Shared,
) -> io::Result<()> {
    for (opcode, payload) in said {
        writer.frame(opcode, &payload).await?;
    }
    let mut beats = interval(BEAT);
    loop {
        // If a heartbeat cancels the read, the reader keeps what it has read.
        let frame = tokio::select! {
            frame = reader.frame() => frame?.ok_or(io::ErrorKind::UnexpectedEof)?,
            _ = beats.tick(), if beat.is_some() => {
                if let Some((opcode, payload)) = &beat {
                    writer.frame(*opcode, payload).await?;
                }
                continue;
            }
        };
        match frame.opcode {
            PING => writer.frame(PONG, &frame.payload).await?,
            PONG => {}
            CLOSE => return Err(io::Error::other(format!("{:?}", frame.close()))),
            _ if frame.payload.first() == Some(&KICK) => {
                return Err(io::Error::other("kicked"));
            }
            _ if &frame.payload[..] == b"2" => writer.frame(TEXT, b"3").await?,
            _ if is_farewell(&frame.payload) => {
                return Err(io::Error::other("the session was ended"));
            }
            _ => lock(notes).heard.extend_from_slice(&frame.payload),
        }
    }
}

/// Packets of Engine.IO and Socket.IO that end a session.
fn is_farewell(packet: &[u8]) -> bool {
    matches!(packet, b"1" | b"41")
}

async fn over_tcp(connector: SocketAddr, name: &str, notes: &Shared) -> io::Result<()> {
    let mut stream = TcpStream::connect(connector).await?;
    stream.write_all(&pomelo_login(name).concat()).await?;
    let mut beats = interval(BEAT);
    let mut bytes = BytesMut::new();
    loop {
        bytes.clear();
        tokio::select! {
            read = stream.read_buf(&mut bytes) => {
                if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                lock(notes).heard.extend_from_slice(&bytes);
            }
            _ = beats.tick() => stream.write_all(&package(HEARTBEAT, &[])).await?,
        }
    }
}

async fn over_polls(connector: SocketAddr, name: &str, notes: &Shared) -> io::Result<()> {
    let mut poller = Poller::open(connector, 4).await?;
    poller.post(&[&event_login(name)]).await?;
    loop {
        let (status, body) = poller.poll().await?;
        if status != 200 {
            return Err(io::Error::other(format!(
                "a poll was answered {status}: {body}"
            )));
        }
        for packet in body.split('\u{1e}') {
            match packet {
                "2" => {
                    poller.post(&["3"]).await?;
                }
                packet if is_farewell(packet.as_bytes()) => {
                    return Err(io::Error::other("the session was ended"));
                }
                packet => lock(notes).heard.extend_from_slice(packet.as_bytes()),
            }
        }
    }
}
