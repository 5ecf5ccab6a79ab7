//! The settings that an operator can make, and the bounds that follow from them.

use crate::access::settings::ACCESS;
use crate::access::{Access, AccessSettings};
use crate::port::age::{Age, AgeSettings};
use crate::rules::Rules;
use crate::store_settings::StoreSettings;
use crate::tls::PortSettings;
use channel_rules::{ChannelRule, ChannelTable};
use channel_store::body::LARGEST_BODY;
use channel_store::redis::{OpenError, check_url};
use channel_store::{Ack, StoreOptions};
use runtime::admin::AdminSettings;
use runtime::cli::{Grouped, bytes, duration, number, origin, prefix, share};
use runtime::config::{Names, Settings};
use runtime::doors::{Door, DoorSettings};
use runtime::listen::address;
use runtime::pace::Rate;
use runtime::redis_settings::RedisSettings;
use runtime::trace::TRACES;
use runtime::{LogSettings, TraceSettings, descriptors};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// How long an idle channel is remembered by default.
const CHANNEL_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a channel keeps each message by default.
const LOG_KEEP: Duration = Duration::from_secs(300);
/// The largest number of connections by default. The limit of file descriptors may make it smaller.
const MOST_CONNECTIONS: usize = 10_000;
/// The bytes of pages that a connection of a back end may be given in a second.
const PAGE_RATE: u32 = 32 << 20;
/// The range of the bound for the bytes of a channel's log.
const LOG_BYTES: RangeInclusive<u64> = 64 << 10..=1 << 30;
/// The range of bounds that count connections and calls.
const COUNT: RangeInclusive<u64> = 1..=1_000_000;
/// The largest number of messages that a channel can be set to keep.
const MOST_ENTRIES: u64 = 1_000_000;

/// Writes and reads chat channels for connectors and back ends, over gRPC, and for back ends over HTTP as well.
///
/// Run as many as you like on one Redis: any of them answers any call.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "chat", version)]
pub struct Config {
    /// Where callers connect to, over gRPC or HTTP; port 0: any free one
    #[arg(long, default_value = "127.0.0.1:4001", value_parser = address)]
    pub listen: SocketAddr,

    /// Where /livez, /readyz, /metrics and /console are served
    #[arg(long, default_value = "127.0.0.1:9001", value_parser = address)]
    pub admin: SocketAddr,

    /// Does not serve the page for operators at http://…/console of the admin port
    #[arg(long)]
    pub no_console: bool,

    /// How the admin port may be reached.
    #[command(flatten)]
    pub admin_access: AdminSettings,

    /// The Redis that holds the channels.
    #[command(flatten)]
    pub redis: RedisSettings,

    /// PEM file of the certificate authorities to trust for an encrypted Redis, instead of the public ones
    #[arg(long, value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,

    /// When a send is answered: when the primary has the message, or when replicas have it, too
    #[arg(long, value_enum, default_value = "primary")]
    pub ack: AckBy,

    /// How many replicas must have a message, with --ack replica. If there are more replicas than that, a message may not
    /// survive a failover
    ///
    /// Without it: 1.
    #[arg(
        long,
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    pub ack_replicas: Option<u32>,

    /// The share of a cluster's slots whose servers have to take publications for this chat to be ready, above 0 and at most
    /// 1
    #[arg(long, default_value_t = 0.5, value_parser = share)]
    pub ready_slots: f64,

    /// What its servers may cost.
    #[command(flatten)]
    pub servers: StoreSettings,

    /// The beginning of every key, so that several systems can share one Redis
    #[arg(long, default_value = "gc", value_parser = prefix)]
    pub prefix: String,

