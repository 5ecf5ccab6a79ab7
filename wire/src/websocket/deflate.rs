//! permessage-deflate (RFC 7692): compressed messages.
//!
//! There is no context takeover in either direction. So a compressed frame has the same bytes for every client and is
//! made once for all of them, and a connection keeps no window between messages. Each thread has a compressor, which
//! serves one message at a time.

use super::{Opcode, header};
use crate::Error;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use http::{HeaderMap, HeaderValue, header};
use std::cell::RefCell;

/// Shorter payloads are not compressed: that would cost time and gain little (F13).
const THRESHOLD: usize = 256;
/// The last bytes that deflate writes at a flush. They are not sent (section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// What is added to a received message: the bytes that were not sent, and an empty last block. Only a message that is
/// complete ends with that block.
const END: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];
/// The most space that a thread keeps between messages.
const KEPT: usize = 64 << 10;
/// How far back deflate can refer.
const WINDOW: usize = 32 << 10;
/// The bit of a header that says that a compressed message begins.
const COMPRESSED: u8 = 0x40;
/// The answer to an offer that is accepted.
const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
/// The answer to an offer that names the server's window, which has to be confirmed (section 7.1.2.1).
const AGREED_ON_WINDOW: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15";

struct Tools {
    compress: Compress,
    decompress: Decompress,
    space: Vec<u8>,
}

thread_local! {
    static TOOLS: RefCell<Tools> = RefCell::new(Tools {
        compress: new_compress(),
        decompress: Decompress::new(false),
        space: Vec::new(),
    });
}

fn new_compress() -> Compress {
    Compress::new(Compression::fast(), false)
}

/// The answer to the first of a client's offers that can be accepted (section 5.1). `None` if none can. An offer that
/// asks for a smaller window cannot, because the frames for all clients are made with the largest one.
#[must_use]
pub fn negotiate(headers: &HeaderMap) -> Option<HeaderValue> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
    let offers = offers.filter_map(|value| value.to_str().ok());
    let mut offers = offers.flat_map(|value| value.split(','));
    offers.find_map(answer).map(HeaderValue::from_static)
}

/// The answer to one offer. `None` if it cannot be accepted.
fn answer(offer: &str) -> Option<&'static str> {
    let mut parts = offer.split(';').map(str::trim);
    if parts.next() != Some("permessage-deflate") {
        return None;
    }
    let mut seen = Vec::new();
    let mut answer = AGREED;
    for parameter in parts {
        let (name, value) = match parameter.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim_start().trim_matches('"'))),
            None => (parameter, None),
        };
        match (name, value) {
            ("server_no_context_takeover" | "client_no_context_takeover", None)
            | ("client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(bits))
                if matches!(bits.parse(), Ok(8..=15_u8)) && !bits.starts_with(['0', '+']) => {}
            ("server_max_window_bits", Some("15")) => answer = AGREED_ON_WINDOW,
            _ => return None,
        }
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
    }
    Some(answer)
}

/// Appends a frame that is a whole message. Its payload consists of these parts, and is compressed if that makes it
/// shorter.
pub(crate) fn frame(out: &mut Vec<u8>, opcode: Opcode, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let begin = out.len();
    if length >= THRESHOLD && compressed(out, opcode, parts, length) {
        return;
    }
    out.truncate(begin);
    header(out, opcode, length);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends a compressed frame. If that would not be shorter, it appends nothing and returns false.
fn compressed(out: &mut Vec<u8>, opcode: Opcode, parts: &[&[u8]], length: usize) -> bool {
    TOOLS.with_borrow_mut(
        |Tools {
             compress, space, ..
         }| {
            compress.reset();
            let is_shorter = match compress_all(compress, parts, length, space) {
                Some(payload) if payload.len() < length => {
                    let begin = out.len();
                    header(out, opcode, payload.len());
                    out[begin] |= COMPRESSED;
                    out.extend_from_slice(payload);
                    true
                }
                Some(_) => false,
                None => {
                    tracing::error!(length, "a message that can't be compressed");
                    *compress = new_compress();
                    false
                }
            };
            if space.capacity() > KEPT {
                *space = Vec::new();
            }
            is_shorter
        },
    )
}

/// Compresses the parts into `space`. `length` is that of all parts together. `None` if they cannot be compressed.
fn compress_all<'a>(
    compress: &mut Compress,
    parts: &[&[u8]],
    length: usize,
    space: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    space.clear();
    // More than any message needs: nine bits for a byte, and what deflate adds. A compressor that runs out of space
    // cannot be used again. What it has not written takes up room in it, or spoils what it writes next, even after a
    // reset (zlib-rs 0.6.8).
    space.reserve(length + length / 8 + 64);
    let mut parts = parts.iter().filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.next() {
        let flush = match parts.peek() {
            Some(_) => FlushCompress::None,
            None => FlushCompress::Sync,
        };
        let before = compress.total_in();
        let status = compress.compress_vec(part, space, flush);
        let taken = compress.total_in() - before;
        if !matches!(status, Ok(Status::Ok)) || taken < part.len() as u64 {
            return None;
        }
    }
    if space.len() == space.capacity() {
        return None;
    }
    space.strip_suffix(&TAIL)
}

