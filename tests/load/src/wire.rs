//! WebSocket frames of a client: what it reads of the server's frames, and its own ones, which all have one mask.

use flate2::Decompress;
use testkit::websocket::{self, append_masked};

pub(crate) use testkit::websocket::{COMPRESSED, frame};

const MASK: [u8; 4] = [0x3c, 0xa5, 0x96, 0x0f];

/// Where the server's answer to the upgrade ends, if it is complete. `Err`: the upgrade was refused with this answer.
pub(crate) fn upgraded(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    if bytes.starts_with(b"HTTP/1.1 101") {
        Ok(Some(end + 4))
    } else {
        Err(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

/// The end of an upgrade request that offers to take compressed frames.
pub(crate) const OFFER: &[u8] = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

/// Inflates messages. All clients of a room get the same message, so it is inflated only once.
#[derive(Default)]
pub(crate) struct Inflater {
    last: Vec<u8>,
    message: Vec<u8>,
}

impl Inflater {
    /// The inflated message; empty if the input is not deflate.
    pub(crate) fn inflate(&mut self, compressed: &[u8]) -> &[u8] {
        if self.last != compressed {
            self.last.clear();
            self.last.extend_from_slice(compressed);
            let message = websocket::inflate(&mut Decompress::new(false), compressed);
            self.message = message.unwrap_or_default();
        }
        &self.message
    }
}

/// Appends a masked frame. `payload` appends its payload.
pub(crate) fn masked(out: &mut Vec<u8>, opcode: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    append_masked(out, 0x80 | opcode, MASK, payload);
}
