//! Several packets in one HTTP body, as polls and posts carry them (Engine.IO protocol, versions 3 and 4).
//!
//! Version 3 counts characters, and its clients disagree about characters beyond ASCII. Socket.IO 2.x sends plain
//! UTF-8. Socket.IO 1.x takes each byte of the UTF-8 for a character, and encodes these once more. A server cannot tell
//! the two apart. So it writes only ASCII, with JSON escapes in place of everything else, which both can read. What it
//! reads counts as encoded twice if that is possible.

use crate::EngineIo;
use std::fmt::Write;

/// Stands between packets of version 4.
const SEPARATOR: char = '\x1e';
/// Ends the length of a packet in a binary body.
const LENGTH_END: u8 = 0xff;

/// Joins packets into a body.
#[must_use]
pub fn encode<'a>(version: EngineIo, packets: impl IntoIterator<Item = &'a str>) -> String {
    let mut body = String::new();
    for (index, packet) in packets.into_iter().enumerate() {
        match version {
            EngineIo::V3 => {
                let packet = escaped(packet);
                // Writing to a string can't fail.
                let _ = write!(body, "{}:{packet}", packet.len());
            }
            EngineIo::V4 => {
                if index > 0 {
                    body.push(SEPARATOR);
                }
                body.push_str(packet);
            }
        }
    }
    body
}

/// Replaces characters beyond ASCII by JSON escapes. They occur only in JSON strings, where an escape means the same.
fn escaped(packet: &str) -> String {
    let mut ascii = String::with_capacity(packet.len());
    for character in packet.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string can't fail.
                let _ = write!(ascii, "\\u{unit:04x}");
            }
        }
    }
    ascii
}

/// Splits a body into packets. `None` if it is malformed. Binary packets are left out, because Pomelo has no binary
/// messages.
#[must_use]
pub fn decode(version: EngineIo, body: &[u8], is_binary: bool) -> Option<Vec<String>> {
    if version == EngineIo::V3 && is_binary {
        return binary(body);
    }
    let body = simdutf8::basic::from_utf8(body).ok()?;
    match version {
        EngineIo::V3 => counted(body),
        EngineIo::V4 => {
            let packets = body.split(SEPARATOR);
            let texts = packets.filter(|packet| !packet.starts_with('b'));
            Some(texts.map(str::to_owned).collect())
        }
    }
}

/// Reads `<characters>:<packet>`, until the body ends.
fn counted(mut body: &str) -> Option<Vec<String>> {
    let mut packets = Vec::new();
    while !body.is_empty() {
        let (length, rest) = body.split_once(':')?;
        let mut units: usize = length.parse().ok()?;
        let mut end = rest.len();
        for (at, character) in rest.char_indices() {
            if units == 0 {
                end = at;
                break;
            }
            units = units.checked_sub(character.len_utf16())?;
        }
        if units > 0 {
            return None;
        }
        let (packet, behind) = rest.split_at(end);
        packets.push(once(packet));
        body = behind;
    }
    Some(packets)
}

/// Decodes a packet once more if its characters can be the bytes of UTF-8, because then it was encoded twice.
fn once(packet: &str) -> String {
    if !packet.is_ascii() {
        let bytes = packet.chars().map(|it| u8::try_from(u32::from(it)).ok());
        let bytes: Option<Vec<u8>> = bytes.collect();
        if let Some(text) = bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
            return text;
        }
    }
    packet.to_owned()
}

/// Reads a binary body. Each packet comes after a 0 (a 1 if it is binary), the digits of its length, and 255.
fn binary(mut body: &[u8]) -> Option<Vec<String>> {
    let mut packets = Vec::new();
    while let Some((&kind, rest)) = body.split_first() {
        let end = rest.iter().take(10).position(|&it| it == LENGTH_END)?;
        let mut length = 0_usize;
        for &digit in &rest[..end] {
            if digit > 9 {
                return None;
            }
            length = length * 10 + usize::from(digit);
        }
        let (packet, behind) = rest[end + 1..].split_at_checked(length)?;
        match kind {
            0 => packets.push(simdutf8::basic::from_utf8(packet).ok()?.to_owned()),
            1 => {}
            _ => return None,
        }
        body = behind;
    }
    Some(packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = r#"42["message","登录成功 😀"]"#;

    #[test]
    fn version_3_is_written_in_ascii_and_counted() {
        let body = encode(EngineIo::V3, ["40", MESSAGE]);
        assert!(body.is_ascii());
        let (first, rest) = body.split_at(4);
        assert_eq!(first, "2:40");
        let (length, packet) = rest.split_once(':').unwrap();
        assert_eq!(length.parse(), Ok(packet.len()));
        let event: serde_json::Value = serde_json::from_str(&packet[2..]).unwrap();
        assert_eq!(event[1], "登录成功 😀");
    }

    #[test]
    fn version_3_is_read_with_single_and_double_utf_8() {
        let units = |text: &str| text.encode_utf16().count();
        let twice: String = MESSAGE.bytes().map(char::from).collect();
        for written in [MESSAGE, &twice] {
            let body = format!("1:2{}:{written}2:41", units(written));
            let packets = decode(EngineIo::V3, body.as_bytes(), false).unwrap();
            assert_eq!(packets, ["2", MESSAGE, "41"]);
        }
    }

    #[test]
    fn version_3_is_read_from_a_binary_body() {
        let mut body = vec![0, 2, LENGTH_END];
        body.extend(b"40");
        body.extend([1, 3, LENGTH_END, 4, 1, 2, 0, 1, LENGTH_END, b'2']);
        assert_eq!(decode(EngineIo::V3, &body, true).unwrap(), ["40", "2"]);
        body.pop();
        assert_eq!(decode(EngineIo::V3, &body, true), None);
    }

    #[test]
    fn version_4_separates_packets_with_a_character() {
        let body = encode(EngineIo::V4, ["40", MESSAGE]);
        assert_eq!(body, format!("40\u{1e}{MESSAGE}"));
        let with_binary = format!("{body}\u{1e}bAQID");
        let packets = decode(EngineIo::V4, with_binary.as_bytes(), false).unwrap();
        assert_eq!(packets, ["40", MESSAGE]);
    }

    #[test]
    fn bodies_of_another_form_are_refused() {
        for body in [
            "2",
            "3:40",
            "x:40",
            "-1:4",
            "1:😀",
            ":",
            "9999999999999999999999:2",
        ] {
            assert_eq!(decode(EngineIo::V3, body.as_bytes(), false), None, "{body}");
        }
        for body in [
            &[0][..],
            &[0, 1],
            &[0, 10, 255, 50],
            &[2, 1, 255, 50],
            &[0, 2, 255, 50],
        ] {
            assert_eq!(decode(EngineIo::V3, body, true), None, "{body:?}");
        }
        for version in [EngineIo::V3, EngineIo::V4] {
            assert_eq!(decode(version, b"\xff", false), None);
        }
    }
}
