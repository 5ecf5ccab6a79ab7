//! Stretches of a channel's log: what a reader asks for and what it gets.

use crate::publication::{Position, Publication};
use crate::server::ServerLifetime;

/// The place from which a reader wants to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// The end of the log. A connector asks this before it follows a channel. If the channel does not exist, it begins with an
    /// empty log for two minutes, so that the reader's position has a name which stays valid.
    Head,
    /// After this position. ("", 0) is before the first publication: a channel that does not exist ends there.
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
    /// The continuity of the position that was asked for.
    pub continuity: Continuity,
    /// The server lifetime that answered.
    pub lifetime: ServerLifetime,
    /// Where to go on: the position that was asked for if that is contiguous, else the nearest one that the log allows. The
    /// entries follow it without a gap.
    pub position: Position,
    /// The offset of the log's last publication.
    pub last: u64,
    /// Publications, in order.
    pub entries: Vec<Publication>,
}

/// Where a page of history begins, and which way it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryRange {
    /// Everything that the log holds, oldest first.
    Oldest,
    /// What follows this position, oldest first.
    After(Position),
    /// Everything that the log holds, newest first.
    Newest,
    /// What is at this position and before it, newest first.
    UpTo(Position),
}

/// A page of history. If the position that was asked for is not contiguous, the page has no entries, but the position from
/// which to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// The continuity of the position that was asked for. Without one it is [`Continuity::Contiguous`].
    pub continuity: Continuity,
    /// Where the page begins: the position that was asked for if that is contiguous, else the nearest one.
    pub position: Position,
    /// Publications without a gap, in the direction of the range.
    pub entries: Vec<Publication>,
    /// True if there is more in that direction.
    pub more: bool,
}

impl HistoryPage {
    /// Makes a page from the continuity of the range's position and the position to go on from, the end of the log, and
    /// the entries of the range. `more` is true if there are more entries than these.
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
                // The position is right before the first entry that the log holds: everything at it and before it is gone.
                if goes_back && page.position.offset > 0 && page.entries.is_empty() && !page.more {
                    page.continuity = Continuity::Trimmed;
                }
            }
            (Continuity::Trimmed, _) if goes_back => page.more = false,
            // The reader has nothing in common with this log. Newest first begins again at the end.
            (Continuity::Unknown, _) if goes_back => page.position = head,
            _ => {}
        }
        page
    }
}
