//! The protocols that a follower speaks: what it says and hears, in the words of its frames.

use crate::pomelo::{self, DATA, HANDSHAKE, HANDSHAKE_ACK, HEARTBEAT, KICK, Message};
use crate::websocket::{BINARY, Frame, TEXT};
use serde_json::{Value, json};

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tongue {
    /// JSON at `/ws`.
    Json,
    /// Pomelo's at `/`.
    Pomelo,
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// `{"id", "body"}`: an answer, or `{"route", "channel", "offset", "body"}`: a push.
    Message(Value),
    /// The server wants to be greeted back.
    Handshake,
    /// The server wants to hear the same, some time later.
    Heartbeat,
    /// That the connection is about to end, and why.
    Kick(String),
}

/// A frame to send.
pub type Said = (u8, Vec<u8>);

impl Tongue {
    /// Where it is spoken.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Json => "/ws",
            Self::Pomelo => "/",
        }
    }

    /// What comes before everything, and must be answered with a handshake.
    #[must_use]
    pub fn hello(self) -> Option<Said> {
        let hello = pomelo::HELLO.as_bytes();
        (self == Self::Pomelo).then(|| (BINARY, pomelo::package(HANDSHAKE, hello)))
    }

    /// The answer to a handshake.
    #[must_use]
    pub fn greeting(self) -> Said {
        (BINARY, pomelo::package(HANDSHAKE_ACK, &[]))
    }

    /// The answer to a heartbeat.
    #[must_use]
    pub fn heartbeat(self) -> Said {
        (BINARY, pomelo::package(HEARTBEAT, &[]))
    }

    /// A request, with an idempotency key where the protocol has one.
    #[must_use]
    pub fn request(self, id: u64, route: &str, body: &Value, key: Option<&str>) -> Said {
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

    /// Takes a data frame.
    ///
    /// # Errors
    /// How it breaks the protocol.
    pub fn understand(self, frame: &Frame) -> Result<Vec<Heard>, String> {
        match (self, frame.opcode) {
            (Self::Json, TEXT) => Ok(vec![Heard::Message(value(&frame.payload)?)]),
            (Self::Pomelo, BINARY) => {
                let packages = pomelo::packages(&frame.payload)?;
                packages.iter().map(heard).collect()
            }
            (_, opcode) => Err(format!("a frame of opcode {opcode}")),
        }
    }
}

/// A package of Pomelo's.
fn heard(whole: &bytes::Bytes) -> Result<Heard, String> {
    match whole[0] {
        DATA => Ok(Heard::Message(match Message::parse(&whole.slice(4..))? {
            Message::Response { id, body } => json!({ "id": id, "body": value(&body)? }),
            // It belongs to no channel.
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
        })),
        HANDSHAKE => Ok(Heard::Handshake),
        HEARTBEAT => Ok(Heard::Heartbeat),
        KICK => {
            let reason = value(&whole[4..])?["reason"].as_str().map(str::to_owned);
            Ok(Heard::Kick(reason.ok_or("a kick without a reason")?))
        }
        other => Err(format!("a package of type {other}")),
    }
}

fn value(json: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}
