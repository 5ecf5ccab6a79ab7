//! A channel's log: publications in one order, bounded by their number, age and bytes.

use super::clock::Now;
use crate::error::StoreError;
use crate::membership::Beginning;
use crate::page::{Continuity, HistoryPage, HistoryRange, LogPage, Since};
use crate::publication::{Epoch, Payload, Position, Publication};
use crate::publish::Published;
use crate::rules::{ENTRY_BYTES, LogPolicy, READ_BYTES};
use crate::server::ServerLifetime;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// A log remembers at most so many epochs.
const EPOCHS: usize = 64;

/// The log. It answers as the scripts in Redis do: docs/design/log.md.
#[derive(Clone)]
pub(super) struct Log {
    /// The epochs, oldest first, each with the offset that it began at. There is none only in the log of a channel that the
    /// store does not know; see [`Log::of_unknown`].
    epochs: Vec<(Epoch, u64)>,
    /// The server lifetime under which the newest epoch began.
    lifetime: ServerLifetime,
    /// The offset of the last publication.
    last: u64,
    entries: VecDeque<Entry>,
    /// The bytes of all entries.
    bytes: u64,
    /// The offset of the last publication that was neither a join nor a leave; 0 if there was none.
    last_message: u64,
    /// The offset up to which the log was removed by [`Log::trim_up_to`] or [`Log::delete`]; 0 if it was not.
    trimmed: u64,
    /// The offset of the last deletion; 0 if there was none.
    deleted: u64,
    /// The epoch of the last deletion; empty if there was none.
    deletion: Epoch,
    /// The first epoch of this life.
    life: Epoch,
    /// When something was published, or the log was touched, for the last time.
    used: Instant,
}

#[derive(Clone)]
struct Entry {
    since: Instant,
    publication: Publication,
}

impl Entry {
    fn bytes(&self) -> u64 {
        self.publication.payload.as_bytes().len() as u64 + ENTRY_BYTES
    }
}

impl Log {
    /// An empty log, which begins with an epoch.
    pub(super) fn new(lifetime: &ServerLifetime, now: Instant) -> Self {
        let life = random_epoch();
        Self {
            epochs: vec![(life.clone(), 1)],
            life,
            ..Self::of_unknown(lifetime, now)
        }
    }

    /// What a channel that the store does not know answers from. It ends at the position ("", 0).
    pub(super) fn of_unknown(lifetime: &ServerLifetime, now: Instant) -> Self {
        Self {
            epochs: Vec::new(),
            lifetime: lifetime.clone(),
            last: 0,
            entries: VecDeque::new(),
            bytes: 0,
            last_message: 0,
            trimmed: 0,
            deleted: 0,
            deletion: Epoch::new(""),
            life: Epoch::new(""),
            used: now,
        }
    }

    /// Appends a publication. The first one under another server lifetime begins an epoch.
    pub(super) fn append(
        &mut self,
        payload: Payload,
        now: Now,
        policy: &LogPolicy,
        lifetime: &ServerLifetime,
    ) -> Publication {
        if self.lifetime != *lifetime {
            self.lifetime = lifetime.clone();
            self.begin_epoch();
        }
        self.last += 1;
        self.used = now.instant;
        let publication = Publication {
            position: self.end(),
            time: now.milliseconds,
            payload,
        };
        let entry = Entry {
            since: now.instant,
            publication: publication.clone(),
        };
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        self.trim(now.instant, policy);
        publication
    }

