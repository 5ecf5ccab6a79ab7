//! The clocks of the store's servers, for leases and deadlines. They go with the process's monotonic time, and in tests and
//! simulations they are set: all of them, or that of one slot, as if it lay on a server of its own.

use super::{MemoryStore, Now};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::time::Instant;

pub(super) struct Clocks {
    started: Instant,
    started_milliseconds: u64,
    /// By how many milliseconds all of them were set forward, or back.
    all: AtomicI64,
    /// The same for single slots, by the name that the slot is of.
    slots: Mutex<HashMap<String, i64>>,
}

impl Clocks {
    pub(super) fn new() -> Self {
        let now = Now::new();
        Self {
            started: now.instant,
            started_milliseconds: now.milliseconds,
            all: AtomicI64::new(0),
            slots: Mutex::default(),
        }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// The time of the server that has this slot: milliseconds since 1970.
    pub(super) fn milliseconds(&self, slot: &str) -> u64 {
        self.microseconds(slot) / 1_000
    }

    /// The same in microseconds.
    pub(super) fn microseconds(&self, slot: &str) -> u64 {
        let since = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX / 4);
        let set = self.slots.lock().get(slot).copied().unwrap_or_default();
        let set = set.saturating_add(self.all.load(Ordering::Relaxed));
        let began = self.started_milliseconds.saturating_mul(1_000);
        let now = began.saturating_add(since);
        now.saturating_add_signed(set.saturating_mul(1_000))
    }
}

impl MemoryStore {
    /// Sets a clock forward by so many milliseconds, or back: that of one slot, which is named as the channel, user or
    /// incarnation whose it is, or that of all. For tests and simulations: time itself goes on as before, so nothing
    /// becomes older by it.
    pub fn set_clock(&self, slot: Option<&str>, by: i64) {
        let clocks = &self.channels.clocks;
        let Some(slot) = slot else {
            clocks.all.fetch_add(by, Ordering::Relaxed);
            return;
        };
        *clocks.slots.lock().entry(slot.to_owned()).or_default() += by;
    }

    /// What that clock shows: milliseconds since 1970.
    #[must_use]
    pub fn clock(&self, slot: &str) -> u64 {
        self.channels.clocks.milliseconds(slot)
    }
}