    /// The most bytes that a message's JSON may have
    #[arg(
        long,
        default_value = "128KiB",
        value_parser = bytes::<u32>(64..=LARGEST_BODY),
        value_name = "BYTES"
    )]
    pub message_limit: u32,

    /// How many of its last messages a channel keeps for those who missed them
    #[arg(
        long,
        default_value_t = 1_000,
        value_parser = clap::value_parser!(u64).range(1..=MOST_ENTRIES)
    )]
    pub log_entries: u64,

    /// How long a channel keeps each message even if more than --log-entries come: the setting that keeps more counts. No longer than
    /// --log-life
    ///
    /// Without it: 5m, or as long as --log-life if that is shorter.
    #[arg(long, value_parser = duration)]
    pub log_keep: Option<Duration>,

    /// The most bytes of messages that a channel keeps, whatever the other two settings say: 64KiB to 1GiB
    #[arg(long, default_value = "8MiB", value_parser = bytes::<u64>(LOG_BYTES))]
    pub log_bytes: u64,

    /// How long a channel keeps its messages after the last one
    #[arg(long, default_value = "24h", value_parser = duration)]
    pub log_life: Duration,

    /// Whether a channel is told who joins and leaves: on or off
    #[arg(long, default_value = "on", value_parser = switch, action = clap::ArgAction::Set)]
    pub announce_members: bool,

    /// How long a channel without members and messages is remembered; no shorter than --log-life
    ///
    /// Without it: 24h, or as long as --log-life.
    #[arg(long, value_parser = duration)]
    pub channel_life: Option<Duration>,

    /// How long a repeated idempotency key gets the first answer
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub key_life: Duration,

    /// How long a detached member (one without a connector) stays unless it joins again, if its join has no ttl
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub detached_life: Duration,

    /// The longest --lease of any connector. A connector whose lease Redis has lost has this long to write it again
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub lease: Duration,

    /// Pages whose scripts may call over HTTP, by their origins (scheme, host and port); * allows all. Repeat the option, or
    /// put commas between origins
    ///
    /// Without it: none. Programs, which send no Origin header, are not affected.
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    pub allowed_origins: Vec<String>,

    /// Who may call.
    #[command(flatten)]
    pub access: AccessSettings,

    /// Whether everybody may, from everywhere.
    #[command(flatten)]
    pub doors: DoorSettings,

    /// The most connections at the gRPC port; by default nine tenths of the file descriptors that the process may have, and at
    /// most 10000
    #[arg(long, value_parser = number::<usize>(COUNT))]
    pub connections: Option<usize>,

    /// The most unary calls at once. One connection gets at most half of what the others leave
    #[arg(long, default_value = "2048", value_parser = number::<usize>(COUNT))]
    pub calls: usize,

    /// The most send streams at once, shared in the same way; a connector needs one
    #[arg(long, default_value = "2048", value_parser = number::<usize>(COUNT))]
    pub streams: usize,

    /// The most calls of Watch at once, shared in the same way
    #[arg(long, default_value = "4096", value_parser = number::<usize>(COUNT))]
    pub watches: usize,

    /// Bytes of requests that may be under way, of all callers together
    #[arg(
        long,
        default_value = "64MiB",
        value_parser = bytes::<usize>(1 << 20..=1 << 40),
        value_name = "BYTES"
    )]
    pub requests_total: usize,

    /// Bytes of answers that callers have not taken yet, of all callers together
    #[arg(
        long,
        default_value = "64MiB",
        value_parser = bytes::<usize>(1 << 20..=1 << 40),
        value_name = "BYTES"
    )]
    pub answers_total: usize,

    /// Bytes of pages (of history, members, channels and sessions) that one connection may be given in a second, twice as many
    /// after a rest; 0: no limit. Beyond it such calls are refused
    ///
    /// Without it: 32MiB if callers need tokens, and otherwise no limit. Connectors have none if they show a token with the scope
    /// `connector`.
    #[arg(long, value_parser = bytes::<u32>(0..=1 << 30), value_name = "BYTES")]
    pub page_rate: Option<u32>,

    /// How long a connection may be without a call before it is ended
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub idle_timeout: Duration,

    /// How long a caller may take nothing of an answer before its connection is ended
    #[arg(long, default_value = "20s", value_parser = duration)]
    pub answer_timeout: Duration,

    /// How old a connection may become.
    #[command(flatten)]
    pub age: AgeSettings,

    /// How long Redis may take to answer a command: 200ms to 10s. A command that takes longer has an unknown outcome
    ///
    /// Without it: 1s. At most a third of --lease, if it is given.
    #[arg(long, value_parser = runtime::redis_timeout::parse)]
    pub redis_timeout: Option<Duration>,

    /// How many threads chat works with. More chats cost less than more threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,

    /// What is logged.
    #[command(flatten)]
    pub log: LogSettings,

    /// Which calls are traced.
    #[command(flatten)]
    pub trace: TraceSettings,

    /// The certificate of the port.
    #[command(flatten)]
    pub tls: PortSettings,
    /// `[[channel]]`: the rules of channels.
    #[arg(skip)]
    pub channels: Vec<ChannelRule>,
}