    /// Drops the oldest entries: those beyond the number that are also old, and those beyond the bytes. The last entry stays.
    fn trim(&mut self, now: Instant, policy: &LogPolicy) {
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

    /// Removes the entries up to a position, if that is a position of this log. Answers how many are left.
    pub(super) fn trim_up_to(&mut self, upto: &Position) -> Result<u64, StoreError> {
        if !matches!(
            self.judge(upto).0,
            Continuity::Contiguous | Continuity::Trimmed
        ) {
            let end = self.end_of_published();
            return Err(StoreError::PositionMismatch { end });
        }
        let removed = self.entries_up_to(upto.offset);
        for entry in self.entries.drain(..removed) {
            self.bytes -= entry.bytes();
            self.trimmed = upto.offset;
        }
        Ok(self.entries.len() as u64)
    }

    /// Removes all entries, and appends a deletion in an epoch of its own.
    pub(super) fn delete(
        &mut self,
        now: Now,
        policy: &LogPolicy,
        lifetime: &ServerLifetime,
    ) -> Publication {
        // While the entries are there, so that their epochs stay known.
        self.begin_epoch();
        self.lifetime = lifetime.clone();
        self.entries.clear();
        self.bytes = 0;
        self.trimmed = self.last;
        let publication = self.append(Payload::of_deletion(), now, policy, lifetime);
        self.deleted = self.last;
        self.deletion = publication.position.epoch.clone();
        self.note_message();
        publication
    }

    /// True if a membership that began then ended with the deletion of the channel.
    pub(super) fn was_deleted_after(&self, beginning: &Beginning) -> bool {
        let Beginning { life, deletion } = beginning;
        self.deleted > 0 && *life == self.life && *deletion != self.deletion
    }

    /// Names the last deletion in this life; empty if there was none.
    pub(super) fn deletion(&self) -> &Epoch {
        &self.deletion
    }

    /// Names this life of the channel.
    pub(super) fn life(&self) -> &Epoch {
        &self.life
    }

    /// The offset up to which the log was removed; 0 if it was not.
    pub(super) fn trimmed(&self) -> u64 {
        self.trimmed
    }

    /// True if something was published, and if the channel was deleted, since then.
    pub(super) fn has_begun(&self) -> bool {
        self.last > self.deleted
    }

    /// How many entries there are, and the times of the first one and the last one.
    pub(super) fn held(&self) -> (u64, Option<u64>, Option<u64>) {
        let time = |entry: &Entry| entry.publication.time;
        let (first, last) = (self.entries.front(), self.entries.back());
        (self.entries.len() as u64, first.map(time), last.map(time))
    }

    /// The bytes of all publications that are held.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn begin_epoch(&mut self) {
        let first_held = self.before_first() + 1;
        // An epoch that ended before the first entry held is of no use for judging a position any more.
        let ended = |epochs: &[(Epoch, u64)]| epochs.get(1).is_some_and(|it| it.1 < first_held);
        while ended(&self.epochs) || self.epochs.len() >= EPOCHS {
            self.epochs.remove(0);
        }
        self.epochs.push((random_epoch(), self.last + 1));
    }

    /// Remembers that the last publication was neither a join nor a leave.
    pub(super) fn note_message(&mut self) {
        self.last_message = self.last;
    }

    /// True if the log holds nothing but joins and leaves.
    pub(super) fn is_without_messages(&self) -> bool {
        self.last_message <= self.before_first()
    }

    /// Drops all entries if the log has not been used for so long. The offsets go on.
    pub(super) fn expire(&mut self, now: Instant, life: Duration) {
        if now.duration_since(self.used) >= life {
            self.entries.clear();
            self.bytes = 0;
        }
    }

    /// Keeps the log as if something had been published now.
    pub(super) fn touch(&mut self, now: Instant) {
        self.used = now;
    }

    /// Where the log ends.
    pub(super) fn end(&self) -> Position {
        self.at(self.last)
    }

    /// Where the log ends. Before the first publication this is ("", 0), whatever the epoch is called.
    pub(super) fn end_of_published(&self) -> Position {
        match self.last {
            0 => Position {
                epoch: Epoch::new(""),
                offset: 0,
            },
            _ => self.end(),
        }
    }

    /// True if the log ends at this position, by either name.
    pub(super) fn ends_at(&self, position: &Position) -> bool {
        *position == self.end() || *position == self.end_of_published()
    }

    /// The position before the first entry that is held.
    fn start(&self) -> Position {
        self.at(self.before_first())
    }

    /// The position with this offset, which has the last epoch that began there or before.
    pub(super) fn at(&self, offset: u64) -> Position {
        let began = self.epochs.iter().rfind(|(_, first)| *first <= offset);
        let epoch = began.or(self.epochs.first());
        Position {
            epoch: epoch.map_or_else(|| Epoch::new(""), |(epoch, _)| epoch.clone()),
            offset,
        }
    }

