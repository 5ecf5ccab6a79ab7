//! A channel's log in memory: bounded by number and time, with the idempotency keys of what it holds.

use super::Now;
use crate::name::{IdempotencyKey, UserId};
use crate::publication::{Epoch, Payload, Position, Publication};
use crate::store::{Generation, LogPage, Published, Since, Standing, StoreError, StoreOptions};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Keys are the user's own.
type Key = (UserId, IdempotencyKey);

pub(super) struct Log {
    epoch: Epoch,
    last: u64,
    entries: VecDeque<Publication>,
    published: Instant,
    keys: Keys,
}

impl Log {
    pub(super) fn new(started: Instant, options: &StoreOptions) -> Self {
        Self {
            epoch: Epoch::new(&format!("{:016x}", fastrand::u64(..))),
            last: 0,
            entries: VecDeque::new(),
            published: started,
            keys: Keys {
                started,
                life: options.key_life.max(Duration::from_millis(1)),
                windows: Default::default(),
            },
        }
    }

    pub(super) fn append(&mut self, payload: Payload, now: Now, bound: u64) -> &Publication {
        self.last += 1;
        self.published = now.instant;
        while self.entries.len() as u64 >= bound.max(1) {
            self.entries.pop_front();
        }
        self.entries.push_back(Publication {
            position: self.head(),
            time: now.milliseconds,
            payload,
        });
        &self.entries[self.entries.len() - 1]
    }

    /// The content goes when the log's time is over; the count goes on.
    pub(super) fn expire(&mut self, now: Instant, options: &StoreOptions) {
        if now.duration_since(self.published) >= options.log_life {
            self.entries.clear();
        }
    }

    /// The content lives on as if something had been published.
    pub(super) fn touch(&mut self, now: Instant) {
        self.published = now;
    }

    /// The end of the log.
    pub(super) fn head(&self) -> Position {
        Position {
            epoch: self.epoch.clone(),
            offset: self.last,
        }
    }

    /// The offset of a publication with this key.
    pub(super) fn find(&mut self, key: &Key, now: Instant) -> Option<u64> {
        self.keys.find(key, now)
    }

    pub(super) fn remember(&mut self, key: Key, offset: u64, now: Instant) {
        self.keys.remember(key, offset, now);
    }

    /// The first answer again, if this is the same content as far as can be told.
    pub(super) fn repeated(
        &self,
        offset: u64,
        payload: &Payload,
        now: Now,
    ) -> Result<Published, StoreError> {
        let first = self.entries.get(self.index(offset));
        if first.is_some_and(|first| first.payload != *payload) {
            return Err(StoreError::KeyReused);
        }
        Ok(Published {
            position: Position {
                epoch: self.epoch.clone(),
                offset,
            },
            time: first.map_or(now.milliseconds, |first| first.time),
            reached: 0,
            repeated: true,
        })
    }

    /// Judges a position, and reads what follows it.
    pub(super) fn page(&self, since: &Since, limit: usize, generation: Generation) -> LogPage {
        let before_first = self.last - self.entries.len() as u64;
        let (standing, offset) = match since {
            Since::Head => (Standing::Head, self.last),
            Since::Position(it) if it.epoch != self.epoch => (Standing::Unknown, before_first),
            Since::Position(it) if it.offset > self.last => (Standing::Diverged, self.last),
            Since::Position(it) if it.offset < before_first => (Standing::Trimmed, before_first),
            Since::Position(it) => (Standing::Exact, it.offset),
        };
        let following = self.entries.iter().skip(self.index(offset + 1));
        LogPage {
            standing,
            generation,
            position: Position {
                epoch: self.epoch.clone(),
                offset,
            },
            last: self.last,
            entries: following.take(limit).cloned().collect(),
        }
    }

    /// Where an entry with this offset lies; nowhere if it is no longer held.
    fn index(&self, offset: u64) -> usize {
        let first = self.last + 1 - self.entries.len() as u64;
        offset
            .checked_sub(first)
            .and_then(|index| usize::try_from(index).ok())
            .unwrap_or(usize::MAX)
    }
}

/// Idempotency keys in two windows of time, used in turn: a key is remembered for one to two windows.
struct Keys {
    started: Instant,
    life: Duration,
    windows: [Window; 2],
}

#[derive(Default)]
struct Window {
    number: u64,
    offsets: HashMap<Key, u64>,
}

impl Keys {
    fn find(&mut self, key: &Key, now: Instant) -> Option<u64> {
        self.turn(now);
        // It is in one of them at most: who finds it remembers it no second time.
        self.windows
            .iter()
            .find_map(|window| window.offsets.get(key).copied())
    }

    fn remember(&mut self, key: Key, offset: u64, now: Instant) {
        let number = self.turn(now);
        self.windows[usize::from(number % 2 == 1)]
            .offsets
            .insert(key, offset);
    }

    /// Empties the windows whose time is over, and answers the number of the present one.
    fn turn(&mut self, now: Instant) -> u64 {
        let elapsed = now.duration_since(self.started).as_nanos() / self.life.as_nanos();
        let number = u64::try_from(elapsed).unwrap_or(u64::MAX);
        for window in &mut self.windows {
            if window.number + 1 < number {
                window.offsets = HashMap::new();
            }
        }
        let present = &mut self.windows[usize::from(number % 2 == 1)];
        if present.number != number {
            *present = Window {
                number,
                offsets: HashMap::new(),
            };
        }
        number
    }
}
