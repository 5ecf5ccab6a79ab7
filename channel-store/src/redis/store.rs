//! Chat's side of channels in Redis.

use super::append::Appending;
use super::channel_pages::channels_page;
use super::directory::Directory;
use super::keys::Keys;
use super::lease::RedisLeases;
use super::log::{history, trim};
use super::logins::RedisRegistry;
use super::member_pages::members_page;
use super::membership::Memberships;
use super::net::{Nodes, OpenError, Pinned};
use super::probe::{Prober, WriteWatch};
use super::publish::{Publishing, RedisPublisher, Replicas};
use super::restrictions::restrict;
use super::servers::ServerWatch;
use super::summaries::{Seen, Summaries};
use crate::directory::{ChannelSummary, ChannelsPage};
use crate::error::StoreError;
use crate::lease::Leases;
use crate::membership::{Join, Joined, Leave, MembersPage, Reaped};
use crate::name::{ChannelName, IdempotencyKey, Incarnation, UserId};
use crate::options::{Ack, LogRule, StoreOptions};
use crate::page::{HistoryPage, HistoryRange};
use crate::probe::{Probe, Probed, StoreSettings};
use crate::publication::Position;
use crate::publish::Publisher;
use crate::registry::UserRegistry;
use crate::restrictions::{Restricted, Restriction, UserRestrictions};
use crate::store::ChannelStore;
use async_trait::async_trait;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Connections to each node for publishers that wait for replicas. A wait blocks its connection for all other users.
const PUBLISHER_CONNECTIONS: usize = 4;

/// Channels in Redis, for chat.
pub struct RedisStore {
    nodes: Arc<Nodes>,
    keys: Keys,
    leases: Arc<dyn Leases>,
    registry: Arc<dyn UserRegistry>,
    memberships: Memberships,
    publishing: Arc<Publishing>,
    replicas: Replicas,
    appending: Arc<Appending>,
    directory: Arc<Directory>,
    /// How many publishers were made. Each one takes the next of the connections for publishers.
    publishers: AtomicUsize,
    prober: Arc<Prober>,
    /// Changes with the rules.
    settings: Mutex<StoreSettings>,
    /// As the store was opened, with the rules of that time.
    options: StoreOptions,
}

/// The shortest life of any log.
fn shortest_log_life(options: &StoreOptions) -> Duration {
    let lives = options.log_rules.iter().filter_map(|rule| rule.life);
    lives.fold(options.log_life, Duration::min)
}

impl RedisStore {
    /// Opens the store at a URL: `redis://[user:password@]host[:6379][/database]`, `redis+unix:///path`,
    /// `redis+sentinel://host[:26379][,…]/master[/database]` or `redis-cluster://host[:6379][,…]`. With `rediss` in
    /// place of `redis` the connections are encrypted. It also succeeds while Redis can't be reached: then the store is
    /// not available yet.
    ///
    /// # Errors
    /// [`OpenError`]: with this URL, or with what Redis holds, the store will never work.
    pub async fn open(url: &str, options: StoreOptions) -> Result<Self, OpenError> {
        let (replicas, connections) = match options.ack {
            Ack::Primary => (0, 0),
            Ack::Replica { replicas } => (replicas, PUBLISHER_CONNECTIONS),
        };
        let nodes_options = super::nodes_options(&options, connections);
        let nodes = Arc::new(Nodes::open(url, nodes_options, None).await?);
        let replicas = Replicas::new(replicas, &options);
        let appending = Arc::new(Appending::new(&options, nodes.publish_command()));
        let directory = Arc::new(Directory::new(&nodes, &options));
        let settings = StoreSettings {
            prefix: options.prefix.clone(),
            database: nodes.database(),
            lease: options.lease,
            ack_replicas: replicas.count,
            log_life: shortest_log_life(&options),
        };
        Ok(Self {
            settings: Mutex::new(settings),
            keys: Keys::new(&options.prefix),
            leases: RedisLeases::over(nodes.clone(), &options),
            registry: RedisRegistry::over(nodes.clone(), &options),
            memberships: Memberships::new(
                nodes.clone(),
                appending.clone(),
                directory.clone(),
                &options,
            ),
            publishing: Arc::new(Publishing::new(
                appending.clone(),
                directory.clone(),
                replicas,
                &options,
            )),
            replicas,
            appending,
            directory,
            publishers: AtomicUsize::new(0),
            prober: Arc::new(Prober::new(nodes.clone(), replicas, &options)),
            nodes,
            options,
        })
    }

    /// Leases, over the connections of this store.
    #[must_use]
    pub fn leases(&self) -> Arc<dyn Leases> {
        self.leases.clone()
    }

    /// The registry of users, over the connections of this store.
    #[must_use]
    pub fn registry(&self) -> Arc<dyn UserRegistry> {
        self.registry.clone()
    }

    /// The next of the connections for publishers to each node.
    fn pinned(&self) -> Result<Pinned, StoreError> {
        self.nodes
            .pinned(self.publishers.fetch_add(1, Ordering::Relaxed))
    }

