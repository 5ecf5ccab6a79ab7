//! What an operator can set, and the bounds that follow from it.

use channel_store::{Ack, StoreOptions};
use runtime::LogFormat;
use runtime::cli::duration;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Writes and reads chat channels for connectors and back ends, over gRPC.
///
/// Run as many as you like on one Redis: any of them answers any call.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "chat", version)]
pub struct Config {
    /// Where gRPC callers connect to; port 0: any free one
    #[arg(long, env = "CHAT_LISTEN", default_value = "127.0.0.1:4001")]
    pub listen: SocketAddr,

    /// Where /livez, /readyz and /metrics are served
    #[arg(long, env = "CHAT_ADMIN", default_value = "127.0.0.1:9001")]
    pub admin: SocketAddr,

    /// The Redis that holds the channels, the same for all chats and connectors: redis://, redis+sentinel:// or
    /// redis-cluster://; rediss in place of redis encrypts
    #[arg(
        long,
        env = "CHAT_REDIS",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379"
    )]
    pub redis: String,

    /// PEM file of the authorities that may vouch for an encrypted Redis, instead of the public ones
    #[arg(long, env = "CHAT_REDIS_CA", value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,

    /// When a send is answered: when the primary has it, or when replicas do, too
    #[arg(long, env = "CHAT_ACK", value_enum, default_value = "primary")]
    pub ack: AckBy,

    /// With --ack replica: how many replicas. Fewer than there are may not survive a failover
    #[arg(
        long,
        env = "CHAT_ACK_REPLICAS",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    pub ack_replicas: u32,

    /// Stands before every key, so that several systems can share one Redis
    #[arg(long, env = "CHAT_PREFIX", default_value = "gc", value_parser = prefix)]
    pub prefix: String,

    /// The most bytes that a message's JSON may have
    #[arg(
        long,
        env = "CHAT_MESSAGE_LIMIT",
        default_value_t = 128 * 1024,
        value_parser = clap::value_parser!(u32).range(64..=16 * 1024 * 1024)
    )]
    pub message_limit: u32,

    /// How many of its last messages a channel keeps for those who missed them
    #[arg(
        long,
        env = "CHAT_LOG_ENTRIES",
        default_value_t = 1_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000)
    )]
    pub log_entries: u64,

    /// How long it keeps them after the last one
    #[arg(long, env = "CHAT_LOG_LIFE", default_value = "24h", value_parser = duration)]
    pub log_life: Duration,

    /// How long a channel without members and messages is remembered; no shorter than --log-life
    #[arg(long, env = "CHAT_CHANNEL_LIFE", default_value = "24h", value_parser = duration)]
    pub channel_life: Duration,

    /// How long a repeated idempotency key gets the first answer
    #[arg(long, env = "CHAT_KEY_LIFE", default_value = "5m", value_parser = duration)]
    pub key_life: Duration,

    /// How long a member without a connector stays unless it joins again
    #[arg(long, env = "CHAT_DETACHED_LIFE", default_value = "60s", value_parser = duration)]
    pub detached_life: Duration,

    /// Threads to work with; running more chats costs less than more threads
    #[arg(long, env = "CHAT_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,

    /// What a line of the log looks like; RUST_LOG says how much is logged
    #[arg(long, env = "CHAT_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Who must have a message before its sender is told so.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum AckBy {
    /// The primary.
    Primary,
    /// Replicas, too.
    Replica,
}

impl Config {
    /// What the store has to know.
    #[must_use]
    pub fn store(&self) -> StoreOptions {
        StoreOptions {
            prefix: self.prefix.clone(),
            log_entries: self.log_entries,
            log_life: self.log_life,
            channel_life: self.channel_life.max(self.log_life),
            key_life: self.key_life,
            detached_life: self.detached_life,
            ack: match self.ack {
                AckBy::Primary => Ack::Primary,
                AckBy::Replica => Ack::Replica {
                    replicas: self.ack_replicas,
                },
            },
            redis_ca: self.redis_ca.clone(),
            ..StoreOptions::default()
        }
    }

    /// What the service has to know.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            message: self.message_limit as usize,
            ..Limits::default()
        }
    }
}

/// A prefix goes into keys as it is, so it must not look like a hash tag or a pattern.
fn prefix(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=64).contains(&text.len()) && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 64 letters, digits, dots, underscores or hyphens".to_owned())
    }
}

/// The bounds of the service. The defaults are CONTRACT's.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most bytes of a body, before it is stamped.
    pub message: usize,
    /// Unary calls at once; those beyond are refused.
    pub calls: usize,
    /// Send streams at once; those beyond are refused.
    pub streams: usize,
    /// How long a unary call, or a batch of a stream, may take.
    pub call_time: Duration,
    /// How long calls and streams may take to end after the shutdown was requested.
    pub drain_time: Duration,
}

impl Limits {
    /// The most bytes of a gRPC message: room for a frame of many sends, and for a body that is larger as a `Struct`
    /// than as JSON.
    #[must_use]
    pub fn frame(&self) -> usize {
        (8 * self.message).max(4 * 1024 * 1024)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 128 * 1024,
            calls: 1_024,
            streams: 1_024,
            call_time: Duration::from_secs(1),
            drain_time: Duration::from_secs(8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn config(arguments: &[&str]) -> Config {
        Config::parse_from([&["chat"], arguments].concat())
    }

    #[test]
    fn the_defaults_are_the_stores_and_the_services_own() {
        let config = config(&[]);
        let (ours, theirs) = (config.store(), StoreOptions::default());
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
        let (ours, theirs) = (config.limits(), Limits::default());
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }

    #[test]
    fn a_channel_is_remembered_at_least_as_long_as_its_log() {
        let config = config(&["--log-life", "48h"]);
        assert_eq!(config.store().channel_life, config.log_life);
    }

    #[test]
    fn replicas_count_only_where_they_are_waited_for() {
        let ack = |arguments: &[&str]| config(arguments).store().ack;
        assert_eq!(ack(&["--ack-replicas", "2"]), Ack::Primary);
        assert_eq!(ack(&["--ack", "replica"]), Ack::Replica { replicas: 1 });
        let both = ["--ack", "replica", "--ack-replicas", "2"];
        assert_eq!(ack(&both), Ack::Replica { replicas: 2 });
    }

    #[test]
    fn a_prefix_cannot_change_the_meaning_of_a_key() {
        for wrong in ["", "{a}", "a:b", "a*", "哈"] {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
        assert_eq!(prefix("gc-2.test_a"), Ok("gc-2.test_a".to_owned()));
    }
}