impl Grouped for Config {
    const FIRST: &'static [&'static str] = &[
        "listen",
        "redis",
        "admin",
        "ack",
        "message_limit",
        "log_format",
    ];
    const GROUPS: &'static [(&'static str, &'static [&'static str])] = &[
        ("Encryption", &PortSettings::IDS),
        (
            "Redis",
            &[
                "redis_file",
                "redis_config",
                "env",
                "redis_ca",
                "redis_timeout",
                "ack_replicas",
                "store.memory_budget",
                "prefix",
                "ready_slots",
            ],
        ),
        (
            "Channels",
            &[
                "log_entries",
                "log_keep",
                "log_bytes",
                "log_life",
                "announce_members",
                "channel_life",
                "key_life",
                "detached_life",
                "lease",
            ],
        ),
        (
            "Limits",
            &[
                "connections",
                "calls",
                "streams",
                "watches",
                "requests_total",
                "answers_total",
                "page_rate",
                "idle_timeout",
                "answer_timeout",
                AgeSettings::IDS[0],
                AgeSettings::IDS[1],
            ],
        ),
        ACCESS,
        TRACES,
        (
            "Process",
            &["log_filter", "threads", "allowed_origins", "no_console"],
        ),
    ];
}

/// Who must have a message before its send is answered.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum AckBy {
    /// The primary.
    Primary,
    /// The primary and some replicas.
    Replica,
}

impl Settings for Config {
    const NAMES: Names = Names::of("CHAT");
    const RELOADED: &'static [&'static str] = &["log_filter", ChannelTable::NAME];
    type Tables = ChannelTable;
    const TABLES: &'static [&'static str] = &[ChannelTable::NAME];
    const EXAMPLES: &'static [&'static str] = &[ChannelTable::EXAMPLE];
    const COMMANDS: &'static [(&'static str, &'static str)] =
        &[("token", "Makes tokens for those who call chat")];

    fn take(&mut self, table: ChannelTable) {
        self.channels = table.channel;
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }

    fn admin(&self) -> SocketAddr {
        self.admin
    }

    fn check(&self) -> Result<(), String> {
        if self.ack_replicas.is_some() && matches!(self.ack, AckBy::Primary) {
            return Err("--ack-replicas: it has no effect without --ack replica; add that, or leave this out".to_owned());
        }
        if let Some(life) = self.channel_life.filter(|life| *life < self.log_life) {
            let log_life = self.log_life;
            return Err(format!(
                "--channel-life: {life:?} is shorter than --log-life, {log_life:?}: a channel can't be forgotten before its log"
            ));
        }
        channel_rules::check(&self.channels)?;
        if let Some(keep) = self.log_keep.filter(|keep| *keep > self.log_life) {
            let log_life = self.log_life;
            return Err(format!(
                "--log-keep: {keep:?} is longer than --log-life, {log_life:?}: a channel that is quiet for that time keeps no message"
            ));
        }
        runtime::redis_timeout::check(self.redis_timeout, self.lease)?;
        self.trace.check()?;
        self.access.check()?;
        self.tls.check().map_err(|error| error.to_string())?;
        self.doors.check(&self.door(self.listen))?;
        match check_url(&self.redis.url()?, self.redis_ca.as_deref()) {
            Ok(()) => Ok(()),
            Err(error @ OpenError::Certificates { .. }) => Err(format!("--redis-ca: {error}")),
            Err(error) => Err(format!(
                "{}: {error}; expected one such as redis://127.0.0.1:6379",
                self.redis.flag()
            )),
        }
    }

    fn warnings(&self) -> Vec<String> {
        [
            self.redis.warnings(),
            channel_rules::warnings(&self.channels),
        ]
        .concat()
    }
}