    fn look(&self) -> Summaries<'_> {
        Summaries {
            nodes: &self.nodes,
            keys: &self.keys,
            memberships: &self.memberships,
        }
    }

    /// Begins to try again and again whether the servers accept publications.
    #[must_use]
    pub fn watch_writes(&self) -> WriteWatch {
        WriteWatch::begin(self.prober.clone())
    }

    /// Begins to watch the memory and the replicas of the servers. `budget`: the bytes of memory that each of them should use at most.
    #[must_use]
    pub fn watch_servers(&self, budget: Option<u64>) -> ServerWatch {
        ServerWatch::begin(self.nodes.clone(), budget, self.replicas.count)
    }

    /// A function that says which servers can't be used and why. It answers `None` if all of them can be used. It keeps no
    /// connection open.
    pub fn why_unavailable(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        self.nodes.why_unavailable()
    }
}

#[async_trait]
impl UserRestrictions for RedisStore {
    async fn restrict(
        &self,
        user: &UserId,
        change: &Restriction,
    ) -> Result<Restricted, StoreError> {
        let pinned = self.pinned()?;
        restrict(&self.keys, self.replicas, &pinned, user, change).await
    }
}

#[async_trait]
impl ChannelStore for RedisStore {
    fn publisher(&self) -> Result<Arc<dyn Publisher>, StoreError> {
        let publisher = RedisPublisher::new(self.pinned()?, self.publishing.clone());
        Ok(Arc::new(publisher))
    }

    async fn join(&self, join: Join) -> Result<Joined, StoreError> {
        self.memberships.join(&join).await
    }

    async fn leave(&self, leave: Leave) -> Result<bool, StoreError> {
        self.memberships.leave(&leave).await
    }

    async fn reap(
        &self,
        channel: &ChannelName,
        incarnation: &Incarnation,
    ) -> Result<Reaped, StoreError> {
        self.memberships.reap(channel, incarnation).await
    }

    async fn expire(&self, channel: &ChannelName) -> Result<Option<Duration>, StoreError> {
        self.memberships.expire(channel).await
    }

    async fn members(
        &self,
        channel: &ChannelName,
        page: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, StoreError> {
        if page.is_none() {
            self.memberships.expire(channel).await?;
        }
        let keys = self.keys.of_channel(channel);
        let reading = self.nodes.reading(keys.topic().to_string()).await?;
        members_page(&reading.connection, &keys, page, limit).await
    }

    async fn history(
        &self,
        channel: &ChannelName,
        range: &HistoryRange,
        limit: usize,
    ) -> Result<HistoryPage, StoreError> {
        let keys = self.keys.of_channel(channel);
        let reading = self.nodes.reading(keys.topic().to_string()).await?;
        history(&reading.connection, &keys, range, limit).await
    }

    async fn trim(
        &self,
        channel: &ChannelName,
        upto: &Position,
    ) -> Result<Option<u64>, StoreError> {
        let keys = self.keys.of_channel(channel);
        let connection = self.nodes.connection(|| keys.topic().to_string())?;
        trim(&connection, &keys, upto).await
    }

    async fn delete(
        &self,
        channel: &ChannelName,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Position>, StoreError> {
        self.memberships.delete(channel, key).await
    }

    async fn summaries(
        &self,
        channels: &[ChannelName],
    ) -> Result<Vec<Option<ChannelSummary>>, StoreError> {
        let seen = self.look().of(channels).await?;
        Ok(seen.into_iter().map(Seen::existing).collect())
    }

    async fn channels(
        &self,
        prefix: &str,
        page: Option<&str>,
        limit: usize,
    ) -> Result<ChannelsPage, StoreError> {
        channels_page(&self.directory, &self.look(), prefix, page, limit).await
    }

    async fn sweep_directory(&self, part: usize) -> Result<u64, StoreError> {
        let quiet = self.directory.quiet(part).await?;
        let names: Vec<_> = quiet.iter().map(|(channel, _)| channel.clone()).collect();
        let seen = self.look().of(&names).await?;
        let (mut lives, mut ended) = (Vec::new(), Vec::new());
        for (entry, seen) in quiet.into_iter().zip(seen) {
            match seen {
                Seen::Exists(_) | Seen::Deleted => lives.push(entry.0),
                Seen::Nothing => ended.push(entry),
            }
        }
        // So that the next sweep meets others.
        let lives: Vec<_> = lives.iter().collect();
        self.directory.write(&lives).await;
        self.directory.forget(&ended).await
    }

    fn detached_life(&self) -> Duration {
        self.memberships.detached_life()
    }

    fn log_rule(&self, channel: &ChannelName) -> Option<String> {
        self.appending.rule_of(channel)
    }

    fn set_log_rules(&self, rules: Vec<LogRule>) {
        let options = StoreOptions {
            log_rules: rules,
            ..self.options.clone()
        };
        self.appending.set_rules(&options);
        self.directory.set_rules(&options);
        self.settings.lock().log_life = shortest_log_life(&options);
    }

    async fn probe(&self, probe: &Probe) -> Vec<Probed> {
        self.prober.probe(probe).await
    }

    fn settings(&self) -> StoreSettings {
        self.settings.lock().clone()
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.nodes.available()
    }
}
