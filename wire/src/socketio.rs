//! Pomelo's string messages in events of Socket.IO in packets of Engine.IO (`docs/protocols/socketio.md`), as the
//! original's `sioconnector` had them. Clients use version 3 or 4 of Engine.IO. The versions differ in who sends
//! heartbeats, and in who says first that the namespace is connected.
//!
//! Packets are read and written one by one. Polls carry several of them, which [`engine_io`](crate::engine_io) splits
//! and joins.

use super::{
    Disconnect, EngineIo, Error, Farewell, Input, Request, RequestBody, WireFormat, refuse_attack,
};
use crate::websocket::Opcode;
use channel_store::{ChannelName, Ephemeral, Position, Publication};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;

/// A string message begins with four characters for the id, and one for the length of the route.
const ID: usize = 4;
const HEAD: usize = ID + 1;

pub(crate) fn decode(
    version: EngineIo,
    format: WireFormat,
    packet: &[u8],
    inputs: &mut Vec<Input>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let (&kind, data) = packet.split_first().ok_or(Error::Malformed)?;
    let data = simdutf8::basic::from_utf8(data).map_err(|_| Error::Malformed)?;
    match kind {
        b'1' => Err(Error::Closed),
        // Clients of version 3 send pings. The answer holds the same data.
        b'2' => {
            text(format, &["3", data], out);
            inputs.push(Input::Heartbeat);
            Ok(())
        }
        b'3' => {
            inputs.push(Input::Heartbeat);
            Ok(())
        }
        b'4' => socket_packet(version, format, data, inputs, out),
        // Packets of the switch to a WebSocket that come late or out of place.
        b'5' | b'6' => Ok(()),
        _ => Err(Error::Malformed),
    }
}

fn socket_packet(
    version: EngineIo,
    format: WireFormat,
    packet: &str,
    inputs: &mut Vec<Input>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let mut rest = packet.chars();
    let kind = rest.next().ok_or(Error::Malformed)?;
    let (namespace, rest) = split_namespace(rest.as_str());
    match (kind, namespace) {
        ('0', "/") => {
            if version == EngineIo::V4 {
                let id = fastrand::u64(..);
                text(
                    format,
                    &["40{\"sid\":\"", &format!("{id:016x}"), "\"}"],
                    out,
                );
                inputs.push(Input::Ready);
            }
        }
        ('0', other) => {
            let message = match version {
                EngineIo::V3 => r#""Invalid namespace""#,
                EngineIo::V4 => r#"{"message":"Invalid namespace"}"#,
            };
            text(format, &["44", other, ",", message], out);
        }
        ('1', "/") => {
            kick(format, "client namespace disconnect", "", out);
            return Err(Error::Closed);
        }
        ('2', "/") => inputs.extend(event(rest)?.map(Input::Request)),
        // All of this is ignored: other namespaces are not connected, no acknowledgement is expected, errors are not
        // for a server, and Pomelo has no binary events.
        ('1'..='6', _) => {}
        _ => return Err(Error::Malformed),
    }
    Ok(())
}

/// Splits off the namespace. Only one other than `/` is named, as in `/admin,rest`.
fn split_namespace(packet: &str) -> (&str, &str) {
    if !packet.starts_with('/') {
        return ("/", packet);
    }
    let (namespace, rest) = packet.split_once(',').unwrap_or((packet, ""));
    // A client may add a query to the namespace.
    (namespace.split('?').next().unwrap_or(namespace), rest)
}

/// Reads `["message","…"]`. The number of an acknowledgement before it is ignored. `None` for any other event.
fn event(packet: &str) -> Result<Option<Request>, Error> {
    let array = packet.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let event: Vec<&RawValue> = serde_json::from_str(array).map_err(|_| Error::Malformed)?;
    let [name, message, ..] = event[..] else {
        return Ok(None);
    };
    if serde_json::from_str::<String>(name.get()).ok().as_deref() != Some("message") {
        return Ok(None);
    }
    if let Ok(message) = serde_json::from_str::<String>(message.get()) {
        return string_message(&message);
    }
    // JavaScript's strings may hold half of a surrogate pair. In JSON that is a string, too, but it is not UTF-8.
    let Ok(Wtf8(message)) = serde_json::from_str(message.get()) else {
        return Ok(None);
    };
    let request = string_message(&String::from_utf8_lossy(&message))?;
    Ok(request.map(|request| Request {
        body: RequestBody::Unusable,
        ..request
    }))
}

/// A JSON string that may hold halves of surrogate pairs. Each is kept, as three bytes.
struct Wtf8(Vec<u8>);

