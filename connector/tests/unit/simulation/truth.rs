//! The truth about leases, independent of the store and its clocks, and how leases look to chats.

use channel_store::memory::MemoryStore;
use channel_store::{
    Declared, Incarnation, IndexEntry, Indexed, LeaseState, Leases, Renewed, StoreError,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A rule that a run breaks, to show that the rule is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BrokenRule {
    /// A lease ends when the clock of its server says so.
    LeaseEndsByServerClock,
    /// Death is declared even if the lease has another beat than the observed one.
    DeathIgnoresBeat,
    /// A place is written into the index of the connector's last scheduled incarnation, instead of the index of the
    /// session's own incarnation.
    EntryInOtherIndex,
}

/// Remembers when leases were really renewed.
#[derive(Default)]
pub(crate) struct Truth {
    pub(super) broken: Option<BrokenRule>,
    renewed: Mutex<BTreeMap<Incarnation, (Instant, Duration)>>,
    early_deaths: Mutex<Vec<String>>,
}

impl Truth {
    pub(super) fn breaking(broken: Option<BrokenRule>) -> Self {
        Self {
            broken,
            ..Self::default()
        }
    }

    /// The declarations of death that came before the lease was silent for its length.
    pub(super) fn early_deaths(&self) -> Vec<String> {
        self.early_deaths.lock().clone()
    }

    /// Renews a lease, perhaps for the last time, and notes when that took effect.
    pub(super) async fn renew(
        &self,
        leases: &dyn Leases,
        who: &Incarnation,
        length: Duration,
        last: bool,
    ) -> Result<Renewed, StoreError> {
        let renewed = if last {
            leases.renew_last(who, length).await
        } else {
            leases.renew(who, length).await
        };
        if matches!(renewed, Ok(Renewed::Live(_) | Renewed::Lost(_))) {
            let now = Instant::now();
            self.renewed.lock().insert(who.clone(), (now, length));
        }
        renewed
    }

    /// Writes entries into an index.
    pub(super) async fn index_add(
        &self,
        leases: &dyn Leases,
        who: &Incarnation,
        entries: &[IndexEntry],
    ) -> Result<Indexed, StoreError> {
        if self.broken != Some(BrokenRule::EntryInOtherIndex) {
            return leases.index_add(who, entries).await;
        }
        let connector = |it: &Incarnation| it.as_str().split(':').next().map(str::to_owned);
        let own = leases.directory().await?.into_iter();
        let own = own.filter(|(it, _)| connector(it) == connector(who));
        let last = own.max_by_key(|(_, noted)| *noted).map(|(it, _)| it);
        leases
            .index_add(&last.unwrap_or_else(|| who.clone()), entries)
            .await
    }

    /// How a lease looks to a chat.
    pub(super) fn seen(
        &self,
        store: &MemoryStore,
        who: &Incarnation,
        lease: LeaseState,
    ) -> LeaseState {
        if self.broken != Some(BrokenRule::LeaseEndsByServerClock) {
            return lease;
        }
        let length = u64::try_from(lease.length.as_millis()).unwrap();
        let is_over = store.clock(who.as_str()) > lease.beat / 1_000 + length;
        let length = if is_over {
            Duration::ZERO
        } else {
            Duration::MAX / 4
        };
        LeaseState { length, ..lease }
    }

    /// Declares an incarnation dead, and notes it if that was too early.
    pub(super) async fn declare_dead(
        &self,
        leases: &dyn Leases,
        who: &Incarnation,
        seen: u64,
    ) -> Result<Declared, StoreError> {
        let before = leases.observe(std::slice::from_ref(who)).await.remove(0)?;
        let seen = match before {
            Some(lease) if self.broken == Some(BrokenRule::DeathIgnoresBeat) => lease.beat,
            _ => seen,
        };
        let declared = leases.declare_dead(who, seen).await?;
        let is_new = declared == Declared::Dead && before.is_some_and(|it| !it.dead);
        let renewed = self.renewed.lock().get(who).copied();
        if let Some((renewed, length)) = renewed.filter(|_| is_new) {
            let silent = renewed.elapsed();
            if silent < length {
                let early = format!("{who} was declared dead after {silent:?} of silence");
                self.early_deaths.lock().push(early);
            }
        }
        Ok(declared)
    }
}
