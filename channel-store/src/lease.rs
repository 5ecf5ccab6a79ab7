//! Which connectors live, and what each of them may have left behind (docs/design/membership.md).
//!
//! An incarnation holds a lease, and keeps an index of the channels and users where anything of it may be. Its death is written
//! into the lease and never inferred: a lease that is missing means that the store has lost data. No server's clock decides
//! about life and death. Each renewal changes the lease's beat. A chat that watches the lease declares it dead when the beat
//! has not changed for long enough, measured by its own clock. The directory lists the leases to watch, and proves nothing.

use crate::error::StoreError;
use crate::name::{ChannelName, Incarnation, SessionId, User, UserId};
use crate::server::{ServerLifetime, Shard};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;

/// The deadline of a join is the end of the lease and this. As long as the clocks of a store's servers differ by less than
/// this, no join is refused as late. If they differ by more, a join needs another attempt ([`StoreError::Late`]).
pub const DEADLINE_MARGIN: Duration = Duration::from_secs(20);

/// The time between two checks of a place. If both find nothing, the entry of the index may go. It is longer than a lease and
/// its margin, than a failover, and than the writes that a failover can lose.
pub const SETTLE_TIME: Duration = Duration::from_secs(60);

/// How long leases and indexes are remembered, live or dead. An incarnation that could not renew for half of it counts
/// itself dead.
pub const LEASE_MEMORY: Duration = Duration::from_secs(24 * 3600);

/// A place where something of an incarnation may be, or may still arrive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Members of a channel.
    Channel(ChannelName),
    /// Logins of a user.
    User(UserId),
}

/// An entry of an index: something of the incarnation may be in this place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IndexEntry {
    /// The place.
    pub place: Place,
    /// Unique, so that a late drop of this entry never removes a newer one.
    pub nonce: u64,
}

impl IndexEntry {
    /// A nonce for an entry that somebody else than the incarnation writes. It is far from the numbers that an incarnation
    /// counts.
    pub(crate) fn random_nonce() -> u64 {
        fastrand::u64(1 << 32..1 << 52)
    }
}

/// What a renewal found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// When the lease ends, by the store's clock: milliseconds since 1970. It is used for the deadlines of joins and logins
    /// only.
    pub until: u64,
    /// How many entries the index has.
    pub indexed: u64,
    /// The server lifetime that answered.
    pub lifetime: ServerLifetime,
}

/// The result of a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewed {
    /// The lease goes on.
    Live(Term),
    /// It is live again, or for the first time. It was missing, or only provisional, so the whole index must be written
    /// again.
    Lost(Term),
    /// It was declared dead. Begin another incarnation.
    Dead,
}

/// The result of an addition to an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexed {
    /// Done.
    Yes,
    /// There is no live lease. Renew it first.
    Lost,
    /// The incarnation was declared dead, and its index is sealed.
    Dead,
}

/// Who drops entries of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DroppedBy {
    /// The incarnation, while it is not dead.
    Owner,
    /// A chat that reaps the incarnation, once it is dead.
    Reaper,
}

/// What others can read of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseState {
    /// True if the incarnation was declared dead or has resigned.
    pub dead: bool,
    /// True if the lease was missing, and somebody else has written it again.
    pub provisional: bool,
    /// A number that each renewal changes. It grows, unless the store has lost data.
    pub beat: u64,
    /// The beat must have been seen unchanged for this long, and for a margin, before the lease may be declared dead.
    pub length: Duration,
    /// True if its owner has ended, and has renewed it for the last time.
    pub ended: bool,
}

/// The result of a declaration of death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declared {
    /// It is dead: by this call, or from before.
    Dead,
    /// It is not dead: the lease was renewed since it was seen.
    Alive,
    /// The lease was missing and was written again. Either its owner takes it over, or it is declared dead later.
    Provisional,
}

/// What an incarnation has in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// How many of its sessions are members.
    pub sessions: u64,
    /// True if it was reaped here, so that its joins are refused.
    pub tombstoned: bool,
    /// True if the time of a detached member of the channel is over, so that chat should end that membership.
    pub overdue: bool,
    /// The server lifetime that answered.
    pub lifetime: ServerLifetime,
}

