//! A channel's log in memory: bounded by number and time, with the idempotency keys of what it holds.

use super::Now;
use crate::history::{HistoryPage, HistoryRange};
use crate::name::{IdempotencyKey, UserId};
use crate::publication::{Epoch, Payload, Position, Publication};
use crate::rules::LogPolicy;
use crate::store::{Generation, LogPage, Published, Since, Standing, StoreError, StoreOptions};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Keys are the user's own.
type Key = (UserId, IdempotencyKey);

/// Epochs that a log remembers at most.
const EPOCHS: usize = 64;

/// Judges positions as the scripts do (RECOVERY.md, section 2).
#[derive(Clone)]
pub(super) struct Log {
    /// Ids and first offsets, oldest first; never empty.
    epochs: Vec<(Epoch, u64)>,
    /// The server lifetime that the newest epoch began under.
    generation: Generation,
    last: u64,
    entries: VecDeque<Publication>,
    published: Instant,
    keys: Keys,
}

impl Log {
    pub(super) fn new(started: Instant, options: &StoreOptions, generation: Generation) -> Self {
        Self {
            epochs: vec![(new_epoch(), 1)],
            generation,
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

    /// Appends under a server lifetime: its first publication begins an epoch.
    pub(super) fn append(
        &mut self,
        payload: Payload,
        now: Now,
        bound: u64,
        generation: &Generation,
    ) -> &Publication {
        if self.generation != *generation {
            self.generation = generation.clone();
            self.begin_epoch();
        }
        self.last += 1;
        self.published = now.instant;
        while self.entries.len() as u64 >= bound {
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
    pub(super) fn expire(&mut self, now: Instant, policy: LogPolicy) {
        if now.duration_since(self.published) >= policy.life {
            self.entries.clear();
        }
    }

    /// The content lives on as if something had been published.
    pub(super) fn touch(&mut self, now: Instant) {
        self.published = now;
    }

    fn begin_epoch(&mut self) {
        let first_held = self.before_first() + 1;
        // What ended below that judges nothing any more.
        while self
            .epochs
            .get(1)
            .is_some_and(|(_, next)| *next < first_held)
            || self.epochs.len() >= EPOCHS
        {
            self.epochs.remove(0);
        }
        self.epochs.push((new_epoch(), self.last + 1));
    }

    /// The end of the log.
    pub(super) fn head(&self) -> Position {
        self.at(self.last)
    }

    /// An offset with the last epoch that began there or before.
    fn at(&self, offset: u64) -> Position {
        let index = self.epochs.partition_point(|(_, start)| *start <= offset);
        let (epoch, _) = &self.epochs[index.saturating_sub(1)];
        Position {
            epoch: epoch.clone(),
            offset,
        }
    }

    fn before_first(&self) -> u64 {
        self.last - self.entries.len() as u64
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
            position: self.at(offset),
            time: first.map_or(now.milliseconds, |first| first.time),
            reached: 0,
            repeated: true,
        })
    }

    /// Judges a position, and reads what follows it.
    pub(super) fn page(&self, since: &Since, limit: usize, generation: Generation) -> LogPage {
        let (standing, position) = match since {
            Since::Head => (Standing::Head, self.head()),
            Since::Position(position) => self.judge(position),
        };
        let following = self.entries.iter().skip(self.index(position.offset + 1));
        LogPage {
            standing,
            generation,
            position,
            last: self.last,
            entries: following.take(limit).cloned().collect(),
        }
    }

    /// A page of history.
    pub(super) fn history(&self, range: &HistoryRange, limit: usize) -> HistoryPage {
        let judgement = match range {
            HistoryRange::Oldest => (Standing::Exact, self.at(self.before_first())),
            HistoryRange::Newest => (Standing::Exact, self.head()),
            HistoryRange::After(position) | HistoryRange::UpTo(position) => self.judge(position),
        };
        let entries = self.entries.iter();
        let offset = judgement.1.offset;
        let taken: Vec<_> = match range {
            HistoryRange::Oldest | HistoryRange::After(_) => entries
                .skip_while(|it| it.position.offset <= offset)
                .take(limit + 1)
                .cloned()
                .collect(),
            HistoryRange::Newest | HistoryRange::UpTo(_) => entries
                .rev()
                .skip_while(|it| it.position.offset > offset)
                .take(limit + 1)
                .cloned()
                .collect(),
        };
        HistoryPage::new(range, judgement, self.head(), taken, limit)
    }

    /// How a position stands, and where to go on from.
    fn judge(&self, position: &Position) -> (Standing, Position) {
        let before_first = self.before_first();
        let known = self.epochs.iter().position(|(id, _)| *id == position.epoch);
        let Some(index) = known else {
            return (Standing::Unknown, self.at(before_first));
        };
        let next = self.epochs.get(index + 1);
        let end = next.map_or(self.last, |(_, start)| start - 1);
        if position.offset > end && end < before_first {
            (Standing::Unknown, self.at(before_first))
        } else if position.offset > end {
            (Standing::Diverged, self.at(end))
        } else if position.offset < before_first {
            (Standing::Trimmed, self.at(before_first))
        } else {
            (Standing::Exact, position.clone())
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

/// An id that never repeats.
fn new_epoch() -> Epoch {
    Epoch::new(&format!("{:016x}", fastrand::u64(..)))
}

/// Idempotency keys in two windows of time, used in turn: a key is remembered for one to two windows.
#[derive(Clone)]
struct Keys {
    started: Instant,
    life: Duration,
    windows: [Window; 2],
}

#[derive(Clone, Default)]
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
