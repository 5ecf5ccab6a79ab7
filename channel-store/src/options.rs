//! What an operator decides about a store: bounds, lifetimes, and when a publication counts as published.

use std::path::PathBuf;
use std::time::Duration;

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

/// A rule for the channels of some names. What it leaves open is as the store's options say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRule {
    /// Names, in which each `*` stands for any run of characters, none included.
    pub pattern: String,
    /// In place of [`StoreOptions::log_entries`].
    pub entries: Option<u64>,
    /// In place of [`StoreOptions::log_keep`].
    pub keep: Option<Duration>,
    /// In place of [`StoreOptions::log_bytes`].
    pub bytes: Option<u64>,
    /// In place of [`StoreOptions::log_life`].
    pub life: Option<Duration>,
    /// In place of [`StoreOptions::announce_members`].
    pub announce_members: Option<bool>,
}
