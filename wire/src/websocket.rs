//! The server's side of WebSocket frames (RFC 6455). They are written here, and read by [`Reader`].
//!
//! Each frame that is written is a whole message and unmasked, so the same bytes serve every client. One extension can
//! be negotiated: [`deflate`].

pub mod deflate;
mod reader;

pub use reader::{Event, Reader};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The kind of a frame (RFC 6455, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// Continues a message.
    Continuation = 0,
    /// Begins a message that is UTF-8.
    Text = 1,
    /// Begins a message of any bytes.
    Binary = 2,
    /// The last frame.
    Close = 8,
    /// Has to be answered by a pong with the same payload.
    Ping = 9,
    /// The answer to a ping.
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Appends a frame that is a whole message.
pub fn frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a close frame. A reason has at most 123 bytes (section 5.5).
pub fn close(out: &mut Vec<u8>, code: u16, reason: &str) {
    header(out, Opcode::Close, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Appends the header of a frame. A payload of this length has to follow.
pub(crate) fn header(out: &mut Vec<u8>, opcode: Opcode, length: usize) {
    out.push(0x80 | opcode as u8);
    match length {
        0..=125 => out.push(length as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key` (section 4.2.2).
#[must_use]
pub fn accept_key(key: &[u8]) -> String {
    let mut hash = sha1_smol::Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.digest().bytes())
}
