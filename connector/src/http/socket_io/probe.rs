//! A client that polls goes over to a WebSocket: it tries that first, while polls go on.

use super::polled::Polled;
use crate::limits::ClientLimits;
use crate::transport::inlet::{Posted, SocketReader};
use crate::transport::pass::Pass;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use wire::websocket::{self, Event, Opcode, Reader};

/// Polls that find nothing end at once, for as long as this lives: the client waits for that.
struct Hurry<'a>(&'a Polled);

impl Drop for Hurry<'_> {
    fn drop(&mut self) {
        self.0.mailbox.hurry(false);
    }
}

/// Serves a WebSocket beside polls until it takes their place, or comes to nothing.
pub(super) async fn probe(
    client: Arc<Polled>,
    stream: TcpStream,
    pass: Arc<Pass>,
    first: Vec<u8>,
    limits: ClientLimits,
) {
    let (reader, writer) = stream.into_split();
    let probed = probed(&client, reader, &writer, first, &limits);
    let Ok(Some(reader)) = timeout(limits.handshake, probed).await else {
        tracing::debug!("a client did not go over from polls to its WebSocket");
        return;
    };
    pass.opened();
    client.mailbox.logged_in();
    // In this order: what it sends from now on is read when it is answered there.
    client.connection.switch(writer);
    let seats = client.seats.lock().take();
    drop(seats);
    let _ = client.posted.send(Posted::Switched(reader, pass)).await;
}

/// A ping with the word "probe", the same as a pong, and the word that it goes over.
async fn probed(
    client: &Polled,
    reader: OwnedReadHalf,
    writer: &OwnedWriteHalf,
    mut first: Vec<u8>,
    limits: &ClientLimits,
) -> Option<SocketReader> {
    let mut frames = Reader::new(limits.message);
    let mut hurry = None;
    let mut messages = Vec::new();
    loop {
        let fed = frames.feed(&mut first, |event| {
            if let Event::Message(message) = event {
                messages.push(message.to_vec());
            }
        });
        fed.ok()?;
        while !messages.is_empty() {
            match &*messages.remove(0) {
                b"2probe" => {
                    let mut pong = Vec::new();
                    websocket::frame(&mut pong, Opcode::Text, b"3probe");
                    // So little always fits into a fresh socket.
                    if writer.try_write(&pong).ok()? < pong.len() {
                        return None;
                    }
                    client.mailbox.hurry(true);
                    hurry.get_or_insert(Hurry(client));
                }
                b"5" if hurry.is_some() => {
                    return Some(SocketReader {
                        socket: reader,
                        frames,
                        messages,
                    });
                }
                _ => return None,
            }
        }
        reader.readable().await.ok()?;
        first.resize(4 << 10, 0);
        match reader.try_read(&mut first) {
            Ok(0) => return None,
            Ok(count) => first.truncate(count),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => first.clear(),
            Err(_) => return None,
        }
    }
}
