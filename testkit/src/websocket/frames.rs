//! The frames of RFC 6455 as bytes, and the compression of RFC 7692, as a client needs them. Nothing here reads or
//! writes a socket. The code does not use the product's, so the two can't share a mistake.

use base64::Engine;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use std::net::SocketAddr;

/// Opcode of a text message.
pub const TEXT: u8 = 1;
/// Opcode of a binary message.
pub const BINARY: u8 = 2;
/// Opcode of a close.
pub const CLOSE: u8 = 8;
/// Opcode of a ping.
pub const PING: u8 = 9;
/// Opcode of a pong.
pub const PONG: u8 = 10;
/// The bit in a frame's first byte that says that the frame begins a compressed message (RFC 7692, section 6).
pub const COMPRESSED: u8 = 0x40;

/// The bit in a frame's first byte that says that the frame ends its message.
const LAST: u8 = 0x80;
/// The bit in a frame's second byte that says that the payload is masked.
const MASKED: u8 = 0x80;
/// The bytes that a sender leaves out at the end of each compressed message (RFC 7692, section 7.2.1).
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];
const INFLATE_STEP: usize = 64 * 1024;

/// The head of a frame: what comes before its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The first byte: flags and opcode.
    pub first: u8,
    /// True if four bytes of mask follow the head, as in every frame of a client.
    pub masked: bool,
    /// The length of the payload, in bytes.
    pub payload: u64,
    /// The length of the head, in bytes, without the mask.
    pub size: usize,
}

impl Head {
    /// Reads the head at the beginning of these bytes; `None` if it is not complete.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let (payload, size) = match second & !MASKED {
            126 => (u16::from_be_bytes(*rest.first_chunk()?).into(), 4),
            127 => (u64::from_be_bytes(*rest.first_chunk()?), 10),
            short => (short.into(), 2),
        };
        Some(Self {
            first,
            masked: second & MASKED != 0,
            payload,
            size,
        })
    }

    /// The opcode.
    #[must_use]
    pub fn opcode(self) -> u8 {
        self.first & 0x0f
    }

    /// True if the length is written in as few bytes as possible (RFC 6455, section 5.2).
    #[must_use]
    pub fn is_shortest(self) -> bool {
        match self.size {
            4 => self.payload > 125,
            10 => self.payload > u64::from(u16::MAX),
            _ => true,
        }
    }
}

/// The first frame in a server's bytes: its first byte, its payload and its whole length. `None` if it is not complete.
#[must_use]
pub fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let head = Head::of(bytes)?;
    let end = head.size.checked_add(usize::try_from(head.payload).ok()?)?;
    Some((head.first, bytes.get(head.size..end)?, end))
}

/// A client's frame with a random mask. It is a whole message.
#[must_use]
pub fn encode(opcode: u8, payload: &[u8]) -> Vec<u8> {
    masked(LAST | opcode, fastrand::u32(..).to_be_bytes(), payload)
}

/// A client's frame with this first byte and this mask.
#[must_use]
pub fn masked(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    append_masked(&mut frame, first, mask, |out| {
        out.extend_from_slice(payload);
    });
    frame
}

/// Appends a client's frame. The function appends the payload.
pub fn append_masked(
    out: &mut Vec<u8>,
    first: u8,
    mask: [u8; 4],
    payload: impl FnOnce(&mut Vec<u8>),
) {
    // Most frames need a head of this size. If the payload turns out shorter or longer, the head is changed.
    let head = out.len();
    out.extend([first, MASKED | 126, 0, 0]);
    out.extend(mask);
    let begin = out.len();
    payload(out);
    for (byte, mask) in out[begin..].iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    let length = out.len() - begin;
    if let Some(short) = u8::try_from(length).ok().filter(|short| *short < 126) {
        out[head + 1] = MASKED | short;
        out.drain(head + 2..head + 4);
    } else if let Ok(middle) = u16::try_from(length) {
        out[head + 2..head + 4].copy_from_slice(&middle.to_be_bytes());
    } else {
        out[head + 1] = MASKED | 127;
        out.splice(head + 2..head + 4, (length as u64).to_be_bytes());
    }
}

