//! The hub's counters.

use crate::metering::{CHANNEL_WRITES, ENCODINGS, FEED_GAPS, FEED_REPAIRED, LAG, POSITIONS_LOST};
use metrics::{Counter, Histogram, counter, histogram};
use proto::time::now;
use std::time::Duration;
use wire::PositionReason;

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
    lag: Histogram,
}

impl HubMetrics {
    pub(super) fn new() -> Self {
        let lost = |reason: PositionReason| counter!(POSITIONS_LOST, "reason" => reason.reason());
        Self {
            encodings: counter!(ENCODINGS),
            writes: counter!(CHANNEL_WRITES),
            gaps: counter!(FEED_GAPS),
            repaired: counter!(FEED_REPAIRED),
            diverged: lost(PositionReason::Diverged),
            trimmed: lost(PositionReason::Trimmed),
            unknown: lost(PositionReason::Unknown),
            lag: histogram!(LAG),
        }
    }

    /// Something was written to sockets that was published at this time: milliseconds since 1970, by the clock of a chat. If this
    /// machine's clock is behind that one, no time has passed.
    pub(super) fn written(&self, published: u64) {
        self.lag
            .record(Duration::from_millis(now().saturating_sub(published)));
    }

    /// Counts a member whose position is lost.
    pub(super) fn lost(&self, moved: PositionReason) {
        match moved {
            PositionReason::NewEpoch | PositionReason::Skipped => {}
            PositionReason::Diverged => self.diverged.increment(1),
            PositionReason::Trimmed => self.trimmed.increment(1),
            PositionReason::Unknown => self.unknown.increment(1),
        }
    }
}
