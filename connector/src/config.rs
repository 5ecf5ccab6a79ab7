//! A connector's settings: flags, and the environment variables of the same meaning.

use crate::chat_client::Source;
use crate::limits::{Bounds, QueueLimits};
use crate::limits::{ClientLimits, Heartbeats};
use crate::membership::new_incarnation;
use channel_store::redis::{OpenError, check_url};
use channel_store::{LoginPolicy, StoreOptions};
use clap::Parser;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use runtime::cli::{Grouped, bytes, duration, share};
use runtime::listen::{Place, address, place};
use runtime::{LogFormat, descriptors};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wire::{Dictionary, DictionaryError};

/// Clients that poll and have not logged in, where nobody says how many.
const POLLING: usize = 2_000;

/// Holds client sockets and fans channels out to them.
#[derive(Debug, Clone, Parser)]
#[command(name = "connector", version)]
pub struct Config {
    /// Where clients connect: Pomelo at ws://…/ and tcp://…, Socket.IO at http://…, JSON at ws://…/ws. Behind a proxy on the
    /// same machine it may be a unix socket: unix:/path
    #[arg(
        long,
        env = "CONNECTOR_LISTEN",
        default_value = "127.0.0.1:3010",
        value_parser = place,
        value_name = "ADDRESS"
    )]
    pub listen: Place,

    /// This connector's name, different from every other's
    #[arg(
        long,
        env = "CONNECTOR_ID",
        default_value = "connector-1",
        value_name = "NAME"
    )]
    pub id: String,

    /// Chat's addresses; names are resolved again every 10 s
    #[arg(
        long,
        env = "CONNECTOR_CHAT",
        hide_env_values = true,
        default_value = "http://127.0.0.1:4001",
        value_delimiter = ',',
        value_name = "URL,…"
    )]
    pub chat: Vec<String>,

    /// The Redis that chat uses, too: redis://, redis+sentinel:// or redis-cluster://; rediss in place of redis encrypts
    #[arg(
        long,
        env = "CONNECTOR_REDIS",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379",
        value_name = "URL"
    )]
    pub redis: String,

    /// PEM file of the authorities that may vouch for an encrypted Redis, instead of the public ones
    #[arg(long, env = "CONNECTOR_REDIS_CA", value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,

    /// Where /livez, /readyz and /metrics are served
    #[arg(
        long,
        env = "CONNECTOR_ADMIN",
        default_value = "127.0.0.1:9101",
        value_parser = address,
        value_name = "ADDRESS"
    )]
    pub admin: SocketAddr,

    /// What stands before every key in Redis: the same for all services of one system
    #[arg(
        long,
        env = "CONNECTOR_PREFIX",
        default_value = "gc",
        value_name = "TEXT"
    )]
    pub prefix: String,

    /// How often channels in use are looked after: a quiet one lives on, and what any silence hid is found. At most a
    /// third of the shortest life of a log (chat's --log-life)
    #[arg(long, env = "CONNECTOR_TOUCH", default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub touch: Duration,

    /// How long others wait for a sign of life before this connector's members are taken out. At most chat's --lease
    #[arg(long, env = "CONNECTOR_LEASE", default_value = "10s", value_parser = lease, value_name = "TIME")]
    pub lease: Duration,

    /// How long Redis may take to answer a command: 200ms to 30s. At most a third of --lease, so that a renewal without an
    /// answer is repeated in time
    ///
    /// Without it: 1s.
    #[arg(long, env = "CONNECTOR_REDIS_TIMEOUT", value_parser = redis_timeout, value_name = "TIME")]
    pub redis_timeout: Option<Duration>,

    /// In a cluster: the share of all slots whose servers have to work for this connector to be ready, above 0 and at most 1
    #[arg(long, env = "CONNECTOR_READY_SLOTS", default_value_t = 0.5, value_parser = share, value_name = "SHARE")]
    pub ready_slots: f64,

    /// Text for people, json for machines
    #[arg(long, env = "CONNECTOR_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,

    /// Threads that serve sockets. One is the cheapest; add connectors first
    #[arg(
        long,
        env = "CONNECTOR_THREADS",
        default_value_t = 1,
        value_name = "NUMBER"
    )]
    pub threads: usize,

    /// What clients may do and cost.
    #[command(flatten)]
    pub clients: ClientSettings,
}

