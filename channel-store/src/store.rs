//! The two sides of a channel: [`ChannelStore`] writes and reads it (chat), [`ChannelFeed`] follows it (connectors).
//!
//! Both implementations, Redis and memory, pass the one suite in `tests/conformance.rs`.

use crate::history::{HistoryPage, HistoryRange};
use crate::lease::Shard;
use crate::name::{ChannelName, IdempotencyKey, Incarnation, SessionId, User, UserId};
use crate::probe::{Probe, ProbeOutcome, Probed, StoreSettings};
use crate::publication::{Epoch, Payload, Position, Publication};
use crate::rules::LogRule;
use async_trait::async_trait;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Bounds and lifetimes of what a store keeps. The defaults are CONTRACT's.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Stands before every key, so that systems can share one Redis.
    pub prefix: String,
    /// Publications that a channel's log holds at least before the oldest go.
    pub log_entries: u64,
    /// How long a channel's log holds a publication at least: whichever of this and `log_entries` keeps more.
    pub log_keep: Duration,
    /// The most bytes that a channel's log holds, whatever the other two say: a publication counts as its payload and
    /// 40 more. A store trims in steps of a sixteenth, so that it may hold that much less.
    pub log_bytes: u64,
    /// How long the log outlives its last publication, and the last time that it was touched.
    pub log_life: Duration,
    /// Whether onJoin and onLeave are published. Who is a member is known all the same.
    pub announce_members: bool,
    /// Channels for which other bounds hold; the first rule that matches does.
    pub log_rules: Vec<LogRule>,
    /// How long an idle channel (no member, no publication) is remembered. At least `log_life`.
    pub channel_life: Duration,
    /// How long an idempotency key is remembered at least.
    pub key_life: Duration,
    /// How long a detached member stays without joining again.
    pub detached_life: Duration,
    /// How long a leave is remembered against its own late join, and a reap against those of the incarnation.
    pub tombstone_life: Duration,
    /// The longest time for which a connector holds a lease: what one whose lease the store has lost is left.
    pub lease: Duration,
    /// When a publication counts as published.
    pub ack: Ack,
    /// How long a server may take to answer a command. One that takes longer has an unknown outcome, and its connection
    /// is replaced. At most a third of the lease: then a renewal that was not answered is repeated in time.
    pub redis_timeout: Duration,
    /// A PEM file of the authorities that may vouch for the servers, instead of the public ones.
    pub redis_ca: Option<PathBuf>,
    /// The share of all slots, above 0 and at most 1, whose servers have to work for the whole to be available. Matters in
    /// a cluster: what has its slot on a server that is away is refused, whatever is said here.
    pub ready_slots: f64,
}

/// When a publication counts as published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// When the primary has it. A failover may lose what had not reached the replica that takes over.
    Primary,
    /// When so many replicas have it, too. It survives a failover if the one that takes over is among them: surely so
    /// only if `replicas` is their number, which is 1 where there is one.
    Replica {
        /// How many.
        replicas: u32,
    },
}

impl Default for StoreOptions {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self {
            prefix: "gc".into(),
            log_entries: 1_000,
            log_keep: Duration::from_secs(300),
            log_bytes: 8 << 20,
            log_life: day,
            announce_members: true,
            log_rules: Vec::new(),
            channel_life: day,
            key_life: Duration::from_secs(300),
            detached_life: Duration::from_secs(60),
            tombstone_life: Duration::from_secs(300),
            lease: Duration::from_secs(10),
            ack: Ack::Primary,
            redis_timeout: Duration::from_secs(1),
            redis_ca: None,
            ready_slots: 0.5,
        }
    }
}

/// What a store could not do. One `From` in chat makes a gRPC status of each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer, or broke off: the outcome is unknown. Safe to repeat with the same key.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Out of memory; nothing was written.
    #[error("the store is out of memory")]
    Full,
    /// The sender's session is not a member of the channel; nothing was written.
    #[error("the session is not a member of the channel")]
    NotMember,
    /// The idempotency key was used for another content; nothing was written.
    #[error("the idempotency key was used for another content")]
    KeyReused,
    /// A later operation of the same session has taken effect, or another session has taken its place; nothing was
    /// written.
    #[error("a later operation of this session has taken effect")]
    StaleOperation,
    /// The incarnation was declared dead; nothing was written.
    #[error("the connector was declared dead")]
    ConnectorDead,
    /// The deadline of the join or login is over; nothing was written. Before it is tried again with a deadline after
    /// `now`, its incarnation must have renewed its lease: otherwise it may long have been declared dead and forgotten.
    #[error("the deadline is over")]
    Late {
        /// The time of the server that refused, milliseconds since 1970.
        now: u64,
    },
    /// The page token is none of this store's.
    #[error("the page token is not one of this store's")]
    BadPageToken,
}

