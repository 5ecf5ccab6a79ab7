//! Pomelo's packages over WebSocket (`docs/protocols/pomelo.md`), byte for byte as the original wrote them (K1).
//!
//! What a client gets wrong is ignored, answered or ends the connection as the recordings show (K6, hybrid-03 to
//! hybrid-05, hybrid-10), but for the original's faults: a large request id never loops (F1), several packages may share
//! a frame, and one that claims more than its frame holds is refused (F13).

mod text;

use super::{Input, Request, RequestBody, refuse_attack};
use crate::disconnect::Disconnect;
use crate::websocket::{self, Opcode};
use channel_store::{ChannelName, Publication};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::time::Duration;

const HANDSHAKE: u8 = 1;
const HANDSHAKE_ACK: u8 = 2;
const HEARTBEAT: u8 = 3;
const DATA: u8 = 4;
const KICK: u8 = 5;

const REQUEST: u8 = 0;
const NOTIFY: u8 = 1;
const RESPONSE: u8 = 2;
const PUSH: u8 = 3;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The client is to send its handshake.
    Opened,
    /// Its handshake was answered, which it is to acknowledge.
    Greeted,
    Working,
}

/// Reads one connection's frames.
#[derive(Debug)]
pub(super) struct Decoder {
    stage: Stage,
    /// In seconds.
    heartbeat: u32,
}

impl Decoder {
    pub(super) fn new(heartbeat: Duration) -> Self {
        // Clients take 0 for "no heartbeats", and would be dropped for sending none.
        let heartbeat = u32::try_from(heartbeat.as_secs())
            .unwrap_or(u32::MAX)
            .max(1);
        Self {
            stage: Stage::Opened,
            heartbeat,
        }
    }

    pub(super) fn decode(
        &mut self,
        frame: &[u8],
        inputs: &mut Vec<Input>,
        out: &mut Vec<u8>,
    ) -> Result<(), Disconnect> {
        let mut rest = frame;
        // At least once: an empty frame is malformed (K6).
        loop {
            let (kind, body, behind) = split_package(rest).ok_or(Disconnect::Malformed)?;
            self.package(kind, body, inputs, out)?;
            if behind.is_empty() {
                return Ok(());
            }
            rest = behind;
        }
    }

    /// What comes before its time, or twice, is ignored (K6).
    fn package(
        &mut self,
        kind: u8,
        body: &[u8],
        inputs: &mut Vec<Input>,
        out: &mut Vec<u8>,
    ) -> Result<(), Disconnect> {
        match (kind, self.stage) {
            (HANDSHAKE, Stage::Opened) => {
                if !is_handshake(body) {
                    package(HANDSHAKE, &[br#"{"code":500}"#], out);
                    return Err(Disconnect::Handshake);
                }
                self.stage = Stage::Greeted;
                let answer = format!(r#"{{"code":200,"sys":{{"heartbeat":{}}}}}"#, self.heartbeat);
                package(HANDSHAKE, &[answer.as_bytes()], out);
            }
            (HANDSHAKE_ACK, Stage::Greeted) => {
                self.stage = Stage::Working;
                heartbeat(out);
                inputs.push(Input::Ready);
            }
            (HEARTBEAT, Stage::Working) => {
                heartbeat(out);
                inputs.push(Input::Heartbeat);
            }
            (DATA, Stage::Working) => inputs.extend(message(body)?.map(Input::Request)),
            (HANDSHAKE | HANDSHAKE_ACK | HEARTBEAT | DATA, _) => {}
            _ => return Err(Disconnect::Malformed),
        }
        Ok(())
    }
}

/// A package's type and body, and what stands behind it. `None` if it is not all there.
fn split_package(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, a, b, c], rest) = bytes.split_first_chunk()?;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let (body, behind) = rest.split_at_checked(length)?;
    Some((kind, body, behind))
}

/// True if the client tells of its system. What it tells makes no difference.
fn is_handshake(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Handshake<'a> {
        #[serde(borrow)]
        sys: &'a RawValue,
    }
    let body = text::to_utf8(body);
    // serde would take an array for an object whose keys were left out.
    body.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<Handshake<'_>>(&body)
            .is_ok_and(|handshake| handshake.sys.get().starts_with('{'))
}