impl<'de> Deserialize<'de> for Wtf8 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Wtf8;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Wtf8, E> {
                Ok(Wtf8(bytes.to_vec()))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

/// Reads a request from a string message. `None` if it is ignored.
fn string_message(message: &str) -> Result<Option<Request>, Error> {
    let mut head = [0; HEAD];
    let mut rest = message.chars();
    for byte in &mut head {
        let Some(character) = rest.next() else {
            return Ok(None);
        };
        // The original cut off higher bits, too.
        *byte = u32::from(character) as u8;
    }
    let [a, b, c, d, length] = head;
    let Some((route, body)) = split_utf16(rest.as_str(), length.into()) else {
        return Ok(None);
    };
    if !route.contains('.') {
        return Ok(None);
    }
    refuse_attack(route)?;
    let id = u32::from_be_bytes([a, b, c, d]);
    Ok(Some(Request {
        // A request with id 0 is a notify (siofix-03).
        id: (id != 0).then(|| id.into()),
        route: route.into(),
        body: RequestBody::new(body.as_bytes()),
        key: None,
    }))
}

/// Splits the text after this many UTF-16 units, which is how JavaScript counts. `None` if there are fewer, or if the
/// place is within a character.
fn split_utf16(text: &str, mut units: usize) -> Option<(&str, &str)> {
    for (at, character) in text.char_indices() {
        if units == 0 {
            return Some(text.split_at(at));
        }
        units = units.checked_sub(character.len_utf16())?;
    }
    (units == 0).then_some((text, ""))
}

pub(crate) fn push(
    format: WireFormat,
    channel: &ChannelName,
    publication: &Publication,
    out: &mut Vec<u8>,
) {
    let route = Value::from(publication.payload.route());
    let body = String::from_utf8_lossy(publication.payload.body());
    let place = if format.positions {
        let channel = Value::from(channel.as_str());
        let (offset, time) = (publication.position.offset, publication.time);
        format!(r#""channel":{channel},"offset":{offset},"time":{time},"#)
    } else {
        String::new()
    };
    message(
        format,
        &format!(r#"{{"route":{route},{place}"body":{body}}}"#),
        out,
    );
}

pub(crate) fn ephemeral(
    format: WireFormat,
    channel: &ChannelName,
    ephemeral: &Ephemeral,
    out: &mut Vec<u8>,
) {
    let route = Value::from(ephemeral.payload.route());
    let body = String::from_utf8_lossy(ephemeral.payload.body());
    let place = if format.positions {
        let (channel, time) = (Value::from(channel.as_str()), ephemeral.time);
        format!(r#""channel":{channel},"ephemeral":true,"time":{time},"#)
    } else {
        String::new()
    };
    let text = format!(r#"{{"route":{route},{place}"body":{body}}}"#);
    message(format, &text, out);
}

pub(crate) fn direct(format: WireFormat, route: &str, body: &[u8], out: &mut Vec<u8>) {
    let (route, body) = (Value::from(route), String::from_utf8_lossy(body));
    message(
        format,
        &format!(r#"{{"route":{route},"body":{body}}}"#),
        out,
    );
}

pub(crate) fn skip(
    format: WireFormat,
    channel: &ChannelName,
    position: &Position,
    out: &mut Vec<u8>,
) {
    let (channel, offset) = (Value::from(channel.as_str()), position.offset);
    let text = format!(r#"{{"route":"onPosition","channel":{channel},"offset":{offset}}}"#);
    message(format, &text, out);
}

pub(crate) fn position(format: WireFormat, channel: &ChannelName, body: &str, out: &mut Vec<u8>) {
    let channel = Value::from(channel.as_str());
    let text = format!(r#"{{"route":"onPosition","channel":{channel},"body":{body}}}"#);
    message(format, &text, out);
}

pub(crate) fn reply(format: WireFormat, id: u64, body: &[u8], out: &mut Vec<u8>) {
    let body = String::from_utf8_lossy(body);
    message(format, &format!(r#"{{"id":{id},"body":{body}}}"#), out);
}

/// In version 4 the server sends pings.
pub(crate) fn heartbeat(format: WireFormat, out: &mut Vec<u8>) {
    text(format, &["2"], out);
}

/// A client that should connect again sees its connection end without a close frame. After a proper close some
/// libraries do not connect again, or only after their own time-out.
pub(crate) fn close(
    format: WireFormat,
    reason: Disconnect,
    farewell: Farewell<'_>,
    out: &mut Vec<u8>,
) {
    if let Some(json) = farewell.json.filter(|json| json.reconnect) {
        if format.positions {
            kick(format, json.reason, &json.more(), out);
        }
        return;
    }
    if let Some(kicked) = farewell.kick {
        kick(format, kicked, &reason.details(), out);
    }
    format.carrier.close(farewell.code, &reason.text(), out);
}

fn kick(format: WireFormat, reason: &str, more: &str, out: &mut Vec<u8>) {
    let reason = Value::from(reason);
    let text = format!(r#"{{"route":"onKick","reason":{reason}{more}}}"#);
    message(format, &text, out);
}

/// Appends a string message to a client.
fn message(format: WireFormat, message: &str, out: &mut Vec<u8>) {
    let string = Value::from(message).to_string();
    text(format, &["42[\"message\",", &string, "]"], out);
}

/// Appends one packet in a frame of its own.
pub(crate) fn text(format: WireFormat, parts: &[&str], out: &mut Vec<u8>) {
    let packet = parts.concat();
    let carrier = format.carrier;
    carrier.carry(Opcode::Text, packet.as_bytes(), (0, &[]), out);
}
