//! What is true about leases, whatever the store and its clocks say, and how they look to chats.

use channel_store::memory::MemoryStore;
use channel_store::{
    Declared, Incarnation, IndexEntry, Indexed, LeaseState, Leases, Renewed, StoreError,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A rule that a run leaves out, to show that it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// A lease ends by the clock of its server.
    ByTheClock,
    /// Death is declared whatever the beat of the lease is.
    WithoutTheBeat,
    /// A place is written into the index of the connector's incarnation that was scheduled last, and not into that of
    /// the session's own one.
    InAnotherIndex,
}

/// Remembers when leases were really renewed.
#[derive(Default)]
pub(crate) struct Truth {
    pub(super) wrong: Option<Wrong>,
    renewed: Mutex<BTreeMap<Incarnation, (Instant, Duration)>>,
    hasty: Mutex<Vec<String>>,
}

impl Truth {
    pub(super) fn without(wrong: Option<Wrong>) -> Self {
        Self {
            wrong,
            ..Self::default()
        }
    }

    /// Deaths that were declared before the lease was silent for its length.
    pub(super) fn hasty(&self) -> Vec<String> {
        self.hasty.lock().clone()
    }

    /// Renews a lease, and notes when that took effect.
    pub(super) async fn renew(
        &self,
        leases: &dyn Leases,
        who: &Incarnation,
        length: Duration,
    ) -> Result<Renewed, StoreError> {
        let renewed = leases.renew(who, length).await;
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
        if self.wrong != Some(Wrong::InAnotherIndex) {
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
        if self.wrong != Some(Wrong::ByTheClock) {
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
            Some(lease) if self.wrong == Some(Wrong::WithoutTheBeat) => lease.beat,
            _ => seen,
        };
        let declared = leases.declare_dead(who, seen).await?;
        let is_new = declared == Declared::Dead && before.is_some_and(|it| !it.dead);
        let renewed = self.renewed.lock().get(who).copied();
        if let Some((renewed, length)) = renewed.filter(|_| is_new) {
            let silent = renewed.elapsed();
            if silent < length {
                let hasty = format!("{who} was declared dead after {silent:?} of silence");
                self.hasty.lock().push(hasty);
            }
        }
        Ok(declared)
    }
}