/// One message on its way into a channel.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Where to.
    pub channel: ChannelName,
    /// Must be a member, if given. `None`: a back end speaks.
    pub session: Option<SessionId>,
    /// Who speaks; idempotency keys are per channel and user.
    pub user: UserId,
    /// What is said, stamped.
    pub payload: Payload,
    /// Repeated within its life it gets the first answer.
    pub key: Option<IdempotencyKey>,
}

/// A message that is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Where it stands.
    pub position: Position,
    /// The publication's time, ms since 1970.
    pub time: u64,
    /// Feeds that the publishing node saw subscribed: advisory. 0 for a repeated key.
    pub reached: u32,
    /// True if the key was known: this is the first answer again.
    pub repeated: bool,
}

/// Whose membership a join or leave is about.
#[derive(Debug, Clone)]
pub enum Membership {
    /// A session that a connector holds the socket of.
    Session {
        /// The connector's incarnation.
        incarnation: Incarnation,
        /// The session.
        session: SessionId,
        /// The incarnation's number of this operation, counting upwards.
        operation: u64,
    },
    /// A back end's own, without a socket: it expires unless it is joined again.
    Detached,
}

/// A session whose place another one takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Predecessor {
    /// The session.
    pub session: SessionId,
    /// The incarnation of the connector that held its socket.
    pub incarnation: Incarnation,
}

/// A session about to be a member.
#[derive(Debug, Clone)]
pub struct Join {
    /// Where to.
    pub channel: ChannelName,
    /// Who.
    pub user: User,
    /// As which session.
    pub membership: Membership,
    /// By the store's clock, milliseconds since 1970: later than this it has no effect. A connector's is bound to its
    /// lease, so that none of its joins is dangerous for ever.
    pub deadline: Option<u64>,
    /// Sessions of the same user whose memberships here end without onLeave, while this one comes without onJoin if there
    /// was any. None of them can join here any more. At most [`PREDECESSORS`](crate::PREDECESSORS).
    pub replaces: Vec<Predecessor>,
}

/// What a join did. A repeated one answers as the first did, as long as the log stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The end of the log right after the join: the own onJoin's position if one was published.
    pub position: Position,
    /// True if this call published onJoin.
    pub published: bool,
}

/// A session about to be none any more.
#[derive(Debug, Clone)]
pub struct Leave {
    /// Where from.
    pub channel: ChannelName,
    /// Who.
    pub user: User,
    /// As which session.
    pub membership: Membership,
    /// Leave a tombstone of the session, because a copy of its join may still travel.
    pub fence: bool,
}

/// What a reap did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// Memberships that this call ended.
    pub ended: u64,
    /// The incarnation's memberships that are left.
    pub remaining: u64,
}

/// A page of a channel's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersPage {
    /// User and number of sessions.
    pub members: Vec<(UserId, u32)>,
    /// How many users are in the channel, on all pages.
    pub users: u64,
    /// Where to go on; `None`: that was all.
    pub next: Option<String>,
}

/// From where a reader wants to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// Nowhere yet: where does the log end? Asked by whoever is about to follow the channel: if it has no life, this
    /// gives it an empty one for two minutes, so that the position has a name that will stand.
    Head,
    /// After this position. ("", 0) is where a channel without a life ends: it stands before the first publication.
    Position(Position),
}

/// How a position stands towards a log (RECOVERY.md, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No position was given: the answer's is the end of the log.
    Head,
    /// Exact: nothing is missing between it and the entries that follow.
    Exact,
    /// It saw publications that this log does not have.
    Diverged,
    /// What follows it is no longer held.
    Trimmed,
    /// An epoch of another life, or one that saw what this log does not have, below what is still held.
    Unknown,
}

/// A stretch of a channel's log.
#[derive(Debug, Clone)]
pub struct LogPage {
    /// How the position asked for stands.
    pub standing: Standing,
    /// The server lifetime that answered.
    pub generation: Generation,
    /// Where to go on from: as asked if exact, else as the log allows. The entries follow it without a gap.
    pub position: Position,
    /// The offset of the log's last publication.
    pub last: u64,
    /// In order.
    pub entries: Vec<Publication>,
}

