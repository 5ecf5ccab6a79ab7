//! Translates between the bytes of the clients' protocols and what they mean.
//!
//! Nothing here does I/O, awaits, or knows sessions. A [`Codec`] reads the messages of one connection. What is written
//! depends on the [`WireFormat`] alone, so a publication is encoded once for all members with the same format. Whatever
//! is encoded consists of whole messages of the format's [`Carrier`], ready for the socket.

pub mod engine_io;
pub mod proxy;
pub mod sse;
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
pub use disconnect::{Disconnect, Farewell, JsonFarewell, Notice};
pub use error::Error;
pub use format::{Carrier, EngineIo, Protocol, WireFormat};
pub use json::readdressed;
pub use pomelo::Packages;
pub use refusal::{Reason, Refusal};

use bytes::Bytes;
use channel_store::body::{self, BodyError};
use channel_store::{ChannelName, Continuity, Ephemeral, Epoch, Position, Publication};
use serde_json::Value;
use std::time::Duration;

/// What a client's message asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The protocol's own handshake is complete. Heartbeats begin.
    Ready,
    /// A heartbeat of the client. Only these keep a Pomelo client alive (K5).
    Heartbeat,
    /// A request for a handler.
    Request(Request),
}

impl Input {
    /// How many bytes of the message are kept as the body of a request.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        match self {
            Self::Request(request) => request.body.len(),
            Self::Ready | Self::Heartbeat => 0,
        }
    }
}

/// A call of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The id that the reply carries. `None` for a notify, which is not answered.
    pub id: Option<u64>,
    /// The handler's name, like `connector.handler.login`.
    pub route: Box<str>,
    /// The body that the client sent.
    pub body: RequestBody,
    /// The client's idempotency key. A message that is sent again with the same key is stored once.
    pub key: Option<Box<str>>,
}

/// The body of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestBody {
    /// One JSON object that [`body::check`] accepts, byte for byte.
    Object(Bytes),
    /// The body is unparsable, empty, null, a number, a string or a boolean. It counts as `{}` (K6).
    Empty,
    /// The body is an array (F12), is nested too deep, or has a number beyond the range of a double. It is refused.
    Unusable,
}

impl RequestBody {
    /// Classifies these bytes.
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

    /// How many bytes of it are kept. Those of a body that cannot be used are not.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Object(bytes) => bytes.len(),
            Self::Empty | Self::Unusable => 0,
        }
    }

    /// True if nothing of it is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a member is told another position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PositionReason {
    /// What follows belongs to another epoch. Nothing is lost.
    NewEpoch,
    /// The member saw publications that the log does not have. Those after this position do not count.
    Diverged,
    /// What the member missed is no longer held. This position is right before the oldest publication that is.
    Trimmed,
    /// The member's position means nothing in this log, for example because all data was lost.
    Unknown,
    /// The rules of the channel leave out what the member missed up to this position.
    Skipped,
}

impl PositionReason {
    /// What a member is told if its position stands like this. `None` if nothing is wrong with it.
    #[must_use]
    pub const fn of(continuity: Continuity) -> Option<Self> {
        match continuity {
            Continuity::Contiguous => None,
            Continuity::Diverged => Some(Self::Diverged),
            Continuity::Trimmed => Some(Self::Trimmed),
            Continuity::Unknown => Some(Self::Unknown),
        }
    }

    /// The `reason` that clients read in `onPosition` (`docs/protocols/json.md`).
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NewEpoch => "new-epoch",
            Self::Diverged => "diverged",
            Self::Trimmed => "trimmed",
            Self::Unknown => "unknown",
            Self::Skipped => "skipped",
        }
    }
}

/// Reads the messages of one connection, and remembers what its protocol needs between them.
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
    /// For a connection that has just been opened. Pomelo's clients are told the interval of heartbeats, in whole
    /// seconds.
    #[must_use]
    pub fn new(format: WireFormat, heartbeat: Duration) -> Self {
        let state = match format.protocol {
            Protocol::Pomelo => State::Pomelo(pomelo::Decoder::new(heartbeat)),
            Protocol::SocketIo(version) => State::SocketIo(version),
            Protocol::Json => State::Json,
        };
        Self { format, state }
    }

    /// Sets how many bytes a body that a Pomelo client has compressed may have when it is inflated. The default is 128
    /// KiB.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        if let State::Pomelo(decoder) = &mut self.state {
            decoder.set_limit(limit);
        }
        self
    }

    /// To be called once, before the first message. A protocol without a handshake of its own is ready at once.
    pub fn open(&mut self, inputs: &mut Vec<Input>) {
        match self.state {
            State::Pomelo(_) | State::SocketIo(EngineIo::V4) => {}
            State::SocketIo(EngineIo::V3) | State::Json => inputs.push(Input::Ready),
        }
    }

    /// Reads one whole message of the carrier, text or binary. The protocol's own answers are appended to `out`, and
    /// what the client asks for to `inputs`, in order.
    ///
    /// # Errors
    /// The reason to close the connection. What was appended before is valid: send `out` first.
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

