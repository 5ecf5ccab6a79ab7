//! What a channel's log holds: publications, and the positions they stand at.

use crate::name::{Route, User, UserId};
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;
use std::sync::Arc;

/// The route of a user's first session in a channel.
pub const ON_JOIN: &str = "onJoin";
/// The route of a user's last session leaving a channel.
pub const ON_LEAVE: &str = "onLeave";
/// The route of a message whose sender named none.
pub const ON_MESSAGE: &str = "onMessage";

/// Stands before a sender whose own sockets skip what it says.
const EXCLUDED: &str = "\u{1}";

/// An opaque id of one life of a channel's log: it never repeats and has no order (RECOVERY.md, section 1).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// The text that a store, or a client that got it from one, names the epoch with.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a publication stands: the epoch under which it was appended, and its number in the channel.
/// It never changes afterwards. Offset 0 stands before the first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The life of the log.
    pub epoch: Epoch,
    /// Counts the channel's publications from 1.
    pub offset: u64,
}

/// Route, sender and body in the one form that the log, the topic and the hub share, opaque to Redis:
/// `route NUL sender NUL body`. Names hold no control characters, so the first two end what they seem to end, and an
/// SOH before the sender is a mark: its own sockets skip what it says.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    bytes: Bytes,
    route_end: u32,
    sender_end: u32,
}

impl Payload {
    /// Joins what was checked before: `body` is one JSON object with its `userId` already in place.
    #[must_use]
    pub fn new(route: &Route, sender: &User, body: &[u8]) -> Self {
        Self::join(route.as_str(), "", &sender.id, body)
    }

    /// As [`new`](Self::new), for everybody but its sender.
    #[must_use]
    pub fn for_others(route: &Route, sender: &User, body: &[u8]) -> Self {
        Self::join(route.as_str(), EXCLUDED, &sender.id, body)
    }

    /// What a membership's beginning or end says: `route` is [`ON_JOIN`] or [`ON_LEAVE`].
    pub(crate) fn of_membership(route: &'static str, user: &User) -> Self {
        let body = format!("{{\"userId\":{}}}", user.json());
        Self::join(route, "", &user.id, body.as_bytes())
    }

    fn join(route: &str, mark: &str, sender: &UserId, body: &[u8]) -> Self {
        let sender = sender.as_str();
        let length = route.len() + mark.len() + sender.len() + body.len() + 2;
        let mut bytes = BytesMut::with_capacity(length);
        bytes.put_slice(route.as_bytes());
        bytes.put_u8(0);
        bytes.put_slice(mark.as_bytes());
        bytes.put_slice(sender.as_bytes());
        bytes.put_u8(0);
        bytes.put_slice(body);
        let route_end = u32::try_from(route.len()).unwrap_or(u32::MAX);
        let sender = u32::try_from(mark.len() + sender.len()).unwrap_or(u32::MAX);
        let sender_end = route_end + 1 + sender;
        Self {
            bytes: bytes.freeze(),
            route_end,
            sender_end,
        }
    }

    /// Takes apart what a store gave back; `None` if it is not of this form.
    #[must_use]
    pub fn parse(bytes: Bytes) -> Option<Self> {
        let route_end = bytes.iter().position(|&b| b == 0)?;
        let sender_end = route_end + 1 + bytes[route_end + 1..].iter().position(|&b| b == 0)?;
        std::str::from_utf8(&bytes[..sender_end]).ok()?;
        Some(Self {
            route_end: u32::try_from(route_end).ok()?,
            sender_end: u32::try_from(sender_end).ok()?,
            bytes,
        })
    }

    /// The name that members receive it under.
    #[must_use]
    pub fn route(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.route_end as usize]).unwrap_or_default()
    }

    /// The user who said it, joined or left.
    #[must_use]
    pub fn sender(&self) -> &str {
        let sender = self.marked_sender();
        sender.strip_prefix(EXCLUDED).unwrap_or(sender)
    }

    /// Whose sockets skip it.
    #[must_use]
    pub fn excluded(&self) -> Option<&str> {
        self.marked_sender().strip_prefix(EXCLUDED)
    }

    fn marked_sender(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.route_end as usize + 1..self.sender_end as usize])
            .unwrap_or_default()
    }

    /// The JSON object.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.sender_end as usize + 1..]
    }

    /// The whole, as a store keeps it.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Debug for Payload {
    /// Never the body: logs hold no messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} ({} bytes)",
            self.route(),
            self.sender(),
            self.body().len()
        )
    }
}

/// One entry of a channel's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Where it stands.
    pub position: Position,
    /// Chat's clock when it was published, milliseconds since 1970. For people: order is the offset's.
    pub time: u64,
    /// What it says.
    pub payload: Payload,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_others_names_whom_it_is_not_for() {
        let route = Route::new(ON_MESSAGE).unwrap();
        let user = User {
            id: UserId::new("lin").unwrap(),
            is_number: false,
        };
        for (payload, excluded) in [
            (Payload::new(&route, &user, b"{}"), None),
            (Payload::for_others(&route, &user, b"{}"), Some("lin")),
        ] {
            for payload in [Payload::parse(payload.as_bytes().clone()).unwrap(), payload] {
                assert_eq!(payload.route(), "onMessage");
                assert_eq!(payload.sender(), "lin");
                assert_eq!(payload.body(), b"{}");
                assert_eq!(payload.excluded(), excluded);
            }
        }
    }
}
