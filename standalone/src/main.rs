//! The whole system in one process, with the store in memory: to try it, and to develop against it.
//!
//! It runs the same services as the binaries `chat` and `connector`. The connector calls chat without a network in
//! between.

mod migrate;

use anyhow::Context;
use channel_rules::{ChannelRule, ChannelTable};
use channel_store::StoreOptions;
use channel_store::memory::MemoryStore;
use chat::PortSettings;
use chat::access::AccessSettings;
use chat::access::settings::ACCESS;
use clap::Parser;
use connector::access::AccessTables;
use connector::chat_client::{Chat, Source, TransportError};
use connector::config::{ACCESS as LOGINS, CLIENTS, DRAIN, ENCRYPTION, LIMITS, RATES};
use connector::hub::{Hub, TOUCH_INTERVAL};
use connector::routes::Routes;
use connector::{ClientSettings, Connector, Store};
use runtime::admin::AdminSettings;
use runtime::cli::Grouped;
use runtime::config::{Names, Part, Reloading, Settings};
use runtime::doors::{Door, DoorSettings};
use runtime::listen::{ListenAddress, Listener};
use runtime::trace::TRACES;
use runtime::{
    LogFormat, LogSettings, Readiness, Shutdown, TraceSettings, admin, config, descriptors,
    lifecycle, listen, telemetry,
};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

/// Chat and connector in one process, with everything in memory
#[derive(Debug, Clone, Parser)]
#[command(name = "standalone", version)]
struct Config {
    /// Where clients connect: Pomelo at ws://…/ and tcp://…, Socket.IO at http://…, JSON at ws://…/ws. Behind a proxy
    /// on the same machine it may be a unix socket: unix:/path
    #[arg(long, default_value = "127.0.0.1:3010", value_parser = listen::listen_address)]
    listen: ListenAddress,

    /// Where back ends call chat over gRPC
    #[arg(long, default_value = "127.0.0.1:4001", value_parser = listen::address)]
    grpc: SocketAddr,

    /// PEM file with certificate authorities. Back ends then need a certificate of one of them. The port must have a
    /// certificate, too: that of --tls-certificate is for both ports
    #[arg(long, value_name = "FILE")]
    grpc_client_ca: Option<PathBuf>,

    /// Where /livez, /readyz, /metrics and /console are served
    #[arg(long, default_value = "127.0.0.1:9001", value_parser = listen::address)]
    admin: SocketAddr,

    /// Does not serve the page for operators at http://…/console of the admin port
    #[arg(long)]
    no_console: bool,

    #[command(flatten)]
    log: LogSettings,

    #[command(flatten)]
    trace: TraceSettings,

    #[command(flatten)]
    access: AccessSettings,

    #[command(flatten)]
    doors: DoorSettings,

    #[command(flatten)]
    admin_access: AdminSettings,

    #[command(flatten)]
    clients: ClientSettings,
}

impl Grouped for Config {
    const FIRST: &'static [&'static str] = &[
        "listen",
        "grpc",
        "admin",
        "login_policy",
        "message_limit",
        "log_format",
    ];
    const GROUPS: &'static [(&'static str, &'static [&'static str])] = &[
        CLIENTS,
        ENCRYPTION,
        LOGINS,
        LIMITS,
        RATES,
        DRAIN,
        ACCESS,
        ("Back ends", &["grpc_client_ca"]),
        TRACES,
        ("Process", &["log_filter", "no_console"]),
    ];
}

/// The tables of the file that no flag can express. Both services use the rules of channels, so they are not in the connector's
/// table.
#[derive(Default, serde::Deserialize)]
struct Tables {
    #[serde(default)]
    connector: AccessTables,
    #[serde(default)]
    channel: Vec<ChannelRule>,
}