/// Where a channel's log ends, as a feed's own server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The end of the log.
    pub position: Position,
    /// The server lifetime that answered.
    pub generation: Generation,
}

/// One lifetime of a server as primary (`master_replid`): opaque, compared only.
pub type Generation = Arc<str>;

/// Writes and reads channels; chat's side.
#[async_trait]
pub trait ChannelStore: Send + Sync + 'static {
    /// An ordered way in, bound to the store's present connection.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while there is no connection.
    fn publisher(&self) -> Result<Arc<dyn Publisher>, StoreError>;

    /// Publishes one message on its own.
    ///
    /// # Errors
    /// As [`Publisher::publish`], and what it says of the one message.
    async fn publish(&self, publish: Publish) -> Result<Published, StoreError> {
        let mut outcomes = self.publisher()?.publish(vec![publish]).await?;
        outcomes
            .pop()
            .unwrap_or_else(|| Err(StoreError::Unavailable("no answer".into())))
    }

    /// Makes a session a member; publishes onJoin for the user's first session, where members are
    /// announced. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::StaleOperation`] if the session has left with a higher operation, or was replaced;
    /// [`StoreError::ConnectorDead`], [`StoreError::Late`], [`StoreError::Full`], [`StoreError::Unavailable`].
    async fn join(&self, join: Join) -> Result<Joined, StoreError>;

    /// Ends a membership that is older than this operation; publishes onLeave for the user's last session, where
    /// members are announced.
    /// Answers false if there was none. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn leave(&self, leave: Leave) -> Result<bool, StoreError>;

    /// Ends some memberships of an incarnation that was declared dead, as leaves do, and refuses its joins from now on.
    /// Idempotent: repeat it while any remain.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn reap(
        &self,
        channel: &ChannelName,
        incarnation: &Incarnation,
    ) -> Result<Reaped, StoreError>;

    /// Ends some detached memberships whose time is over, as leaves do; answers how long until the next one's is, zero if
    /// that is now, and `None` if nobody is detached. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn expire(&self, channel: &ChannelName) -> Result<Option<Duration>, StoreError>;

    /// About `limit` users from a page token on: a store may answer in its own chunks, and give some more or some less.
    /// Whoever is a member from the first page to the last appears at least once. Leaves nothing behind in a channel
    /// that is not known.
    ///
    /// # Errors
    /// [`StoreError::BadPageToken`], [`StoreError::Unavailable`].
    async fn members(
        &self,
        channel: &ChannelName,
        page: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, StoreError>;

    /// At most `limit` publications of a range of the log, and about 128 KiB of them, but always one if there is one.
    /// Leaves nothing behind: a channel that is not known ends at the position ("", 0).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn history(
        &self,
        channel: &ChannelName,
        range: &HistoryRange,
        limit: usize,
    ) -> Result<HistoryPage, StoreError>;

    /// Publishes a probe in each of its sets, as a message would be; answers in their order. A store that lives in this
    /// process always takes it, and keeps nothing of it.
    async fn probe(&self, probe: &Probe) -> Vec<Probed> {
        let written = |_: &u64| Probed {
            outcome: ProbeOutcome::Written(Position {
                epoch: Epoch::new(""),
                offset: 0,
            }),
            server: "memory".to_owned(),
            lifetime: "".into(),
        };
        probe.sets.iter().map(written).collect()
    }

    /// What others have to agree with.
    fn settings(&self) -> StoreSettings {
        StoreSettings::default()
    }

    /// True while the store answers, for enough of its slots ([`StoreOptions::ready_slots`]).
    fn available(&self) -> watch::Receiver<bool>;
}

/// Messages that one call to the store takes at most, all of one channel: others wait meanwhile, and who follows the
/// channel gets them in one piece.
const CALL_MESSAGES: usize = 64;
/// The bytes of their payloads, if it is more than one message.
const CALL_BYTES: usize = 128 << 10;

/// How full a call to the store is. A call publishes messages of one channel, in order: all of them, or, if the store
/// refuses the call, none.
#[derive(Debug, Default, Clone, Copy)]
pub struct CallSize {
    messages: usize,
    bytes: usize,
}

