//! Chat as a process: arguments, sockets, the Redis store, and the service over it until a signal comes.

use anyhow::Context;
use channel_store::redis::{RedisFeed, RedisStore};
use channel_store::{ChannelName, ChannelStore, FeedConnection, FeedSink, Publication};
use chat::{Cleanup, Config, Connectors};
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
    let listener = listen::bind(config.listen)?;
    let admin = listen::bind(config.admin)?;
    let store = RedisStore::open(&config.redis, config.store())
        .await
        .context("cannot use this Redis")?;
    tracing::info!(address = %listener.local_addr()?, "listening");
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

    let feed =
        RedisFeed::open_beside_store(&config.redis, config.store(), Arc::new(NoChannels)).await;
    let feed = feed.context("cannot use this Redis")?;
    let connectors = Connectors::begin(feed.registry(), feed.leases(), feed.inboxes());
    let store = Arc::new(store);
    let cleanup = Cleanup::begin(store.clone(), store.leases(), store.registry());
    chat::serve(
        listener,
        store,
        cleanup,
        connectors,
        config.limits(),
        shutdown,
    )
    .await?;
    tracing::info!("drained");
    Ok(())
}

/// Chat follows no channel. It uses the feed for letters to connectors and from them, over connections of their own.
struct NoChannels;

impl FeedSink for NoChannels {
    fn subscribed(&self, _: &FeedConnection, _: &ChannelName) {}

    fn publications(
        &self,
        _: &FeedConnection,
        _: &ChannelName,
        _: &mut dyn Iterator<Item = Publication>,
    ) {
    }
}
