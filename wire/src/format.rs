//! The forms that publications are encoded in.

use super::dictionary::Dictionary;
use crate::websocket::{self, Opcode, deflate};

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Pomelo's packages: `docs/protocols/pomelo.md`.
    Pomelo,
    /// Socket.IO: `docs/protocols/socketio.md`.
    SocketIo(EngineIo),
    /// JSON: `docs/protocols/json.md`.
    Json,
}

/// The version of the protocol below Socket.IO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineIo {
    /// Of clients 1.x and 2.x: they send heartbeats, and are answered.
    V3,
    /// Of clients 3.x and 4.x: they are sent heartbeats, and answer.
    V4,
}

/// What the protocol's messages travel in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// WebSocket frames.
    WebSocket,
    /// The same, compressed where that makes them shorter.
    Deflate,
    /// Nothing: bytes back to back. Pomelo's packages alone tell where they end.
    Stream,
}

/// A form that publications are encoded in, once each however many members want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireFormat {
    pub(crate) protocol: Protocol,
    pub(crate) carrier: Carrier,
    /// Each push tells its channel, offset and time.
    pub(crate) positions: bool,
    /// Of the routes that have codes; one for the process.
    pub(crate) dictionary: Option<&'static Dictionary>,
    /// Messages are no protocol's: each is sent back, as one of this kind.
    #[cfg(feature = "testing")]
    pub(crate) echo: Option<Opcode>,
}

impl WireFormat {
    /// Pomelo's packages in binary WebSocket frames. A push is what the original pushed, so such a client does not know
    /// where it stands.
    pub const POMELO: Self = Self {
        protocol: Protocol::Pomelo,
        carrier: Carrier::WebSocket,
        positions: false,
        dictionary: None,
        #[cfg(feature = "testing")]
        echo: None,
    };
    /// The same, for members that asked for positions: each push tells its channel, offset and time.
    pub const POMELO_POSITIONS: Self = Self::POMELO.with_positions();
    /// JSON in text WebSocket frames. Every push tells where it stands.
    pub const JSON: Self = Self {
        protocol: Protocol::Json,
        positions: true,
        ..Self::POMELO
    };

    /// Socket.IO's packets in text WebSocket frames, without positions.
    #[must_use]
    pub const fn socket_io(version: EngineIo) -> Self {
        Self {
            protocol: Protocol::SocketIo(version),
            ..Self::POMELO
        }
    }

    /// The same in WebSocket frames that are compressed where that makes them shorter.
    #[must_use]
    pub const fn deflated(self) -> Self {
        Self {
            carrier: Carrier::Deflate,
            ..self
        }
    }

    /// The same without WebSocket.
    #[must_use]
    pub const fn on_a_stream(self) -> Self {
        Self {
            carrier: Carrier::Stream,
            ..self
        }
    }

    /// The same with codes for the routes that are in the dictionary.
    #[must_use]
    pub const fn with_dictionary(self, dictionary: Option<&'static Dictionary>) -> Self {
        Self { dictionary, ..self }
    }

    /// No protocol: messages that are sent back, as of this kind.
    #[cfg(feature = "testing")]
    #[must_use]
    pub const fn echo(opcode: Opcode) -> Self {
        Self {
            echo: Some(opcode),
            ..Self::JSON
        }
    }

    /// The form of the same protocol whose pushes tell where they stand.
    #[must_use]
    pub const fn with_positions(self) -> Self {
        Self {
            positions: true,
            ..self
        }
    }

    /// True if a member can be told of a lost position; any other has to be disconnected.
    #[must_use]
    pub const fn tells_positions(self) -> bool {
        self.positions
    }

    /// What a client of this form speaks.
    #[must_use]
    pub const fn protocol(self) -> Protocol {
        self.protocol
    }

    /// What its messages travel in.
    #[must_use]
    pub const fn carrier(self) -> Carrier {
        self.carrier
    }
}

impl Carrier {
    /// Appends one message, which consists of a head and these parts, of that length together.
    #[inline]
    pub(crate) fn carry(
        self,
        opcode: Opcode,
        head: &[u8],
        (length, parts): (usize, &[&[u8]]),
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::WebSocket => websocket::header(out, opcode, head.len() + length),
            Self::Deflate => {
                // No message has more parts.
                let mut whole: [&[u8]; 8] = [head, b"", b"", b"", b"", b"", b"", b""];
                whole[1..=parts.len()].copy_from_slice(parts);
                return deflate::frame(out, opcode, &whole);
            }
            Self::Stream => {}
        }
        out.extend_from_slice(head);
        for part in parts {
            out.extend_from_slice(part);
        }
    }

    /// Appends the end, as far as the carrier has one.
    pub(crate) fn close(self, code: u16, reason: &str, out: &mut Vec<u8>) {
        match self {
            Self::WebSocket | Self::Deflate => websocket::close(out, code, reason),
            Self::Stream => {}
        }
    }
}