    fn before_first(&self) -> u64 {
        self.last - self.entries.len() as u64
    }

    /// How many of the entries stand at this offset or before it.
    fn entries_up_to(&self, offset: u64) -> usize {
        let entries = offset.saturating_sub(self.before_first());
        usize::try_from(entries).unwrap_or(usize::MAX)
    }

    /// The answer to a publication whose key stands for the one at `offset`.
    pub(super) fn repeated(
        &self,
        offset: u64,
        payload: &Payload,
        now: Now,
    ) -> Result<Published, StoreError> {
        let first = match self.entries_up_to(offset) {
            0 => None,
            number => self.entries.get(number - 1).map(|it| &it.publication),
        };
        if first.is_some_and(|first| first.payload != *payload) {
            return Err(StoreError::KeyReused);
        }
        Ok(Published {
            position: self.at(offset),
            time: first.map_or(now.milliseconds, |first| first.time),
            reached: 0,
            repeated: true,
            ephemeral: false,
        })
    }

    /// Judges a position, and reads what follows it.
    pub(super) fn read(&self, since: &Since, limit: usize, lifetime: &ServerLifetime) -> LogPage {
        let (continuity, position) = match since {
            Since::Head => (Continuity::Contiguous, self.end()),
            Since::Position(position) => self.judge(position),
        };
        let following = self
            .entries
            .iter()
            .skip(self.entries_up_to(position.offset));
        LogPage {
            continuity,
            lifetime: lifetime.clone(),
            position,
            last: self.last,
            entries: page(following, limit).0,
        }
    }

    /// A page of history.
    pub(super) fn history(&self, range: &HistoryRange, limit: usize) -> HistoryPage {
        let judgement = match range {
            HistoryRange::Oldest => (Continuity::Contiguous, self.start()),
            HistoryRange::Newest => (Continuity::Contiguous, self.end()),
            HistoryRange::After(position) | HistoryRange::UpTo(position) => self.judge(position),
        };
        let up_to = self.entries_up_to(judgement.1.offset);
        let (taken, more) = match range {
            HistoryRange::Oldest | HistoryRange::After(_) => {
                page(self.entries.iter().skip(up_to), limit)
            }
            HistoryRange::Newest | HistoryRange::UpTo(_) => {
                page(self.entries.iter().take(up_to).rev(), limit)
            }
        };
        HistoryPage::new(range, judgement, self.end(), taken, more)
    }

    /// How a position stands in this log, and where its reader goes on from.
    fn judge(&self, position: &Position) -> (Continuity, Position) {
        let before_first = self.before_first();
        if position.epoch.as_str().is_empty() && position.offset == 0 {
            // The reader asked before the channel had an epoch, so everything that was ever published comes after it.
            let continuity = match before_first {
                0 => Continuity::Contiguous,
                _ => Continuity::Trimmed,
            };
            return (continuity, self.start());
        }
        let known = self.epochs.iter().position(|(id, _)| *id == position.epoch);
        let Some(index) = known else {
            return (Continuity::Unknown, self.start());
        };
        let next = self.epochs.get(index + 1);
        let end = next.map_or(self.last, |(_, first)| first - 1);
        if position.offset > end && end < before_first {
            (Continuity::Unknown, self.start())
        } else if position.offset > end {
            (Continuity::Diverged, self.at(end))
        } else if position.offset < before_first {
            (Continuity::Trimmed, self.start())
        } else {
            (Continuity::Contiguous, position.clone())
        }
    }
}

/// A page of these entries, and whether there are more. The page ends before it exceeds [`READ_BYTES`], but has one entry if
/// there is one.
fn page<'a>(entries: impl Iterator<Item = &'a Entry>, limit: usize) -> (Vec<Publication>, bool) {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        bytes += entry.bytes();
        if taken.len() >= limit || bytes > READ_BYTES && !taken.is_empty() {
            return (taken, true);
        }
        taken.push(entry.publication.clone());
    }
    (taken, false)
}

/// An id that never repeats.
fn random_epoch() -> Epoch {
    Epoch::new(&format!("{:016x}", fastrand::u64(..)))
}
