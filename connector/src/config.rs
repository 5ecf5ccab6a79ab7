//! A connector's settings.

mod drain;
mod rates;

pub use drain::{DRAIN, DrainSettings};
pub use rates::{RATES, RateSettings};

use crate::access::{AccessControl, AccessTables, AuthSettings, Mode};
use crate::call_settings::{ChatTls, RouteTls};
use crate::chat_client::{ChatAccess, Source};
use crate::limits::{Bounds, QueueLimits};
use crate::limits::{ClientLimits, Heartbeats};
use crate::membership::new_incarnation;
use crate::routes;
use crate::transport::proxies::Proxy;
use channel_rules::ChannelTable;
use channel_store::body::LARGEST_BODY;
use channel_store::redis::{OpenError, check_url};
use channel_store::{LoginPolicy, StoreOptions};
use clap::Parser;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use runtime::admin::AdminSettings;
use runtime::cli::{Grouped, bytes, duration, number, origin, prefix, share};
use runtime::config::{Names, Settings};
use runtime::doors::{Door, DoorSettings, INSECURE};
use runtime::listen::{ListenAddress, address, listen_address};
use runtime::redis_settings::RedisSettings;
use runtime::tls::TlsSettings;
use runtime::trace::TRACES;
use runtime::{LogSettings, TraceSettings, descriptors};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wire::{Dictionary, DictionaryError};

/// The default of `--polling` is never higher than this.
const POLLING: usize = 2_000;
/// The range of bounds that count connections.
const CONNECTIONS: RangeInclusive<u64> = 1..=10_000_000;

/// Holds client sockets and fans channels out to them.
#[derive(Debug, Clone, Parser)]
#[command(name = "connector", version)]
pub struct Config {
    /// Where clients connect: Pomelo at ws://…/ and tcp://…, Socket.IO at http://…, JSON at ws://…/ws. Behind a proxy
    /// on the same machine it may be a unix socket: unix:/path
    #[arg(
        long,
        default_value = "127.0.0.1:3010",
        value_parser = listen_address,
        value_name = "ADDRESS"
    )]
    pub listen: ListenAddress,

    /// The name of this connector, for logs and for people. Give each connector a name of its own, so that you can tell them apart
    #[arg(long, default_value = "connector-1", value_name = "NAME")]
    pub id: String,

    /// Chat's addresses; names are resolved again every 10 s
    #[arg(
        long,
        hide_env_values = true,
        default_value = "http://127.0.0.1:4001",
        value_delimiter = ',',
        value_name = "URL,…"
    )]
    pub chat: Vec<String>,

    /// How chats know this connector.
    #[command(flatten)]
    pub chat_access: ChatAccess,

    /// The Redis that chat uses.
    #[command(flatten)]
    pub redis: RedisSettings,

    /// PEM file with the certificate authorities for an encrypted Redis, instead of the public ones
    #[arg(long, value_name = "FILE")]
    pub redis_ca: Option<PathBuf>,

    /// Where /livez, /readyz and /metrics are served
    #[arg(
        long,
        default_value = "127.0.0.1:9101",
        value_parser = address,
        value_name = "ADDRESS"
    )]
    pub admin: SocketAddr,

    /// How the admin port may be reached.
    #[command(flatten)]
    pub admin_access: AdminSettings,

    /// The beginning of every key in Redis. All services of one system need the same
    #[arg(long, default_value = "gc", value_parser = prefix, value_name = "TEXT")]
    pub prefix: String,

    /// How often each channel in use is touched in Redis. This keeps a quiet channel from expiring, and finds
    /// publications that were lost on the way. At most a third of the shortest life of a log (chat's --log-life)
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub touch: Duration,

    /// How long this connector may be silent before chat removes its members. At most chat's --lease
    #[arg(long, default_value = "10s", value_parser = lease, value_name = "TIME")]
    pub lease: Duration,

    /// How long Redis may take to answer a command: 200ms to 10s. At most a third of --lease, so that a renewal without
    /// an answer is repeated in time
    ///
    /// The default is 1s.
    #[arg(long, value_parser = runtime::redis_timeout::parse, value_name = "TIME")]
    pub redis_timeout: Option<Duration>,

    /// The share of a cluster's slots whose servers must work for this connector to be ready, above 0 and at most 1
    #[arg(long, default_value_t = 0.5, value_parser = share, value_name = "SHARE")]
    pub ready_slots: f64,

    /// What is logged.
    #[command(flatten)]
    pub log: LogSettings,

    /// Which requests are traced.
    #[command(flatten)]
    pub trace: TraceSettings,

    /// Threads that serve sockets. One is the cheapest: to use more cores, start more connectors first
    #[arg(
        long,
        default_value = "1",
        value_parser = number::<usize>(1..=256),
        value_name = "NUMBER"
    )]
    pub threads: usize,

    /// TLS for calls to chat.
    #[command(flatten)]
    pub chat_tls: ChatTls,

    /// Whether everybody may log in, from everywhere.
    #[command(flatten)]
    pub doors: DoorSettings,

    /// Settings for what clients may do and what they may cost.
    #[command(flatten)]
    pub clients: ClientSettings,
}

