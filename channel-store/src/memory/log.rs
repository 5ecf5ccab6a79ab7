//! A channel's log in memory: bounded by number, time and bytes, with the idempotency keys of what it holds.

use super::Now;
use crate::name::{IdempotencyKey, UserId};
use crate::publication::{Epoch, Payload, Position, Publication};
use crate::rules::{ENTRY_BYTES, LogPolicy, READ_BYTES};
use crate::{Continuity, LogPage, Published, ServerLifetime, Since, StoreError, StoreOptions};
use crate::{HistoryPage, HistoryRange};
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
    lifetime: ServerLifetime,
    last: u64,
    entries: VecDeque<Held>,
    /// Of the entries, as the options count them.
    bytes: u64,
    /// The offset of the last publication that is no join or leave; 0: there was none.
    spoken: u64,
    published: Instant,
    keys: Keys,
}

#[derive(Clone)]
struct Held {
    since: Instant,
    publication: Publication,
}

impl Held {
    fn bytes(&self) -> u64 {
        self.publication.payload.as_bytes().len() as u64 + ENTRY_BYTES
    }
}

impl Log {
    pub(super) fn new(started: Instant, options: &StoreOptions, lifetime: ServerLifetime) -> Self {
        Self {
            epochs: vec![(new_epoch(), 1)],
            lifetime,
            last: 0,
            entries: VecDeque::new(),
            bytes: 0,
            spoken: 0,
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
        policy: LogPolicy,
        lifetime: &ServerLifetime,
    ) -> Publication {
        if self.lifetime != *lifetime {
            self.lifetime = lifetime.clone();
            self.begin_epoch();
        }
        self.last += 1;
        self.published = now.instant;
        let publication = Publication {
            position: self.head(),
            time: now.milliseconds,
            payload,
        };
        let held = Held {
            since: now.instant,
            publication: publication.clone(),
        };
        self.bytes += held.bytes();
        self.entries.push_back(held);
        self.trim(now.instant, policy);
        publication
    }

    /// Drops what is both older than the time and beyond the number, and what is beyond the bytes. The last one stays.
    fn trim(&mut self, now: Instant, policy: LogPolicy) {
        while self.entries.len() > 1 {
            let oldest = &self.entries[0];
            let is_old = now.duration_since(oldest.since) >= policy.keep;
            let is_beyond = self.entries.len() as u64 > policy.entries;
            if !(is_old && is_beyond || self.bytes > policy.bytes) {
                return;
            }
            self.bytes -= oldest.bytes();
            self.entries.pop_front();
        }
    }

    /// What was appended last is no join or leave.
    pub(super) fn note_spoken(&mut self) {
        self.spoken = self.last;
    }

    /// Begins another life, in which nothing of this one is known.
    pub(super) fn end_life(&mut self, lifetime: ServerLifetime) {
        self.epochs = vec![(new_epoch(), 1)];
        self.lifetime = lifetime;
        self.last = 0;
        self.entries = VecDeque::new();
        self.bytes = 0;
        self.spoken = 0;
    }

    /// True if the log holds nothing but joins and leaves, and no key is remembered.
    pub(super) fn is_silent(&mut self, now: Instant) -> bool {
        self.spoken <= self.before_first() && self.keys.is_empty(now)
    }

    /// The content goes when the log's time is over; the count goes on.
    pub(super) fn expire(&mut self, now: Instant, policy: LogPolicy) {
        if now.duration_since(self.published) >= policy.life {
            self.entries.clear();
            self.bytes = 0;
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
        let first = first.map(|it| &it.publication);
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
    pub(super) fn page(&self, since: &Since, limit: usize, lifetime: ServerLifetime) -> LogPage {
        let (continuity, position) = match since {
            Since::Head => (Continuity::Contiguous, self.head()),
            Since::Position(position) => self.judge(position),
        };
        let following = self.index(position.offset.saturating_add(1));
        let following = self.entries.iter().skip(following);
        LogPage {
            continuity,
            lifetime,
            position,
            last: self.last,
            entries: page(following, limit).0,
        }
    }

    /// A page of history.
    pub(super) fn history(&self, range: &HistoryRange, limit: usize) -> HistoryPage {
        let judgement = match range {
            HistoryRange::Oldest => (Continuity::Contiguous, self.at(self.before_first())),
            HistoryRange::Newest => (Continuity::Contiguous, self.head()),
            HistoryRange::After(position) | HistoryRange::UpTo(position) => self.judge(position),
        };
        let offset = judgement.1.offset;
        // So many stand at the position and before it.
        let before = offset.saturating_sub(self.before_first());
        let before = usize::try_from(before).unwrap_or(usize::MAX);
        let (taken, more) = match range {
            HistoryRange::Oldest | HistoryRange::After(_) => {
                page(self.entries.iter().skip(before), limit)
            }
            HistoryRange::Newest | HistoryRange::UpTo(_) => {
                page(self.entries.iter().take(before).rev(), limit)
            }
        };
        HistoryPage::new(range, judgement, self.head(), taken, more)
    }

    /// How a position stands, and where to go on from.
    fn judge(&self, position: &Position) -> (Continuity, Position) {
        let before_first = self.before_first();
        if position.epoch.as_str().is_empty() && position.offset == 0 {
            // Where a channel without a life ends: it stands before the first.
            let continuity = match before_first {
                0 => Continuity::Contiguous,
                _ => Continuity::Trimmed,
            };
            return (continuity, self.at(before_first));
        }
        let known = self.epochs.iter().position(|(id, _)| *id == position.epoch);
        let Some(index) = known else {
            return (Continuity::Unknown, self.at(before_first));
        };
        let next = self.epochs.get(index + 1);
        let end = next.map_or(self.last, |(_, start)| start - 1);
        if position.offset > end && end < before_first {
            (Continuity::Unknown, self.at(before_first))
        } else if position.offset > end {
            (Continuity::Diverged, self.at(end))
        } else if position.offset < before_first {
            (Continuity::Trimmed, self.at(before_first))
        } else {
            (Continuity::Contiguous, position.clone())
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

/// A page of these, and whether there are more. It ends before it exceeds its bytes, but not before its first.
fn page<'a>(held: impl Iterator<Item = &'a Held>, limit: usize) -> (Vec<Publication>, bool) {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for held in held {
        bytes += held.bytes();
        if taken.len() >= limit || bytes > READ_BYTES && !taken.is_empty() {
            return (taken, true);
        }
        taken.push(held.publication.clone());
    }
    (taken, false)
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
    fn is_empty(&mut self, now: Instant) -> bool {
        self.turn(now);
        self.windows.iter().all(|window| window.offsets.is_empty())
    }

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
