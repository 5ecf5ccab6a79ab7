//! The connector service. Everything it does is in the library.

use anyhow::Context;
use channel_store::redis::RedisFeed;
use connector::chat::{Chat, OwnSettings, Source};
use connector::hub::Hub;
use connector::lease::Lease;
use connector::registry::Registry;
use connector::{Config, Listeners, Surroundings};
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
    let source = Source::parse(&config.chat)?;
    let listeners = Listeners {
        all: Listener::bind(&config.listen)?,
        tcp: (config.listen_tcp.map(listen::bind).transpose()?).map(Listener::from),
    };
    let admin_listener = listen::bind(config.admin)?;

    let hub = Hub::new(config.touch);
    let feed = RedisFeed::open(&config.redis, config.store_options(), hub.clone()).await;
    let feed = Arc::new(feed.context("cannot use this Redis")?);
    let lease = Lease::new(&config.id, config.lease, feed.leases(), hub.suspects())?;
    let policy = config.clients.login_policy.into();
    let registry = Registry::new(policy, feed.registry(), feed.hints(), feed.leases());
    let own = OwnSettings {
        lease: config.lease,
        touch: config.touch,
        message_limit: config.clients.message_limit.into(),
        ready_slots: config.ready_slots,
    };
    let chat = Chat::proven(source, feed.clone(), own);

    let readiness = Readiness::new();
    let available = channel_store::ChannelFeed::available(&*feed);
    readiness.follow_telling("redis", available, feed.why_unavailable());
    let asked = Arc::clone(&chat);
    readiness.follow_telling("chat", chat.available(), move || asked.troubles());
    let asked = Arc::clone(&chat);
    readiness.follow_telling("publish", chat.publishes(), move || asked.refusals());
    let asked = Arc::clone(&registry);
    readiness.follow_telling("login-policy", registry.agreed(), move || {
        asked.why_disagreed()
    });
    let asked = Arc::clone(&lease);
    readiness.follow_telling("lease", lease.held(), move || asked.trouble());
    tracing::info!(address = %listeners.all.local_place()?, "listening");
    if let Some(tcp) = &listeners.tcp {
        tracing::info!(address = %tcp.local_place()?, "tcp listening");
    }
    tracing::info!(address = %admin_listener.local_addr()?, "admin listening");
    let admin = tokio::spawn(admin::serve(
        admin_listener,
        readiness.clone(),
        shutdown.clone(),
    ));

    let surroundings = Surroundings {
        hub,
        feed,
        chat,
        lease,
        registry,
        readiness,
    };
    connector::serve(&config.clients, listeners, surroundings, shutdown).await;
    admin.abort();
    Ok(())
}
