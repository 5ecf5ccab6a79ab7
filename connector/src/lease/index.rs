//! The index of one incarnation, as its owner knows it: each channel from before its first session there until two looks,
//! a settle time apart, have found nothing of it, here or in the store.

use channel_store::{Generation, IndexEntry, Look, Place, SETTLE_TIME};
use std::collections::HashMap;
use tokio::time::Instant;

#[derive(Default)]
pub(super) struct Index {
    entries: HashMap<Place, Entry>,
    nonces: u64,
}

struct Entry {
    nonce: u64,
    /// It is known to stand in the store.
    written: bool,
    /// Sessions that are there or on their way.
    sessions: usize,
    /// When to look at it.
    due: Instant,
    /// The last look found nothing, under this lifetime of the server, and nobody came since.
    empty: Option<Generation>,
}

impl Index {
    /// A session is about to join.
    pub(super) fn enter(&mut self, place: &Place) {
        let Self { entries, nonces } = self;
        let entry = entries.entry(place.clone()).or_insert_with(|| {
            *nonces += 1;
            Entry {
                nonce: *nonces,
                written: false,
                sessions: 0,
                due: Instant::now() + SETTLE_TIME,
                empty: None,
            }
        });
        entry.sessions += 1;
        entry.empty = None;
    }

    /// A session is over.
    pub(super) fn exit(&mut self, place: &Place) {
        if let Some(entry) = self.entries.get_mut(place) {
            entry.sessions = entry.sessions.saturating_sub(1);
        }
    }

    /// What is to be written before anybody joins.
    pub(super) fn unwritten(&self, place: &Place) -> Option<IndexEntry> {
        let entry = self.entries.get(place).filter(|entry| !entry.written)?;
        Some(IndexEntry {
            place: place.clone(),
            nonce: entry.nonce,
        })
    }

    pub(super) fn written(&mut self, place: &Place) {
        if let Some(entry) = self.entries.get_mut(place) {
            entry.written = true;
        }
    }

    /// How many entries the store should have.
    pub(super) fn len_written(&self) -> u64 {
        self.entries.values().filter(|entry| entry.written).count() as u64
    }

    /// Compares with what the store has, takes over what is unknown here, and answers what is missing there.
    pub(super) fn reconcile(&mut self, found: Vec<IndexEntry>) -> Vec<IndexEntry> {
        let found: HashMap<_, _> = found.into_iter().map(|it| (it.place, it.nonce)).collect();
        let own = self.entries.iter();
        let missing = own.filter(|(place, entry)| found.get(*place) != Some(&entry.nonce));
        let missing = missing
            .map(|(place, entry)| IndexEntry {
                place: place.clone(),
                nonce: entry.nonce,
            })
            .collect();
        let now = Instant::now();
        for (place, nonce) in found {
            self.nonces = self.nonces.max(nonce);
            self.entries.entry(place).or_insert(Entry {
                nonce,
                written: true,
                sessions: 0,
                due: now,
                empty: None,
            });
        }
        missing
    }

    /// Channels that it is time to look at, at most so many.
    pub(super) fn due(&self, now: Instant, most: usize) -> Vec<Place> {
        let due = self.entries.iter().filter(|(_, entry)| entry.due <= now);
        due.take(most).map(|(place, _)| place.clone()).collect()
    }

    /// Takes what looks have found, and takes out what was empty twice: to be dropped in the store.
    pub(super) fn looked(
        &mut self,
        now: Instant,
        looks: impl Iterator<Item = (Place, Look)>,
    ) -> Vec<IndexEntry> {
        let mut empty = Vec::new();
        for (place, look) in looks {
            let Some(entry) = self.entries.get_mut(&place) else {
                continue;
            };
            entry.due = now + SETTLE_TIME;
            if entry.sessions > 0 || look.sessions > 0 {
                entry.empty = None;
            } else if entry.empty.replace(look.generation.clone()) == Some(look.generation) {
                let nonce = entry.nonce;
                self.entries.remove(&place);
                empty.push(IndexEntry { place, nonce });
            }
        }
        empty
    }
}
