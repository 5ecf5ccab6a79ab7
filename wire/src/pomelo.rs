//! Pomelo's packages (`docs/protocols/pomelo.md`), byte for byte as the original wrote them (K1).
//!
//! What a client gets wrong is ignored, is answered, or ends the connection, as in the recordings of the original (K6,
//! hybrid-03 to hybrid-05, hybrid-10). The original's faults are not kept: a large request id does not loop (F1),
//! several packages may share a frame, and a package that claims more than its frame holds is refused (F13).

mod stream;
mod text;

pub use stream::Packages;

use super::{
    Dictionary, Disconnect, Error, Farewell, Input, Request, RequestBody, WireFormat, refuse_attack,
};
use crate::websocket::Opcode;
use channel_store::{ChannelName, Ephemeral, Position, Publication};
use flate2::bufread::{GzDecoder, ZlibDecoder};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::io::Read;
use std::time::Duration;

const HANDSHAKE: u8 = 1;
const HANDSHAKE_ACK: u8 = 2;
const HEARTBEAT: u8 = 3;
const DATA: u8 = 4;
const KICK: u8 = 5;

/// The bit of a message's flag that says that its body is compressed.
const COMPRESSED: u8 = 0x10;

const REQUEST: u8 = 0;
const NOTIFY: u8 = 1;
const RESPONSE: u8 = 2;
const PUSH: u8 = 3;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The client has to send its handshake.
    Opened,
    /// The handshake was answered. The client has to acknowledge that.
    Greeted,
    Working,
}

/// Reads the frames of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    stage: Stage,
    /// The interval of heartbeats, in seconds.
    heartbeat: u32,
    /// Bytes that a compressed body may have when it is inflated.
    limit: u32,
}

impl Decoder {
    pub(crate) fn new(heartbeat: Duration) -> Self {
        // Clients take 0 for "no heartbeats". They would send none, and would be dropped for that.
        let heartbeat = u32::try_from(heartbeat.as_secs())
            .unwrap_or(u32::MAX)
            .max(1);
        Self {
            stage: Stage::Opened,
            heartbeat,
            limit: 128 << 10,
        }
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = u32::try_from(limit).unwrap_or(u32::MAX);
    }

    pub(crate) fn decode(
        &mut self,
        format: WireFormat,
        frame: &[u8],
        inputs: &mut Vec<Input>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let mut rest = frame;
        // At least once: an empty frame is malformed (K6).
        loop {
            let (kind, body, behind) = split_package(rest).ok_or(Error::Malformed)?;
            self.package(format, (kind, body), inputs, out)?;
            if behind.is_empty() {
                return Ok(());
            }
            rest = behind;
        }
    }

