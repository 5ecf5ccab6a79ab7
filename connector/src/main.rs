//! The `connector` binary. Everything that it does is in the library.

use anyhow::Context;
use channel_store::redis::RedisFeed;
use connector::chat_client::{Chat, Credentials, OwnSettings, Source};
use connector::hub::Hub;
use connector::routes::Routes;
use connector::{Config, Connector, Store};
use runtime::config::Reloading;
use runtime::listen::Listener;
use runtime::{Readiness, Shutdown, admin, config, lifecycle, listen, log, telemetry};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let (config, source) = config::load::<Config>();
    log::name_process("connector", &config.id);
    telemetry::init(&config.log);
    lifecycle::run("connector", config.threads, async |shutdown| {
        let (latest, _reloads) = source.follow(config.clone());
        run(config, latest, shutdown).await
    })
}

async fn run(config: Config, latest: Reloading<Config>, shutdown: Shutdown) -> anyhow::Result<()> {
    let traces = config.trace.begin("connector", &config.id)?;
    let chats = Source::parse(&config.chat)?;
    let credentials = Credentials {
        tls: config.chat_tls.begin(&chats)?,
        token: config.chat_access.open().context("--chat-token-file")?,
    };
    let source = Source::Addresses(chats, credentials);
    let limit = config.clients.message_limit as usize;
    let routes = Routes::begin(
        &config.clients.routes,
        &config.id,
        limit,
        &config.clients.route_tls,
    )?;
    let listener = Listener::bind(&config.listen)?;
    let admin_listener = listen::bind(config.admin)?;

    let hub = Hub::new(config.touch);
    let redis = config.redis.url().map_err(anyhow::Error::msg)?;
    let feed = RedisFeed::open(&redis, config.store_options(), hub.clone()).await;
    let feed = Arc::new(feed.context("cannot use this Redis")?);
    let own = OwnSettings {
        lease: config.lease,
        touch: config.touch,
        message_limit: config.clients.message_limit.into(),
        ready_slots: config.ready_slots,
    };
    let chat = Chat::proven(source, feed.clone(), own);

    let store = Store {
        leases: feed.leases(),
        users: feed.registry(),
        hints: feed.hints(),
        inboxes: feed.inboxes(),
        feed: feed.clone(),
    };
    let (id, lease) = (&config.id, config.lease);
    let connector = Connector::new(id, lease, &config.clients, hub, store, chat, routes)?;
    let connector = connector.with_tls()?;

    let readiness = Readiness::until(&shutdown);
    let available = channel_store::ChannelFeed::available(&*feed);
    readiness.follow_telling("redis", available, feed.why_unavailable());
    connector.report_to(&readiness);
    let address = listener.local_address()?;
    tracing::info!(%address, "listening");
    config.doors.report(&config.clients.door(&address));
    tracing::info!(address = %admin_listener.local_addr()?, "admin listening");
    let admin = tokio::spawn(admin::serve(
        admin_listener,
        "connector",
        config.admin_access.clone(),
        admin::Router::new(),
        readiness.clone(),
        shutdown.clone(),
    ));

    connector.serve(listener, readiness, latest, shutdown).await;
    admin.abort();
    traces.end().await;
    Ok(())
}