/// What a DATA package asks for; `None` for what is ignored.
fn message(bytes: &[u8]) -> Result<Option<Request>, Disconnect> {
    let (&flag, mut rest) = bytes.split_first().ok_or(Disconnect::Malformed)?;
    let id = match flag >> 1 & 0b111 {
        REQUEST => take_id(&mut rest)?,
        // Clients have no business pushing, but the original ran such a message like a notify (hybrid-04).
        NOTIFY | PUSH => 0,
        _ => return Ok(None),
    };
    if flag & 1 == 1 {
        // A code of the route dictionary, and there is none.
        return Ok(None);
    }
    let (&length, rest) = rest.split_first().ok_or(Disconnect::Malformed)?;
    let (route, body) = rest
        .split_at_checked(length.into())
        .ok_or(Disconnect::Malformed)?;
    let route = String::from_utf8_lossy(route);
    if !route.contains('.') {
        return Ok(None);
    }
    refuse_attack(&route)?;
    Ok(Some(Request {
        // A request with id 0 is a notify (hybrid-04).
        id: (id != 0).then(|| id.into()),
        route: route.into(),
        body: RequestBody::new(&text::to_utf8(body)),
        key: None,
    }))
}

/// A request's id: seven bits a byte, the lowest first. Above 2³² − 1 it is malformed (F1).
fn take_id(bytes: &mut &[u8]) -> Result<u32, Disconnect> {
    let mut id = 0_u64;
    for shift in [0, 7, 14, 21, 28] {
        let (&byte, rest) = bytes.split_first().ok_or(Disconnect::Malformed)?;
        *bytes = rest;
        id |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return u32::try_from(id).map_err(|_| Disconnect::Malformed);
        }
    }
    Err(Disconnect::Malformed)
}

pub(super) fn push(publication: &Publication, out: &mut Vec<u8>) {
    let body = text::for_clients(publication.payload.body());
    pushed(publication.payload.route(), [&body, b"", b""], out);
}

/// For who asked for positions: the body that the original pushed, and where it stands.
pub(super) fn push_with_position(
    channel: &ChannelName,
    publication: &Publication,
    out: &mut Vec<u8>,
) {
    let head = format!(
        r#"{{"channel":{},"offset":{},"time":{},"body":"#,
        Value::from(channel.as_str()),
        publication.position.offset,
        publication.time,
    );
    let head = text::for_clients(head.as_bytes());
    let body = text::for_clients(publication.payload.body());
    pushed(publication.payload.route(), [&head, &body, b"}"], out);
}

pub(super) fn position(channel: &ChannelName, body: &str, out: &mut Vec<u8>) {
    let channel = Value::from(channel.as_str());
    let text = format!(r#"{{"channel":{channel},"body":{body}}}"#);
    let text = text::for_clients(text.as_bytes());
    pushed("onPosition", [&text, b"", b""], out);
}

/// A push whose body has these parts.
fn pushed(route: &str, [first, second, third]: [&[u8]; 3], out: &mut Vec<u8>) {
    // A route that a store holds has at most 128 bytes.
    let length = u8::try_from(route.len()).unwrap_or(u8::MAX);
    let route = &route.as_bytes()[..length.into()];
    let head = [PUSH << 1, length];
    package(DATA, &[&head, route, first, second, third], out);
}

pub(super) fn reply(id: u64, body: &[u8], out: &mut Vec<u8>) {
    let mut head = vec![RESPONSE << 1];
    let mut left = id;
    while left >= 0x80 {
        head.push(left as u8 | 0x80);
        left >>= 7;
    }
    head.push(left as u8);
    package(DATA, &[&head, &text::for_clients(body)], out);
}

pub(super) fn heartbeat(out: &mut Vec<u8>) {
    package(HEARTBEAT, &[], out);
}

pub(super) fn close(reason: Disconnect, out: &mut Vec<u8>) {
    let farewell = reason.farewell();
    if let Some(reason) = farewell.kick {
        package(KICK, &[br#"{"reason":""#, reason.as_bytes(), br#""}"#], out);
    }
    websocket::close(out, farewell.code, "");
}

/// One package in a frame of its own. Its length has three bytes: what is pushed stays far below 16 MiB, as the message
/// limit does.
fn package(kind: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    websocket::header(out, Opcode::Binary, 4 + length);
    out.extend_from_slice(&[
        kind,
        (length >> 16) as u8,
        (length >> 8) as u8,
        length as u8,
    ]);
    for part in parts {
        out.extend_from_slice(part);
    }
}