/// What clients may do and cost.
#[derive(Debug, Clone, clap::Args)]
pub struct ClientSettings {
    /// Between heartbeats, such as 25s; a number alone is seconds. A client silent for twice that is dropped
    #[arg(long, env = "CONNECTOR_HEARTBEAT", default_value = "25s", value_parser = seconds)]
    pub heartbeat: Duration,

    /// The same for clients of Socket.IO, where it is called pingInterval
    #[arg(long, env = "CONNECTOR_SOCKETIO_HEARTBEAT", default_value = "25s", value_parser = seconds)]
    pub socketio_heartbeat: Duration,

    /// How long a heartbeat of Socket.IO may be overdue, there called pingTimeout
    #[arg(long, env = "CONNECTOR_SOCKETIO_TIMEOUT", default_value = "60s", value_parser = seconds)]
    pub socketio_timeout: Duration,

    /// From the connection to the end of the handshake
    #[arg(long, env = "CONNECTOR_HANDSHAKE_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub handshake_timeout: Duration,

    /// From the connection to the login
    #[arg(long, env = "CONNECTOR_IDLE_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub idle_timeout: Duration,

    /// Gives routes codes in Pomelo's protocol: those of the original's handlers, then those in a file, a JSON array of
    /// routes
    #[arg(
        long,
        env = "CONNECTOR_DICTIONARY",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_parser = dictionary,
        value_name = "FILE"
    )]
    pub dictionary: Option<&'static Dictionary>,

    /// Compresses nothing, though clients offer to take compressed frames
    #[arg(long, env = "CONNECTOR_NO_DEFLATE")]
    pub no_deflate: bool,

    /// Serves no page at http://…/
    #[arg(long, env = "CONNECTOR_NO_PAGE")]
    pub no_page: bool,

    /// What becomes of a user's second login: the same for all connectors, or they are not ready
    #[arg(
        long,
        env = "CONNECTOR_LOGIN_POLICY",
        default_value = "reject",
        value_parser = login_policy(),
        value_name = "POLICY"
    )]
    pub login_policy: LoginPolicy,

    /// How long a client that is gone stays a member: if it logs in again within that, anywhere, nobody hears of it.
    /// 0s to 5m
    #[arg(long, env = "CONNECTOR_GRACE", default_value = "0s", value_parser = grace, value_name = "TIME")]
    pub grace: Duration,

    /// Bytes of one message from a client
    #[arg(
        long,
        env = "CONNECTOR_MESSAGE_LIMIT",
        default_value = "128KiB",
        value_parser = bytes::<u32>(1..=(16 << 20) - 1),
        value_name = "BYTES"
    )]
    pub message_limit: u32,

    /// Bytes that may wait for one client that does not read; beyond it, it is cut off
    #[arg(
        long,
        env = "CONNECTOR_QUEUE",
        default_value = "1MiB",
        value_parser = bytes::<usize>(1..=1 << 40),
        value_name = "BYTES"
    )]
    pub queue: usize,

    /// Bytes that may wait for all clients together
    #[arg(
        long,
        env = "CONNECTOR_QUEUE_TOTAL",
        default_value = "512MiB",
        value_parser = bytes::<usize>(1..=1 << 40),
        value_name = "BYTES"
    )]
    pub queue_total: usize,

    /// Connections of clients at once; beyond it they are refused. Without it, nine tenths of the file descriptors
    #[arg(long, env = "CONNECTOR_CONNECTIONS", value_name = "NUMBER")]
    pub connections: Option<usize>,

    /// Connections whose handshake is not over; one more ends the oldest of them. Without it, a tenth of --connections
    #[arg(long, env = "CONNECTOR_HALF_OPEN", value_name = "NUMBER")]
    pub half_open: Option<usize>,

    /// Handshakes in a second: beyond it connections wait, and clients that begin to poll are refused
    #[arg(
        long,
        env = "CONNECTOR_HANDSHAKES",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..),
        value_name = "NUMBER"
    )]
    pub handshakes: u32,

    /// Clients of Socket.IO that poll and have not logged in; beyond it they are refused. Without it, a tenth of
    /// --connections, and 2000 at most
    #[arg(long, env = "CONNECTOR_POLLING", value_name = "NUMBER")]
    pub polling: Option<usize>,
}