    /// Handles one package. One that comes too early or twice is ignored (K6).
    fn package(
        &mut self,
        format: WireFormat,
        (kind, body): (u8, &[u8]),
        inputs: &mut Vec<Input>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        match (kind, self.stage) {
            (HANDSHAKE, Stage::Opened) => {
                let Some(system) = handshake(body) else {
                    package(format, HANDSHAKE, &[br#"{"code":500}"#], out);
                    return Err(Error::Handshake);
                };
                self.stage = Stage::Greeted;
                let dictionary = format.dictionary.map_or_else(String::new, |dictionary| {
                    format!(",{}", dictionary.describe(system.version.as_deref()))
                });
                let heartbeat = self.heartbeat;
                let answer =
                    format!(r#"{{"code":200,"sys":{{"heartbeat":{heartbeat}{dictionary}}}}}"#);
                package(format, HANDSHAKE, &[answer.as_bytes()], out);
            }
            (HANDSHAKE_ACK, Stage::Greeted) => {
                self.stage = Stage::Working;
                heartbeat(format, out);
                inputs.push(Input::Ready);
            }
            (HEARTBEAT, Stage::Working) => {
                heartbeat(format, out);
                inputs.push(Input::Heartbeat);
            }
            (DATA, Stage::Working) => {
                inputs.extend(message(format.dictionary, body, self.limit)?.map(Input::Request));
            }
            (HANDSHAKE | HANDSHAKE_ACK | HEARTBEAT | DATA, _) => {}
            _ => return Err(Error::Malformed),
        }
        Ok(())
    }
}

/// The type and body of a package, and the bytes after it. `None` if it is not complete.
fn split_package(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[kind, a, b, c], rest) = bytes.split_first_chunk()?;
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    let (body, behind) = rest.split_at_checked(length)?;
    Some((kind, body, behind))
}

/// What a client says about its system. Only the version of the dictionary that it has makes a difference.
#[derive(Default, Deserialize)]
struct System {
    #[serde(rename = "dictVersion")]
    version: Option<String>,
}

/// Reads a handshake. `None` if it says nothing about the client's system.
fn handshake(body: &[u8]) -> Option<System> {
    #[derive(Deserialize)]
    struct Handshake<'a> {
        #[serde(borrow)]
        sys: &'a RawValue,
    }
    let body = text::to_utf8(body);
    // serde would accept an array in place of an object.
    if !body.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let handshake = serde_json::from_slice::<Handshake<'_>>(&body).ok()?;
    let sys = handshake.sys.get();
    // A version that is not a string counts as none, because it cannot be ours.
    sys.starts_with('{')
        .then(|| serde_json::from_str(sys).unwrap_or_default())
}

/// Reads the request in a DATA package. `None` if it is ignored.
fn message(
    dictionary: Option<&Dictionary>,
    bytes: &[u8],
    limit: u32,
) -> Result<Option<Request>, Error> {
    let (&flag, mut rest) = bytes.split_first().ok_or(Error::Malformed)?;
    let id = match flag >> 1 & 0b111 {
        REQUEST => take_id(&mut rest)?,
        // Clients should not send pushes, but the original handled them like notifies (hybrid-04).
        NOTIFY | PUSH => 0,
        _ => return Ok(None),
    };
    let (route, body) = if flag & 1 == 1 {
        let Some((code, body)) = rest.split_first_chunk() else {
            // Without a dictionary a code means nothing, so even half a code is ignored.
            return dictionary.map_or(Ok(None), |_| Err(Error::Malformed));
        };
        let route = dictionary.and_then(|dictionary| dictionary.route(u16::from_be_bytes(*code)));
        (route.unwrap_or_default().into(), body)
    } else {
        let (&length, rest) = rest.split_first().ok_or(Error::Malformed)?;
        let (route, body) = rest
            .split_at_checked(length.into())
            .ok_or(Error::Malformed)?;
        (String::from_utf8_lossy(route), body)
    };
    if !route.contains('.') {
        return Ok(None);
    }
    refuse_attack(&route)?;
    Ok(Some(Request {
        // A request with id 0 is a notify (hybrid-04).
        id: (id != 0).then(|| id.into()),
        route: route.into(),
        body: if flag & COMPRESSED == 0 {
            RequestBody::new(&text::to_utf8(body))
        } else {
            match inflate(body, limit) {
                Some(body) => RequestBody::new(&text::to_utf8(&body)),
                // It must not count as empty. Otherwise the sender would be told that its message was sent.
                None => RequestBody::Unusable,
            }
        },
        key: None,
    }))
}

/// Inflates a body that a client of Pitaya has compressed, with zlib or gzip. `None` if it is neither, is not complete,
/// or has more than `limit` bytes. No more than that is inflated.
fn inflate(body: &[u8], limit: u32) -> Option<Vec<u8>> {
    const GZIP: &[u8] = &[0x1f, 0x8b];
    let decoder: &mut dyn Read = if body.starts_with(GZIP) {
        &mut GzDecoder::new(body)
    } else {
        &mut ZlibDecoder::new(body)
    };
    let mut inflated = Vec::new();
    // One byte more than the limit shows that there is more.
    let mut decoder = decoder.take(u64::from(limit) + 1);
    decoder.read_to_end(&mut inflated).ok()?;
    (inflated.len() <= limit as usize).then_some(inflated)
}

/// Reads the id of a request: seven bits in each byte, the lowest first. An id above 2³² − 1 is malformed (F1).
fn take_id(bytes: &mut &[u8]) -> Result<u32, Error> {
    let mut id = 0_u64;
    for shift in [0, 7, 14, 21, 28] {
        let (&byte, rest) = bytes.split_first().ok_or(Error::Malformed)?;
        *bytes = rest;
        id |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return u32::try_from(id).map_err(|_| Error::Malformed);
        }
    }
    Err(Error::Malformed)
}

