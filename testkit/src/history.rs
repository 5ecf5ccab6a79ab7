//! What clients of a channel did and saw, in the order in which it happened to each: the material of the checker.

use crate::log::Log;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// A place in a log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The run of offsets that it belongs to.
    pub epoch: String,
    /// The publication that was seen last.
    pub offset: u64,
}

impl Position {
    /// Out of `{"epoch":…,"offset":…}`.
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

/// What a sender calls a message: the sender and its number, which is unique to it.
pub type Message = (String, u64);

/// What was published, wherever it stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content {
    /// Its route.
    pub route: String,
    /// Its JSON, in one spelling.
    pub body: String,
    /// What its sender calls it: `userId` and `n` of the body.
    pub message: Option<Message>,
}

impl Content {
    /// Of a route and a body.
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

/// Why a client is told a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It saw publications that the log doesn't have.
    Diverged,
    /// What followed its position is not held any more.
    Trimmed,
    /// Its position is of another life of the channel.
    Unknown,
    /// The next publication is of another epoch; nothing is lost.
    NewEpoch,
}

impl Reason {
    /// As it stands in `onPosition`.
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
    /// It logged in without a position.
    Entered(Position),
    /// It logged in with one.
    Resumed {
        /// Its own.
        since: Position,
        /// What the reply says.
        recovered: bool,
    },
    /// It received a publication with this offset.
    Received(u64, Content),
    /// It was told where it stands.
    Told(Position, Reason),
    /// Its connection ended; how, in words.
    Ended(String),
    /// It received what breaks the protocol.
    Puzzled(String),
}

/// A client's whole story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its user.
    pub name: String,
    /// What happened, in order.
    pub events: Vec<Event>,
}

/// What became of a message, as its sender knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was published.
    Acknowledged,
    /// It was refused for good: nobody may ever see it.
    Refused,
    /// Nobody said.
    Unknown,
}

/// All that is known of one channel when everything has come to rest.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Every client.
    pub members: Vec<Member>,
    /// Every message that was sent.
    pub sent: BTreeMap<Message, Outcome>,
    /// The log.
    pub log: Log,
    /// Who is listed as a member with how many sessions, if somebody asked.
    pub listed: Option<BTreeMap<String, u32>>,
}