impl Settings for Config {
    const NAMES: Names = Names {
        prefix: "STANDALONE",
        parts: &[Part {
            prefix: "CONNECTOR",
            table: "connector",
            ids: &[
                CLIENTS.1,
                ENCRYPTION.1,
                LOGINS.1,
                LIMITS.1,
                RATES.1,
                DRAIN.1,
                &["login_policy"],
            ],
        }],
    };
    const RELOADED: &'static [&'static str] = connector::config::RELOADED;
    type Tables = Tables;
    const TABLES: &'static [&'static str] = &["connector.auth.issuer", ChannelTable::NAME];
    const COMMANDS: &'static [(&'static str, &'static str)] = &[migrate::COMMAND];
    const EXAMPLES: &'static [&'static str] = &[
        "\n# [[connector.auth.issuer]] is [[auth.issuer]] of connector.toml: see docs/access.md\n",
        ChannelTable::EXAMPLE,
    ];

    fn take(&mut self, tables: Tables) {
        self.clients.auth.take(tables.connector);
        self.clients.auth.channels = tables.channel;
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }

    fn admin(&self) -> SocketAddr {
        self.admin
    }

    fn check(&self) -> Result<(), String> {
        self.doors.check(&self.grpc_door(self.grpc))?;
        self.doors.check(&self.clients.door(&self.listen))?;
        self.clients.check()?;
        self.trace.check()?;
        self.access.check()?;
        self.grpc_tls().check().map_err(|error| error.to_string())
    }

    fn warnings(&self) -> Vec<String> {
        self.clients.warnings()
    }
}

impl Config {
    /// TLS for back ends, with the certificate that clients see, too.
    fn grpc_tls(&self) -> PortSettings {
        PortSettings {
            port: self.clients.tls.clone(),
            client_ca: self.grpc_client_ca.clone(),
        }
    }

    /// The port of back ends, which listens here.
    fn grpc_door(&self, address: SocketAddr) -> Door {
        const GUARD: &str = "--api-tokens-file or --grpc-client-ca";
        self.access.door("--grpc", GUARD, address, &self.grpc_tls())
    }
}

