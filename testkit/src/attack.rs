//! Attackers: small clients whose bytes are correct, but whose behaviour is not. They are bounded in number and in
//! time, and connect to loopback only.

pub mod abuser;
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

/// The pause between the starts of two attackers. A burst of connections is not what the tests measure.
const APART: Duration = Duration::from_millis(4);

/// Waits until the attacker with this number may begin.
async fn wait_to_begin(number: usize) {
    let number = u32::try_from(number).unwrap_or_default();
    tokio::time::sleep(APART * number).await;
}

/// Connects a client of the JSON protocol and logs it in. Returns the two halves of its connection.
///
/// # Errors
/// The error of the socket, or the text of the refusal.
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

/// Reads the next message, and answers pings.
///
/// # Errors
/// The error of the socket, or the content of the close frame.
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