impl Grouped for Config {
    const FIRST: &'static [&'static str] =
        &["listen", "id", "chat", "redis", "admin", "login_policy"];
    const GROUPS: &'static [(&'static str, &'static [&'static str])] = &[
        (
            "Redis",
            &[
                "redis_ca",
                "redis_timeout",
                "prefix",
                "touch",
                "lease",
                "ready_slots",
            ],
        ),
        CLIENTS,
        LIMITS,
        ("Process", &["log_format", "threads"]),
    ];
}

/// The heading of what clients may do, and the settings below it.
pub const CLIENTS: (&str, &[&str]) = (
    "Clients",
    &[
        "heartbeat",
        "socketio_heartbeat",
        "socketio_timeout",
        "handshake_timeout",
        "idle_timeout",
        "grace",
        "dictionary",
        "no_deflate",
        "no_page",
    ],
);

/// The heading of what clients may cost, and the settings below it.
pub const LIMITS: (&str, &[&str]) = (
    "Limits",
    &[
        "message_limit",
        "queue",
        "queue_total",
        "connections",
        "half_open",
        "handshakes",
        "polling",
    ],
);

/// The names of the login policies.
fn login_policy() -> impl TypedValueParser<Value = LoginPolicy> {
    let names = [
        PossibleValue::new("reject").help("It is refused while the first one lasts"),
        PossibleValue::new("kick-old").help("It ends the first one"),
        PossibleValue::new("allow").help("Both last"),
    ];
    PossibleValuesParser::new(names).map(|name| match &*name {
        "kick-old" => LoginPolicy::KickOld,
        "allow" => LoginPolicy::Allow,
        _ => LoginPolicy::Reject,
    })
}

/// As [`duration`], or a plain number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => duration(text).map_err(|error| format!("{error}, or a number of seconds")),
    }
}

/// The dictionary with the routes in a file, or without more. There is one for the life of the process.
fn dictionary(file: &str) -> Result<&'static Dictionary, DictionaryError> {
    let file = (!file.is_empty()).then_some(Path::new(file));
    Ok(Box::leak(Box::new(Dictionary::load(file)?)))
}

/// Long enough that three renewals fit in, short enough for what is built on it: the second look at an index.
fn lease(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(30);
    if allowed.contains(&time) {
        Ok(time)
    } else {
        Err("expected 1s to 30s".to_owned())
    }
}

/// Leaves room for a pause of the server, and ends before the longest lease.
fn redis_timeout(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_millis(200)..=Duration::from_secs(30);
    let time = duration(text).ok().filter(|time| allowed.contains(time));
    time.ok_or_else(|| "expected 200ms to 30s".to_owned())
}

/// Nothing, or so long that members are not listed for ever.
fn grace(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s") {
        return Ok(Duration::ZERO);
    }
    let longest = Duration::from_secs(300);
    let time = duration(text).ok().filter(|time| *time <= longest);
    time.ok_or_else(|| "expected 0s to 5m".to_owned())
}

