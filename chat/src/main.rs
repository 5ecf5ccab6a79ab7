//! Chat as a process: arguments, sockets, the Redis store, and the service over it until a signal comes.

use anyhow::Context;
use channel_store::ChannelStore;
use channel_store::redis::{RedisFeed, RedisStore};
use chat::{Cleanup, Config, Connectors, Watching};
use runtime::{Readiness, Shutdown, admin, cli, lifecycle, listen, telemetry};
use std::process::ExitCode;
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

fn main() -> ExitCode {
    let config: Config = cli::parse();
    if let Err(reason) = config.check() {
        return cli::refuse::<Config>(reason);
    }
    telemetry::init(config.log_format);
    let threads = config.threads.into();
    lifecycle::run("chat", threads, |shutdown| start(config, shutdown))
}

async fn start(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let port = config.tls.port(listen::bind(config.listen)?)?;
    let admin = listen::bind(config.admin)?;
    let store = RedisStore::open(&config.redis, config.store())
        .await
        .context("cannot use this Redis")?;
    tracing::info!(address = %port.local_address()?, "listening");
    tracing::info!(address = %admin.local_addr()?, "admin listening");
    let readiness = Readiness::new();
    readiness.follow_telling("redis", store.available(), store.why_unavailable());
    let writes = store.watch_writes();
    readiness.follow_telling("publish", writes.works(), writes.reason());
    let _admin = AbortOnDropHandle::new(tokio::spawn(admin::serve(
        admin,
        readiness,
        shutdown.clone(),
    )));

    // Letters to connectors and from them, and what watchers hear, have connections of their own.
    let options = config.store();
    let watching = Watching::new(options.channel_life);
    let feed = RedisFeed::open_beside_store(&config.redis, options, watching.clone()).await;
    let feed = Arc::new(feed.context("cannot use this Redis")?);
    watching.follow(feed.clone());
    let connectors = Connectors::begin(feed.registry(), feed.leases(), feed.inboxes());
    let store = Arc::new(store);
    let cleanup = Cleanup::begin(store.clone(), store.leases(), store.registry());
    chat::serve(
        port,
        store,
        cleanup,
        connectors,
        watching,
        config.limits(),
        shutdown,
    )
    .await?;
    tracing::info!("drained");
    Ok(())
}
