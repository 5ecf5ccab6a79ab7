//! What the clients of a channel did and received, in the order of each client. The checker works on this.

use serde_json::Value;
use std::fmt;

/// A position in a log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The epoch.
    pub epoch: String,
    /// The offset of the last publication that was seen.
    pub offset: u64,
}

impl Position {
    /// Reads `{"epoch":…,"offset":…}`.
    #[must_use]
    pub fn of(value: &Value) -> Option<Self> {
        Some(Self {
            epoch: value["epoch"].as_str()?.to_owned(),
            offset: value["offset"].as_u64()?,
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.epoch, self.offset)
    }
}

/// The name of a message: its sender, and a number that this sender uses once.
pub type Message = (String, u64);

/// What was published, without its position.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content {
    /// Its route.
    pub route: String,
    /// Its JSON, in a form in which equal bodies are equal texts.
    pub body: String,
    /// The name of the message: `userId` and `n` of the body.
    pub message: Option<Message>,
}

impl Content {
    /// The content with this route and this body.
    #[must_use]
    pub fn new(route: &str, body: &Value) -> Self {
        let user = body["userId"].as_str();
        let message = user.zip(body["n"].as_u64());
        Self {
            route: route.to_owned(),
            body: body.to_string(),
            message: message.map(|(user, number)| (user.to_owned(), number)),
        }
    }
}

/// Why the server tells a client a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The client saw publications that the log doesn't have.
    Diverged,
    /// The log no longer holds the publications that follow the client's position.
    Trimmed,
    /// The client's position belongs to another life of the channel.
    Unknown,
    /// The next publication has another epoch. Nothing is lost.
    NewEpoch,
}

impl Reason {
    /// Reads the reason in `onPosition`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "diverged" => Self::Diverged,
            "trimmed" => Self::Trimmed,
            "unknown" => Self::Unknown,
            "new-epoch" => Self::NewEpoch,
            _ => return None,
        })
    }
}

/// What happened to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It logged in without a position, and was told this one.
    Entered(Position),
    /// It logged in with its position.
    Resumed {
        /// The position that it sent.
        since: Position,
        /// Whether the reply said `recovered`.
        recovered: bool,
    },
    /// It received a publication with this offset.
    Received(u64, Content),
    /// It received `onPosition`.
    PositionTold(Position, Reason),
    /// Its connection ended. The text says how.
    Ended(String),
    /// It received something that breaks the protocol.
    ProtocolError(String),
}

/// All that happened to one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its user.
    pub name: String,
    /// What happened, in order.
    pub events: Vec<Event>,
}

/// The outcome of a message, as far as its sender knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was published.
    Acknowledged,
    /// It was refused, so nobody may ever receive it.
    Refused,
    /// There was no answer, or one that leaves it open.
    Unknown,
}
