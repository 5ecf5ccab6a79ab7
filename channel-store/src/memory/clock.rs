//! Time in the memory store: the present, and the clock that leases and deadlines are measured by.

use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The present, on two clocks.
#[derive(Clone, Copy)]
pub(super) struct Now {
    /// Measures how long something lasts.
    pub(super) instant: Instant,
    /// Milliseconds since 1970, for people to read.
    pub(super) milliseconds: u64,
}

impl Now {
    pub(super) fn get() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let milliseconds =
            since_1970.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
        Self {
            instant: Instant::now(),
            milliseconds,
        }
    }
}

/// The store's clock: it starts at the system's time and then follows the process's monotonic clock.
///
/// In Redis, each key has the clock of the server that holds it. Tests set the clock of a single name here as if that name
/// were on a server of its own; see `MemoryStore::set_clock`.
pub(super) struct Clock {
    started: Now,
    #[cfg(feature = "testing")]
    pub(super) offsets: Offsets,
}

/// By how many milliseconds clocks were set forward, or back if negative.
#[cfg(feature = "testing")]
#[derive(Default)]
pub(super) struct Offsets {
    /// The offset of every clock.
    pub(super) all: i64,
    /// Further offsets, by the name of a channel, a user or an incarnation.
    pub(super) by_name: std::collections::HashMap<String, i64>,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            started: Now::get(),
            #[cfg(feature = "testing")]
            offsets: Offsets::default(),
        }
    }

    /// When the store began.
    pub(super) fn started(&self) -> Instant {
        self.started.instant
    }

    /// Milliseconds since 1970, on the server that holds this name.
    pub(super) fn milliseconds(&self, name: &str) -> u64 {
        self.microseconds(name) / 1_000
    }

    /// Microseconds since 1970, on the server that holds this name.
    pub(super) fn microseconds(&self, name: &str) -> u64 {
        let elapsed = u64::try_from(self.started.instant.elapsed().as_micros());
        let start = self.started.milliseconds.saturating_mul(1_000);
        start
            .saturating_add(elapsed.unwrap_or(u64::MAX / 4))
            .saturating_add_signed(self.offset(name).saturating_mul(1_000))
    }

    #[cfg(feature = "testing")]
    fn offset(&self, name: &str) -> i64 {
        let own = self.offsets.by_name.get(name).copied().unwrap_or_default();
        own.saturating_add(self.offsets.all)
    }

    #[cfg(not(feature = "testing"))]
    fn offset(&self, _name: &str) -> i64 {
        0
    }
}