/// Inflates a message, and calls `on` with it. It may have at most `limit` bytes.
///
/// # Errors
/// [`Error::TooBig`] if the message is longer, without inflating all of it. [`Error::Frame`] if it is not deflate, or
/// is not complete.
pub(crate) fn inflate<T>(
    compressed: &[u8],
    limit: usize,
    on: impl FnOnce(&[u8]) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut message = TOOLS.with_borrow_mut(|tools| {
        let mut message = std::mem::take(&mut tools.space);
        message.clear();
        inflate_all(&mut tools.decompress, compressed, limit, &mut message)?;
        Ok(message)
    })?;
    let result = on(&message);
    if message.capacity() <= KEPT {
        message.clear();
        TOOLS.with_borrow_mut(|tools| tools.space = message);
    }
    result
}

/// Inflates a message and appends it. Fails if it is not complete.
fn inflate_all(
    decompress: &mut Decompress,
    compressed: &[u8],
    limit: usize,
    message: &mut Vec<u8>,
) -> Result<(), Error> {
    decompress.reset(false);
    let is_whole = compressed.is_empty()
        || inflate_part(decompress, compressed, limit, message)?
        || inflate_part(decompress, &END, limit, message)?;
    is_whole.then_some(()).ok_or(Error::Frame)
}

