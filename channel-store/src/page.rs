//! Stretches of a channel's log: what a reader asks for and what it gets.

use crate::publication::{Position, Publication};
use crate::server::ServerLifetime;

/// From where a reader wants to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// Nowhere yet: where does the log end? Asked by whoever is about to follow the channel: if it has no life, this
    /// gives it an empty one for two minutes, so that the position has a name that will stand.
    Head,
    /// After this position. ("", 0) is where a channel without a life ends: it stands before the first publication.
    Position(Position),
}

/// Whether a reader can go on from a position without missing anything (docs/design/log.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// Nothing is missing between the position and the entries that follow it. Also if no position was given: then the
    /// reader begins at the end of the log.
    Contiguous,
    /// The reader saw publications that this log does not have.
    Diverged,
    /// The log does not hold any more what follows the position.
    Trimmed,
    /// The position is of another life of the channel. Or the reader saw publications that this log does not have, and the
    /// log does not hold the place any more where they begin.
    Unknown,
}

/// A stretch of a channel's log.
#[derive(Debug, Clone)]
pub struct LogPage {
    /// How the position asked for stands.
    pub continuity: Continuity,
    /// The server lifetime that answered.
    pub lifetime: ServerLifetime,
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
    /// How the position asked for stands. [`Continuity::Contiguous`] if none was.
    pub continuity: Continuity,
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
        (continuity, position): (Continuity, Position),
        head: Position,
        entries: Vec<Publication>,
        more: bool,
    ) -> Self {
        let goes_back = matches!(range, HistoryRange::UpTo(_));
        let mut page = Self {
            continuity,
            position,
            entries: Vec::new(),
            more: true,
        };
        match (continuity, range) {
            (_, HistoryRange::Oldest | HistoryRange::Newest) | (Continuity::Contiguous, _) => {
                page.continuity = Continuity::Contiguous;
                page.more = more;
                page.entries = entries;
                // Right before the first that is held: nothing is missing after it, but all at and before it is.
                if goes_back && page.position.offset > 0 && page.entries.is_empty() && !page.more {
                    page.continuity = Continuity::Trimmed;
                }
            }
            (Continuity::Trimmed, _) if goes_back => page.more = false,
            // Nothing is shared with it: newest first begins again at the end.
            (Continuity::Unknown, _) if goes_back => page.position = head,
            _ => {}
        }
        page
    }
}