/// What clients may do and cost.
#[derive(Debug, Clone, clap::Args)]
pub struct ClientSettings {
    /// The certificate of the clients' port.
    #[command(flatten)]
    pub tls: TlsSettings,

    /// The authorities of the operator's handlers.
    #[command(flatten)]
    pub route_tls: RouteTls,

    /// The time between heartbeats, such as 25s; a plain number means seconds. A client that is silent for twice as
    /// long is dropped
    #[arg(long, default_value = "25s", value_parser = seconds)]
    pub heartbeat: Duration,

    /// The time between heartbeats of Socket.IO's clients, which call it pingInterval
    #[arg(long, default_value = "25s", value_parser = seconds)]
    pub socketio_heartbeat: Duration,

    /// How long a heartbeat of Socket.IO's clients may be overdue, which they call pingTimeout
    #[arg(long, default_value = "60s", value_parser = seconds)]
    pub socketio_timeout: Duration,

    /// How long the handshake may take, counted from the connection
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub handshake_timeout: Duration,

    /// How long a client may stay without a login, counted from the connection
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub idle_timeout: Duration,

    /// Uses short codes for routes in Pomelo's protocol: for those of the original's handlers, and then for those in a
    /// file, which holds a JSON array of routes
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_parser = dictionary,
        value_name = "FILE"
    )]
    pub dictionary: Option<&'static Dictionary>,

    /// Passes requests to handlers of your own: those whose route is PATTERN or, if it ends in *, begins with it, to the gRPC
    /// service at URL, such as game.*=http://games:5001. The longest pattern wins. Names are resolved again every 10 s
    #[arg(
        long = "route",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "PATTERN=URL,…"
    )]
    pub routes: Vec<String>,

    /// Sends no compressed WebSocket frames, even to clients that offer to take them
    #[arg(long)]
    pub no_deflate: bool,

    /// Does not serve the example page at http://…/
    #[arg(long)]
    pub no_page: bool,

    /// Pages that may connect although this connector does not serve them, by their origins: scheme, host and port, as in `https://app.example`,
    /// or * for all. Programs, which send no Origin header, are not affected. Behind a proxy that changes the Host header, the page's
    /// own origin must be among them
    #[arg(long, value_name = "ORIGIN,…", value_delimiter = ',', value_parser = origin)]
    pub allowed_origins: Vec<String>,

    /// What happens when a user logs in a second time. All connectors need the same policy, or they are not ready
    #[arg(
        long,
        default_value = "reject",
        value_parser = login_policy(),
        value_name = "POLICY"
    )]
    pub login_policy: LoginPolicy,

    /// How long a client that is gone stays a member, from 0s to 5m. If its user logs in again within that time, on any
    /// connector, the others see no leave and no join
    #[arg(long, default_value = "0s", value_parser = grace, value_name = "TIME")]
    pub grace: Duration,

    /// The bytes that one message from a client may have
    #[arg(
        long,
        default_value = "128KiB",
        value_parser = bytes::<u32>(1..=LARGEST_BODY),
        value_name = "BYTES"
    )]
    pub message_limit: u32,

    /// Bytes that may wait for one client that does not read. With more it is cut off
    #[arg(
        long,
        default_value = "1MiB",
        value_parser = bytes::<usize>(1..=1 << 40),
        value_name = "BYTES"
    )]
    pub queue: usize,

    /// Bytes that may wait for all clients together
    #[arg(
        long,
        default_value = "512MiB",
        value_parser = bytes::<usize>(1..=1 << 40),
        value_name = "BYTES"
    )]
    pub queue_total: usize,

    /// How many connections clients may have. Further ones are refused. The default is nine tenths of the file
    /// descriptors
    #[arg(long, value_parser = connections, value_name = "NUMBER")]
    pub connections: Option<usize>,

    /// How many connections may be in their handshake. One more closes the oldest of them. The default is a tenth of
    /// --connections
    #[arg(long, value_parser = number::<usize>(CONNECTIONS), value_name = "NUMBER")]
    pub half_open: Option<usize>,

    /// How many handshakes there may be in a second. Beyond it connections wait, and clients that begin to poll are
    /// refused
    #[arg(
        long,
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..),
        value_name = "NUMBER"
    )]
    pub handshakes: u32,

    /// How often sessions and addresses may do things.
    #[command(flatten)]
    pub rates: RateSettings,

    /// Proxies that may say where a client is, in the header X-Forwarded-For or by the PROXY protocol: addresses and networks such as
    /// 10.0.0.0/8, or unix for whatever connects over a unix socket
    #[arg(long, value_name = "NETWORK,…", value_delimiter = ',')]
    pub trusted_proxies: Vec<Proxy>,

    /// Connections of trusted proxies begin with a header of the PROXY protocol, version 1 or 2
    #[arg(long, requires = "trusted_proxies")]
    pub proxy_protocol: bool,

    /// How many clients of Socket.IO may poll without a login. Further ones are refused. The default is a tenth of
    /// --connections, and at most 2000
    #[arg(long, value_name = "NUMBER")]
    pub polling: Option<usize>,

    /// How the connector stops.
    #[command(flatten)]
    pub drain: DrainSettings,

    /// Settings for who may log in, and for what sessions may do.
    #[command(flatten)]
    pub auth: AuthSettings,
}

