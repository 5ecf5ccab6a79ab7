//! The `connector` binary. Everything that it does is in the library.

use anyhow::Context;
use channel_store::redis::RedisFeed;
use connector::chat_client::{Chat, OwnSettings, Source};
use connector::hub::Hub;
use connector::routes::Routes;
use connector::{Config, Connector, Store};
use runtime::listen::Listener;
use runtime::{Readiness, Shutdown, admin, cli, lifecycle, listen, telemetry};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let config: Config = cli::parse();
    if let Err(reason) = config.check() {
        return cli::refuse::<Config>(reason);
    }
    telemetry::init(config.log_format);
    lifecycle::run("connector", config.threads, |shutdown| {
        run(config, shutdown)
    })
}

async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let chats = Source::parse(&config.chat)?;
    let tls = config.chat_tls.begin(&chats)?;
    let source = Source::Addresses(chats, tls);
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
    let feed = RedisFeed::open(&config.redis, config.store_options(), hub.clone()).await;
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

    let readiness = Readiness::new();
    let available = channel_store::ChannelFeed::available(&*feed);
    readiness.follow_telling("redis", available, feed.why_unavailable());
    connector.report_to(&readiness);
    tracing::info!(address = %listener.local_address()?, "listening");
    tracing::info!(address = %admin_listener.local_addr()?, "admin listening");
    let admin = tokio::spawn(admin::serve(
        admin_listener,
        readiness.clone(),
        shutdown.clone(),
    ));

    connector.serve(listener, readiness, shutdown).await;
    admin.abort();
    Ok(())
}
