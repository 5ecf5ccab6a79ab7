//! Server-Sent Events (`docs/protocols/sse.md`): the JSON of `/ws` as events of a stream.
//!
//! The id of an event holds the positions of all channels of one session, so it differs from client to client. Everything else
//! is the same for all members of a channel. So what is written for members are *records*: the text of an event, and what it does
//! to a position. They are encoded once, and shared and queued like the frames of other protocols. A [`EventStream`] makes a client's
//! stream of them: right before the bytes go to the socket, it follows the positions and writes the ids. A record never leaves the process.

mod id;
mod stream;

pub use id::{EventId, fits};
pub use stream::EventStream;

use crate::JsonFarewell;
use channel_store::{ChannelName, Position};

/// The bytes before a record: the length of what follows them.
const LENGTH: usize = size_of::<u32>();

/// What a record does beside its text. The first byte of each record says which it is.
#[derive(Debug, PartialEq, Eq)]
enum Effect<'a> {
    /// Nothing.
    Nothing,
    /// The session is at this position of a channel.
    At {
        channel: &'a str,
        epoch: &'a str,
        offset: u64,
    },
    /// The session is not in the channel any more.
    Left { channel: &'a str },
    /// The stream ends. `Some`: the client should come back, after so many milliseconds and its usual pause.
    End { reconnect_after: Option<u32> },
    /// The text is not an event, but goes to the client as it is.
    Verbatim,
}

mod kind {
    pub(super) const NOTHING: u8 = 0;
    pub(super) const AT: u8 = 1;
    pub(super) const LEFT: u8 = 2;
    pub(super) const END: u8 = 3;
    pub(super) const LAST: u8 = 4;
    pub(super) const VERBATIM: u8 = 5;
}

/// Appends a record. `text` appends its text.
fn record(effect: &Effect<'_>, out: &mut Vec<u8>, text: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    match *effect {
        Effect::Nothing => out.push(kind::NOTHING),
        Effect::At {
            channel,
            epoch,
            offset,
        } => {
            out.push(kind::AT);
            name(channel, out);
            name(epoch, out);
            out.extend_from_slice(&offset.to_le_bytes());
        }
        Effect::Left { channel } => {
            out.push(kind::LEFT);
            name(channel, out);
        }
        Effect::End {
            reconnect_after: Some(after),
        } => {
            out.push(kind::END);
            out.extend_from_slice(&after.to_le_bytes());
        }
        Effect::End {
            reconnect_after: None,
        } => out.push(kind::LAST),
        Effect::Verbatim => out.push(kind::VERBATIM),
    }
    text(out);
    let length = u32::try_from(out.len() - begin - LENGTH).unwrap_or(u32::MAX);
    out[begin..begin + LENGTH].copy_from_slice(&length.to_le_bytes());
}

/// Names of channels have 256 bytes at most, and epochs fewer.
fn name(text: &str, out: &mut Vec<u8>) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Takes the first record off. Returns what it does, and its text. `None`: there is no whole record.
fn next<'a>(records: &mut &'a [u8]) -> Option<(Effect<'a>, &'a [u8])> {
    let (length, rest) = records.split_first_chunk::<LENGTH>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (mut record, rest) = rest.split_at_checked(length)?;
    let bytes = &mut record;
    let effect = match take::<1>(bytes)?[0] {
        kind::NOTHING => Effect::Nothing,
        kind::AT => Effect::At {
            channel: take_name(bytes)?,
            epoch: take_name(bytes)?,
            offset: u64::from_le_bytes(take(bytes)?),
        },
        kind::LEFT => Effect::Left {
            channel: take_name(bytes)?,
        },
        kind::END => Effect::End {
            reconnect_after: Some(u32::from_le_bytes(take(bytes)?)),
        },
        kind::LAST => Effect::End {
            reconnect_after: None,
        },
        kind::VERBATIM => Effect::Verbatim,
        _ => return None,
    };
    *records = rest;
    Some((effect, record))
}

fn take<const COUNT: usize>(bytes: &mut &[u8]) -> Option<[u8; COUNT]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn take_name<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = u16::from_le_bytes(take(bytes)?);
    let (taken, rest) = bytes.split_at_checked(length.into())?;
    *bytes = rest;
    str::from_utf8(taken).ok()
}

/// Appends the record of a push: the JSON object `head` and `body`, whose end is missing, as an event that is named by its route.
pub(crate) fn push(
    route: &str,
    moves: Option<(&ChannelName, &Position)>,
    (head, body): (&str, &[u8]),
    out: &mut Vec<u8>,
) {
    let effect = moves.map_or(Effect::Nothing, |(channel, position)| at(channel, position));
    record(&effect, out, |out| event(route, (head, body), out));
}

fn at<'a>(channel: &'a ChannelName, position: &'a Position) -> Effect<'a> {
    Effect::At {
        channel: channel.as_str(),
        epoch: position.epoch.as_str(),
        offset: position.offset,
    }
}

/// Appends the lines of an event.
fn event(route: &str, (head, body): (&str, &[u8]), out: &mut Vec<u8>) {
    // A browser would take these two for its own events, which tell that the stream has begun or broken off.
    if !matches!(route, "open" | "error") {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(route.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(head.as_bytes());
    let begin = out.len();
    out.extend_from_slice(body);
    // A line break would end the line of the event. In JSON it only stands between tokens, as a blank may.
    for byte in &mut out[begin..] {
        if matches!(*byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    out.extend_from_slice(b"}\n");
}

/// Appends the record that moves a session to a position without an event.
pub(crate) fn moves(channel: &ChannelName, position: &Position, out: &mut Vec<u8>) {
    record(&at(channel, position), out, |_| {});
}

/// Appends the record of a session that has left a channel.
pub(crate) fn leaves(channel: &ChannelName, out: &mut Vec<u8>) {
    let channel = channel.as_str();
    record(&Effect::Left { channel }, out, |_| {});
}

/// Appends a comment, which clients ignore.
pub(crate) fn heartbeat(out: &mut Vec<u8>) {
    record(&Effect::Nothing, out, |out| out.extend_from_slice(b":\n"));
}

/// Appends the last event.
pub(crate) fn close(farewell: &JsonFarewell<'_>, out: &mut Vec<u8>) {
    let reconnect_after = farewell
        .reconnect
        .then(|| farewell.after_ms.unwrap_or_default());
    let body = farewell.body();
    let head = r#"{"route":"onKick","body":"#;
    record(&Effect::End { reconnect_after }, out, |out| {
        event("onKick", (head, body.as_bytes()), out);
    });
}

/// Appends what goes to the client as it is.
pub fn verbatim(bytes: &[u8], out: &mut Vec<u8>) {
    record(&Effect::Verbatim, out, |out| out.extend_from_slice(bytes));
}

/// Appends the lines of an event whose data is a JSON object with this route and this body. An empty line has to follow.
pub fn lines(route: &str, body: &str, out: &mut Vec<u8>) {
    let head = format!(r#"{{"route":{},"body":"#, serde_json::Value::from(route));
    event(route, (&head, body.as_bytes()), out);
}
