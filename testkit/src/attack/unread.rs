//! Clients of each protocol that ask for pages of history and never read an answer.

use super::histories::{HEAVY, page};
use super::wait_to_begin;
use crate::impact::load::{Attack, Target};
use crate::polling::Poller;
use crate::pomelo::{DATA, HANDSHAKE, HANDSHAKE_ACK, HELLO, LOGIN, login_body, package, request};
use crate::socket_io;
use crate::websocket::{self, TEXT, Terms};
use serde_json::json;
use std::io;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// The kinds of clients: WebSocket, TCP, and polls of both versions.
const KINDS: usize = 4;
/// Clients of each kind.
const CLIENTS: usize = 15;
/// Pages that each client asks for.
const PAGES: u64 = 60;
/// Pages that one post of a client that polls asks for.
const PAGES_PER_POST: u32 = 1;
/// Posts of a client that polls.
const POSTS: u32 = 5;
/// The kernel takes only this many bytes for a client that does not read.
const RECEIVE_BUFFER: u32 = 4_096;
const HISTORY: &str = "chat.handler.history";

/// All clients log in, ask, and keep their sockets open without reading. It counts the `sockets` that are open.
#[derive(Debug, Clone, Copy)]
pub struct Unread;

impl Attack for Unread {
    async fn run(self, target: Target) {
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            for kind in 0..KINDS {
                let target = target.clone();
                clients.spawn(async move {
                    wait_to_begin(KINDS * number + kind).await;
                    let user = format!("unread-{}-{number}-{kind}", target.round);
                    match kind {
                        0 => over_websocket(target, user).await,
                        1 => over_tcp(target, user).await,
                        kind => over_polls(target, user, if kind == 2 { 3 } else { 4 }).await,
                    }
                });
            }
        }
        while let Some(ended) = clients.join_next().await {
            if !matches!(ended, Ok(Ok(()))) {
                target.tally.count("attackers cut off");
            }
        }
    }
}

async fn over_websocket(target: Target, user: String) -> io::Result<()> {
    let terms = Terms {
        receive_buffer: Some(RECEIVE_BUFFER),
        ..Terms::default()
    };
    let (mut writer, reader) = websocket::connect(target.connector, "/ws", terms).await?;
    let login = json!({ "id": 0, "route": LOGIN, "body": { "userId": user, "lessonId": HEAVY } });
    writer.frame(TEXT, login.to_string().as_bytes()).await?;
    target.tally.count("sockets");
    for id in 1..=PAGES {
        writer.frame(TEXT, page(id).as_bytes()).await?;
    }
    std::future::pending::<()>().await;
    drop((writer, reader));
    Ok(())
}

async fn over_tcp(target: Target, user: String) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    let mut stream = socket.connect(target.connector).await?;
    let login = request(1, LOGIN, login_body(&user, HEAVY).as_bytes());
    let hello = [
        package(HANDSHAKE, HELLO.as_bytes()),
        package(HANDSHAKE_ACK, &[]),
        package(DATA, &login),
    ];
    stream.write_all(&hello.concat()).await?;
    target.tally.count("sockets");
    for id in 2..PAGES + 2 {
        stream
            .write_all(&package(DATA, &request(id, HISTORY, b"{}")))
            .await?;
    }
    std::future::pending::<()>().await;
    drop(stream);
    Ok(())
}

async fn over_polls(target: Target, user: String, version: u32) -> io::Result<()> {
    let poller = Poller::open(target.connector, version).await?;
    let login = socket_io::request(1, LOGIN, &json!({ "userId": user, "lessonId": HEAVY }));
    poller.post(&[&login]).await?;
    target.tally.count("sockets");
    for post in 0..POSTS {
        let pages = (0..PAGES_PER_POST).map(|page| {
            let id = 2 + post * PAGES_PER_POST + page;
            socket_io::request(id, HISTORY, &json!({}))
        });
        let pages: Vec<_> = pages.collect();
        let pages: Vec<_> = pages.iter().map(String::as_str).collect();
        poller.post(&pages).await?;
    }
    std::future::pending::<()>().await;
    drop(poller);
    Ok(())
}