impl CallSize {
    /// Counts one more message in, unless the call is full: then it is not counted, and false.
    pub fn takes(&mut self, publish: &Publish) -> bool {
        let bytes = self.bytes + publish.payload.as_bytes().len();
        if self.messages == CALL_MESSAGES || (self.messages > 0 && bytes > CALL_BYTES) {
            return false;
        }
        self.messages += 1;
        self.bytes = bytes;
        true
    }
}

/// Publishes in order: batches take effect in the order in which the futures are first polled. Several may be in
/// flight. Once one has ended in [`StoreError::Unavailable`] its outcome is unknown, and so is that of all later ones:
/// get another publisher and repeat what is unanswered, in order, with the same keys.
///
/// A store may refuse a call for a moment and take the next one: out of memory, or while a slot of a cluster moves.
/// Within a batch the publisher keeps the order of each channel all the same, because it makes no call for a channel
/// while another one for it is unanswered. Between batches the caller has to: while a message of a channel is
/// unanswered, no later batch may hold one of the same channel.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// One answer for each message, in order. After a message that was refused with [`StoreError::Full`] or
    /// [`StoreError::Unavailable`], those that were not yet tried are answered with [`StoreError::Unavailable`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome of the whole batch is unknown.
    async fn publish(
        &self,
        batch: Vec<Publish>,
    ) -> Result<Vec<Result<Published, StoreError>>, StoreError>;
}

/// One connection of a feed. A publication of an earlier connection than the last confirmed one is void: it may have
/// been lost in between (RECOVERY.md, section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedConnection {
    /// Counts this feed's connections upwards.
    pub number: u64,
    /// The server lifetime it began under, asked before the first subscription.
    pub generation: Generation,
}

/// Takes what a feed brings. Called by the feed's own task: it must neither wait nor block. One call at a time for one
/// channel, in order.
pub trait FeedSink: Send + Sync + 'static {
    /// The channel is subscribed on this connection, for the first time or again: what came before is to be read.
    fn subscribed(&self, connection: &FeedConnection, channel: &ChannelName);

    /// A publication has arrived.
    fn publication(
        &self,
        connection: &FeedConnection,
        channel: &ChannelName,
        publication: Publication,
    );

    /// Several have arrived together, which follow one another.
    fn publications(
        &self,
        connection: &FeedConnection,
        channel: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        for publication in run {
            self.publication(connection, channel, publication);
        }
    }
}

/// Follows channels; a connector's side.
///
/// A feed reconnects for ever by itself, with back-off and jitter, and subscribes again what it followed; it notices a
/// silent connection within seconds.
#[async_trait]
pub trait ChannelFeed: Send + Sync + 'static {
    /// Follows a channel from now on. Returns at once; [`FeedSink::subscribed`] tells when it holds, and may do so
    /// before this returns: hold no lock that the sink takes.
    fn subscribe(&self, channel: &ChannelName);

    /// Follows it no longer. What is under way may still arrive.
    fn unsubscribe(&self, channel: &ChannelName);

    /// Reads at most `limit` publications after a position, and about 128 KiB of them, but always one if there is one.
    /// `limit` 0 judges the position only. The answer names the server lifetime that it was given under: if that is not
    /// the one that the feed listens to, it is not the last word, for it comes by a connection of its own.
    ///
    /// It begins no life of a channel, but where [`Since::Head`] says so. It waits for others' reads, a few at most for
    /// each channel: bound it by whom it is for.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn read(
        &self,
        channel: &ChannelName,
        since: &Since,
        limit: usize,
    ) -> Result<LogPage, StoreError>;

    /// Where the logs of these channels end, asked together and cheaply, in their order; `None`: a channel without a
    /// life. Over the feed's own connection, on which it listens: who stands where it says has missed nothing.
    /// At most 500 channels a call: others wait meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also when the server's role or lifetime changed meanwhile: ask again.
    async fn heads(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError>;

    /// As [`ChannelFeed::heads`], and keeps the channels, their logs and their members from expiring for another life.
    /// For channels with local members, several times in the shorter of those lives.
    ///
    /// # Errors
    /// As [`ChannelFeed::heads`].
    async fn touch(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError>;

    /// The shard that holds a channel at present. A caller with many channels asks about those of each shard apart: then a
    /// shard that is away costs it no answers of the others. By default all channels are on one.
    fn shard(&self, _channel: &ChannelName) -> Shard {
        Shard::default()
    }

    /// True while a connection is up and delivering.
    fn available(&self) -> watch::Receiver<bool>;
}