impl AsRef<ClientSettings> for Config {
    fn as_ref(&self) -> &ClientSettings {
        &self.clients
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments
        .next_if(|first| first == migrate::COMMAND.0)
        .is_some()
    {
        return migrate::migrate_pomelo(arguments);
    }
    let (config, source) = config::load::<Config>();
    telemetry::init(&config.log);
    lifecycle::run("standalone", 1, async |shutdown| {
        let (latest, _reloads) = source.follow(config.clone());
        run(config, latest, shutdown).await
    })
}

async fn run(config: Config, latest: Reloading<Config>, shutdown: Shutdown) -> anyhow::Result<()> {
    let access = config
        .access
        .open(&config.grpc_tls())
        .context("--api-tokens-file")?;
    let listener = Listener::bind(&config.listen)?;
    let grpc_port = config.grpc_tls().port(listen::bind(config.grpc)?)?;
    let admin_listener = listen::bind(config.admin)?;
    let (clients, grpc) = (listener.local_address()?, grpc_port.local_address()?);
    let traces = config.trace.begin("standalone", &clients.to_string())?;
    tracing::info!(address = %clients, "listening");
    tracing::info!(address = %grpc, "grpc listening");
    config.doors.report(&config.grpc_door(grpc));
    config.doors.report(&config.clients.door(&clients));
    tracing::info!(address = %admin_listener.local_addr()?, "admin listening");
    // A reader of JSON logs must get nothing but JSON.
    if config.log.log_format == LogFormat::Text {
        let is_encrypted = config.clients.tls.certificate.is_some();
        // With tokens the greeting would show logins and calls that are refused.
        let doors = [config.clients.door(&clients), config.grpc_door(grpc)];
        if doors.iter().all(|door| !door.is_guarded) {
            eprintln!("{}", try_next(&clients, grpc, is_encrypted));
        }
    }

    let rules = &config.clients.auth.channels;
    let options = StoreOptions {
        log_rules: rules.iter().map(ChannelRule::log_rule).collect(),
        ..StoreOptions::default()
    };
    let lease_length = options.lease;
    let store = MemoryStore::new(options);
    let hub = Hub::new(TOUCH_INTERVAL);
    let feed = store.feed(hub.clone());
    let cleanup = chat::Cleanup::begin(store.clone(), store.leases(), store.registry());
    let connectors = chat::Connectors::begin(store.registry(), store.leases(), store.inboxes());
    let watching = chat::Watching::new(StoreOptions::default().channel_life);
    watching.follow(store.watch_feed(watching.clone()));
    // Chat has to outlive the connector, whose last leaves must still land.
    let chat_shutdown = Shutdown::new();
    let limits = chat::Limits {
        message: config.clients.message_limit as usize,
        // Most descriptors are for clients.
        connections: (descriptors::limit_now() / 20).clamp(16, 1_000),
        access,
        ..chat::Limits::default()
    };
    limits.rules.set(rules);
    let following = limits.rules.clone();
    let following = following.follow(
        rules.clone(),
        latest.clone(),
        store.clone(),
        |it: &Config| &it.clients.auth.channels,
    );
    let _following = AbortOnDropHandle::new(tokio::spawn(following));
    let service = chat::service(
        store.clone(),
        cleanup.clone(),
        connectors.clone(),
        watching.clone(),
        &limits,
        chat_shutdown.clone(),
    );
    let mut pages = admin::Router::new();
    if !config.no_console {
        let is_guarded = config.grpc_door(grpc).is_guarded;
        pages = chat::console(service.clone(), &limits.access, is_guarded)?;
    }
    let service = service.map_err(TransportError::new);
    let chat = Chat::new(Source::InProcess(BoxCloneSyncService::new(service)));

    let readiness = Readiness::until(&shutdown);
    readiness.follow("store", feed.available());
    let parts = Store {
        feed,
        leases: store.leases(),
        users: store.registry(),
        hints: store.hints(),
        inboxes: store.inboxes(),
    };
    let clients = &config.clients;
    let limit = clients.message_limit as usize;
    let routes = Routes::begin(&clients.routes, "standalone", limit, &clients.route_tls)?;
    let connector = Connector::new(
        "standalone",
        lease_length,
        clients,
        hub,
        parts,
        chat,
        routes,
    )?
    .with_tls()?;
    connector.report_to(&readiness);
    let admin = tokio::spawn(admin::serve(
        admin_listener,
        "standalone",
        config.admin_access,
        pages,
        readiness.clone(),
        shutdown.clone(),
    ));
    let grpc = chat::serve(
        grpc_port,
        store,
        cleanup,
        connectors,
        watching,
        limits,
        chat_shutdown.clone(),
    );
    let grpc = tokio::spawn(grpc);

    connector
        .serve(listener, readiness, latest, shutdown.clone())
        .await;
    chat_shutdown.request();
    tokio::select! {
        served = grpc => served??,
        () = shutdown.hurried() => {}
    }
    traces.end().await;
    admin.abort();
    Ok(())
}

/// Lines to paste into a browser's console, and into a shell. Browsers cannot reach a unix socket, so with one only the
/// lines for back ends are shown.
fn try_next(clients: &ListenAddress, grpc: SocketAddr, is_encrypted: bool) -> String {
    let all = include_str!("try_next.txt");
    let for_back_ends = all.find("As a back end").map_or(all, |at| &all[at..]);
    let lines = match clients {
        ListenAddress::Tcp(_) => all,
        ListenAddress::Unix(_) => for_back_ends,
    };
    let lines = match is_encrypted {
        false => lines.to_owned(),
        true => lines
            .replace("ws://", "wss://")
            .replace("http://", "https://")
            .replace("-plaintext", "-cacert FILE")
            .replace("curl --json", "curl --cacert FILE --json"),
    };
    lines
        .replace("CLIENTS", &clients.to_string())
        .replace("GRPC", &grpc.to_string())
}