impl Config {
    /// The port, which listens here.
    #[must_use]
    pub fn door(&self, address: SocketAddr) -> Door {
        const GUARD: &str = "--api-tokens-file or --tls-client-ca";
        self.access.door("--listen", GUARD, address, &self.tls)
    }

    /// The settings of the store.
    #[must_use]
    pub fn store(&self) -> StoreOptions {
        StoreOptions {
            prefix: self.prefix.clone(),
            log_entries: self.log_entries,
            log_keep: self.log_keep.unwrap_or(LOG_KEEP.min(self.log_life)),
            log_bytes: self.log_bytes,
            log_life: self.log_life,
            announce_members: self.announce_members,
            log_rules: self.channels.iter().map(ChannelRule::log_rule).collect(),
            channel_life: self.channel_life.unwrap_or(CHANNEL_LIFE).max(self.log_life),
            key_life: self.key_life,
            detached_life: self.detached_life,
            lease: self.lease,
            ack: match self.ack {
                AckBy::Primary => Ack::Primary,
                AckBy::Replica => Ack::Replica {
                    replicas: self.ack_replicas.unwrap_or(1),
                },
            },
            redis_timeout: self
                .redis_timeout
                .unwrap_or(runtime::redis_timeout::DEFAULT),
            ready_slots: self.ready_slots,
            redis_ca: self.redis_ca.clone(),
            ..StoreOptions::default()
        }
    }

    /// The bounds of the service.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            message: self.message_limit as usize,
            calls: self.calls,
            streams: self.streams,
            watches: self.watches,
            connections: self.connections.unwrap_or_else(|| {
                let allowed = descriptors::for_connections(descriptors::limit_now());
                allowed.min(MOST_CONNECTIONS)
            }),
            requests_total: self.requests_total,
            answers_total: self.answers_total,
            page_rate: self.page_rate(),
            idle_time: self.idle_timeout,
            answer_time: self.answer_timeout,
            age: self.age.age(),
            allowed_origins: self.allowed_origins.clone(),
            rules: {
                let rules = Rules::default();
                rules.set(&self.channels);
                rules
            },
            ..Limits::default()
        }
    }
}

