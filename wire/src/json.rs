//! JSON over WebSocket (`docs/protocols/json.md`). A client needs no library for it: websocat or a browser's console
//! will do.
//!
//! The parts of a request are read as raw text. So its body is not parsed into a tree, and passes on byte for byte. A
//! message that is not a request is refused with code 400, and the connection stays open.

use super::{
    Carrier, Disconnect, Error, Farewell, Input, Protocol, Request, RequestBody, WireFormat,
    refuse_attack, sse,
};
use crate::refusal::{Reason, Refusal};
use crate::websocket::{self, Opcode};
use channel_store::{ChannelName, Ephemeral, Position, Publication};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// From here on ids are no longer exact in JavaScript.
const ID_END: u64 = 1 << 53;

/// The parts of a request, as raw text. A part that is null counts as absent.
#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    route: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
}

pub(crate) fn decode(
    format: WireFormat,
    message: &[u8],
    inputs: &mut Vec<Input>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    match request(message) {
        Ok(request) => {
            refuse_attack(&request.route)?;
            inputs.push(Input::Request(request));
        }
        Err(id) => refuse(format, id, out),
    }
    Ok(())
}

/// Reads a request. If the message is not one, the error is its id, if that could be read.
fn request(message: &[u8]) -> Result<Request, Option<u64>> {
    let parts = parts(message).ok_or(None)?;
    let id = optional(parts.id, |text| text.parse().ok().filter(|id| *id < ID_END)).ok_or(None)?;
    let string = |text: &str| serde_json::from_str::<Box<str>>(text).ok();
    let (Some(Some(route)), Some(key)) =
        (optional(parts.route, string), optional(parts.key, string))
    else {
        return Err(id);
    };
    let body = parts.body.map_or(RequestBody::Empty, |raw| {
        RequestBody::new(raw.get().as_bytes())
    });
    Ok(Request {
        id,
        route,
        body,
        key,
    })
}

/// A request that came in a post: its own id, and the same request under the id `as_id`. So the replies to several posts can be told
/// apart, whatever ids their clients have given them.
///
/// # Errors
/// The message is no request. Its id, if that could be read.
pub fn readdressed(message: &[u8], as_id: u64) -> Result<(Option<u64>, String), Option<u64>> {
    let own = request(message)?.id;
    let Parts {
        route, body, key, ..
    } = parts(message).ok_or(own)?;
    let mut text = format!(r#"{{"id":{as_id}"#);
    for (name, part) in [("route", route), ("body", body), ("key", key)] {
        if let Some(part) = part {
            text.push_str(&format!(r#","{name}":{part}"#));
        }
    }
    text.push('}');
    Ok((own, text))
}

/// `None` unless the message is one JSON object that has no part twice.
fn parts(message: &[u8]) -> Option<Parts<'_>> {
    let text = simdutf8::basic::from_utf8(message).ok()?;
    // serde would accept an array in place of an object.
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// `Some(None)` if the part is absent, `None` if it cannot be read.
fn optional<T>(part: Option<&RawValue>, read: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    match part {
        None => Some(None),
        Some(raw) => read(raw.get()).map(Some),
    }
}

fn refuse(format: WireFormat, id: Option<u64>, out: &mut Vec<u8>) {
    let refusal = Refusal::from(Reason::InvalidRequest);
    let body = refusal.body(Protocol::Json);
    match id {
        Some(id) => reply(format, id, body.as_bytes(), out),
        None => object(format, r#"{"body":"#, body.as_bytes(), out),
    }
}

pub(crate) fn push(
    format: WireFormat,
    channel: &ChannelName,
    publication: &Publication,
    out: &mut Vec<u8>,
) {
    let head = format!(
        r#"{{"route":{},"channel":{},"offset":{},"time":{},"body":"#,
        Value::from(publication.payload.route()),
        Value::from(channel.as_str()),
        publication.position.offset,
        publication.time,
    );
    let route = publication.payload.route();
    let moves = Some((channel, &publication.position));
    text(
        format,
        (route, moves),
        &head,
        publication.payload.body(),
        out,
    );
}

pub(crate) fn ephemeral(
    format: WireFormat,
    channel: &ChannelName,
    ephemeral: &Ephemeral,
    out: &mut Vec<u8>,
) {
    let head = format!(
        r#"{{"route":{},"channel":{},"ephemeral":true,"time":{},"body":"#,
        Value::from(ephemeral.payload.route()),
        Value::from(channel.as_str()),
        ephemeral.time,
    );
    let route = ephemeral.payload.route();
    text(format, (route, None), &head, ephemeral.payload.body(), out);
}

pub(crate) fn direct(format: WireFormat, route: &str, body: &[u8], out: &mut Vec<u8>) {
    let head = format!(r#"{{"route":{},"body":"#, Value::from(route));
    text(format, (route, None), &head, body, out);
}

pub(crate) fn skip(
    format: WireFormat,
    channel: &ChannelName,
    position: &Position,
    out: &mut Vec<u8>,
) {
    if format.carrier == Carrier::Events {
        return sse::moves(channel, position, out);
    }
    let channel = Value::from(channel.as_str());
    let head = format!(r#"{{"channel":{channel},"offset":"#);
    object(format, &head, position.offset.to_string().as_bytes(), out);
}

pub(crate) fn position(
    format: WireFormat,
    (channel, position): (&ChannelName, &Position),
    body: &str,
    out: &mut Vec<u8>,
) {
    let named = Value::from(channel.as_str());
    let head = format!(r#"{{"route":"onPosition","channel":{named},"body":"#);
    let label = ("onPosition", Some((channel, position)));
    text(format, label, &head, body.as_bytes(), out);
}

pub(crate) fn reply(format: WireFormat, id: u64, body: &[u8], out: &mut Vec<u8>) {
    object(format, &format!(r#"{{"id":{id},"body":"#), body, out);
}

pub(crate) fn heartbeat(format: WireFormat, out: &mut Vec<u8>) {
    match format.carrier {
        Carrier::Events => sse::heartbeat(out),
        _ => websocket::frame(out, Opcode::Ping, b""),
    }
}

pub(crate) fn close(
    format: WireFormat,
    reason: Disconnect,
    farewell: Farewell<'_>,
    out: &mut Vec<u8>,
) {
    let Some(json) = farewell.json else {
        return format.carrier.close(farewell.code, &reason.text(), out);
    };
    if format.carrier == Carrier::Events {
        return sse::close(&json, out);
    }
    let body = json.body();
    object(format, r#"{"route":"onKick","body":"#, body.as_bytes(), out);
    format.carrier.close(json.code, json.reason, out);
}

/// The route of a push, and the position to which it moves a member, if it does.
type Label<'a> = (&'a str, Option<(&'a ChannelName, &'a Position)>);

/// Appends a push. `head` is the beginning of the object, and `body` is the value of its last member.
fn text(format: WireFormat, (route, moves): Label<'_>, head: &str, body: &[u8], out: &mut Vec<u8>) {
    match format.carrier {
        Carrier::Events => sse::push(route, moves, (head, body), out),
        _ => object(format, head, body, out),
    }
}

/// Appends an object in a text frame. `head` is its beginning, and `body` is the value of its last member. A stream of events has no
/// place for it: there, replies are the answers to posts.
fn object(format: WireFormat, head: &str, body: &[u8], out: &mut Vec<u8>) {
    let carrier = format.carrier;
    let parts: &[&[u8]] = &[body, b"}"];
    carrier.carry(Opcode::Text, head.as_bytes(), (body.len() + 1, parts), out);
}
