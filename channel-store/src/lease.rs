//! Which connectors live, and what each may have left behind (MEMBERSHIP.md).
//!
//! An incarnation holds a lease, and keeps an index of the channels and users where anything of it may be. Death is written into
//! the lease, never inferred: one that is missing means that the store has lost data. No clock decides about life and
//! death: each renewal changes the lease's beat, and whoever looks after a lease declares it dead when the beat has not
//! changed for long enough by its own measure of time. The directory says where to look, and proves nothing.

use crate::error::StoreError;
use crate::name::{ChannelName, Incarnation, SessionId, User, UserId};
use crate::server::{ServerLifetime, Shard};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;

/// Added to the end of a lease it is the deadline of its joins. As long as the clocks of a store's servers are not further
/// apart than this, no join is refused as late. If they are, it costs a join another try ([`StoreError::Late`]).
pub const DEADLINE_MARGIN: Duration = Duration::from_secs(20);

/// Between the two looks after which an entry of an index may go: longer than lease and margin, than a failover, and
/// than what one can lose.
pub const SETTLE_TIME: Duration = Duration::from_secs(60);

/// How long leases and indexes are remembered, live or dead. Who has not renewed for half of it counts itself dead.
pub const LEASE_MEMORY: Duration = Duration::from_secs(24 * 3600);

/// Where an incarnation may have something, present or late.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Members of a channel.
    Channel(ChannelName),
    /// Logins of a user.
    User(UserId),
}

/// An incarnation's word that it may have something in a place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IndexEntry {
    /// Where.
    pub place: Place,
    /// Unique: a late drop of this entry never takes a newer one with it.
    pub nonce: u64,
}

impl IndexEntry {
    /// For an entry that somebody else than the incarnation writes; far from where a count begins anew.
    pub(crate) fn random_nonce() -> u64 {
        fastrand::u64(1 << 32..1 << 52)
    }
}

/// What a renewal found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The present and the lease's length, by the store's clock: milliseconds since 1970. It serves for the deadlines of
    /// joins and logins alone.
    pub until: u64,
    /// Entries of the index.
    pub indexed: u64,
    /// The server lifetime that answered.
    pub lifetime: ServerLifetime,
}

/// What became of a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewed {
    /// The lease goes on.
    Live(Term),
    /// It is live again, or for the first time; it was missing, or held by somebody's guess only: what its index had is
    /// to be written again.
    Lost(Term),
    /// Declared dead: begin another incarnation.
    Dead,
}

/// What became of an addition to an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexed {
    /// Done.
    Yes,
    /// There is no live lease: renew first.
    Lost,
    /// Declared dead: the index is sealed.
    Dead,
}

/// Who drops entries of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DroppedBy {
    /// The incarnation, while it is not dead.
    Owner,
    /// Whoever holds its funeral, once it is.
    Reaper,
}

/// A lease as somebody else sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseState {
    /// Declared dead, or resigned.
    pub dead: bool,
    /// It was missing, and is there by a guess.
    pub provisional: bool,
    /// Another number after each renewal: a higher one, unless the store has lost data.
    pub beat: u64,
    /// For how long the beat must have been seen unchanged, and a margin, before the lease may be declared dead.
    pub length: Duration,
}

/// What became of a declaration of death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declared {
    /// It is dead: by this, or already.
    Dead,
    /// It is not: it was renewed since it was seen.
    Alive,
    /// The lease was missing, and is there again: its owner takes it over, or it is declared dead later.
    Provisional,
}

/// What an incarnation has in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Its sessions that are members.
    pub sessions: u64,
    /// True if its joins are refused: it has been reaped here.
    pub tombstoned: bool,
    /// True if the time of a detached member of the channel is over: chat is to end that.
    pub overdue: bool,
    /// The server lifetime that answered.
    pub lifetime: ServerLifetime,
}

