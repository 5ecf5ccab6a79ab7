//! The protocols that a follower can use: how its requests become frames, and what the server's frames say.

use crate::pomelo::{self, DATA, HANDSHAKE, HANDSHAKE_ACK, HEARTBEAT, KICK, Message};
use crate::websocket::{BINARY, Frame, TEXT};
use serde_json::{Value, json};

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// JSON at `/ws`.
    Json,
    /// Pomelo's at `/`.
    Pomelo,
}

/// What a frame of the server says.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// `{"id", "body"}`: an answer, or `{"route", "channel", "offset", "body"}`: a push.
    Message(Value),
    /// The server's half of the handshake. It must be acknowledged.
    Handshake,
    /// A heartbeat. The client must answer it with its own, some time later.
    Heartbeat,
    /// The server is about to close the connection, for this reason.
    Kick(String),
}

/// A frame to send: its opcode and its payload.
pub type Outgoing = (u8, Vec<u8>);

impl Protocol {
    /// The path at which a connector speaks it.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Json => "/ws",
            Self::Pomelo => "/",
        }
    }

    /// What the client sends first, if the protocol has a handshake. The server answers it with its own half.
    #[must_use]
    pub fn handshake(self) -> Option<Outgoing> {
        let hello = pomelo::HELLO.as_bytes();
        (self == Self::Pomelo).then(|| (BINARY, pomelo::package(HANDSHAKE, hello)))
    }

    /// The acknowledgement of the server's handshake.
    #[must_use]
    pub fn handshake_ack(self) -> Outgoing {
        (BINARY, pomelo::package(HANDSHAKE_ACK, &[]))
    }

    /// The answer to a heartbeat.
    #[must_use]
    pub fn heartbeat(self) -> Outgoing {
        (BINARY, pomelo::package(HEARTBEAT, &[]))
    }

    /// A request, with an idempotency key if the protocol has such keys.
    #[must_use]
    pub fn request(self, id: u64, route: &str, body: &Value, key: Option<&str>) -> Outgoing {
        match self {
            Self::Json => {
                let mut request = json!({ "id": id, "route": route, "body": body });
                if let Some(key) = key {
                    request["key"] = key.into();
                }
                (TEXT, request.to_string().into_bytes())
            }
            Self::Pomelo => {
                let request = pomelo::request(id, route, body.to_string().as_bytes());
                (BINARY, pomelo::package(DATA, &request))
            }
        }
    }

    /// Decodes a data frame.
    ///
    /// # Errors
    /// How it breaks the protocol.
    pub fn decode(self, frame: &Frame) -> Result<Vec<Incoming>, String> {
        match (self, frame.opcode) {
            (Self::Json, TEXT) => Ok(vec![Incoming::Message(value(&frame.payload)?)]),
            (Self::Pomelo, BINARY) => {
                let packages = pomelo::packages(&frame.payload)?;
                packages.iter().map(heard).collect()
            }
            (_, opcode) => Err(format!("a frame of opcode {opcode}")),
        }
    }
}

/// Decodes one package of Pomelo's protocol.
fn heard(whole: &bytes::Bytes) -> Result<Incoming, String> {
    match whole[0] {
        DATA => Ok(Incoming::Message(
            match Message::parse(&whole.slice(4..))? {
                Message::Response { id, body } => json!({ "id": id, "body": value(&body)? }),
                // This push belongs to no channel.
                Message::Push { route, body } if &*route == b"onKick" => {
                    json!({ "route": "onKick", "body": value(&body)? })
                }
                Message::Push { route, body } => {
                    let mut push = value(&body)?;
                    let route = String::from_utf8_lossy(&route).into_owned();
                    let fields = push.as_object_mut().ok_or("a push without an object")?;
                    fields.insert("route".into(), route.into());
                    push
                }
            },
        )),
        HANDSHAKE => Ok(Incoming::Handshake),
        HEARTBEAT => Ok(Incoming::Heartbeat),
        KICK => {
            let reason = value(&whole[4..])?["reason"].as_str().map(str::to_owned);
            Ok(Incoming::Kick(reason.ok_or("a kick without a reason")?))
        }
        other => Err(format!("a package of type {other}")),
    }
}

fn value(json: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}
