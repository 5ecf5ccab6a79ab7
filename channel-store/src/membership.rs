//! Who is in a channel: joining it, leaving it, and lists of its members.

use crate::name::{ChannelName, Incarnation, SessionId, User, UserId};
use crate::publication::Position;

/// Whose membership a join or leave is about.
#[derive(Debug, Clone)]
pub enum Membership {
    /// A session that a connector holds the socket of.
    Session {
        /// The connector's incarnation.
        incarnation: Incarnation,
        /// The session.
        session: SessionId,
        /// The incarnation's number of this operation, counting upwards.
        operation: u64,
    },
    /// A back end's own, without a socket: it expires unless it is joined again.
    Detached,
}

/// A session whose place another one takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Predecessor {
    /// The session.
    pub session: SessionId,
    /// The incarnation of the connector that held its socket.
    pub incarnation: Incarnation,
}

/// A session about to be a member.
#[derive(Debug, Clone)]
pub struct Join {
    /// Where to.
    pub channel: ChannelName,
    /// Who.
    pub user: User,
    /// As which session.
    pub membership: Membership,
    /// By the store's clock, milliseconds since 1970: later than this it has no effect. A connector's is bound to its
    /// lease, so that none of its joins is dangerous for ever.
    pub deadline: Option<u64>,
    /// Sessions of the same user whose memberships here end without onLeave, while this one comes without onJoin if there
    /// was any. None of them can join here any more. At most [`PREDECESSORS`](crate::PREDECESSORS).
    pub replaces: Vec<Predecessor>,
}

/// What a join did. A repeated one answers as the first did, as long as the log stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The end of the log right after the join: the own onJoin's position if one was published.
    pub position: Position,
    /// True if this call published onJoin.
    pub published: bool,
}

/// A session about to be none any more.
#[derive(Debug, Clone)]
pub struct Leave {
    /// Where from.
    pub channel: ChannelName,
    /// Who.
    pub user: User,
    /// As which session.
    pub membership: Membership,
    /// Leave a tombstone of the session, because a copy of its join may still travel.
    pub fence: bool,
}

/// What a reap did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// Memberships that this call ended.
    pub ended: u64,
    /// The incarnation's memberships that are left.
    pub remaining: u64,
}

/// A page of a channel's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersPage {
    /// User and number of sessions.
    pub members: Vec<(UserId, u32)>,
    /// How many users are in the channel, on all pages.
    pub users: u64,
    /// Where to go on; `None`: that was all.
    pub next: Option<String>,
}
