//! Publications, which a channel's log holds, and their positions.

use crate::name::{Route, User};
use crate::user_info::UserInfo;
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;
use std::sync::Arc;

/// The route of a user's first session in a channel.
pub const ON_JOIN: &str = "onJoin";
/// The route of a user's last session leaving a channel.
pub const ON_LEAVE: &str = "onLeave";
/// The route of the deletion of a channel. Everything before it is gone, and all members are out.
pub const ON_DELETED: &str = "onDeleted";
/// The route of a message whose sender named none.
pub const ON_MESSAGE: &str = "onMessage";

/// The routes that the store alone publishes under.
pub const STORE_ROUTES: [&str; 3] = [ON_JOIN, ON_LEAVE, ON_DELETED];
/// The routes under which connectors tell a client about its own session. A message under one of them would be taken for that.
pub const CONNECTOR_ROUTES: [&str; 7] = [
    "onAdded",
    "onExpired",
    "onKick",
    "onPosition",
    "onRefused",
    "onRemoved",
    "onSession",
];

/// Marks a sender whose own sockets don't get the publication.
const EXCLUDED: &str = "\u{1}";

/// The opaque id of a part of a channel's log. It never repeats and has no order (docs/design/log.md).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// Takes the text by which a store names the epoch. A client may have got that text, and send it back.
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

/// The place of a publication: the epoch under which it was appended, and its number in the channel. It never changes
/// afterwards. Offset 0 is before the first publication.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The epoch.
    pub epoch: Epoch,
    /// The number of the publication. The first one in a channel is 1.
    pub offset: u64,
}

/// Route, sender and body in one text, which the log, the topic and the hub share and Redis does not read: `route NUL sender NUL
/// body`. Names hold no control characters, so the first two NULs are the separators. An SOH before the sender is a mark: the
/// sender's own sockets don't get the publication.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    bytes: Bytes,
    route_end: u32,
    sender_end: u32,
}

impl Payload {
    /// Makes a payload from checked parts. `body` is one JSON object with its `userId` already in place.
    #[must_use]
    pub fn new(route: &Route, sender: &User, body: &[u8]) -> Self {
        Self::of_parts(route.as_str(), "", sender.id.as_str(), body)
    }

    /// Does the same as [`new`](Self::new), for a message that its sender does not get.
    #[must_use]
    pub fn for_others(route: &Route, sender: &User, body: &[u8]) -> Self {
        Self::of_parts(route.as_str(), EXCLUDED, sender.id.as_str(), body)
    }

    /// Makes the payload of a join or leave. `route` is [`ON_JOIN`] or [`ON_LEAVE`].
    pub(crate) fn of_membership(route: &'static str, user: &User, info: Option<&UserInfo>) -> Self {
        let info = info.map_or_else(String::new, |it| format!(",\"info\":{}", it.as_str()));
        let body = format!("{{\"userId\":{}{info}}}", user.json());
        Self::of_parts(route, "", user.id.as_str(), body.as_bytes())
    }

    /// Makes the payload of a deletion. It has no sender.
    pub(crate) fn of_deletion() -> Self {
        Self::of_parts(ON_DELETED, "", "", b"{}")
    }

    fn of_parts(route: &str, mark: &str, sender: &str, body: &[u8]) -> Self {
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

    /// Reads a payload that a store gave back. `None` if it does not have this form.
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

    /// The route under which members receive it.
    #[must_use]
    pub fn route(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.route_end as usize]).unwrap_or_default()
    }

    /// True for what a user or a back end has sent, and so not for a join, a leave or a deletion.
    #[must_use]
    pub fn is_message(&self) -> bool {
        !STORE_ROUTES.contains(&self.route())
    }

    /// True if this is the deletion of its channel.
    #[must_use]
    pub fn is_deletion(&self) -> bool {
        self.bytes[..self.route_end as usize] == *ON_DELETED.as_bytes()
    }

    /// The user who has sent it, joined or left. Empty for the deletion of the channel.
    #[must_use]
    pub fn sender(&self) -> &str {
        let sender = self.marked_sender();
        sender.strip_prefix(EXCLUDED).unwrap_or(sender)
    }

    /// The user whose sockets don't get it, if there is one.
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

    /// The whole payload, as a store keeps it.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Debug for Payload {
    /// Never shows the body, because log files must not hold messages.
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
    /// Its place in the log.
    pub position: Position,
    /// When it was published, by chat's clock: milliseconds since 1970. It is for people to read. The order is that of offsets.
    pub time: u64,
    /// Route, sender and body.
    pub payload: Payload,
}

/// A publication for those who are there at this moment. It is not in the log and has no offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ephemeral {
    /// Where the log ended when it was published. A reader at exactly this position may be given it. For all others it is too late.
    pub place: Position,
    /// When it was published, as in [`Publication`].
    pub time: u64,
    /// Route, sender and body.
    pub payload: Payload,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::UserId;

    #[test]
    fn a_payload_for_others_names_the_user_that_does_not_get_it() {
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
