//! Stretches of a channel's log: what a reader asks for and what it gets.

use crate::publication::{Position, Publication};
use crate::server::Generation;

/// From where a reader wants to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// Nowhere yet: where does the log end? Asked by whoever is about to follow the channel: if it has no life, this
    /// gives it an empty one for two minutes, so that the position has a name that will stand.
    Head,
    /// After this position. ("", 0) is where a channel without a life ends: it stands before the first publication.
    Position(Position),
}

/// How a position stands towards a log (RECOVERY.md, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No position was given: the answer's is the end of the log.
    Head,
    /// Exact: nothing is missing between it and the entries that follow.
    Exact,
    /// It saw publications that this log does not have.
    Diverged,
    /// What follows it is no longer held.
    Trimmed,
    /// An epoch of another life, or one that saw what this log does not have, below what is still held.
    Unknown,
}

/// A stretch of a channel's log.
#[derive(Debug, Clone)]
pub struct LogPage {
    /// How the position asked for stands.
    pub standing: Standing,
    /// The server lifetime that answered.
    pub generation: Generation,
    /// Where to go on from: as asked if exact, else as the log allows. The entries follow it without a gap.
    pub position: Position,
    /// The offset of the log's last publication.
    pub last: u64,
    /// In order.
    pub entries: Vec<Publication>,
}

/// Where a page of history begins, and which way it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryRange {
    /// Oldest first: all that is held.
    Oldest,
    /// Oldest first: what follows this position.
    After(Position),
    /// Newest first: all that is held.
    Newest,
    /// Newest first: what stands at this position and before it.
    UpTo(Position),
}

/// A page of history. If the position asked for does not stand, that alone is said, with the position to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// How the position asked for stands. [`Standing::Exact`] if none was.
    pub standing: Standing,
    /// Where the page begins, as a position of its range: as asked if exact, else the nearest that stands.
    pub position: Position,
    /// What is there, without a gap, in the range's direction.
    pub entries: Vec<Publication>,
    /// True if there is more in that direction.
    pub more: bool,
}

impl HistoryPage {
    /// Makes a page of what a log says of the range's position, of the log's end, and of the entries of the range.
    /// `more`: there are more of them than these.
    pub(crate) fn new(
        range: &HistoryRange,
        (standing, position): (Standing, Position),
        head: Position,
        entries: Vec<Publication>,
        more: bool,
    ) -> Self {
        let goes_back = matches!(range, HistoryRange::UpTo(_));
        let mut page = Self {
            standing,
            position,
            entries: Vec::new(),
            more: true,
        };
        match (standing, range) {
            (_, HistoryRange::Oldest | HistoryRange::Newest) | (Standing::Exact, _) => {
                page.standing = Standing::Exact;
                page.more = more;
                page.entries = entries;
                // Right before the first that is held: nothing is missing after it, but all at and before it is.
                if goes_back && page.position.offset > 0 && page.entries.is_empty() && !page.more {
                    page.standing = Standing::Trimmed;
                }
            }
            (Standing::Trimmed, _) if goes_back => page.more = false,
            // Nothing is shared with it: newest first begins again at the end.
            (Standing::Unknown, _) if goes_back => page.position = head,
            _ => {}
        }
        page
    }
}
