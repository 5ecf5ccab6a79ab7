//! The recorded exchanges in `testkit/recordings`, read: who sent which payload when, on which connection.
//!
//! The recordings give each WebSocket frame's bytes and, where it was masked or deflated, its payload in clear. Long
//! bodies are cut short there (`… (2041 bytes)`); they consist of one repeated letter and are rebuilt. The one thing the
//! original sent that is not sent any more, `__route__` in onMessage, is taken out of what is expected.

use crate::pomelo;
use crate::websocket::{self, Head};
use bytes::Bytes;
use flate2::Decompress;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client connected.
    Opened,
    /// A client sent a data frame.
    Sent(Bytes),
    /// The server sent a data frame: what to expect again.
    Received(Bytes),
    /// A client sent a close frame with this payload.
    SentClose(Bytes),
    /// The server sent a close frame with this payload.
    ReceivedClose(Bytes),
    /// A client ended its sending direction.
    Finished,
    /// The server ended the connection.
    Ended,
}

/// Something that happened on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Since the recording's start.
    pub at: Duration,
    /// The connection's number in the recording.
    pub connection: usize,
    /// What happened.
    pub event: Event,
}

/// Reads a recording by the beginning of its name, such as `hybrid-01`.
///
/// # Panics
/// If there is no such file, or it does not have the form of a recording.
#[must_use]
pub fn read(name: &str) -> Vec<Step> {
    parse(&text(name))
}

/// The text of a recording.
///
/// # Panics
/// If there is no such file.
#[must_use]
pub fn text(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
    let path = std::fs::read_dir(&directory)
        .expect("testkit/recordings is there")
        .map(|entry| entry.expect("testkit/recordings can be read").path())
        .find(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.starts_with(&format!("{name}-"))
        })
        .unwrap_or_else(|| panic!("no recording {name}"));
    std::fs::read_to_string(path).expect("a recording is text")
}

fn parse(text: &str) -> Vec<Step> {
    let mut entries: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        match entries.last_mut() {
            _ if line.starts_with('[') => entries.push(vec![line]),
            Some(entry) => entry.push(line),
            None => {}
        }
    }
    let mut streams = Streams::new();
    let steps = entries.iter();
    steps
        .filter_map(|entry| step(entry, &mut streams))
        .collect()
}

/// What was compressed by either side of each connection, with all that it said before (context takeover).
type Streams = HashMap<(usize, bool), Decompress>;

/// An entry: `[ 12] conn#1 C->S WS BINARY …` and the lines below it. `None` for remarks and HTTP.
fn step(entry: &[&str], streams: &mut Streams) -> Option<Step> {
    let (time, rest) = entry[0].strip_prefix('[')?.split_once(']')?;
    let at = Duration::from_millis(time.trim().parse().expect("a time in ms"));
    let rest = rest.trim();
    let rest = rest.strip_prefix("--- ").unwrap_or(rest);
    let (connection, what) = rest.strip_prefix("conn#")?.split_once(' ')?;
    let connection = connection.parse().expect("a connection's number");
    let mut payload = || payload(entry, connection, streams);
    let event = match what {
        "opened" => Event::Opened,
        "C->S TCP FIN" => Event::Finished,
        "S->C TCP FIN" => Event::Ended,
        "C->S HTTP" | "S->C HTTP" => return None,
        frame if frame.starts_with("C->S WS BINARY") => Event::Sent(payload()),
        frame if frame.starts_with("S->C WS BINARY") => Event::Received(expected(&payload())),
        frame if frame.starts_with("C->S WS TEXT") => Event::Sent(payload()),
        frame if frame.starts_with("S->C WS TEXT") => Event::Received(expected_text(&payload())),
        frame if frame.starts_with("C->S WS CLOSE") => Event::SentClose(payload()),
        frame if frame.starts_with("S->C WS CLOSE") => Event::ReceivedClose(payload()),
        other => panic!("an entry of unknown kind: {other}"),
    };
    Some(Step {
        at,
        connection,
        event,
    })
}

/// The frame's payload, unmasked and inflated: as recorded, or what follows the header in the raw bytes.
fn payload(entry: &[&str], connection: usize, streams: &mut Streams) -> Bytes {
    let raw = field(entry, "    raw:").expect("a frame has raw bytes");
    let masked = entry[0].contains(" masked ");
    let header = Head::of(&raw.bytes).expect("a frame has a head").size;
    if entry[0].contains("RSV1") {
        let mut compressed = raw.bytes[header..].to_vec();
        if masked {
            let mask = compressed.drain(..4).collect::<Vec<_>>();
            let mask = mask.iter().cycle();
            compressed.iter_mut().zip(mask).for_each(|(a, b)| *a ^= b);
        }
        let stream = streams.entry((connection, masked));
        let stream = stream.or_insert_with(|| Decompress::new(false));
        let payload = websocket::inflate(stream, &compressed);
        return payload.expect("a recording of deflate").into();
    }
    if let Some(clear) = field(entry, "    payload:") {
        if masked {
            let mask = &raw.bytes[header..header + 4];
            let hidden = raw.bytes[header + 4..].iter().zip(mask.iter().cycle());
            assert!(
                hidden
                    .zip(&clear.bytes)
                    .all(|((a, b), clear)| a ^ b == *clear),
                "the recording contradicts itself: {}",
                entry[0]
            );
        }
        // Only what is cut short in `raw` is so in `payload`; the header tells the whole length.
        return rebuilt(clear.bytes, raw.total.map(|total| total - header - 4));
    }
    if masked {
        return Bytes::new();
    }
    rebuilt(
        raw.bytes[header..].to_vec(),
        raw.total.map(|total| total - header),
    )
}

