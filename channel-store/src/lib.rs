//! What a channel is, and where it is kept.
//!
//! A channel is a log of publications in one order, and the set of sessions that are its members. Chat writes it
//! through [`ChannelStore`], and connectors follow it through [`ChannelFeed`]. Both are implemented by `redis`, for many
//! processes, and by `memory`, for a single one. The files at this level say what a channel is, and know neither of the two.

pub mod body;
mod directory;
mod error;
mod feed;
pub mod follow;
mod inbox;
mod lease;
mod membership;
pub mod memory;
mod name;
mod options;
mod page;
mod pattern;
pub mod probe;
mod publication;
mod publish;
pub mod redis;
mod registry;
mod restrictions;
mod rules;
mod server;
mod store;
mod traced;
mod user_info;
mod watch;

pub use directory::{ChannelSummary, ChannelsPage, DIRECTORY_PARTS};
pub use error::StoreError;
pub use feed::{ChannelFeed, FeedSink, Head};
pub use inbox::{INBOX_BYTES, Inbox, Inboxes, Letter};
pub use lease::{
    DEADLINE_MARGIN, Declared, DroppedBy, IndexEntry, Indexed, LEASE_MEMORY, LeaseState, Leases,
    Place, Presence, Renewed, SETTLE_TIME, Term,
};
pub use membership::{
    Beginning, Join, Joined, Leave, MembersPage, Membership, Predecessor, PresentUser, Reaped,
};
pub use name::{
    ChannelName, IdempotencyKey, Incarnation, NameError, Route, SessionId, User, UserId,
};
pub use options::{Ack, LogRule, StoreOptions};
pub use page::{Continuity, HistoryPage, HistoryRange, LogPage, Since};
pub use pattern::{Pattern, PatternError, matches as matches_pattern};
pub use publication::{
    CONNECTOR_ROUTES, Ephemeral, Epoch, ON_DELETED, ON_JOIN, ON_LEAVE, ON_MESSAGE, Payload,
    Position, Publication, STORE_ROUTES,
};
pub use publish::{CallSize, Publish, Published, Publisher};
pub use registry::{
    Claim, Claimed, EntryState, Hints, LoggedIn, Login, LoginPolicy, PREDECESSORS, Proof, Rank,
    UserEntries, UserEntry, UserRegistry,
};
pub use restrictions::{
    BLOCK_REASON_BYTES, Block, Forbidden, REVOKED_TOKENS, Restricted, Restriction, Restrictions,
    ShownToken, TokenId, UserRestrictions, When,
};
pub use server::{FeedConnection, ServerLifetime, Shard};
pub use store::ChannelStore;
pub use traced::Traced;
pub use user_info::{InfoError, LARGEST_INFO, UserInfo};
pub use watch::{Birth, Births, Look, NotedPage, WatchFeed};
