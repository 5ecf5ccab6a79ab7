//! Between the bytes of a client's protocol and what they ask for.
//!
//! Nothing here does I/O, awaits, or knows sessions. [`Codec`] reads one connection's messages;
//! what is written is the same for every connection of a [`WireFormat`], so a publication is encoded once however many
//! members it has. All that is encoded is whole messages of its [`Carrier`], ready for the socket.

pub mod engine_io;
pub mod websocket;

mod dictionary;
mod disconnect;
mod error;
mod format;
mod json;
mod pomelo;
mod refusal;
mod socketio;

pub use dictionary::{Dictionary, DictionaryError};
pub use disconnect::{Disconnect, Farewell, JsonFarewell};
pub use error::Error;
pub use format::{Carrier, EngineIo, Protocol, WireFormat};
pub use pomelo::Packages;
pub use refusal::{Reason, Refusal};

use bytes::Bytes;
use channel_store::body::{self, BodyError};
use channel_store::{ChannelName, Continuity, Epoch, Position, Publication};
use serde_json::Value;
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
    /// An array (F12), nested too deep, or with a number that no double is near: refused.
    Unusable,
}

impl RequestBody {
    /// What these bytes are.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        match body::check(bytes) {
            Ok(()) => Self::Object(Bytes::copy_from_slice(bytes)),
            Err(BodyError::TooDeep | BodyError::NumberTooLarge) => Self::Unusable,
            Err(BodyError::NotObject) if bytes.trim_ascii_start().starts_with(b"[") => {
                Self::Unusable
            }
            Err(BodyError::NotObject | BodyError::NotJson | BodyError::NotUtf8) => Self::Empty,
        }
    }
}

/// Why a member's position is another one from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moved {
    /// What follows is of another epoch. Nothing is lost.
    NewEpoch,
    /// It saw publications that the log does not have: those after this position are void.
    Diverged,
    /// What it missed is no longer held: this position is right before the oldest that is.
    Trimmed,
    /// Its position is of another life of the channel, which is gone.
    Unknown,
}

impl Moved {
    /// What became of a position that does not stand; `None` if it does.
    #[must_use]
    pub const fn of(continuity: Continuity) -> Option<Self> {
        match continuity {
            Continuity::Contiguous => None,
            Continuity::Diverged => Some(Self::Diverged),
            Continuity::Trimmed => Some(Self::Trimmed),
            Continuity::Unknown => Some(Self::Unknown),
        }
    }

    /// As clients read it (CONTRACT, `onPosition`).
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NewEpoch => "new-epoch",
            Self::Diverged => "diverged",
            Self::Trimmed => "trimmed",
            Self::Unknown => "unknown",
        }
    }
}

/// What one connection's protocol remembers between messages.
#[derive(Debug)]
pub struct Codec {
    format: WireFormat,
    state: State,
}

#[derive(Debug)]
enum State {
    Pomelo(pomelo::Decoder),
    SocketIo(EngineIo),
    Json,
}

impl Codec {
    /// A connection that has just been opened. The heartbeat's interval is told to clients that send heartbeats, in
    /// whole seconds.
    #[must_use]
    pub fn new(format: WireFormat, heartbeat: Duration) -> Self {
        let state = match format.protocol {
            Protocol::Pomelo => State::Pomelo(pomelo::Decoder::new(heartbeat)),
            Protocol::SocketIo(version) => State::SocketIo(version),
            Protocol::Json => State::Json,
        };
        Self { format, state }
    }