impl Grouped for Config {
    const FIRST: &'static [&'static str] =
        &["listen", "id", "chat", "redis", "admin", "login_policy"];
    const GROUPS: &'static [(&'static str, &'static [&'static str])] = &[
        (
            "Redis",
            &[
                "redis_file",
                "redis_config",
                "env",
                "redis_ca",
                "redis_timeout",
                "prefix",
                "touch",
                "lease",
                "ready_slots",
            ],
        ),
        CLIENTS,
        ENCRYPTION,
        ACCESS,
        LIMITS,
        RATES,
        DRAIN,
        ("Access", &[INSECURE, "chat_token_file", "admin_hosts"]),
        TRACES,
        ("Process", &["log_format", "log_filter", "threads"]),
    ];
}

/// The settings that take effect at once if they change. Rates hold for connections that begin after that.
pub const RELOADED: &[&str] = &[
    "log_filter",
    "channel",
    "allowed_origins",
    "request_rate",
    "request_burst",
    "byte_rate",
    "byte_burst",
    "join_rate",
    "join_burst",
    "read_rate",
    "read_burst",
    "address_connections",
    "user_connections",
    "address_rate",
    "address_burst",
    "connections",
    "half_open",
    "handshakes",
    "polling",
    "queue",
    "queue_total",
];

/// The heading for what clients may do, and the settings below it.
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
        "routes",
        "no_deflate",
        "no_page",
        "allowed_origins",
    ],
);

/// The heading for certificates, and the settings below it.
pub const ENCRYPTION: (&str, &[&str]) = (
    "Encryption",
    &[
        "tls.certificate",
        "tls.key",
        "chat_ca",
        "chat_certificate",
        "chat_key",
        "route_ca",
    ],
);

/// The heading for who may log in and what sessions may do, and the settings below it.
pub const ACCESS: (&str, &[&str]) = (
    "Access",
    &[
        "auth.mode",
        "auth.leeway",
        "auth.expiry_grace",
        "auth.hook.target",
        "auth.hook.ca",
        "auth.hook.timeout",
        "auth.hook.in_flight",
    ],
);

/// The heading for what clients may cost, and the settings below it.
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
        "trusted_proxies",
        "proxy_protocol",
    ],
);

/// Reads the name of a login policy.
fn login_policy() -> impl TypedValueParser<Value = LoginPolicy> {
    let names = [
        PossibleValue::new("reject")
            .help("The second login is refused while the first session lasts"),
        PossibleValue::new("kick-old").help("The second login ends the first session"),
        PossibleValue::new("allow").help("Both sessions last"),
    ];
    PossibleValuesParser::new(names).map(|name| match &*name {
        "kick-old" => LoginPolicy::KickOld,
        "allow" => LoginPolicy::Allow,
        _ => LoginPolicy::Reject,
    })
}