impl Config {
    /// Looks at what can only be judged as a whole.
    ///
    /// # Errors
    /// One line that names the flag. It never shows a user or a password of a URL.
    pub fn check(&self) -> Result<(), String> {
        self.clients.check()?;
        runtime::redis_timeout::check(self.redis_timeout, self.lease)?;
        Source::parse(&self.chat).map_err(|error| format!("--chat: {error}"))?;
        new_incarnation(&self.id).map_err(|error| error.to_string())?;
        match check_url(&self.redis, self.redis_ca.as_deref()) {
            Ok(()) => Ok(()),
            Err(error @ OpenError::Certificates { .. }) => Err(format!("--redis-ca: {error}")),
            Err(error) => Err(format!(
                "--redis: {error}; expected one such as redis://127.0.0.1:6379"
            )),
        }
    }

    /// What the feed must share with chat.
    #[must_use]
    pub fn store_options(&self) -> StoreOptions {
        StoreOptions {
            prefix: self.prefix.clone(),
            redis_ca: self.redis_ca.clone(),
            redis_timeout: self
                .redis_timeout
                .unwrap_or(runtime::redis_timeout::DEFAULT),
            ready_slots: self.ready_slots,
            ..StoreOptions::default()
        }
    }
}

impl ClientSettings {
    /// Looks for settings that contradict each other.
    ///
    /// # Errors
    /// One line that names the flag.
    pub fn check(&self) -> Result<(), String> {
        if self.queue > self.queue_total {
            return Err(format!(
                "--queue: {} bytes for one client are more than the {} of --queue-total for all",
                self.queue, self.queue_total
            ));
        }
        Ok(())
    }

    pub(crate) fn limits(&self) -> ClientLimits {
        ClientLimits {
            heartbeat: self.heartbeat,
            socket_io: Heartbeats {
                interval: self.socketio_heartbeat,
                timeout: self.socketio_timeout,
            },
            handshake: self.handshake_timeout,
            idle: self.idle_timeout,
            message: self.message_limit as usize,
        }
    }

    pub(crate) fn queues(&self) -> Arc<QueueLimits> {
        let stall = self.heartbeat.saturating_mul(2);
        QueueLimits::with_stall(self.queue, self.queue_total, stall)
    }

    /// Never more connections than there are file descriptors for.
    pub(crate) fn bounds(&self) -> Bounds {
        let most = descriptors::for_connections(descriptors::limit_now());
        let connections = self.connections.map_or(most, |wanted| wanted.min(most));
        Bounds {
            connections,
            half_open: self.half_open.unwrap_or(connections / 10).max(1),
            handshakes: self.handshakes,
            polling: self.polling.unwrap_or((connections / 10).clamp(1, POLLING)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Seats;

    #[test]
    fn those_who_say_nothing_can_never_take_all_places() {
        let config = |flags: &[&str]| Config::parse_from([&["connector"], flags].concat());
        let bounds = |flags: &[&str]| config(flags).clients.bounds();
        let Bounds {
            connections,
            half_open,
            polling,
            ..
        } = bounds(&[]);
        assert!(half_open + Seats::EACH * polling < connections / 2);
        assert_eq!(bounds(&["--connections", "50"]).polling, 5);
        assert_eq!(bounds(&["--polling", "70"]).polling, 70);
    }

    #[test]
    fn a_url_with_a_password_is_refused_without_showing_it() {
        let config = |flags: &[&str]| Config::parse_from([&["connector"], flags].concat());
        assert_eq!(config(&[]).check(), Ok(()));
        for (flags, flag) in [
            (&["--chat", "http://u:secret@chat"][..], "--chat: "),
            (&["--redis", "http://u:secret@redis"], "--redis: "),
            (&["--id", "a\u{200b}"], "--id "),
            (&["--queue", "2MiB", "--queue-total", "1MiB"], "--queue: "),
            (&["--redis-timeout", "4s"], "--redis-timeout: "),
        ] {
            let reason = config(flags).check().unwrap_err();
            assert!(reason.starts_with(flag), "{reason}");
            assert!(!reason.contains("secret"), "{reason}");
        }
    }
}
