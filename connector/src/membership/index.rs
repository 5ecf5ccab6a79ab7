//! The index of one incarnation, as its owner knows it: each channel from before its first session there until two looks,
//! a settle time apart, have found nothing of it, here or in the store.

use channel_store::{
    ChannelName, IndexEntry, Place, Presence, SETTLE_TIME, ServerLifetime, UserId,
};
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Looks at places where nobody is: as many users come and go in the time of one look, and half as many for ever,
/// without their entries piling up.
const IDLE_LOOKS: usize = 400;

#[derive(Default)]
pub(super) struct Index {
    entries: BTreeMap<Place, Entry>,
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
    empty: Option<ServerLifetime>,
    /// The lifetime of the server in which its sessions were compared with those here.
    verified: Option<ServerLifetime>,
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
    /// A session is about to join.
    pub(super) fn enter(&mut self, place: &Place) {
        let Self { entries, nonces } = self;
        let entry = entries.entry(place.clone()).or_insert_with(|| {
            *nonces = nonces.wrapping_add(1);
            Entry::new(*nonces, Instant::now() + SETTLE_TIME)
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
    pub(super) fn unwritten(&self, places: &[Place]) -> Vec<IndexEntry> {
        let unwritten = places.iter().filter_map(|place| {
            let entry = self.entries.get(place).filter(|entry| !entry.written)?;
            Some(entry.of(place))
        });
        unwritten.collect()
    }

    /// These entries stand in the store.
    pub(super) fn written(&mut self, entries: &[IndexEntry]) {
        for IndexEntry { place, nonce } in entries {
            if let Some(entry) = self.entries.get_mut(place) {
                entry.written |= entry.nonce == *nonce;
            }
        }
    }

    /// How many entries the store should have.
    pub(super) fn len_written(&self) -> u64 {
        self.entries.values().filter(|entry| entry.written).count() as u64
    }

    /// Compares with what the store has, takes over what is unknown here, to be looked at, and answers what is missing
    /// there.
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

    /// Places that it is time to look at, and that may be looked at now, those that wait the longest: at most so many where
    /// somebody is, and others where nobody is.
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

    /// What stands in the index.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.entries.keys().cloned()
    }

    /// Those of these places that stand in the index.
    pub(super) fn among(&self, places: &[Place]) -> Vec<Place> {
        let known = places.iter().filter(|it| self.entries.contains_key(it));
        known.cloned().collect()
    }

    /// Nothing of the incarnation is anywhere, as far as is known here, and nobody is on the way.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The channels and users among these places, as far as they stand in the index.
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

    /// True if a look need not be followed by a list: so many members are known here.
    pub(super) fn is_as_known(&self, place: &Place, look: &Presence, members: usize) -> bool {
        let verified = self.entries.get(place).and_then(|it| it.verified.as_ref());
        look.sessions == members as u64 && (members == 0 || verified == Some(&look.lifetime))
    }

    /// What the store has there is what is known here, in this lifetime of its server.
    pub(super) fn verified(&mut self, place: &Place, lifetime: ServerLifetime) {
        if let Some(entry) = self.entries.get_mut(place) {
            entry.verified = Some(lifetime);
            entry.due = Instant::now() + SETTLE_TIME;
            entry.empty = None;
        }
    }

    /// Takes what a look has found; what was empty twice is taken out, and to be dropped in the store.
    pub(super) fn looked(
        &mut self,
        now: Instant,
        place: Place,
        look: &Presence,
    ) -> Option<IndexEntry> {
        let entry = self.entries.get_mut(&place)?;
        let was_due = std::mem::replace(&mut entry.due, now + SETTLE_TIME) <= now;
        if entry.sessions > 0 || look.sessions > 0 {
            entry.empty = None;
            return None;
        }
        let lifetime = Some(look.lifetime.clone());
        if entry.empty != lifetime || !was_due {
            entry.empty = lifetime;
            return None;
        }
        let nonce = entry.nonce;
        self.entries.remove(&place);
        Some(IndexEntry { place, nonce })
    }
}
