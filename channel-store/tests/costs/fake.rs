//! A Redis without a database: it takes commands, and gives answers that were written down before.
//!
//! It knows just enough for a client that connects, loads its scripts, calls `publish.lua`, and subscribes to topics. It does
//! as little as possible for a command, because its instructions are counted with those of the client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use testkit::resp::frame_length;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The epoch that all answers and pushes name.
pub(crate) const EPOCH: &str = "7f3a";

/// The arguments of `publish.lua` before those of the messages, and the arguments of each message.
const BEFORE_MESSAGES: usize = 6;
const OF_EACH: usize = 3;

/// What the servers of all connections have in common.
#[derive(Default)]
struct State {
    /// The last offset that was given to a publication. Without a database, all channels share it.
    offset: u64,
    /// The ways to the connections that have subscribed to a topic.
    topics: HashMap<Vec<u8>, UnboundedSender<Vec<u8>>>,
}

/// A Redis that answers on a port of this process.
#[derive(Clone)]
pub(crate) struct FakeRedis {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl FakeRedis {
    /// Begins to listen.
    pub(crate) async fn begin() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let this = Self {
            address: listener.local_addr().expect("an address"),
            state: Arc::default(),
        };
        let state = this.state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, state.clone()));
            }
        });
        this
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Sends bytes over the connection that has subscribed to a topic which ends like this. False: there is none yet.
    pub(crate) fn push(&self, end_of_topic: &[u8], bytes: Vec<u8>) -> bool {
        let state = self.state.lock().expect("no panic before");
        let mut topics = state.topics.iter();
        let topic = topics.find(|(topic, _)| topic.ends_with(end_of_topic));
        topic.is_some_and(|(_, connection)| connection.send(bytes).is_ok())
    }

    /// The topic that ends like this.
    pub(crate) fn topic(&self, end: &[u8]) -> Option<Vec<u8>> {
        let state = self.state.lock().expect("no panic before");
        state.topics.keys().find(|it| it.ends_with(end)).cloned()
    }
}

/// A push of RESP3 that brings a message of a topic.
pub(crate) fn message(topic: &[u8], content: &[u8]) -> Vec<u8> {
    let mut push = Vec::new();
    push.extend_from_slice(b">3\r\n$7\r\nmessage\r\n");
    for part in [topic, content] {
        push.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        push.extend_from_slice(part);
        push.extend_from_slice(b"\r\n");
    }
    push
}

/// Serves one connection until it ends.
async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let _ = stream.set_nodelay(true);
    let (to_connection, mut pushes): (_, UnboundedReceiver<Vec<u8>>) = unbounded_channel();
    let (mut bytes, mut answers) = (Vec::with_capacity(64 << 10), Vec::new());
    loop {
        tokio::select! {
            read = stream.read_buf(&mut bytes) => if !matches!(read, Ok(1..)) { return },
            Some(push) = pushes.recv() => answers.extend_from_slice(&push),
        }
        let mut begin = 0;
        while let Some(length) = frame_length_if_any(&bytes[begin..]) {
            let command = parts(&bytes[begin..begin + length]);
            answer(&command, &state, &to_connection, &mut answers);
            begin += length;
        }
        bytes.drain(..begin);
        if stream.write_all(&answers).await.is_err() {
            return;
        }
        answers.clear();
    }
}

fn frame_length_if_any(bytes: &[u8]) -> Option<usize> {
    (!bytes.is_empty()).then(|| frame_length(bytes)).flatten()
}

/// The parts of a command: an array of bulk strings.
fn parts(frame: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::with_capacity(48);
    let mut rest = frame;
    while let Some(line) = rest.iter().position(|byte| *byte == b'\n') {
        let (head, content) = rest.split_at(line + 1);
        rest = content;
        if head[0] == b'$' {
            let length = number(&head[1..]);
            parts.push(&content[..length]);
            rest = &content[length + 2..];
        }
    }
    parts
}

/// The number with which these bytes begin.
fn number(bytes: &[u8]) -> usize {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| 10 * number + usize::from(digit - b'0'))
}

/// Appends the answer to a command.
fn answer(
    command: &[&[u8]],
    state: &Mutex<State>,
    connection: &UnboundedSender<Vec<u8>>,
    answers: &mut Vec<u8>,
) {
    let bulk = |answers: &mut Vec<u8>, text: &str| {
        answers.extend_from_slice(format!("${}\r\n{text}\r\n", text.len()).as_bytes());
    };
    match command[0] {
        b"EVALSHA" => {
            let mut state = state.lock().expect("no panic before");
            let arguments = command.len() - 3 - number(command[2]);
            // Calls of other scripts have fewer arguments, and nobody reads the answers.
            let messages = arguments.saturating_sub(BEFORE_MESSAGES) / OF_EACH;
            answers.extend_from_slice(format!("*{}\r\n", 2 + messages).as_bytes());
            bulk(answers, EPOCH);
            answers.extend_from_slice(b":1\r\n");
            for _ in 0..messages {
                // The first one is not 1, because that would begin a channel's life.
                state.offset += 1;
                answers.extend_from_slice(format!(":{}\r\n", 1_000 + state.offset).as_bytes());
            }
        }
        b"HELLO" => answers.extend_from_slice(b"%1\r\n$5\r\nproto\r\n:3\r\n"),
        b"INFO" if command.get(1) == Some(&&b"replication"[..]) => {
            bulk(answers, "role:master\r\nmaster_replid:costs\r\n");
        }
        b"INFO" => bulk(answers, "maxmemory_policy:noeviction\r\n"),
        b"SCRIPT" => bulk(answers, "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        b"GET" | b"SET" => answers.extend_from_slice(b"_\r\n"),
        b"SUBSCRIBE" => {
            for topic in &command[1..] {
                let mut state = state.lock().expect("no panic before");
                state.topics.insert(topic.to_vec(), connection.clone());
                answers.extend_from_slice(b">3\r\n$9\r\nsubscribe\r\n");
                answers.extend_from_slice(format!("${}\r\n", topic.len()).as_bytes());
                answers.extend_from_slice(topic);
                answers.extend_from_slice(b"\r\n:1\r\n");
            }
        }
        // Only echoes are published like this, over the connection that has subscribed to them.
        b"PUBLISH" => {
            answers.extend(message(command[1], command[2]));
            answers.extend_from_slice(b":1\r\n");
        }
        _ => {
            let error = format!("-ERR unknown {}\r\n", String::from_utf8_lossy(command[0]));
            answers.extend_from_slice(error.as_bytes());
        }
    }
}
