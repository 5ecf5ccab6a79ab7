//! The index of one incarnation, as its owner knows it. A place stands in it from before the first session comes, until
//! two looks, a settle time apart, have found no session there, neither here nor in the store.

use channel_store::{ChannelName, Generation, IndexEntry, Look, Place, SETTLE_TIME, UserId};
use std::collections::BTreeMap;
use tokio::time::Instant;

/// The most looks at idle places in one round. There is a round each second, and two looks are needed to drop an entry.
/// So 200 users a second can come and go for ever, and their entries do not pile up.
const IDLE_LOOKS: usize = 400;

#[derive(Default)]
pub(super) struct Index {
    entries: BTreeMap<Place, Entry>,
    nonces: u64,
}

struct Entry {
    nonce: u64,
    /// The entry is known to stand in the store.
    written: bool,
    /// Sessions that are at this place or on their way to it.
    sessions: usize,
    /// The time of the next look.
    due: Instant,
    /// The server lifetime under which the last look found no session. `None`: a look found one, or a session came
    /// since.
    empty: Option<Generation>,
    /// The server lifetime under which the sessions were compared with those that are known here.
    verified: Option<Generation>,
}

impl Entry {
    fn new(nonce: u64, due: Instant) -> Self {
        Self {
            nonce,
            written: false,
            sessions: 0,
            due,
            empty: None,
            verified: None,
        }
    }

    fn of(&self, place: &Place) -> IndexEntry {
        IndexEntry {
            place: place.clone(),
            nonce: self.nonce,
        }
    }
}

impl Index {
    /// A session is about to come to a place.
    pub(super) fn enter(&mut self, place: &Place) {
        let Self { entries, nonces } = self;
        let entry = entries.entry(place.clone()).or_insert_with(|| {
            *nonces = nonces.wrapping_add(1);
            Entry::new(*nonces, Instant::now() + SETTLE_TIME)
        });
        entry.sessions += 1;
        entry.empty = None;
    }

    /// A session has left a place for good.
    pub(super) fn exit(&mut self, place: &Place) {
        if let Some(entry) = self.entries.get_mut(place) {
            entry.sessions = entry.sessions.saturating_sub(1);
        }
    }

    /// The entries that must be written before a session comes to these places.
    pub(super) fn unwritten(&self, places: &[Place]) -> Vec<IndexEntry> {
        let unwritten = places.iter().filter_map(|place| {
            let entry = self.entries.get(place).filter(|entry| !entry.written)?;
            Some(entry.of(place))
        });
        unwritten.collect()
    }

    /// These entries stand in the store now.
    pub(super) fn written(&mut self, entries: &[IndexEntry]) {
        for IndexEntry { place, nonce } in entries {
            if let Some(entry) = self.entries.get_mut(place) {
                entry.written |= entry.nonce == *nonce;
            }
        }
    }

    /// The number of entries that the store should have.
    pub(super) fn len_written(&self) -> u64 {
        self.entries.values().filter(|entry| entry.written).count() as u64
    }

    /// Compares with the entries in the store. Takes over those that are unknown here, for a look at once. Returns
    /// those that are missing in the store.
    pub(super) fn reconcile(&mut self, found: Vec<IndexEntry>) -> Vec<IndexEntry> {
        let found: BTreeMap<_, _> = found.into_iter().map(|it| (it.place, it.nonce)).collect();
        let own = self.entries.iter();
        let missing = own.filter(|(place, entry)| found.get(*place) != Some(&entry.nonce));
        let missing = missing.map(|(place, entry)| entry.of(place)).collect();
        let now = Instant::now();
        for (place, nonce) in found {
            self.nonces = self.nonces.max(nonce);
            self.entries.entry(place).or_insert_with(|| Entry {
                written: true,
                ..Entry::new(nonce, now)
            });
        }
        missing
    }

    /// Places whose look is due and for which `may` is true, the longest overdue first. At most `most` of them have
    /// sessions. To these come idle places, of which more are looked at.
    pub(super) fn due(
        &self,
        now: Instant,
        most: usize,
        may: impl Fn(&Place) -> bool,
    ) -> Vec<Place> {
        let due = self.entries.iter();
        let due = due.filter(|(place, entry)| entry.due <= now && may(place));
        let (used, idle): (Vec<_>, Vec<_>) = due.partition(|(_, entry)| entry.sessions > 0);
        let mut places = Vec::new();
        for (mut due, most) in [(used, most), (idle, IDLE_LOOKS)] {
            if due.len() > most {
                due.select_nth_unstable_by_key(most, |(place, entry)| (entry.due, *place));
                due.truncate(most);
            }
            places.extend(due.into_iter().map(|(place, _)| place.clone()));
        }
        places
    }

    /// All places that stand in the index.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.entries.keys().cloned()
    }

    /// Those of `places` that stand in the index.
    pub(super) fn among(&self, places: &[Place]) -> Vec<Place> {
        let known = places.iter().filter(|it| self.entries.contains_key(it));
        known.cloned().collect()
    }

    /// True if no session is or may be anywhere, as far as is known here.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The channels and the users among `places` that stand in the index.
    pub(super) fn known(&self, places: &[Place]) -> (Vec<ChannelName>, Vec<UserId>) {
        let (mut channels, mut users) = (Vec::new(), Vec::new());
        for place in places
            .iter()
            .filter(|place| self.entries.contains_key(place))
        {
            match place {
                Place::Channel(channel) => channels.push(channel.clone()),
                Place::User(user) => users.push(user.clone()),
            }
        }
        (channels, users)
    }

    /// True if a look at a channel shows that nothing must be compared: it found as many sessions as are known here,
    /// and they were compared under this server lifetime before.
    pub(super) fn is_as_known(&self, place: &Place, look: &Look, members: usize) -> bool {
        let verified = self.entries.get(place).and_then(|it| it.verified.as_ref());
        look.sessions == members as u64 && (members == 0 || verified == Some(&look.generation))
    }

    /// The sessions in the store are those that are known here, under this server lifetime.
    pub(super) fn verified(&mut self, place: &Place, generation: Generation) {
        if let Some(entry) = self.entries.get_mut(place) {
            entry.verified = Some(generation);
            entry.due = Instant::now() + SETTLE_TIME;
            entry.empty = None;
        }
    }

    /// Takes the answer to a look. If the second due look in a row was empty, the entry is removed, and must be dropped
    /// in the store, too.
    pub(super) fn looked(&mut self, now: Instant, place: Place, look: &Look) -> Option<IndexEntry> {
        let entry = self.entries.get_mut(&place)?;
        let was_due = std::mem::replace(&mut entry.due, now + SETTLE_TIME) <= now;
        if entry.sessions > 0 || look.sessions > 0 {
            entry.empty = None;
            return None;
        }
        let generation = Some(look.generation.clone());
        if entry.empty != generation || !was_due {
            entry.empty = generation;
            return None;
        }
        let nonce = entry.nonce;
        self.entries.remove(&place);
        Some(IndexEntry { place, nonce })
    }
}