/// Compresses one message by itself, as a client without context takeover does (RFC 7692, section 7.2.1).
///
/// # Panics
/// Never: a compressor that has room takes every input.
#[must_use]
pub fn deflate(message: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::default(), false);
    let mut compressed = Vec::with_capacity(2 * message.len() + 64);
    compress
        .compress_vec(message, &mut compressed, FlushCompress::Sync)
        .expect("it compresses");
    let end = compressed.len() - FLUSHED.len();
    assert_eq!(compressed.split_off(end), FLUSHED);
    compressed
}

/// Inflates the next message of a stream (RFC 7692, section 7.2.2). `None` if it is not compressed.
pub fn inflate(stream: &mut Decompress, compressed: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    for mut rest in [compressed, &FLUSHED] {
        while !rest.is_empty() || message.len() == message.capacity() {
            message.reserve(INFLATE_STEP);
            let before = (stream.total_in(), message.len());
            let inflated = stream.decompress_vec(rest, &mut message, FlushDecompress::Sync);
            inflated.ok()?;
            let is_stuck = (stream.total_in(), message.len()) == before && !rest.is_empty();
            let taken = usize::try_from(stream.total_in() - before.0).ok()?;
            rest = rest.get(taken..).filter(|_| !is_stuck)?;
        }
    }
    Some(message)
}

/// The request for an upgrade, with a key in base64.
#[must_use]
pub fn upgrade_request(host: SocketAddr, path: &str, key: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
}

/// The value of `Sec-WebSocket-Accept` for a key (RFC 6455, section 4.2.2).
#[must_use]
pub fn accept_key(key: &str) -> String {
    let digest =
        sha1_smol::Sha1::from(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")).digest();
    base64::engine::general_purpose::STANDARD.encode(digest.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x3c, 0xa5, 0x96, 0x0f];

    #[test]
    fn a_frame_is_parsed_once_it_is_complete() {
        for length in [0_usize, 1, 125, 126, 300, 70_000] {
            let mut bytes = vec![LAST | BINARY];
            match length {
                0..126 => bytes.push(length as u8),
                126..65_536 => {
                    bytes.push(126);
                    bytes.extend_from_slice(&(length as u16).to_be_bytes());
                }
                _ => {
                    bytes.push(127);
                    bytes.extend_from_slice(&(length as u64).to_be_bytes());
                }
            }
            bytes.extend(vec![7; length]);
            let whole = bytes.len();
            assert_eq!(frame(&bytes[..whole - 1]), None, "{length}");
            bytes.push(0x81);
            let (first, payload, end) = frame(&bytes).expect("it is complete");
            assert_eq!((first & 0x0f, payload.len(), end), (BINARY, length, whole));
        }
    }

    #[test]
    fn frames_are_masked_and_have_the_shortest_head() {
        for length in [0_usize, 3, 125, 126, 200, 65_535, 65_536, 70_000] {
            let mut out = vec![b'x'];
            append_masked(&mut out, LAST | TEXT, MASK, |out| {
                out.extend(vec![b'a'; length]);
            });
            let head = Head::of(&out[1..]).expect("it is complete");
            assert!(head.masked && head.is_shortest(), "{head:?}");
            assert_eq!((head.opcode(), head.payload), (TEXT, length as u64));
            let (mask, hidden) = out[1 + head.size..].split_at(4);
            assert_eq!((mask, hidden.len()), (&MASK[..], length));
            let mut plain = hidden.iter().zip(mask.iter().cycle());
            assert!(plain.all(|(byte, mask)| byte ^ mask == b'a'));
        }
    }

    #[test]
    fn a_deflated_message_can_be_inflated() {
        for message in [&b""[..], b"Hello", &[b'x'; 200_000]] {
            let inflated = inflate(&mut Decompress::new(false), &deflate(message));
            assert_eq!(inflated.as_deref(), Some(message));
        }
        // RFC 7692, section 7.2.3.1.
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let inflated = inflate(&mut Decompress::new(false), &hello);
        assert_eq!(inflated.as_deref(), Some(&b"Hello"[..]));
        let broken = [0xff, 0xff];
        assert_eq!(inflate(&mut Decompress::new(false), &broken), None);
    }
}
