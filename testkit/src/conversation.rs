//! One conversation over every protocol, for connectors that are reached in an unusual way.

use crate::json::Client as Json;
use crate::link::End;
use crate::pace::timeout;
use crate::polling::Poller;
use crate::pomelo::{Client, HANDSHAKE, HELLO, LOGGED_IN, LOGIN, SENT, package};
use crate::{SOON, socket_io};
use serde_json::json;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Clients of all protocols talk in a room at this address, in messages that no socket takes at once. `raw` connects once more, for a
/// client without WebSocket. Then `terminate` asks the process to end, and so all of them are closed. Returns how the stream of `raw` ended.
///
/// # Errors
/// The stream of `raw` was cut off.
///
/// # Panics
/// If somebody misses a message, or does not learn the end.
pub async fn in_every_protocol<S: AsyncRead + AsyncWrite + Unpin>(
    address: SocketAddr,
    raw: impl Future<Output = io::Result<S>>,
    words: &str,
    terminate: impl FnOnce(),
) -> io::Result<()> {
    let json = Json::connect(address).await;
    let login = json!({ "userId": "json", "lessonId": "room" });
    assert_eq!(json.request(LOGIN, login).await["code"], 0);
    let pomelo = Client::connect(address).await;
    assert_eq!(pomelo.login("pomelo", "room").await, LOGGED_IN);
    let mut polls = Poller::open(address, 4).await.expect("polls");
    let login = json!({ "userId": "polls", "lessonId": "room" });
    let posted = polls.post(&[&socket_io::request(1, LOGIN, &login)]).await;
    assert_eq!(posted.expect("an answer"), 200);
    polls.until("onJoin").await;
    // More than a record of TLS holds, and more than a socket takes at once.
    let long = "x".repeat(100_000);
    for _ in 0..10 {
        assert_eq!(pomelo.say(&long).await, SENT);
    }
    assert_eq!(pomelo.say(words).await, SENT);
    polls.until(words).await;
    let pushes = json.until_pushes(12).await;
    assert!(pushes.iter().any(|push| {
        let content = push["body"]["content"].as_str();
        content.is_some_and(|content| content.len() == long.len())
    }));
    let mut raw = raw.await.expect("a connection");
    let hello = package(HANDSHAKE, HELLO.as_bytes());
    raw.write_all(&hello).await.expect("written");
    raw.flush().await.expect("written");
    let mut head = [0; 4];
    let read = timeout(SOON, raw.read_exact(&mut head)).await;
    read.expect("an answer in time").expect("an answer");
    assert_eq!(head[0], HANDSHAKE);

    terminate();
    let end = pomelo.end(SOON).await;
    assert!(matches!(end, End::Closed { code: 1001, .. }), "{end:?}");
    let mut rest = Vec::new();
    let read = timeout(SOON, raw.read_to_end(&mut rest)).await;
    read.expect("the connection ends").map(drop)
}
