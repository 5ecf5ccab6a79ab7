//! The hub's counters.

use crate::metering::{CHANNEL_WRITES, ENCODINGS, FEED_GAPS, FEED_REPAIRED, POSITIONS_LOST};
use metrics::{Counter, counter};
use wire::Moved;

/// The hub's counters.
#[derive(Clone)]
pub(super) struct HubMetrics {
    pub(super) encodings: Counter,
    pub(super) writes: Counter,
    pub(super) gaps: Counter,
    pub(super) repaired: Counter,
    pub(super) diverged: Counter,
    pub(super) trimmed: Counter,
    pub(super) unknown: Counter,
}

impl HubMetrics {
    pub(super) fn new() -> Self {
        let lost = |reason: Moved| counter!(POSITIONS_LOST, "reason" => reason.reason());
        Self {
            encodings: counter!(ENCODINGS),
            writes: counter!(CHANNEL_WRITES),
            gaps: counter!(FEED_GAPS),
            repaired: counter!(FEED_REPAIRED),
            diverged: lost(Moved::Diverged),
            trimmed: lost(Moved::Trimmed),
            unknown: lost(Moved::Unknown),
        }
    }

    /// Counts a member whose position is lost.
    pub(super) fn lost(&self, moved: Moved) {
        match moved {
            Moved::NewEpoch => {}
            Moved::Diverged => self.diverged.increment(1),
            Moved::Trimmed => self.trimmed.increment(1),
            Moved::Unknown => self.unknown.increment(1),
        }
    }
}
