//! The formats in which messages are written.

use super::dictionary::Dictionary;
use crate::websocket::{self, Opcode, deflate};

/// The protocol of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Pomelo's packages: `docs/protocols/pomelo.md`.
    Pomelo,
    /// Socket.IO: `docs/protocols/socketio.md`.
    SocketIo(EngineIo),
    /// JSON: `docs/protocols/json.md`.
    Json,
}

impl Protocol {
    /// Its name in the contracts: "pomelo", "socket.io" or "json".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pomelo => "pomelo",
            Self::SocketIo(_) => "socket.io",
            Self::Json => "json",
        }
    }
}

/// The version of the protocol below Socket.IO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineIo {
    /// Spoken by clients 1.x and 2.x. The client sends heartbeats, and the server answers.
    V3,
    /// Spoken by clients 3.x and 4.x. The server sends heartbeats, and the client answers.
    V4,
}

/// What carries the messages of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// WebSocket frames.
    WebSocket,
    /// WebSocket frames, compressed where that makes them shorter.
    Deflate,
    /// A plain stream of bytes. Only Pomelo's packages can use it, because they tell how long they are.
    Stream,
    /// Records for a [stream of events](crate::sse::EventStream). Only JSON can use it.
    Events,
}

/// How messages to a client are written. A publication is encoded once for all members with the same format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireFormat {
    pub(crate) protocol: Protocol,
    pub(crate) carrier: Carrier,
    /// Whether pushes hold their channel, offset and time.
    pub(crate) positions: bool,
    /// The codes of routes, if they are used. There is one dictionary for the process.
    pub(crate) dictionary: Option<&'static Dictionary>,
    /// For tests of the carrier: each message is sent back in a frame of this kind.
    #[cfg(feature = "testing")]
    pub(crate) echo: Option<Opcode>,
}

impl WireFormat {
    /// Pomelo's packages in binary WebSocket frames. A push is what the original pushed, so it holds no position.
    pub const POMELO: Self = Self {
        protocol: Protocol::Pomelo,
        carrier: Carrier::WebSocket,
        positions: false,
        dictionary: None,
        #[cfg(feature = "testing")]
        echo: None,
    };
    /// The same, for members that asked for positions: pushes hold their channel, offset and time.
    pub const POMELO_POSITIONS: Self = Self::POMELO.with_positions();
    /// JSON in text WebSocket frames. Pushes hold their position.
    pub const JSON: Self = Self {
        protocol: Protocol::Json,
        positions: true,
        ..Self::POMELO
    };
    /// The same JSON in Server-Sent Events.
    pub const SSE: Self = Self {
        carrier: Carrier::Events,
        ..Self::JSON
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

    /// The same on a plain stream.
    #[must_use]
    pub const fn on_a_stream(self) -> Self {
        Self {
            carrier: Carrier::Stream,
            ..self
        }
    }

    /// The same, with codes for the routes in the dictionary.
    #[must_use]
    pub const fn with_dictionary(self, dictionary: Option<&'static Dictionary>) -> Self {
        Self { dictionary, ..self }
    }

    /// For tests of the carrier: messages are sent back in frames of this kind.
    #[cfg(feature = "testing")]
    #[must_use]
    pub const fn echo(opcode: Opcode) -> Self {
        Self {
            echo: Some(opcode),
            ..Self::JSON
        }
    }

    /// The same, with positions in pushes.
    #[must_use]
    pub const fn with_positions(self) -> Self {
        Self {
            positions: true,
            ..self
        }
    }

    /// True if a member can be told that its position was lost. Any other member has to be disconnected then.
    #[must_use]
    pub const fn tells_positions(self) -> bool {
        self.positions
    }

    /// The protocol of this format.
    #[must_use]
    pub const fn protocol(self) -> Protocol {
        self.protocol
    }

    /// Its name in the contracts: that of its protocol, or "sse".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.carrier {
            Carrier::Events => "sse",
            _ => self.protocol.name(),
        }
    }

    /// What carries its messages.
    #[must_use]
    pub const fn carrier(self) -> Carrier {
        self.carrier
    }
}

impl Carrier {
    /// Appends one message that consists of `head` and `parts`. `length` is that of all parts together.
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
                // No message has more than seven parts.
                let mut whole: [&[u8]; 8] = [head, b"", b"", b"", b"", b"", b"", b""];
                whole[1..=parts.len()].copy_from_slice(parts);
                return deflate::frame(out, opcode, &whole);
            }
            Self::Stream => {}
            Self::Events => return,
        }
        out.extend_from_slice(head);
        for part in parts {
            out.extend_from_slice(part);
        }
    }

    /// Appends a close frame, if the carrier has one.
    pub(crate) fn close(self, code: u16, reason: &str, out: &mut Vec<u8>) {
        match self {
            Self::WebSocket | Self::Deflate => websocket::close(out, code, reason),
            Self::Stream | Self::Events => {}
        }
    }
}