struct Field {
    bytes: Vec<u8>,
    /// The number of bytes that there were, when not all are given.
    total: Option<usize>,
}

/// Hexadecimal bytes after a label, over several lines.
fn field(entry: &[&str], label: &str) -> Option<Field> {
    let begin = entry.iter().position(|line| line.starts_with(label))?;
    let first = &entry[begin][label.len()..];
    let more = entry[begin + 1..]
        .iter()
        .take_while(|line| line.starts_with("             "));
    let mut field = Field {
        bytes: Vec::new(),
        total: None,
    };
    for line in std::iter::once(&first).chain(more) {
        let (hex, cut) = line.split_once('…').unwrap_or((line, ""));
        let bytes = hex.split_whitespace();
        field
            .bytes
            .extend(bytes.map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")));
        if let Some(total) = cut.trim().strip_prefix('(') {
            let total = total.split(' ').next().unwrap_or_default();
            field.total = Some(total.parse().expect("a number of bytes"));
        }
    }
    Some(field)
}

/// Fills in what a recording leaves out: more of the same letter, then the end of such a package.
fn rebuilt(mut payload: Vec<u8>, total: Option<usize>) -> Bytes {
    if let Some(total) = total {
        // A request ends its content; a push adds what the server puts behind it.
        let end: &[u8] = if payload[4] == 0 {
            br#""}"#
        } else {
            br#"","__route__":"chat.handler.send","userId":"big"}"#
        };
        let letter = *payload.last().expect("not all is left out");
        payload.resize(total - end.len(), letter);
        payload.extend(end);
    }
    Bytes::from(payload)
}

/// A package as it is to come now: without `__route__`.
#[must_use]
pub fn expected(package: &Bytes) -> Bytes {
    const ROUTE: &[u8] = br#""__route__":"chat.handler.send","#;
    let found = package
        .windows(ROUTE.len())
        .position(|window| window == ROUTE);
    let Some(begin) = found else {
        return package.clone();
    };
    let body = [&package[4..begin], &package[begin + ROUTE.len()..]].concat();
    Bytes::from(pomelo::package(package[0], &body))
}

/// The same of a packet of Socket.IO's.
fn expected_text(packet: &Bytes) -> Bytes {
    let text = String::from_utf8_lossy(packet);
    text.replace(r#"\"__route__\":\"chat.handler.send\","#, "")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pomelo::{Message, packages};

    #[test]
    fn every_payload_read_is_whole_packages() {
        for name in [
            "hybrid-01",
            "hybrid-02",
            "hybrid-03",
            "hybrid-05",
            "hybrid-08",
        ] {
            let steps = read(name);
            let payloads = steps.iter().filter_map(|step| match &step.event {
                Event::Sent(payload) | Event::Received(payload) => Some(payload),
                _ => None,
            });
            let mut count = 0;
            for payload in payloads {
                assert_eq!(packages(payload).map(|list| list.len()), Ok(1), "{name}");
                count += 1;
            }
            assert!(count > 4, "{name} has {count} payloads");
        }
    }

    #[test]
    fn what_a_recording_leaves_out_is_rebuilt() {
        let mut letters = Vec::new();
        for step in read("hybrid-07") {
            if let Event::Received(payload) = step.event
                && payload.len() > 1_000
            {
                let whole = packages(&payload).unwrap().remove(0);
                let Ok(Message::Push { body, .. }) = Message::parse(&whole.slice(4..)) else {
                    panic!("not a push");
                };
                let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(body.as_object().unwrap().len(), 2);
                assert_eq!(body["userId"], "big");
                letters.push(body["c"].as_str().unwrap().len());
            }
        }
        assert_eq!(letters, [2_000, 70_000]);
    }

    #[test]
    fn the_original_internal_route_is_not_expected() {
        let package = Bytes::from(pomelo::package(
            4,
            br#"..{"a":1,"__route__":"chat.handler.send","userId":"b"}"#,
        ));
        let wanted = pomelo::package(4, br#"..{"a":1,"userId":"b"}"#);
        assert_eq!(expected(&package), wanted);
    }
}
