//! Codecs: between the bytes of a client's protocol and what they ask for.
//!
//! A codec does no I/O, never awaits and knows neither sessions nor channels. [`Codec`] reads one connection's messages;
//! what is written is the same for every connection of a [`WireFormat`], so a publication is encoded once however many
//! members it has. All that is encoded is complete WebSocket frames, ready for the socket.

mod json;
mod pomelo;

use crate::disconnect::Disconnect;
use bytes::Bytes;
use channel_store::body::{self, BodyError};
use channel_store::{ChannelName, Publication};
use std::time::Duration;

/// What a client's message asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The protocol's own handshake is complete: heartbeats begin.
    Ready,
    /// The client's own heartbeat package. Only these keep a Pomelo client alive (K5).
    Heartbeat,
    /// Something for a handler.
    Request(Request),
}

/// A call of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What the reply is to carry. `None`: a notify, nothing is answered.
    pub id: Option<u64>,
    /// The handler's name, like `connector.handler.login`.
    pub route: Box<str>,
    /// What it is called with.
    pub body: RequestBody,
    /// The client's own name for the message: repeated, it is the same message.
    pub key: Option<Box<str>>,
}

/// What a handler is called with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestBody {
    /// One JSON object as [`body::check`] accepts it, verbatim.
    Object(Bytes),
    /// Unparsable, empty, null, a number, a string or a boolean: counts as `{}` (K6).
    Empty,
    /// An array (F12), or nested too deep: answered with `{"code":500}`.
    Unusable,
}

impl RequestBody {
    fn new(bytes: &[u8]) -> Self {
        match body::check(bytes) {
            Ok(()) => Self::Object(Bytes::copy_from_slice(bytes)),
            Err(BodyError::TooDeep) => Self::Unusable,
            Err(BodyError::NotObject) if bytes.trim_ascii_start().starts_with(b"[") => {
                Self::Unusable
            }
            Err(BodyError::NotObject | BodyError::NotJson | BodyError::NotUtf8) => Self::Empty,
        }
    }
}

/// A form that publications are encoded in, once each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WireFormat {
    /// Pomelo's packages in binary WebSocket frames: `docs/protocols/pomelo.md`.
    Pomelo,
    /// JSON in text WebSocket frames: `docs/protocols/json.md`.
    Json,
}

impl WireFormat {
    /// All of them, each at its [`index`](Self::index).
    pub const ALL: [Self; 2] = [Self::Pomelo, Self::Json];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// This one's place in a table with a row for each.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// What one connection's protocol remembers between messages.
#[derive(Debug)]
pub struct Codec(State);

#[derive(Debug)]
enum State {
    Pomelo(pomelo::Decoder),
    Json,
}

impl Codec {
    /// A connection that has just been opened. The heartbeat's interval is told to clients that send heartbeats, in
    /// whole seconds.
    #[must_use]
    pub fn new(format: WireFormat, heartbeat: Duration) -> Self {
        Self(match format {
            WireFormat::Pomelo => State::Pomelo(pomelo::Decoder::new(heartbeat)),
            WireFormat::Json => State::Json,
        })
    }

    /// What this connection is written in.
    #[must_use]
    pub fn format(&self) -> WireFormat {
        match self.0 {
            State::Pomelo(_) => WireFormat::Pomelo,
            State::Json => WireFormat::Json,
        }
    }

    /// To be called once, before the first message: a protocol without a handshake of its own is ready at once.
    pub fn open(&mut self, inputs: &mut Vec<Input>) {
        match self.0 {
            State::Pomelo(_) => {}
            State::Json => inputs.push(Input::Ready),
        }
    }

    /// Reads one whole WebSocket message, text or binary alike. What the protocol itself answers is appended to `out`,
    /// what the client asks for to `inputs`, in order.
    ///
    /// # Errors
    /// The reason to close for. What was appended before holds: `out` is to be sent first.
    pub fn decode(
        &mut self,
        message: &[u8],
        inputs: &mut Vec<Input>,
        out: &mut Vec<u8>,
    ) -> Result<(), Disconnect> {
        match &mut self.0 {
            State::Pomelo(decoder) => decoder.decode(message, inputs, out),
            State::Json => json::decode(message, inputs, out),
        }
    }
}

/// Appends a publication as its members receive it.
pub fn push(
    format: WireFormat,
    channel: &ChannelName,
    publication: &Publication,
    out: &mut Vec<u8>,
) {
    match format {
        WireFormat::Pomelo => pomelo::push(publication, out),
        WireFormat::Json => json::push(channel, publication, out),
    }
}

/// Appends the reply to a request. `body` is one JSON value.
pub fn reply(format: WireFormat, id: u64, body: &[u8], out: &mut Vec<u8>) {
    match format {
        WireFormat::Pomelo => pomelo::reply(id, body, out),
        WireFormat::Json => json::reply(id, body, out),
    }
}

/// Appends the server's heartbeat.
pub fn heartbeat(format: WireFormat, out: &mut Vec<u8>) {
    match format {
        WireFormat::Pomelo => pomelo::heartbeat(out),
        WireFormat::Json => json::heartbeat(out),
    }
}

/// Appends the end: the protocol's own farewell, if it has one for this reason, then the WebSocket close frame.
pub fn close(format: WireFormat, reason: Disconnect, out: &mut Vec<u8>) {
    match format {
        WireFormat::Pomelo => pomelo::close(reason, out),
        WireFormat::Json => json::close(reason, out),
    }
}

/// A method that every object of the original's had, called in one of its handlers, is an attack (K6, hybrid-05).
fn refuse_attack(route: &str) -> Result<(), Disconnect> {
    let method = route
        .strip_prefix("connector.handler.")
        .or_else(|| route.strip_prefix("chat.handler."));
    let is_attack = matches!(
        method,
        Some(
            "constructor"
                | "hasOwnProperty"
                | "isPrototypeOf"
                | "propertyIsEnumerable"
                | "toLocaleString"
                | "toString"
                | "valueOf"
                | "__defineGetter__"
                | "__defineSetter__"
                | "__lookupGetter__"
                | "__lookupSetter__"
                | "__proto__"
        )
    );
    if is_attack {
        return Err(Disconnect::Attack);
    }
    Ok(())
}
