//! Pages of a channel's log, in either direction.

use crate::publication::{Position, Publication};
use crate::store::Standing;

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
