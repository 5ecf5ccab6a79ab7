//! WebSocket frames of a client: it reads the server's frames in place, and masks its own.

use flate2::{Decompress, FlushDecompress};

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

/// The bit of a frame's first byte which says that the message is compressed.
pub(crate) const COMPRESSED: u8 = 0x40;
/// The end of an upgrade request that offers to take such frames.
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
            self.message.clear();
            let whole = [compressed, &[0, 0, 0xff, 0xff]].concat();
            let mut inflate = Decompress::new(false);
            loop {
                self.message.reserve(64 << 10);
                let rest = &whole[inflate.total_in() as usize..];
                let inflated =
                    inflate.decompress_vec(rest, &mut self.message, FlushDecompress::Sync);
                if inflated.is_err() || self.message.len() < self.message.capacity() {
                    break;
                }
            }
        }
        &self.message
    }
}

/// The first frame of `bytes`, if it is complete: its first byte, its payload and its length.
pub(crate) fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    let (length, head): (usize, usize) = match second & 0x7f {
        126 => (u16::from_be_bytes(*rest.first_chunk()?).into(), 4),
        127 => (
            usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?,
            10,
        ),
        length => (length.into(), 2),
    };
    let payload = bytes.get(head..head.checked_add(length)?)?;
    Some((first, payload, head + length))
}

/// Appends a masked frame. `payload` appends its payload.
pub(crate) fn masked(out: &mut Vec<u8>, opcode: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    // Leave room for the longest head that a message of up to 64 KiB needs. A shorter message is moved up later.
    let from = out.len();
    out.extend_from_slice(&[0x80 | opcode, 0xfe, 0, 0]);
    out.extend_from_slice(&MASK);
    payload(out);
    let length = out.len() - from - 8;
    for (byte, mask) in out[from + 8..].iter_mut().zip(MASK.iter().cycle()) {
        *byte ^= mask;
    }
    if length < 126 {
        out[from + 1] = 0x80 | length as u8;
        out.drain(from + 2..from + 4);
    } else {
        let length = u16::try_from(length).expect("messages are shorter than 64 KiB");
        out[from + 2..from + 4].copy_from_slice(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::tests::websocket::{BINARY, TEXT};

    #[test]
    fn a_frame_is_taken_apart_once_it_is_complete() {
        for length in [0_usize, 1, 125, 126, 300, 70_000] {
            let mut bytes = vec![0x82];
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
    fn what_is_sent_is_masked() {
        for length in [3_usize, 200] {
            let mut out = Vec::new();
            masked(&mut out, TEXT, |out| out.extend(vec![b'a'; length]));
            let head = if length < 126 { 2 } else { 4 };
            assert_eq!(out.len(), head + 4 + length);
            let plain: Vec<_> = out[head + 4..]
                .iter()
                .zip(MASK.iter().cycle())
                .map(|(byte, mask)| byte ^ mask)
                .collect();
            assert_eq!(plain, vec![b'a'; length]);
        }
    }
}
