//! Finding channels: what is known of each, and lists of them.

use crate::name::ChannelName;
use crate::publication::Position;

/// In how many parts a directory is swept: see
/// [`ChannelStore::sweep_directory`](crate::ChannelStore::sweep_directory).
pub const DIRECTORY_PARTS: usize = 64;

/// What a store knows of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelSummary {
    /// The end of its log.
    pub end: Position,
    /// How many users are members.
    pub users: u64,
    /// How many sessions are members. A detached membership counts as one.
    pub sessions: u64,
    /// How many publications the log holds.
    pub held: u64,
    /// About how many bytes they take: their data, and 40 bytes for each of them.
    pub held_bytes: u64,
    /// When the oldest of them was published, ms since 1970. `None`: the log holds none.
    pub oldest: Option<u64>,
    /// When the newest of them was published, ms since 1970. `None`: the log holds none.
    pub newest: Option<u64>,
}

/// A page of a list of channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelsPage {
    /// Each channel once.
    pub channels: Vec<(ChannelName, ChannelSummary)>,
    /// The token of the next page. `None`: this was the last one.
    pub next: Option<String>,
}
