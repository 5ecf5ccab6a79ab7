//! How a polling client switches to a WebSocket. It tries the WebSocket first, while its polls go on.

use super::polled::Polled;
use crate::limits::ClientLimits;
use crate::transport::inlet::{Posted, SocketReader};
use crate::transport::pass::Pass;
use crate::transport::socket::{ReadHalf, Socket, WriteHalf};
use std::future::poll_fn;
use std::sync::Arc;
use tokio::io::ReadBuf;
use tokio::time::timeout;
use wire::websocket::{self, Event, Opcode, Reader};

/// While this lives, polls that find nothing end at once. The client waits for the end of its poll before it switches.
struct EmptyPollsEnd<'a>(&'a Polled);

impl Drop for EmptyPollsEnd<'_> {
    fn drop(&mut self) {
        self.0.mailbox.end_empty_polls(false);
    }
}

/// Serves a WebSocket beside a client's polls, until it replaces them or the attempt fails.
pub(super) async fn probe(
    client: Arc<Polled>,
    socket: Socket,
    pass: Arc<Pass>,
    first: Vec<u8>,
    limits: ClientLimits,
) {
    let (reader, writer) = socket.into_split();
    let probed = probed(&client, reader, &writer, first, &limits);
    let Ok(Some(reader)) = timeout(limits.handshake, probed).await else {
        tracing::debug!("a client did not switch from polls to its WebSocket");
        return;
    };
    pass.handshake_done();
    client.mailbox.logged_in();
    // The connection switches first. So when the client's next message is read, its answer goes to the WebSocket.
    client.connection.switch(writer);
    let seats = client.seats.lock().take();
    drop(seats);
    let _ = client.posted.send(Posted::Switched(reader, pass)).await;
}

/// Waits for a ping with the word "probe", answers with a pong, and waits for the packet that says that the client
/// switches. `None` if the client sends anything else.
async fn probed(
    client: &Polled,
    mut reader: ReadHalf,
    writer: &WriteHalf,
    mut first: Vec<u8>,
    limits: &ClientLimits,
) -> Option<SocketReader> {
    let mut frames = Reader::new(limits.message);
    let mut ending = None;
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
                    client.mailbox.end_empty_polls(true);
                    ending.get_or_insert(EmptyPollsEnd(client));
                }
                b"5" if ending.is_some() => {
                    return Some(SocketReader {
                        socket: reader,
                        frames,
                        messages,
                    });
                }
                _ => return None,
            }
        }
        first.resize(4 << 10, 0);
        let mut bytes = ReadBuf::new(&mut first);
        let taken = poll_fn(|context| reader.poll_read(context, &mut bytes)).await;
        if taken.ok()? == 0 {
            return None;
        }
        let count = bytes.filled().len();
        first.truncate(count);
    }
}