/// Leases, indexes and the directory. Connectors hold leases, and chats watch them. Every call may be repeated.
#[async_trait]
pub trait Leases: Send + Sync + 'static {
    /// Writes an incarnation into the directory, so that chats watch its lease.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome is unknown. The same holds for all calls below.
    async fn schedule(&self, incarnation: &Incarnation) -> Result<(), StoreError>;

    /// Takes or renews a lease. It works when the store's memory is full.
    ///
    /// # Errors
    /// Those of [`Leases::schedule`].
    async fn renew(
        &self,
        incarnation: &Incarnation,
        lease: Duration,
    ) -> Result<Renewed, StoreError>;

    /// Renews a lease for the last time, because its owner ends. What it holds stays for the length, and nobody is surprised when the
    /// lease is over.
    ///
    /// # Errors
    /// Those of [`Leases::schedule`].
    async fn renew_last(
        &self,
        incarnation: &Incarnation,
        lease: Duration,
    ) -> Result<Renewed, StoreError>;

    /// Writes entries into the index of a live incarnation. This comes before anything of it can be in these places.
    ///
    /// # Errors
    /// Those of [`Leases::schedule`], and [`StoreError::Full`].
    async fn index_add(
        &self,
        incarnation: &Incarnation,
        entries: &[IndexEntry],
    ) -> Result<Indexed, StoreError>;

    /// Removes entries that still have their nonce, and returns how many.
    ///
    /// # Errors
    /// Those of [`Leases::schedule`].
    async fn index_drop(
        &self,
        incarnation: &Incarnation,
        entries: &[IndexEntry],
        by: DroppedBy,
    ) -> Result<u64, StoreError>;

    /// The whole index.
    ///
    /// # Errors
    /// Those of [`Leases::schedule`].
    async fn index(&self, incarnation: &Incarnation) -> Result<Vec<IndexEntry>, StoreError>;

    /// What an incarnation has in these channels, in their order. It also keeps that from expiring. At most 500 channels in a
    /// call.
    ///
    /// # Errors
    /// Those of [`Leases::schedule`].
    async fn presence(
        &self,
        incarnation: &Incarnation,
        channels: &[ChannelName],
    ) -> Result<Vec<Presence>, StoreError>;

    /// The sessions of an incarnation that are members of a channel, with their users. A session that joins or leaves
    /// meanwhile may be among them or not.
    ///
    /// # Errors
    /// Those of [`Leases::schedule`].
    async fn list(
        &self,
        incarnation: &Incarnation,
        channel: &ChannelName,
    ) -> Result<BTreeMap<SessionId, User>, StoreError>;

    /// An incarnation declares itself dead.
    ///
    /// # Errors
    /// Those of [`Leases::schedule`].
    async fn resign(&self, incarnation: &Incarnation) -> Result<(), StoreError>;

    /// The whole directory: each incarnation with a number that [`Leases::schedule`] changes.
    ///
    /// # Errors
    /// Those of [`Leases::schedule`].
    async fn directory(&self) -> Result<BTreeMap<Incarnation, u64>, StoreError>;

    /// The incarnations that have members in a channel.
    ///
    /// # Errors
    /// Those of [`Leases::schedule`].
    async fn incarnations_in(&self, channel: &ChannelName) -> Result<Vec<Incarnation>, StoreError>;

    /// Reads leases, in the order of the list. `None`: the lease is missing. Each lease has a result of its own, because they
    /// are on different servers, and a server that is away must not hide the leases on others.
    async fn observe(
        &self,
        incarnations: &[Incarnation],
    ) -> Vec<Result<Option<LeaseState>, StoreError>>;

    /// Declares an incarnation dead if its lease still has this beat. The caller must have seen the beat unchanged for longer
    /// than the lease's length. The store compares beats, and asks no clock.
    ///
    /// # Errors
    /// Those of [`Leases::schedule`].
    async fn declare_dead(
        &self,
        incarnation: &Incarnation,
        seen_beat: u64,
    ) -> Result<Declared, StoreError>;

    /// Makes sure that reaping finds what an incarnation has in a place, because the caller has met something of it there. A
    /// lease that is missing comes back, and the place is added to the index, whether the incarnation lives or is dead.
    ///
    /// # Errors
    /// Those of [`Leases::schedule`].
    async fn restore(
        &self,
        incarnation: &Incarnation,
        place: &Place,
    ) -> Result<LeaseState, StoreError>;

    /// Takes an incarnation out of the directory, unless it was scheduled again since the directory was read. `seen` is its
    /// number there.
    ///
    /// # Errors
    /// Those of [`Leases::schedule`].
    async fn unschedule(&self, incarnation: &Incarnation, seen: u64) -> Result<(), StoreError>;

    /// The shard that holds a place at present. After the store's slots have moved it may be another one.
    fn shard(&self, place: &Place) -> Shard;

    /// The shard that holds an incarnation's lease and index at present.
    fn home(&self, incarnation: &Incarnation) -> Shard;

    /// True while the store answers.
    fn available(&self) -> watch::Receiver<bool>;
}
