//! Reads the recorded exchanges in `testkit/recordings`: who sent which payload, when, and on which connection.
//!
//! A recording has the bytes of each WebSocket frame and, if the frame was masked or deflated, the plain payload. Long
//! bodies are shortened there (`… (2041 bytes)`). They consist of one repeated letter, so they can be rebuilt. The
//! original sent `__route__` in onMessage, which the product does not send any more, so it is removed from what a test
//! expects.

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
    /// The server sent a data frame, which a test expects again.
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

/// Something that happened on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The time since the start of the recording.
    pub at: Duration,
    /// The number of the connection in the recording.
    pub connection: usize,
    /// What happened.
    pub event: Event,
}

/// Reads a recording. The name is the beginning of the file's name, such as `hybrid-01`.
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
        .expect("testkit/recordings exists")
        .map(|entry| entry.expect("testkit/recordings can be read").path())
        .find(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            file.starts_with(&format!("{name}-"))
        })
        .unwrap_or_else(|| panic!("there is no recording {name}"));
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

/// The decompressors of both directions of each connection. They keep what was sent before (context takeover).
type Streams = HashMap<(usize, bool), Decompress>;

/// Reads an entry: `[ 12] conn#1 C->S WS BINARY …` and the lines below it. `None` for remarks and HTTP.
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
        other => panic!("an entry of an unknown kind: {other}"),
    };
    Some(Step {
        at,
        connection,
        event,
    })
}

/// The payload of the frame, unmasked and inflated: the recorded one, or what follows the header in the raw bytes.
fn payload(entry: &[&str], connection: usize, streams: &mut Streams) -> Bytes {
    let raw = field(entry, "    raw:").expect("a frame has raw bytes");
    let masked = entry[0].contains(" masked ");
    let header = Head::of(&raw.bytes).expect("a frame has a header").size;
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
        return payload.expect("the recorded payload is deflated").into();
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
        // `payload` is shortened only if `raw` is. The header has the whole length.
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
    /// The real number of bytes, if the recording does not have all of them.
    total: Option<usize>,
}

/// The hexadecimal bytes after a label, which may take several lines.
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

/// Rebuilds a payload that a recording shortens: it repeats the last letter, and adds the end of such a package.
fn rebuilt(mut payload: Vec<u8>, total: Option<usize>) -> Bytes {
    if let Some(total) = total {
        // A request only closes its content. A push has the fields that the server adds.
        let end: &[u8] = if payload[4] == 0 {
            br#""}"#
        } else {
            br#"","__route__":"chat.handler.send","userId":"big"}"#
        };
        let letter = *payload.last().expect("a beginning is recorded");
        payload.resize(total - end.len(), letter);
        payload.extend(end);
    }
    Bytes::from(payload)
}

/// The package that the product must send: it is the recorded one without `__route__`.
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

/// The same for a packet of Socket.IO.
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
    fn every_payload_consists_of_whole_packages() {
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
    fn a_payload_that_a_recording_shortens_is_rebuilt() {
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
    fn the_internal_route_of_the_original_is_not_expected() {
        let package = Bytes::from(pomelo::package(
            4,
            br#"..{"a":1,"__route__":"chat.handler.send","userId":"b"}"#,
        ));
        let wanted = pomelo::package(4, br#"..{"a":1,"userId":"b"}"#);
        assert_eq!(expected(&package), wanted);
    }
}
