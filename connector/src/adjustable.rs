//! What changes with the settings while the connector runs.

use crate::access::Rules;
use crate::client::Clients;
use crate::config::ClientSettings;
use crate::http::Origins;
use crate::limits::addresses::Addresses;
use crate::limits::{Limits, QueueLimits};
use runtime::config::Reloading;
use std::sync::Arc;

/// The parts of a connector whose settings may change.
pub(crate) struct Adjustable {
    pub(crate) clients: Arc<Clients>,
    pub(crate) origins: Arc<Origins>,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) queues: Arc<QueueLimits>,
    /// People whom the operator does not know can reach this connector.
    pub(crate) are_strangers: bool,
}

impl Adjustable {
    /// These settings hold from now on. If they have rules that can't be used, the rules stay.
    pub(crate) fn set(&self, settings: &ClientSettings) {
        self.origins.set(&settings.allowed_origins);
        self.limits.set(settings.bounds());
        self.queues.resize(settings.queue, settings.queue_total);
        let rates = &settings.rates;
        self.addresses.set(rates.address(self.are_strangers));
        self.clients.set_rates(rates.session(self.are_strangers));
        let services = &self.clients.services;
        let most = rates.connections_of_user(self.are_strangers);
        services.logins.limit_sessions(most);
        match Rules::new(&settings.auth.channels) {
            Ok(rules) => {
                services.access.swap(rules);
                services.chat.rules().set(&settings.auth.channels);
            }
            Err(error) => tracing::error!(%error, "the rules of channels stay as they are"),
        }
    }

    /// Keeps to the latest settings, as long as they may change.
    pub(crate) async fn follow<T: AsRef<ClientSettings>>(self, mut latest: Reloading<T>) {
        while latest.changed().await.is_ok() {
            let latest = Arc::clone(&latest.borrow_and_update());
            self.set((*latest).as_ref());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::limits::Bound;
    use crate::session::tests::scene;
    use crate::testing::LIMITS;
    use clap::Parser;
    use http::{HeaderMap, HeaderValue, header};
    use std::net::Ipv4Addr;
    use tokio::sync::watch;

    fn settings(flags: &[&str], rules: &str) -> ClientSettings {
        let mut settings = Config::parse_from([&["connector"], flags].concat()).clients;
        let table: channel_rules::ChannelTable = toml::from_str(rules).unwrap();
        settings.auth.channels = table.channel;
        settings
    }

    #[tokio::test(start_paused = true)]
    async fn changed_settings_hold_at_once_and_rules_that_cannot_be_used_change_nothing() {
        let scene = scene().await;
        let before = settings(&[], "");
        let queues = before.queues();
        let clients = Clients::new(Arc::clone(&scene.services), LIMITS, Arc::clone(&queues));
        let adjustable = Adjustable {
            clients: Arc::clone(&clients),
            origins: Arc::default(),
            addresses: Arc::default(),
            limits: Limits::new(before.bounds()),
            queues: Arc::clone(&queues),
            are_strangers: false,
        };
        adjustable.set(&before);
        let (origins, addresses, limits) = (
            Arc::clone(&adjustable.origins),
            Arc::clone(&adjustable.addresses),
            Arc::clone(&adjustable.limits),
        );
        let services = &scene.services;
        let (own_rules, generation) = (services.chat.rules().text(), services.access.generation());
        let flags = [
            "--allowed-origins=https://app.example",
            "--connections=1",
            "--queue=70KiB",
            "--queue-total=7MiB",
            "--address-connections=1",
            "--request-rate=7",
            "--user-connections=7",
        ];
        let latest = settings(&flags, "[[channel]]\nmatch = 'a'\njoin = 'nobody'");
        let (changes, reloading) = watch::channel(Arc::new(before));
        let following = adjustable.follow(reloading);
        changes.send_replace(Arc::new(latest.clone()));
        // It ends when the settings can't change any more.
        drop(changes);
        following.await;

        let mut headers = HeaderMap::new();
        let origin = HeaderValue::from_static("https://app.example");
        headers.insert(header::ORIGIN, origin);
        assert!(!origins.refuses(&headers));
        let _one = limits.enter().unwrap();
        assert!(limits.enter().is_none());
        assert_eq!((queues.connection(), queues.process()), (70 << 10, 7 << 20));
        let address = Ipv4Addr::LOCALHOST.into();
        let _one = addresses.enter(address).unwrap();
        assert_eq!(addresses.enter(address).unwrap_err(), Bound::Address);
        assert_eq!(clients.rates(), latest.rates.session(false));
        assert_eq!(services.logins.most_sessions(), 7);
        assert_eq!(services.access.generation(), generation + 1);
        assert_ne!(services.chat.rules().text(), own_rules);

        let adjustable = Adjustable {
            clients,
            origins,
            addresses,
            limits,
            queues,
            are_strangers: false,
        };
        let wrong = settings(&[], "[[channel]]\nmatch = 'a'\njoin = 'members'");
        let own_rules = services.chat.rules().text();
        adjustable.set(&wrong);
        assert_eq!(services.access.generation(), generation + 1);
        assert_eq!(services.chat.rules().text(), own_rules);
    }
}
