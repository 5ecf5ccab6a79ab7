//! Attackers: small clients that break no rule of a protocol's grammar and every rule of good behaviour. All of them are
//! bounded in count and time and go to loopback alone.

pub mod filling;
pub mod histories;
pub mod http2;
pub mod mixed;
pub mod polls;
pub mod sockets;
pub mod unread;

use crate::pomelo::LOGIN;
use crate::websocket::{self, CLOSE, PING, PONG, Reader, TEXT, Terms, Writer};
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Attackers come one after the other, so far apart: that many come at one moment is not what is measured.
const APART: Duration = Duration::from_millis(4);

/// Waits for the turn of the attacker of this number.
async fn turn(number: usize) {
    let number = u32::try_from(number).unwrap_or_default();
    tokio::time::sleep(APART * number).await;
}

/// A logged-in client of the JSON protocol, by its two halves.
///
/// # Errors
/// What the sockets say; the refusal's text when it is not let in.
pub async fn enter(
    connector: SocketAddr,
    terms: Terms,
    user: &str,
    channel: &str,
) -> io::Result<(Writer, Reader)> {
    let (mut writer, mut reader) = websocket::connect(connector, "/ws", terms).await?;
    let login = json!({ "id": 0, "route": LOGIN, "body": { "userId": user, "lessonId": channel } });
    writer.frame(TEXT, login.to_string().as_bytes()).await?;
    loop {
        let message = message(&mut writer, &mut reader).await?;
        if message["id"] == 0 {
            return if message["body"]["code"] == 0 {
                Ok((writer, reader))
            } else {
                Err(io::Error::other(message.to_string()))
            };
        }
    }
}

/// The next message; pings are answered.
///
/// # Errors
/// What the socket says; the close frame's content.
pub async fn message(writer: &mut Writer, reader: &mut Reader) -> io::Result<Value> {
    loop {
        let frame = reader.frame().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        match frame.opcode {
            PING => writer.frame(PONG, &frame.payload).await?,
            PONG => {}
            CLOSE => return Err(io::Error::other(format!("{:?}", frame.close()))),
            _ => return Ok(serde_json::from_slice(&frame.payload)?),
        }
    }
}