/// Leases, indexes and the directory: connectors hold leases, chats look after them. All of it may be repeated.
#[async_trait]
pub trait Leases: Send + Sync + 'static {
    /// Notes in the directory that an incarnation is to be looked after.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; so with all that follow, whose effect is then unknown.
    async fn schedule(&self, incarnation: &Incarnation) -> Result<(), StoreError>;

    /// Takes or renews a lease. Works out of memory.
    ///
    /// # Errors
    /// As [`Leases::note`].
    async fn renew(
        &self,
        incarnation: &Incarnation,
        lease: Duration,
    ) -> Result<Renewed, StoreError>;

    /// Writes entries into the index of a live incarnation: before anything of it can be in those channels.
    ///
    /// # Errors
    /// As [`Leases::note`], and [`StoreError::Full`].
    async fn index_add(
        &self,
        incarnation: &Incarnation,
        entries: &[IndexEntry],
    ) -> Result<Indexed, StoreError>;

    /// Takes entries out that still have their nonce; answers how many.
    ///
    /// # Errors
    /// As [`Leases::note`].
    async fn index_drop(
        &self,
        incarnation: &Incarnation,
        entries: &[IndexEntry],
        by: DroppedBy,
    ) -> Result<u64, StoreError>;

    /// The whole index.
    ///
    /// # Errors
    /// As [`Leases::note`].
    async fn index(&self, incarnation: &Incarnation) -> Result<Vec<IndexEntry>, StoreError>;

    /// What an incarnation has in channels, in their order; keeps that from expiring. At most 500 a call.
    ///
    /// # Errors
    /// As [`Leases::note`].
    async fn presence(
        &self,
        incarnation: &Incarnation,
        channels: &[ChannelName],
    ) -> Result<Vec<Presence>, StoreError>;

    /// An incarnation's sessions that are members of a channel, with their users. Who comes or goes meanwhile may be
    /// among them or not.
    ///
    /// # Errors
    /// As [`Leases::note`].
    async fn list(
        &self,
        incarnation: &Incarnation,
        channel: &ChannelName,
    ) -> Result<BTreeMap<SessionId, User>, StoreError>;

    /// Declares oneself dead.
    ///
    /// # Errors
    /// As [`Leases::note`].
    async fn resign(&self, incarnation: &Incarnation) -> Result<(), StoreError>;

    /// The whole directory: each incarnation with a number that is another one after each note.
    ///
    /// # Errors
    /// As [`Leases::note`].
    async fn directory(&self) -> Result<BTreeMap<Incarnation, u64>, StoreError>;

    /// The incarnations that have members in a channel.
    ///
    /// # Errors
    /// As [`Leases::note`].
    async fn incarnations_in(&self, channel: &ChannelName) -> Result<Vec<Incarnation>, StoreError>;

    /// Leases as they are, in the order asked; `None`: missing. Each has an answer of its own, because they lie on
    /// different servers: one that is away hides no other's leases.
    async fn observe(
        &self,
        incarnations: &[Incarnation],
    ) -> Vec<Result<Option<LeaseState>, StoreError>>;

    /// Declares an incarnation dead if its lease still has the beat that was seen. The caller must have seen that beat
    /// unchanged for longer than the lease's length: the store compares beats, and asks no clock.
    ///
    /// # Errors
    /// As [`Leases::note`].
    async fn declare_dead(
        &self,
        incarnation: &Incarnation,
        seen_beat: u64,
    ) -> Result<Declared, StoreError>;

    /// Whoever meets something of an incarnation in a place sees to it that a funeral would find it: a lease that is
    /// missing comes back, and the place into the index, whether the incarnation lives or is dead.
    ///
    /// # Errors
    /// As [`Leases::note`].
    async fn restore(
        &self,
        incarnation: &Incarnation,
        place: &Place,
    ) -> Result<LeaseState, StoreError>;

    /// Takes an incarnation out of the directory, unless it was noted again since the directory was read: `seen` is its
    /// number there.
    ///
    /// # Errors
    /// As [`Leases::note`].
    async fn unschedule(&self, incarnation: &Incarnation, seen: u64) -> Result<(), StoreError>;

    /// The shard that holds a place at present. It may be another one after the store's slots have moved.
    fn shard(&self, place: &Place) -> Shard;

    /// The shard that holds an incarnation's lease and index at present, as [`Leases::shard`].
    fn home(&self, incarnation: &Incarnation) -> Shard;

    /// True while the store answers.
    fn available(&self) -> watch::Receiver<bool>;
}
