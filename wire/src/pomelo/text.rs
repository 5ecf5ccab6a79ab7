//! The text of Pomelo's clients, which is UTF-8 only up to U+FFFF.
//!
//! The original's JavaScript clients write a character beyond that, such as an emoji, as two surrogates of three bytes
//! each. Their decoder does not know sequences of four bytes. It swallows the byte after them, often a quote, and the
//! push is lost. The original's server spoilt such text in one direction, and sent it unchanged in the other. Here both
//! directions work: surrogates are joined to the character that they stand for, and characters that such a decoder
//! cannot read are sent as JSON escapes, which every client reads.

use std::borrow::Cow;
use std::fmt::Write;

/// Turns a client's text into UTF-8. Surrogate pairs are joined, and bytes that are not text become U+FFFD, as in the
/// original.
pub(crate) fn to_utf8(bytes: &[u8]) -> Cow<'_, [u8]> {
    if simdutf8::basic::from_utf8(bytes).is_ok() {
        return Cow::Borrowed(bytes);
    }
    let mut text = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        let valid = match simdutf8::compat::from_utf8(rest) {
            Ok(_) => rest.len(),
            Err(error) => error.valid_up_to(),
        };
        text.extend_from_slice(&rest[..valid]);
        rest = &rest[valid..];
        if let Some(character) = surrogate_pair(rest) {
            text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[6..];
        } else if let Some((_, behind)) = rest.split_first() {
            text.extend_from_slice("\u{fffd}".as_bytes());
            rest = behind;
        }
    }
    Cow::Owned(text)
}

/// The character whose two surrogates are at the beginning of the bytes.
fn surrogate_pair(bytes: &[u8]) -> Option<char> {
    let Some(
        &[
            0xed,
            a @ 0xa0..=0xaf,
            b @ 0x80..=0xbf,
            0xed,
            c @ 0xb0..=0xbf,
            d @ 0x80..=0xbf,
        ],
    ) = bytes.first_chunk()
    else {
        return None;
    };
    let unit = |high: u8, low: u8| 0xd000 | u16::from(high & 0x3f) << 6 | u16::from(low & 0x3f);
    char::decode_utf16([unit(a, b), unit(c, d)]).next()?.ok()
}

/// Turns JSON into a form that every client can read. Characters beyond U+FFFF, which only strings can hold, become
/// escapes.
pub(crate) fn for_clients(json: &[u8]) -> Cow<'_, [u8]> {
    let is_beyond = |byte: &u8| *byte >= 0xf0;
    if !json.iter().any(is_beyond) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() * 2);
    for character in String::from_utf8_lossy(json).chars() {
        if character <= '\u{ffff}' {
            escaped.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a string can't fail.
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    Cow::Owned(escaped.into_bytes())
}