/// Reads how many connections there may be. Some may believe that 0 stands for no limit, as it does for rates.
fn connections(text: &str) -> Result<usize, String> {
    let read = number::<usize>(CONNECTIONS)(text);
    read.map_err(|error| match text {
        "0" => format!("0 would let nobody in; {error}, or nothing for as many as there can be"),
        _ => error,
    })
}

/// Reads what [`duration`] reads, or a plain number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => duration(text).map_err(|error| format!("{error}, or a number of seconds")),
    }
}

/// Loads the dictionary, with the routes in `file` unless that is empty. It is leaked, because it lives as long as the
/// process.
fn dictionary(file: &str) -> Result<&'static Dictionary, DictionaryError> {
    let file = (!file.is_empty()).then_some(Path::new(file));
    Ok(Box::leak(Box::new(Dictionary::load(file)?)))
}

/// Reads the length of a lease. It must be long enough for three renewals. It must also be shorter than the 60 s
/// between the two looks after which an entry of the index is removed, with room for the margin of a deadline
/// (`docs/design/membership.md`).
fn lease(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(30);
    if allowed.contains(&time) {
        Ok(time)
    } else {
        Err("expected 1s to 30s".to_owned())
    }
}

/// Reads the grace. It has an upper bound, because members whose clients are gone must not be listed for ever.
fn grace(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s") {
        return Ok(Duration::ZERO);
    }
    let longest = Duration::from_secs(300);
    let time = duration(text).ok().filter(|time| *time <= longest);
    time.ok_or_else(|| "expected a time from 0s to 5m, such as 10s".to_owned())
}

impl Settings for Config {
    const NAMES: Names = Names::of("CONNECTOR");
    const RELOADED: &'static [&'static str] = RELOADED;
    type Tables = AccessTables;
    const TABLES: &'static [&'static str] = AccessTables::NAMES;
    const EXAMPLES: &'static [&'static str] = &[AccessTables::EXAMPLE, ChannelTable::EXAMPLE];

    fn take(&mut self, tables: AccessTables) {
        self.clients.auth.take(tables);
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }

    fn admin(&self) -> SocketAddr {
        self.admin
    }

    fn check(&self) -> Result<(), String> {
        self.clients.check()?;
        self.doors.check(&self.clients.door(&self.listen))?;
        runtime::redis_timeout::check(self.redis_timeout, self.lease)?;
        self.trace.check()?;
        self.chat_access.check()?;
        let chats = Source::parse(&self.chat).map_err(|error| format!("--chat: {error}"))?;
        self.chat_tls
            .check(&chats)
            .map_err(|error| error.to_string())?;
        if self.id.is_empty() {
            return Err("--id: it is empty; expected a name for this connector".to_owned());
        }
        new_incarnation(&self.id).map_err(|error| error.to_string())?;
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
        [self.redis.warnings(), self.clients.warnings()].concat()
    }
}

impl AsRef<ClientSettings> for ClientSettings {
    fn as_ref(&self) -> &ClientSettings {
        self
    }
}

impl AsRef<ClientSettings> for Config {
    fn as_ref(&self) -> &ClientSettings {
        &self.clients
    }
}