pub(crate) fn push(
    format: WireFormat,
    channel: &ChannelName,
    publication: &Publication,
    out: &mut Vec<u8>,
) {
    let body = text::for_clients(publication.payload.body());
    let route = publication.payload.route();
    if !format.positions {
        return pushed(format, route, [&body, b"", b""], out);
    }
    // For members that asked for positions: the body that the original pushed, and its position.
    let head = format!(
        r#"{{"channel":{},"offset":{},"time":{},"body":"#,
        Value::from(channel.as_str()),
        publication.position.offset,
        publication.time,
    );
    let head = text::for_clients(head.as_bytes());
    pushed(format, route, [&head, &body, b"}"], out);
}

pub(crate) fn ephemeral(
    format: WireFormat,
    channel: &ChannelName,
    ephemeral: &Ephemeral,
    out: &mut Vec<u8>,
) {
    let body = text::for_clients(ephemeral.payload.body());
    let route = ephemeral.payload.route();
    if !format.positions {
        return pushed(format, route, [&body, b"", b""], out);
    }
    let head = format!(
        r#"{{"channel":{},"ephemeral":true,"time":{},"body":"#,
        Value::from(channel.as_str()),
        ephemeral.time,
    );
    let head = text::for_clients(head.as_bytes());
    pushed(format, route, [&head, &body, b"}"], out);
}

pub(crate) fn direct(format: WireFormat, route: &str, body: &[u8], out: &mut Vec<u8>) {
    pushed(format, route, [&text::for_clients(body), b"", b""], out);
}

pub(crate) fn skip(
    format: WireFormat,
    channel: &ChannelName,
    position: &Position,
    out: &mut Vec<u8>,
) {
    let channel = Value::from(channel.as_str());
    let text = format!(r#"{{"channel":{channel},"offset":{}}}"#, position.offset);
    let text = text::for_clients(text.as_bytes());
    pushed(format, "onPosition", [&text, b"", b""], out);
}

pub(crate) fn position(format: WireFormat, channel: &ChannelName, body: &str, out: &mut Vec<u8>) {
    let channel = Value::from(channel.as_str());
    let text = format!(r#"{{"channel":{channel},"body":{body}}}"#);
    let text = text::for_clients(text.as_bytes());
    pushed(format, "onPosition", [&text, b"", b""], out);
}

/// Appends a push. Its body consists of these parts.
fn pushed(format: WireFormat, route: &str, body: [&[u8]; 3], out: &mut Vec<u8>) {
    let flag = PUSH << 1;
    let [first, second, third] = body;
    let code = format.dictionary.and_then(|it| it.code(route));
    if let Some(code) = code {
        let [high, low] = code.to_be_bytes();
        let head = [flag | 1, high, low];
        return package(format, DATA, &[&head, first, second, third], out);
    }
    // A route that a store holds has at most 128 bytes.
    let length = u8::try_from(route.len()).unwrap_or(u8::MAX);
    let route = &route.as_bytes()[..length.into()];
    let head = [flag, length];
    package(format, DATA, &[&head, route, first, second, third], out);
}

pub(crate) fn reply(format: WireFormat, id: u64, body: &[u8], out: &mut Vec<u8>) {
    let mut head = vec![RESPONSE << 1];
    let mut left = id;
    while left >= 0x80 {
        head.push(left as u8 | 0x80);
        left >>= 7;
    }
    head.push(left as u8);
    package(format, DATA, &[&head, &text::for_clients(body)], out);
}

pub(crate) fn heartbeat(format: WireFormat, out: &mut Vec<u8>) {
    package(format, HEARTBEAT, &[], out);
}

pub(crate) fn close(
    format: WireFormat,
    reason: Disconnect,
    farewell: Farewell<'_>,
    out: &mut Vec<u8>,
) {
    if let Some(kick) = farewell.kick {
        let kick = Value::from(kick);
        let body = format!(r#"{{"reason":{kick}{}}}"#, reason.details());
        package(format, KICK, &[&text::for_clients(body.as_bytes())], out);
    }
    if let Some(json) = farewell.json.filter(|it| it.reconnect && format.positions) {
        // A push like any other, so the client's library does not take it as final.
        let body = json.body();
        let body = text::for_clients(body.as_bytes());
        pushed(format, "onKick", [&body, b"", b""], out);
    }
    format.carrier.close(farewell.code, &reason.text(), out);
}

/// Appends one package, in a frame of its own or in a stream. Its length has three bytes, so parts and head must stay
/// below 16 MiB.
fn package(format: WireFormat, kind: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let head = [
        kind,
        (length >> 16) as u8,
        (length >> 8) as u8,
        length as u8,
    ];
    format
        .carrier
        .carry(Opcode::Binary, &head, (length, parts), out);
}
