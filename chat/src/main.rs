//! Chat as a process: arguments, sockets, the Redis store, and the service over it until a signal comes.

use anyhow::Context;
use channel_store::ChannelStore;
use channel_store::redis::{RedisFeed, RedisStore};
use chat::access::create_token;
use chat::{Cleanup, Config, Connectors, Limits, Watching};
use runtime::config::Reloading;
use runtime::{Readiness, Shutdown, admin, config, lifecycle, listen, telemetry};
use std::process::ExitCode;
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    if arguments.next_if(|first| first == "token").is_some() {
        return create_token(arguments);
    }
    let (config, source) = config::load::<Config>();
    telemetry::init(&config.log);
    let threads = config.threads.into();
    lifecycle::run("chat", threads, async |shutdown| {
        let (latest, _reloads) = source.follow(config.clone());
        start(config, latest, shutdown).await
    })
}

async fn start(
    config: Config,
    latest: Reloading<Config>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let access = config
        .access
        .open(&config.tls)
        .context("--api-tokens-file")?;
    let port = config.tls.port(listen::bind(config.listen)?)?;
    let admin = listen::bind(config.admin)?;
    let redis = config.redis.url().map_err(anyhow::Error::msg)?;
    let store = RedisStore::open(&redis, config.store())
        .await
        .context("cannot use this Redis")?;
    let address = port.local_address()?;
    let traces = config.trace.begin("chat", &address.to_string())?;
    tracing::info!(%address, "listening");
    config.doors.report(&config.door(address));
    tracing::info!(address = %admin.local_addr()?, "admin listening");
    let readiness = Readiness::until(&shutdown);
    let servers = store.watch_servers(config.servers.memory_budget);
    let (unavailable, full) = (store.why_unavailable(), servers.troubles());
    let troubles = move || unavailable().or_else(&full);
    readiness.follow_telling("redis", store.available(), troubles);
    let writes = store.watch_writes();
    readiness.follow_telling("publish", writes.works(), writes.reason());

    // Letters to connectors and from them, and what watchers hear, have connections of their own.
    let options = config.store();
    let watching = Watching::new(options.channel_life);
    let feed = RedisFeed::open_beside_store(&redis, options, watching.clone()).await;
    let feed = Arc::new(feed.context("cannot use this Redis")?);
    watching.follow(feed.clone());
    let connectors = Connectors::begin(feed.registry(), feed.leases(), feed.inboxes());
    let store = Arc::new(store);
    let limits = config.limits();
    let rules = limits.rules.clone();
    let now = config.channels.clone();
    let following = rules.follow(now, latest, store.clone(), |it| &it.channels);
    let _following = AbortOnDropHandle::new(tokio::spawn(following));
    let cleanup = Cleanup::begin(store.clone(), store.leases(), store.registry());
    let limits = Limits { access, ..limits };
    let available = store.available();
    let service = chat::service(
        store,
        cleanup,
        connectors,
        watching,
        &limits,
        shutdown.clone(),
    );
    let mut pages = admin::Router::new();
    if !config.no_console {
        let is_guarded = config.door(address).is_guarded;
        pages = chat::console(service.clone(), &limits.access, is_guarded)?;
    }
    let _admin = AbortOnDropHandle::new(tokio::spawn(admin::serve(
        admin,
        "chat",
        config.admin_access.clone(),
        pages,
        readiness,
        shutdown.clone(),
    )));
    service.serve(port, available, limits, shutdown).await?;
    traces.end().await;
    tracing::info!("drained");
    Ok(())
}