/// Appends a publication for members.
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

/// Appends something that is not in the log, for members. In a format with positions it shows no offset, so that it moves
/// nobody. In any other format it looks like a publication.
pub fn ephemeral(
    format: WireFormat,
    channel: &ChannelName,
    ephemeral: &Ephemeral,
    out: &mut Vec<u8>,
) {
    match format.protocol {
        Protocol::Pomelo => pomelo::ephemeral(format, channel, ephemeral, out),
        Protocol::SocketIo(_) => socketio::ephemeral(format, channel, ephemeral, out),
        Protocol::Json => json::ephemeral(format, channel, ephemeral, out),
    }
}

/// Appends a message of a back end for this client alone. It belongs to no channel, so it has no position.
pub fn direct(format: WireFormat, route: &str, body: &[u8], out: &mut Vec<u8>) {
    match format.protocol {
        Protocol::Pomelo => pomelo::direct(format, route, body, out),
        Protocol::SocketIo(_) => socketio::direct(format, route, body, out),
        Protocol::Json => json::direct(format, route, body, out),
    }
}

/// Appends what a member gets in place of a publication that its own user has sent to all others: the new position.
/// Appends nothing in a format without positions.
pub fn skipped(format: WireFormat, channel: &ChannelName, position: &Position, out: &mut Vec<u8>) {
    if format.tells_positions() {
        match format.protocol {
            Protocol::Pomelo => pomelo::skip(format, channel, position, out),
            Protocol::SocketIo(_) => socketio::skip(format, channel, position, out),
            Protocol::Json => json::skip(format, channel, position, out),
        }
    }
}

/// Appends what moves a member to another position. Appends nothing in a format without positions.
pub fn position(
    format: WireFormat,
    channel: &ChannelName,
    position: &Position,
    moved: PositionReason,
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
        Protocol::Json => json::position(format, (channel, position), &body, out),
    }
}

/// Appends what a member needs to know where it begins in a channel: what it is given next follows this position. Only a stream of
/// events needs that, because its client may break off before the next push, and come back.
pub fn begins(format: WireFormat, channel: &ChannelName, position: &Position, out: &mut Vec<u8>) {
    if format.carrier == Carrier::Events {
        sse::moves(channel, position, out);
    }
}

/// Appends what a member needs to know that it is not in the channel any more. Only a stream of events needs that, because its client
/// shows where it was when it comes back.
pub fn leaves(format: WireFormat, channel: &ChannelName, out: &mut Vec<u8>) {
    if format.carrier == Carrier::Events {
        sse::leaves(channel, out);
    }
}

/// Appends publications that follow each other, as members of `user` receive them. `epoch` is the epoch of the position
/// before the first of them. Each change of the epoch is told.
pub fn publications<'a>(
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
            skipped(format, channel, &publication.position, out);
        } else {
            push(format, channel, publication, out);
        }
    }
}

/// Appends what comes before the first publication of an epoch.
pub fn begin_epoch(format: WireFormat, channel: &ChannelName, first: &Position, out: &mut Vec<u8>) {
    let before = Position {
        epoch: first.epoch.clone(),
        offset: first.offset.saturating_sub(1),
    };
    position(format, channel, &before, PositionReason::NewEpoch, out);
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

/// Appends the end of a connection: the protocol's own farewell, if it has one for this reason, then the carrier's.
pub fn close(format: WireFormat, reason: Disconnect, out: &mut Vec<u8>) {
    say_farewell(format, reason, reason.farewell(), out);
}

/// Does the same in the words of a back end.
pub fn close_with(format: WireFormat, reason: Disconnect, notice: &Notice, out: &mut Vec<u8>) {
    say_farewell(format, reason, reason.farewell().noticed(notice), out);
}

fn say_farewell(format: WireFormat, reason: Disconnect, farewell: Farewell<'_>, out: &mut Vec<u8>) {
    match format.protocol {
        Protocol::Pomelo => pomelo::close(format, reason, farewell, out),
        Protocol::SocketIo(_) => socketio::close(format, reason, farewell, out),
        Protocol::Json => json::close(format, reason, farewell, out),
    }
}

/// Appends a packet of Engine.IO.
pub fn packet(format: WireFormat, packet: &str, out: &mut Vec<u8>) {
    socketio::text(format, &[packet], out);
}

/// Refuses a route that names a method of JavaScript's Object, as the original did (K6, hybrid-05).
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
