//! Leases that a chat can read only in part: it can't read some of them, or reads them late.

use async_trait::async_trait;
use channel_store::{
    ChannelName, Declared, DroppedBy, Incarnation, IndexEntry, Indexed, LeaseState, Leases, Place,
    Presence, Renewed, SessionId, Shard, StoreError, User,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;

pub(crate) struct PartialLeases {
    leases: Arc<dyn Leases>,
    hidden: Mutex<HashSet<Incarnation>>,
    /// Channels of which nothing can be read.
    away: Mutex<HashSet<ChannelName>>,
    directory_is_away: AtomicBool,
    held: watch::Sender<bool>,
    renewal: Mutex<Option<Duration>>,
    declarations: AtomicUsize,
}

impl PartialLeases {
    pub(crate) fn of(leases: &Arc<dyn Leases>) -> Arc<Self> {
        Arc::new(Self {
            leases: Arc::clone(leases),
            hidden: Mutex::default(),
            away: Mutex::default(),
            directory_is_away: AtomicBool::new(false),
            held: watch::Sender::new(false),
            renewal: Mutex::default(),
            declarations: AtomicUsize::new(0),
        })
    }

    /// From now on this lease can't be read.
    pub(crate) fn hide(&self, incarnation: &Incarnation) {
        self.hidden.lock().insert(incarnation.clone());
    }

    /// From now on this lease can be read again.
    pub(crate) fn show(&self, incarnation: &Incarnation) {
        self.hidden.lock().remove(incarnation);
    }

    /// From now on the shard of this channel is away.
    pub(crate) fn lose_channel(&self, channel: &ChannelName) {
        self.away.lock().insert(channel.clone());
    }

    /// From now on the shard of the directory is away, or is back.
    pub(crate) fn lose_directory(&self, is_away: bool) {
        self.directory_is_away.store(is_away, Ordering::Relaxed);
    }

    /// From now on answers come only after the release.
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Lets all held answers arrive.
    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    /// From now on connectors renew their leases at the last moment: while a declaration of death is under way.
    pub(crate) fn renews_before_declaration(&self, length: Duration) {
        *self.renewal.lock() = Some(length);
    }

    /// How often a chat tried to declare a death.
    pub(crate) fn declarations(&self) -> usize {
        self.declarations.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Leases for PartialLeases {
    async fn observe(&self, whom: &[Incarnation]) -> Vec<Result<Option<LeaseState>, StoreError>> {
        let states = self.leases.observe(whom).await;
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held).await.unwrap();
        let hidden = self.hidden.lock().clone();
        let states = whom.iter().zip(states);
        let seen = |(incarnation, state)| match hidden.contains(incarnation) {
            true => Err(StoreError::Unavailable("hidden".into())),
            false => state,
        };
        states.map(seen).collect()
    }

    async fn declare_dead(&self, who: &Incarnation, seen: u64) -> Result<Declared, StoreError> {
        self.declarations.fetch_add(1, Ordering::Relaxed);
        let renewal = *self.renewal.lock();
        if let Some(length) = renewal {
            self.leases.renew(who, length).await?;
        }
        self.leases.declare_dead(who, seen).await
    }

    async fn schedule(&self, who: &Incarnation) -> Result<(), StoreError> {
        self.leases.schedule(who).await
    }

    async fn renew(&self, who: &Incarnation, lease: Duration) -> Result<Renewed, StoreError> {
        self.leases.renew(who, lease).await
    }

    async fn renew_last(&self, who: &Incarnation, lease: Duration) -> Result<Renewed, StoreError> {
        self.leases.renew_last(who, lease).await
    }

    async fn index_add(
        &self,
        who: &Incarnation,
        entries: &[IndexEntry],
    ) -> Result<Indexed, StoreError> {
        self.leases.index_add(who, entries).await
    }

    async fn index_drop(
        &self,
        who: &Incarnation,
        entries: &[IndexEntry],
        by: DroppedBy,
    ) -> Result<u64, StoreError> {
        self.leases.index_drop(who, entries, by).await
    }

    async fn index(&self, who: &Incarnation) -> Result<Vec<IndexEntry>, StoreError> {
        self.leases.index(who).await
    }

    async fn presence(
        &self,
        who: &Incarnation,
        channels: &[ChannelName],
    ) -> Result<Vec<Presence>, StoreError> {
        self.leases.presence(who, channels).await
    }

    async fn list(
        &self,
        who: &Incarnation,
        channel: &ChannelName,
    ) -> Result<BTreeMap<SessionId, User>, StoreError> {
        self.leases.list(who, channel).await
    }

    async fn resign(&self, who: &Incarnation) -> Result<(), StoreError> {
        self.leases.resign(who).await
    }

    async fn directory(&self) -> Result<BTreeMap<Incarnation, u64>, StoreError> {
        if self.directory_is_away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("away".into()));
        }
        self.leases.directory().await
    }

    async fn incarnations_in(&self, channel: &ChannelName) -> Result<Vec<Incarnation>, StoreError> {
        if self.away.lock().contains(channel) {
            return Err(StoreError::Unavailable("away".into()));
        }
        self.leases.incarnations_in(channel).await
    }

    async fn restore(&self, who: &Incarnation, place: &Place) -> Result<LeaseState, StoreError> {
        self.leases.restore(who, place).await
    }

    async fn unschedule(&self, who: &Incarnation, seen: u64) -> Result<(), StoreError> {
        self.leases.unschedule(who, seen).await
    }

    fn shard(&self, place: &Place) -> Shard {
        self.leases.shard(place)
    }

    fn home(&self, incarnation: &Incarnation) -> Shard {
        self.leases.home(incarnation)
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.leases.available()
    }
}