impl Config {
    /// The options of the store.
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
    /// Checks that the settings do not contradict each other.
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
        self.drain.check()?;
        self.rates.check()?;
        channel_rules::check(&self.auth.channels)?;
        self.tls.check().map_err(|error| error.to_string())?;
        let uris = routes::check(&self.routes).map_err(|error| format!("--route: {error}"))?;
        let checked = self.route_tls.check(&uris);
        checked.map_err(|error| error.to_string())?;
        let access = AccessControl::begin(&self.auth, self.message_limit as usize);
        access.map(drop).map_err(|error| error.to_string())
    }

    /// What is right, but cannot be meant: one line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        channel_rules::warnings(&self.auth.channels)
    }

    /// The clients' port, which listens here.
    #[must_use]
    pub fn door(&self, listen: &ListenAddress) -> Door {
        Door {
            flag: "--listen",
            address: match listen {
                ListenAddress::Tcp(address) => Some(*address),
                ListenAddress::Unix(_) => None,
            },
            allows: "everybody who reaches it may log in under any name",
            guard: "--auth-mode jwt or --auth-mode hook",
            is_guarded: self.lets_in_by_token(),
            is_encrypted: self.tls.certificate.is_some(),
        }
    }

    /// True if clients must prove who they are, with a token or to the hook.
    pub(crate) fn lets_in_by_token(&self) -> bool {
        self.auth.mode != Mode::Open
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

    /// The bounds. There are never more connections than file descriptors for them.
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
    fn connections_without_a_login_can_never_take_all_places() {
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
        assert_eq!(
            bounds(&["--connections", "10000000"]).connections,
            connections,
            "each needs a file descriptor"
        );
    }

    #[test]
    fn a_port_that_others_reach_needs_tokens_or_the_wish_to_be_open() {
        let config = |flags: &[&str]| {
            let listen = ["connector", "--listen", "10.0.0.1:1"];
            Config::parse_from([&listen, flags].concat())
        };
        let refused = config(&[]).check().unwrap_err();
        assert!(refused.starts_with("--listen: "), "{refused}");
        assert_eq!(config(&["--insecure"]).check(), Ok(()));
        let door = |flags: &[&str]| {
            let config = config(flags);
            let door = config.clients.door(&config.listen);
            (door.is_guarded, door.is_encrypted)
        };
        assert_eq!(door(&[]), (false, false));
        assert_eq!(door(&["--auth-mode", "jwt"]), (true, false));
        assert_eq!(door(&["--auth-mode", "hook"]), (true, false));
        assert_eq!(door(&["--tls-certificate", "c.pem"]), (false, true));
    }

    #[test]
    fn access_and_encryption_that_cannot_work_are_refused() {
        let config = |flags: &[&str]| Config::parse_from([&["connector"], flags].concat());
        for flags in [
            &["--auth-mode", "jwt"][..],
            &["--auth-mode", "hook"],
            &["--tls-certificate", "c.pem"],
        ] {
            assert!(config(flags).check().is_err(), "{flags:?}");
        }
    }

    #[test]
    fn a_url_with_a_password_is_refused_without_showing_it() {
        let config = |flags: &[&str]| Config::parse_from([&["connector"], flags].concat());
        assert_eq!(config(&[]).check(), Ok(()));
        for (flags, flag) in [
            (&["--chat", "http://u:secret@chat"][..], "--chat: "),
            (&["--redis", "http://u:secret@redis"], "--redis: "),
            (&["--id", "a\u{200b}"], "--id "),
            (&["--id", ""], "--id: "),
            (&["--request-burst", "0"], "--request-burst: "),
            (
                &["--address-rate", "5", "--address-burst", "0"],
                "--address-burst: ",
            ),
            (&["--queue", "2MiB", "--queue-total", "1MiB"], "--queue: "),
            (&["--redis-timeout", "4s"], "--redis-timeout: "),
            (&["--route", "game.*=http://u:secret@games"], "--route: "),
            (&["--route", "http://u:secret@games"], "--route: "),
        ] {
            let reason = config(flags).check().unwrap_err();
            assert!(reason.starts_with(flag), "{reason}");
            assert!(!reason.contains("secret"), "{reason}");
        }
        let no_limit = config(&["--read-rate", "0", "--read-burst", "0"]);
        assert_eq!(no_limit.check(), Ok(()));
    }

    #[test]
    fn numbers_with_which_nobody_could_get_in_are_refused_with_words() {
        for (flag, value, words) in [
            ("--connections", "0", "0 would let nobody in"),
            ("--connections", "many", "expected 1 to 10000000"),
            ("--half-open", "0", "expected 1 to 10000000"),
            ("--threads", "0", "expected 1 to 256"),
            ("--prefix", "", "expected 1 to 64 letters"),
            ("--prefix", "{a}", "expected 1 to 64 letters"),
        ] {
            let read = Config::try_parse_from(["connector", flag, value]);
            let error = read.unwrap_err().to_string();
            assert!(error.contains(words), "{flag} {value}: {error}");
        }
    }

    #[test]
    fn rules_that_never_hold_are_warned_of_and_those_that_contradict_themselves_are_refused() {
        let mut config = Config::parse_from(["connector"]);
        let mut take = |table: &str| {
            config.take(toml::from_str(table).unwrap());
            (config.check(), config.warnings().len())
        };
        let wide = "[[channel]]\nmatch = '*'\n[[channel]]\nmatch = 'game:*'\n";
        assert_eq!(take(wide), (Ok(()), 1));
        let (checked, _) = take("[[channel]]\nmatch = 'a'\nkeep = '2h'\nlife = '1h'\n");
        assert!(checked.unwrap_err().starts_with("[[channel]] match"));
    }
}