impl Config {
    fn page_rate(&self) -> Option<Rate> {
        let default = if self.access.api_tokens_file.is_some() {
            PAGE_RATE
        } else {
            0
        };
        let rate = self.page_rate.unwrap_or(default);
        Rate::of(rate, rate.saturating_mul(2))
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

/// The bounds of the service.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most bytes of a body, before it is stamped.
    pub message: usize,
    /// The largest number of unary calls at once. Further calls are refused.
    pub calls: usize,
    /// The largest number of send streams at once. Further streams are refused, or an idle one is ended.
    pub streams: usize,
    /// The largest number of watches at once. Further watches are refused.
    pub watches: usize,
    /// The largest number of calls of health and reflection at once. Further calls are refused.
    pub other_calls: usize,
    /// The largest number of connections at once. For a further one, a connection without a call is ended. If there is none,
    /// the new one is refused.
    pub connections: usize,
    /// How many bytes the requests of all callers together may have that are arriving or under way.
    pub requests_total: usize,
    /// How many bytes the answers of all callers together may have that were not taken yet.
    pub answers_total: usize,
    /// How many bytes of pages one connection may be given. `None`: any number.
    pub page_rate: Option<Rate>,
    /// How long a unary call, or a batch of a stream, may take.
    pub call_time: Duration,
    /// How long a connection may take from its start to the end of HTTP/2's greeting.
    pub greeting_time: Duration,
    /// How long a connection may be without a call.
    pub idle_time: Duration,
    /// How long a caller may take nothing of an answer before its connection is ended.
    pub answer_time: Duration,
    /// How old a connection may become. `None`: any age.
    pub age: Option<Age>,
    /// How long calls and streams may take to end after the shutdown was requested.
    pub drain_time: Duration,
    /// The origins of pages whose scripts may call over HTTP. "*" stands for all.
    pub allowed_origins: Vec<String>,
    /// Who may call.
    pub access: Access,
    /// The rules of channels by which messages are refused.
    pub rules: Rules,
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
            calls: 2_048,
            streams: 2_048,
            watches: 4_096,
            other_calls: 1_024,
            connections: MOST_CONNECTIONS,
            requests_total: 64 << 20,
            answers_total: 64 << 20,
            page_rate: None,
            call_time: Duration::from_secs(1),
            greeting_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(300),
            answer_time: Duration::from_secs(20),
            age: None,
            drain_time: Duration::from_secs(8),
            allowed_origins: Vec::new(),
            access: Access::default(),
            rules: Rules::default(),
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
    fn the_defaults_are_those_of_the_store_and_the_service() {
        let config = config(&[]);
        let (ours, theirs) = (config.store(), StoreOptions::default());
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
        let ours = Limits {
            connections: MOST_CONNECTIONS,
            ..config.limits()
        };
        let theirs = Limits::default();
        theirs.rules.set(&[]);
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }

    #[test]
    fn a_channel_is_remembered_at_least_as_long_as_its_log() {
        let config = config(&["--log-life", "48h"]);
        assert_eq!(config.store().channel_life, config.log_life);
    }

    #[test]
    fn messages_are_kept_no_longer_than_their_log_lives() {
        let keep = |flags: &[&str]| {
            let config = config(flags);
            config.check().map(|()| config.store().log_keep)
        };
        let minutes = |count: u64| Ok(Duration::from_secs(60 * count));
        assert_eq!(keep(&[]), minutes(5));
        assert_eq!(keep(&["--log-life", "1m"]), minutes(1));
        assert_eq!(keep(&["--log-life", "1h", "--log-keep", "1h"]), minutes(60));
        let refused = keep(&["--log-life", "59m", "--log-keep", "1h"]).unwrap_err();
        assert!(refused.starts_with("--log-keep: "), "{refused}");
    }

    #[test]
    fn rules_of_channels_say_what_their_logs_keep() {
        let mut config = config(&["--announce-members", "off"]);
        assert!(!config.store().announce_members);
        let table = "[[channel]]\nmatch = 'game:*'\nentries = 50\njoin = 'grant'\n[[channel]]\nmatch = '*'\nannounce = true";
        config.take(toml::from_str(table).unwrap());
        let rules = config.store().log_rules;
        let patterns: Vec<_> = rules.iter().map(|it| it.pattern.as_str()).collect();
        assert_eq!(patterns, ["game:*", "*"]);
        assert_eq!(
            (rules[0].entries, rules[0].announce_members),
            (Some(50), None)
        );
        assert_eq!(rules[1].announce_members, Some(true));
        let expected = Rules::default();
        expected.set(&config.channels);
        assert_eq!(config.limits().rules.hash(), expected.hash());
    }

    #[test]
    fn a_port_that_others_reach_asks_for_tokens_or_certificates() {
        let reached = |more: &[&str]| config(&[&["--listen", "10.0.0.1:1"], more].concat());
        let refused = reached(&[]).check().unwrap_err();
        assert!(refused.starts_with("--listen: "), "{refused}");
        assert_eq!(reached(&["--insecure"]).check(), Ok(()));
        // The file must be there, and the authority needs a certificate of the port, too.
        let asks = reached(&["--api-tokens-file", "/nonesuch"]);
        assert!(asks.door(asks.listen).is_guarded);
        let refused = asks.check().unwrap_err();
        assert!(refused.starts_with("--api-tokens-file: "), "{refused}");
        let asks = reached(&["--tls-client-ca", "/etc/ca.pem"]);
        assert!(asks.door(asks.listen).is_guarded);
        assert!(!reached(&["--insecure"]).door(asks.listen).is_guarded);
    }

    #[test]
    fn pages_have_a_rate_unless_everybody_may_call() {
        let rate = |arguments: &[&str]| config(arguments).limits().page_rate;
        let tokens = ["--api-tokens-file", "/etc/tokens"];
        assert_eq!(rate(&[]), None);
        assert_eq!(rate(&tokens), Rate::of(PAGE_RATE, 2 * PAGE_RATE));
        assert_eq!(rate(&["--page-rate", "1000"]), Rate::of(1_000, 2_000));
        assert_eq!(rate(&[&tokens[..], &["--page-rate", "0"]].concat()), None);
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_with_the_flag() {
        let check = |arguments: &[&str]| config(arguments).check();
        for (wrong, flag) in [
            (&["--ack-replicas", "2"][..], "--ack-replicas: "),
            (
                &["--log-life", "48h", "--channel-life", "24h"],
                "--channel-life: ",
            ),
            (&["--channel-life", "1h"], "--channel-life: "),
            (&["--redis-timeout", "4s"], "--redis-timeout: "),
            (
                &["--redis-timeout", "1s", "--lease", "2s"],
                "--redis-timeout: ",
            ),
        ] {
            let reason = check(wrong).unwrap_err();
            assert!(reason.starts_with(flag), "{wrong:?}: {reason}");
        }
        for right in [
            &["--ack", "replica", "--ack-replicas", "2"][..],
            &["--log-life", "48h"],
            &["--log-life", "1h", "--channel-life", "1h"],
            &["--redis-timeout", "4s", "--lease", "12s"],
            &["--lease", "1s"],
        ] {
            assert_eq!(check(right), Ok(()), "{right:?}");
        }
    }

    #[test]
    fn replicas_matter_only_if_publications_wait_for_them() {
        let ack = |arguments: &[&str]| config(arguments).store().ack;
        assert_eq!(ack(&[]), Ack::Primary);
        assert_eq!(ack(&["--ack", "replica"]), Ack::Replica { replicas: 1 });
        let both = ["--ack", "replica", "--ack-replicas", "2"];
        assert_eq!(ack(&both), Ack::Replica { replicas: 2 });
    }

    #[test]
    fn bytes_have_units_and_times_have_bounds() {
        for (text, bytes) in [("65536", 65_536), ("64KiB", 65_536), ("1GiB", 1 << 30)] {
            assert_eq!(config(&["--log-bytes", text]).store().log_bytes, bytes);
        }
        let timeout = |text| config(&["--redis-timeout", text]).store().redis_timeout;
        assert_eq!(timeout("200ms"), Duration::from_millis(200));
        for wrong in ["100ms", "11s", "soon"] {
            assert!(runtime::redis_timeout::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        let text = "https://a.example,http://127.0.0.1:8080,http://[::1]:80";
        let origins =
            config(&["--allowed-origins", text, "--allowed-origins", "*"]).allowed_origins;
        let expected = [
            "https://a.example",
            "http://127.0.0.1:8080",
            "http://[::1]:80",
            "*",
        ];
        assert_eq!(origins, expected);
        for wrong in [
            "",
            "a.example",
            "https://a.example/",
            "https://A.example",
            "://a",
            "https://",
            "*.example",
        ] {
            assert!(origin(wrong).is_err(), "{wrong}");
        }
    }
}