/// Inflates a part of a message and appends it. True if the part ends with a last block.
fn inflate_part(
    decompress: &mut Decompress,
    mut part: &[u8],
    limit: usize,
    message: &mut Vec<u8>,
) -> Result<bool, Error> {
    loop {
        let length = message.len();
        // One byte more than the limit shows that there is more.
        let room = (limit + 1 - length).min(length.max(4 << 10));
        message.reserve_exact(room);
        let before = decompress.total_in();
        let status = decompress
            .decompress_vec(part, message, FlushDecompress::Sync)
            .map_err(|_| Error::Frame)?;
        if message.len() > limit {
            return Err(Error::too_big(limit));
        }
        let taken = usize::try_from(decompress.total_in() - before).unwrap_or(usize::MAX);
        part = part.get(taken..).unwrap_or_default();
        if status == Status::StreamEnd {
            if part.is_empty() {
                return Ok(true);
            }
            // More blocks may follow after one that is marked as the last. They may refer to what came before it
            // (section 7.2.1).
            decompress.reset(false);
            let window = &message[message.len().saturating_sub(WINDOW)..];
            decompress
                .set_dictionary(window)
                .map_err(|_| Error::Frame)?;
        } else if part.is_empty() && message.len() < message.capacity() {
            return Ok(false);
        } else if taken == 0 && message.len() == length {
            return Err(Error::Frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(offers: &[&str]) -> Option<HeaderValue> {
        let mut headers = HeaderMap::new();
        for offer in offers {
            let offer = HeaderValue::from_str(offer).unwrap();
            headers.append(header::SEC_WEBSOCKET_EXTENSIONS, offer);
        }
        negotiate(&headers)
    }

    #[test]
    fn offers_of_common_clients_are_accepted() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=10; server_no_context_takeover",
            "x-other, permessage-deflate",
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
        ] {
            assert_eq!(negotiated(&[offer]).unwrap(), AGREED, "{offer}");
        }
        assert_eq!(
            negotiated(&["x-other", "permessage-deflate"]).unwrap(),
            AGREED
        );
        let named = "permessage-deflate;server_max_window_bits=\"15\"";
        assert_eq!(negotiated(&[named]).unwrap(), AGREED_ON_WINDOW);
    }

    #[test]
    fn offers_that_cannot_be_met_or_are_malformed_are_declined() {
        for offer in [
            "",
            "permessage-bzip2",
            "permessage-deflate; server_max_window_bits=10",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=08",
            "permessage-deflate; client_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; unknown",
        ] {
            assert_eq!(negotiated(&[offer]), None, "{offer}");
        }
        assert_eq!(negotiated(&[]), None);
    }

    fn inflated(compressed: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
        inflate(compressed, limit, |message| Ok(message.to_vec()))
    }

    /// RFC 7692, section 7.2.3.
    #[test]
    fn the_examples_of_the_standard_are_inflated() {
        let fixed = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let stored = [
            0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
        ];
        let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
        let two = [
            0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
        ];
        for example in [&fixed[..], &stored, &last, &two] {
            assert_eq!(inflated(example, 5), Ok(b"Hello".to_vec()), "{example:?}");
            assert_eq!(inflated(example, 4), Err(Error::too_big(4)));
        }
        assert_eq!(inflated(&[], 5), Ok(Vec::new()));
        assert_eq!(inflated(&[0xff, 0xff], 5), Err(Error::Frame));
        // It works without the padding, too.
        assert_eq!(inflated(&last[..7], 5), Ok(b"Hello".to_vec()));
    }

    #[test]
    fn a_message_that_ends_too_early_is_refused() {
        let text = b"No word of it is said twice, but for some: it is, of it, said.".repeat(7);
        let mut out = Vec::new();
        frame(&mut out, Opcode::Text, &[&text]);
        let (is_compressed, payload) = payload(&out);
        assert!(is_compressed);
        assert_eq!(inflated(payload, text.len()), Ok(text.clone()));
        for length in 1..payload.len() {
            let cut_off = inflated(&payload[..length], text.len());
            assert_eq!(cut_off, Err(Error::Frame), "after {length}");
        }
    }

    /// RFC 7692, section 7.2.1. Each part is padded to a whole byte, and the next one refers to what came before.
    #[test]
    fn blocks_after_one_that_is_marked_as_the_last_are_inflated() {
        let parts = [100, 50_000, 40_000].map(|length| b"The same, again. ".repeat(length / 17));
        let mut compressed = Vec::new();
        let mut text = Vec::new();
        for part in &parts {
            let mut compress = new_compress();
            if !text.is_empty() {
                let window = &text[text.len().saturating_sub(WINDOW)..];
                compress.set_dictionary(window).unwrap();
            }
            compressed.reserve(part.len());
            let ended = compress.compress_vec(part, &mut compressed, FlushCompress::Finish);
            assert_eq!(ended.unwrap(), Status::StreamEnd);
            text.extend_from_slice(part);
        }
        assert_eq!(inflated(&compressed, text.len()).as_ref(), Ok(&text));
        compressed.push(0);
        assert_eq!(inflated(&compressed, text.len()).as_ref(), Ok(&text));
        let limit = text.len() - 1;
        assert_eq!(inflated(&compressed, limit), Err(Error::too_big(limit)));
    }

    fn payload(frame: &[u8]) -> (bool, &[u8]) {
        let head = match frame[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        (frame[0] & COMPRESSED != 0, &frame[head..])
    }

    #[test]
    fn a_compressed_frame_can_be_inflated_and_is_shorter() {
        for length in [0, 1, 100, THRESHOLD - 1, THRESHOLD, 2_000, 70_000, 200_000] {
            let text: Vec<u8> = b"The same, and once more. "
                .iter()
                .copied()
                .cycle()
                .take(length)
                .collect();
            let (first, second) = text.split_at(length / 3);
            let mut out = b"before".to_vec();
            frame(&mut out, Opcode::Text, &[first, b"", second]);
            let (is_compressed, payload) = payload(&out[6..]);
            assert_eq!(is_compressed, length >= THRESHOLD, "{length}");
            if is_compressed {
                assert!(payload.len() < length / 2);
                assert_eq!(inflated(payload, length), Ok(text));
            } else {
                assert_eq!(payload, text);
            }
        }
    }

    /// Bytes that no compressor makes shorter, different each time.
    fn noise(length: usize) -> Vec<u8> {
        std::iter::repeat_with(|| fastrand::u8(..))
            .take(length)
            .collect()
    }

    #[test]
    fn a_message_that_does_not_get_shorter_is_sent_uncompressed() {
        let noise = noise(5_000);
        let mut out = Vec::new();
        frame(&mut out, Opcode::Binary, &[&noise]);
        assert_eq!(payload(&out), (false, &noise[..]));
    }

    /// A message leaves nothing in the compressor that affects the next one.
    #[test]
    fn messages_that_do_not_get_shorter_do_not_affect_others() {
        let text = b"The same, and once more. ".repeat(100);
        for length in (300..200_000).step_by(7_000) {
            let mut out = Vec::new();
            frame(&mut out, Opcode::Binary, &[&noise(length)]);
            out.clear();
            frame(&mut out, Opcode::Text, &[&text]);
            let (is_compressed, payload) = payload(&out);
            assert!(is_compressed);
            assert_eq!(inflated(payload, text.len()).as_ref(), Ok(&text));
        }
    }

    /// A broken message leaves nothing in the decompressor that affects the next one.
    #[test]
    fn messages_that_are_refused_do_not_affect_others() {
        let text = b"The same, and once more. ".repeat(100);
        let mut out = Vec::new();
        frame(&mut out, Opcode::Text, &[&text]);
        let (_, payload) = payload(&out);
        for length in (1..3_000).step_by(30) {
            let _ = inflated(&noise(length), 1_000);
            let _ = inflated(&payload[..payload.len().min(length)], 1_000);
            assert_eq!(inflated(payload, text.len()).as_ref(), Ok(&text));
        }
    }

    #[test]
    fn a_compression_bomb_is_refused_at_the_limit() {
        let zeros = vec![0; 10 << 20];
        let mut bomb = Vec::new();
        frame(&mut bomb, Opcode::Binary, &[&zeros]);
        let (_, payload) = payload(&bomb);
        assert!(payload.len() < 100 << 10);
        assert_eq!(inflated(payload, 128 << 10), Err(Error::too_big(128 << 10)));
        TOOLS.with_borrow(|tools| assert!(tools.space.capacity() <= KEPT));
    }
}
