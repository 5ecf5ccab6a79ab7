//! What is remembered for a time of those that are gone.

use std::collections::HashMap;
use std::hash::Hash;
use tokio::time::Instant;

/// Keys that are remembered until their time is over, each with a number.
#[derive(Clone)]
pub(super) struct Tombstones<K> {
    stones: HashMap<K, (Instant, u64)>,
    /// At this number of tombstones those are removed whose time is over.
    crowded: usize,
}

impl<K> Default for Tombstones<K> {
    fn default() -> Self {
        Self {
            stones: HashMap::new(),
            crowded: 16,
        }
    }
}

impl<K: Eq + Hash> Tombstones<K> {
    /// Remembers a key until then. The number of one that is remembered already does not fall.
    pub(super) fn set(&mut self, key: K, number: u64, now: Instant, until: Instant) {
        if self.stones.len() >= self.crowded {
            self.stones.retain(|_, (until, _)| *until > now);
            // So that this costs each key a constant time on the average.
            self.crowded = 16 + 2 * self.stones.len();
        }
        let number = number.max(self.get(&key, now).unwrap_or(0));
        self.stones.insert(key, (until, number));
    }

    /// The number of a key, if it is remembered.
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<u64> {
        let (until, number) = self.stones.get(key)?;
        (*until > now).then_some(*number)
    }

    pub(super) fn is_empty(&self, now: Instant) -> bool {
        self.stones.values().all(|(until, _)| *until <= now)
    }
}
