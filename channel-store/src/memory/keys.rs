//! The idempotency keys that a channel remembers.

use crate::name::{IdempotencyKey, UserId};
use std::collections::HashMap;
use std::mem;
use std::time::Duration;
use tokio::time::Instant;

/// Each user has keys of their own. `None`: the keys of deletions.
pub(super) type Key = (Option<UserId>, IdempotencyKey);

/// The offsets of publications by their keys.
///
/// Keys are forgotten a window of time at once, which needs no timer and no time stamp for each key: a key that was
/// remembered in one window is forgotten at the end of the next, so it is remembered for one to two windows.
#[derive(Clone)]
pub(super) struct Keys {
    /// When window number 0 began.
    started: Instant,
    /// How long a window lasts.
    life: Duration,
    /// The number of the present window.
    number: u128,
    present: HashMap<Key, u64>,
    previous: HashMap<Key, u64>,
}

impl Keys {
    pub(super) fn new(started: Instant, life: Duration) -> Self {
        Self {
            started,
            life: life.max(Duration::from_millis(1)),
            number: 0,
            present: HashMap::new(),
            previous: HashMap::new(),
        }
    }

    /// The offset of the publication with this key.
    pub(super) fn find(&mut self, key: &Key, now: Instant) -> Option<u64> {
        self.forget_old(now);
        let found = self.present.get(key).or_else(|| self.previous.get(key));
        found.copied()
    }

    pub(super) fn remember(&mut self, key: Key, offset: u64, now: Instant) {
        self.forget_old(now);
        self.present.insert(key, offset);
    }

    pub(super) fn is_empty(&mut self, now: Instant) -> bool {
        self.forget_old(now);
        self.present.is_empty() && self.previous.is_empty()
    }

    fn forget_old(&mut self, now: Instant) {
        let number = now.duration_since(self.started).as_nanos() / self.life.as_nanos();
        if number > self.number {
            let present = mem::take(&mut self.present);
            let follows = number == self.number + 1;
            self.previous = if follows { present } else { HashMap::new() };
            self.number = number;
        }
    }
}
