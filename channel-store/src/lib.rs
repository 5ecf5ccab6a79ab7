//! What a channel is, and where it lives.
//!
//! A channel is a log of publications in one order, and the set of sessions that are its members. Chat writes it
//! through [`ChannelStore`], connectors follow it through [`ChannelFeed`]; `redis` is the implementation that spans
//! processes, `memory` the one for a single process.

pub mod body;
pub mod follow;
mod history;
mod lease;
pub mod memory;
mod name;
pub mod probe;
mod publication;
pub mod redis;
mod registry;
mod rules;
mod store;

pub use history::{HistoryPage, HistoryRange};
pub use lease::{
    DEADLINE_MARGIN, Declared, DroppedBy, IndexEntry, Indexed, LEASE_MEMORY, LeaseState, Leases,
    Look, Place, Renewed, SETTLE_TIME, Shard, Term,
};
pub use name::{
    ChannelName, IdempotencyKey, Incarnation, NameError, Route, SessionId, User, UserId,
};
pub use publication::{Epoch, ON_JOIN, ON_LEAVE, ON_MESSAGE, Payload, Position, Publication};
pub use registry::{
    Claim, Claimed, EntryState, Hints, LoggedIn, Login, LoginPolicy, PREDECESSORS, Proof, Rank,
    UserEntry, UserLook, UserRegistry,
};
pub use rules::LogRule;
pub use store::{
    Ack, CallSize, ChannelFeed, ChannelStore, FeedConnection, FeedSink, Generation, Head, Join,
    Joined, Leave, LogPage, MembersPage, Membership, Predecessor, Publish, Published, Publisher,
    Reaped, Since, Standing, StoreError, StoreOptions,
};
