//! The members of a channel: joining, leaving, and lists of them.

use crate::name::{ChannelName, Incarnation, SessionId, User, UserId};
use crate::publication::{Epoch, Position};
use crate::user_info::UserInfo;
use std::time::Duration;

/// The kind of membership that a join or leave is about.
#[derive(Debug, Clone)]
pub enum Membership {
    /// That of a session whose socket a connector holds.
    Session {
        /// The connector's incarnation.
        incarnation: Incarnation,
        /// The session.
        session: SessionId,
        /// The number of this operation. Each later operation of the incarnation has a higher one.
        operation: u64,
    },
    /// That of a back end, which has no socket. It expires unless it joins again in time.
    Detached,
}

/// An earlier session of a user, whose memberships a new session takes over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Predecessor {
    /// The session.
    pub session: SessionId,
    /// The incarnation of the connector that held its socket.
    pub incarnation: Incarnation,
}

/// A join of a session.
#[derive(Debug, Clone)]
pub struct Join {
    /// The channel to join.
    pub channel: ChannelName,
    /// The user.
    pub user: User,
    /// What everybody in the channel may know of the user. It replaces what another session of the user has said. `None`: what
    /// is known stays as it is.
    pub info: Option<UserInfo>,
    /// The session.
    pub membership: Membership,
    /// After this time the join has no effect: the store's clock, milliseconds since 1970. A connector derives it from its
    /// lease, so that a join that is late can't create a member which nobody would ever remove.
    pub deadline: Option<u64>,
    /// Sessions of the same user whose memberships here end without onLeave. If there was one, this session begins without
    /// onJoin. None of them can join here any more. At most [`PREDECESSORS`](crate::PREDECESSORS).
    pub replaces: Vec<Predecessor>,
    /// When the membership began, if this join repairs one that the store has lost. If the channel was deleted after that,
    /// nothing was lost: the membership is over.
    pub repairs: Option<Beginning>,
    /// How long a detached membership lasts from now on, also if it would have lasted longer before: the last join decides.
    /// What is finer than a millisecond is left out. `None`: [`StoreOptions::detached_life`](crate::StoreOptions::detached_life).
    /// The membership of a session has no such end.
    pub stay: Option<Duration>,
}

impl Join {
    /// A join that is never too late, tells nothing of the user, replaces no session and repairs nothing.
    #[must_use]
    pub fn new(channel: ChannelName, user: User, membership: Membership) -> Self {
        Self {
            channel,
            user,
            info: None,
            membership,
            deadline: None,
            replaces: Vec::new(),
            repairs: None,
            stay: None,
        }
    }
}

/// When a membership began, as the answer to its join said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// See [`Joined::life`].
    pub life: Epoch,
    /// See [`Joined::deletion`].
    pub deletion: Epoch,
}

/// What a join did. A repeated join gets the first answer, as long as the channel lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The end of the log right after the join. If onJoin was published, it is the position of that.
    pub position: Position,
    /// True if this call published onJoin.
    pub published: bool,
    /// Up to this offset the log was removed by [`trim`](crate::ChannelStore::trim) or
    /// [`delete`](crate::ChannelStore::delete). 0: nothing was. A connector must not
    /// give it to anybody who comes back, although it may remember it.
    pub trimmed: u64,
    /// Names the present life of the channel, which lasts until the store forgets the channel or loses it. It is the life's
    /// first epoch. A channel that is deleted stays in the same life. Empty if an older version began the life.
    pub life: Epoch,
    /// Names the last deletion of the channel in this life: the epoch that it began. Empty if there was none.
    pub deletion: Epoch,
}

/// A leave of a session.
#[derive(Debug, Clone)]
pub struct Leave {
    /// The channel to leave.
    pub channel: ChannelName,
    /// The user.
    pub user: User,
    /// The session.
    pub membership: Membership,
    /// True if a tombstone of the session is needed, because a copy of its join may still arrive.
    pub fence: bool,
}

/// What a call that reaps did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// How many memberships this call ended.
    pub ended: u64,
    /// How many memberships of the incarnation are left.
    pub remaining: u64,
}

/// A user who is in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentUser {
    /// The user.
    pub id: UserId,
    /// How many sessions the user has in the channel. A detached membership counts as one.
    pub sessions: u32,
    /// What everybody in the channel may know of the user, as the last session has said that has said anything.
    pub info: Option<UserInfo>,
}

/// A page of a channel's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersPage {
    /// Users in the channel.
    pub members: Vec<PresentUser>,
    /// How many users are in the channel, on all pages.
    pub users: u64,
    /// The token of the next page. `None`: this was the last one.
    pub next: Option<String>,
}
