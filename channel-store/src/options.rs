//! What operators set: how much a store keeps, for how long, and when a publication counts as published.

use crate::pattern::Pattern;
use std::path::PathBuf;
use std::time::Duration;

/// How much a store keeps and for how long.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Begins every key, so that several systems can share one Redis.
    pub prefix: String,
    /// How many publications a channel's log holds at least.
    pub log_entries: u64,
    /// How long a channel's log holds a publication at least. Of this and `log_entries`, the one that keeps more counts.
    pub log_keep: Duration,
    /// The most bytes that a channel's log holds, whatever the other two say. A publication counts as its payload and 40
    /// bytes more. A store trims in steps of a sixteenth, so it may hold that much less.
    pub log_bytes: u64,
    /// How long the log lives after its last publication, or after it was touched last.
    pub log_life: Duration,
    /// Whether onJoin and onLeave are published. The members are known in any case.
    pub announce_members: bool,
    /// Rules for channels of some names. The first rule that matches holds.
    pub log_rules: Vec<LogRule>,
    /// How long an idle channel (no member, no publication) is remembered. It is never shorter than `log_life`: see
    /// `life_of_channel`.
    pub channel_life: Duration,
    /// How long an idempotency key is remembered at least.
    pub key_life: Duration,
    /// How long a detached member stays without joining again, if its join does not say.
    pub detached_life: Duration,
    /// How long a tombstone lasts. That of a leave makes the store refuse a late copy of the join, and that of a reaping
    /// makes it refuse late joins of the incarnation.
    pub tombstone_life: Duration,
    /// The longest lease of any connector. A lease that the store has lost comes back with this length.
    pub lease: Duration,
    /// When a publication counts as published.
    pub ack: Ack,
    /// How long a server may take to answer a command. A command that takes longer has an unknown outcome, and its
    /// connection is replaced. This should be at most a third of the lease, so that a renewal without an answer is repeated
    /// in time.
    pub redis_timeout: Duration,
    /// A PEM file of the authorities that may sign the servers' certificates. They are trusted instead of the public ones.
    pub redis_ca: Option<PathBuf>,
    /// The share of all slots, above 0 and at most 1, whose servers have to work for the whole to be available. It matters
    /// in a cluster only. Whatever the share is, a call about a slot whose server is away is refused.
    pub ready_slots: f64,
}

/// When a publication counts as published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// When the primary has it. A failover loses it if it had not reached the replica that takes over.
    Primary,
    /// When this many replicas have it, too. It survives a failover if the replica that takes over is one of them. That is
    /// certain only if `replicas` is the number of all replicas.
    Replica {
        /// How many.
        replicas: u32,
    },
}

impl StoreOptions {
    /// How long a channel is remembered whose log lives this long. That is never shorter than the log, because otherwise
    /// offsets would begin again below those in the log.
    pub(crate) fn life_of_channel(&self, log_life: Duration) -> Duration {
        self.channel_life.max(log_life)
    }
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

/// A rule for the channels of some names. Where it is `None`, the store's options hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRule {
    /// The names. By default all of them.
    pub pattern: Pattern,
    /// Instead of [`StoreOptions::log_entries`].
    pub entries: Option<u64>,
    /// Instead of [`StoreOptions::log_keep`].
    pub keep: Option<Duration>,
    /// Instead of [`StoreOptions::log_bytes`].
    pub bytes: Option<u64>,
    /// Instead of [`StoreOptions::log_life`].
    pub life: Option<Duration>,
    /// Instead of [`StoreOptions::announce_members`].
    pub announce_members: Option<bool>,
}