    /// The same where a message may have so many bytes, also after it is inflated. Otherwise that is 128 KiB.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        if let State::Pomelo(decoder) = &mut self.state {
            decoder.set_limit(limit);
        }
        self
    }

    /// To be called once, before the first message: a protocol without a handshake of its own is ready at once.
    pub fn open(&mut self, inputs: &mut Vec<Input>) {
        match self.state {
            State::Pomelo(_) | State::SocketIo(EngineIo::V4) => {}
            State::SocketIo(EngineIo::V3) | State::Json => inputs.push(Input::Ready),
        }
    }

    /// Reads one whole message of the carrier, text or binary alike. What the protocol itself answers is appended to
    /// `out`, what the client asks for to `inputs`, in order.
    ///
    /// # Errors
    /// The reason to close for. What was appended before holds: `out` is to be sent first.
    pub fn decode(
        &mut self,
        message: &[u8],
        inputs: &mut Vec<Input>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        #[cfg(feature = "testing")]
        if let Some(opcode) = self.format.echo {
            self.format.carrier.carry(opcode, message, (0, &[]), out);
            return Ok(());
        }
        match &mut self.state {
            State::Pomelo(decoder) => decoder.decode(self.format, message, inputs, out),
            State::SocketIo(version) => {
                socketio::decode(*version, self.format, message, inputs, out)
            }
            State::Json => json::decode(self.format, message, inputs, out),
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
    match format.protocol {
        Protocol::Pomelo => pomelo::push(format, channel, publication, out),
        Protocol::SocketIo(_) => socketio::push(format, channel, publication, out),
        Protocol::Json => json::push(format, channel, publication, out),
    }
}

/// Appends what a member gets in place of a publication that its own user has said to the others: its position moves on, and
/// nothing else. Nothing in a format that tells no positions.
pub fn skip(format: WireFormat, channel: &ChannelName, position: &Position, out: &mut Vec<u8>) {
    if format.tells_positions() {
        match format.protocol {
            Protocol::Pomelo => pomelo::skip(format, channel, position, out),
            Protocol::SocketIo(_) => socketio::skip(format, channel, position, out),
            Protocol::Json => json::skip(format, channel, position, out),
        }
    }
}

/// Appends what moves a member to another position; nothing in a format that tells none.
pub fn position(
    format: WireFormat,
    channel: &ChannelName,
    position: &Position,
    moved: Moved,
    out: &mut Vec<u8>,
) {
    if !format.tells_positions() {
        return;
    }
    let body = format!(
        r#"{{"epoch":{},"offset":{},"reason":"{}"}}"#,
        Value::from(position.epoch.as_str()),
        position.offset,
        moved.reason(),
    );
    match format.protocol {
        Protocol::Pomelo => pomelo::position(format, channel, &body, out),
        Protocol::SocketIo(_) => socketio::position(format, channel, &body, out),
        Protocol::Json => json::position(format, channel, &body, out),
    }
}

/// Appends publications that follow each other, from a position in this epoch on, as they are for one user: with each
/// change of the epoch.
pub fn run<'a>(
    format: WireFormat,
    channel: &ChannelName,
    user: Option<&str>,
    mut epoch: &'a Epoch,
    publications: impl IntoIterator<Item = &'a Publication>,
    out: &mut Vec<u8>,
) {
    for publication in publications {
        if publication.position.epoch != *epoch {
            epoch = &publication.position.epoch;
            begin_epoch(format, channel, &publication.position, out);
        }
        let excluded = publication.payload.excluded();
        if excluded.is_some() && excluded == user {
            skip(format, channel, &publication.position, out);
        } else {
            push(format, channel, publication, out);
        }
    }
}

/// Appends what precedes an epoch's first publication.
pub fn begin_epoch(format: WireFormat, channel: &ChannelName, first: &Position, out: &mut Vec<u8>) {
    let before = Position {
        epoch: first.epoch.clone(),
        offset: first.offset.saturating_sub(1),
    };
    position(format, channel, &before, Moved::NewEpoch, out);
}

/// Appends the reply to a request. `body` is one JSON value.
pub fn reply(format: WireFormat, id: u64, body: &[u8], out: &mut Vec<u8>) {
    match format.protocol {
        Protocol::Pomelo => pomelo::reply(format, id, body, out),
        Protocol::SocketIo(_) => socketio::reply(format, id, body, out),
        Protocol::Json => json::reply(format, id, body, out),
    }
}

/// Appends the server's heartbeat.
pub fn heartbeat(format: WireFormat, out: &mut Vec<u8>) {
    match format.protocol {
        Protocol::Pomelo => pomelo::heartbeat(format, out),
        Protocol::SocketIo(_) => socketio::heartbeat(format, out),
        Protocol::Json => json::heartbeat(format, out),
    }
}

/// Appends the end: the protocol's own farewell, if it has one for this reason, then the carrier's.
pub fn close(format: WireFormat, reason: Disconnect, out: &mut Vec<u8>) {
    match format.protocol {
        Protocol::Pomelo => pomelo::close(format, reason, out),
        Protocol::SocketIo(_) => socketio::close(format, reason, out),
        Protocol::Json => json::close(format, reason, out),
    }
}

/// Appends a packet of Engine.IO's.
pub fn packet(format: WireFormat, packet: &str, out: &mut Vec<u8>) {
    socketio::text(format, &[packet], out);
}

/// A method that every object of the original's had, called in one of its handlers, is an attack (K6, hybrid-05).
fn refuse_attack(route: &str) -> Result<(), Error> {
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
        return Err(Error::Attack);
    }
    Ok(())
}
