//! Helpers for the tests of stores: stores to test, a sink that records, and short functions for common values.

mod recording_sink;

pub(crate) use recording_sink::{Received, RecordingSink};

use channel_store::memory::MemoryStore;
use channel_store::redis::{RedisFeed, RedisStore};
use channel_store::{
    ChannelFeed, ChannelName, ChannelStore, Continuity, Epoch, Hints, HistoryRange, IdempotencyKey,
    Inboxes, Incarnation, Join, Joined, Leases, Leave, LogPage, Membership, Payload, Position,
    Predecessor, PresentUser, Publication, Publish, Published, Route, SessionId, Since, StoreError,
    StoreOptions, User, UserId, UserInfo, UserRegistry, WatchFeed,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use testkit::cluster::Cluster;
use testkit::redis::Redis;
use tokio::sync::{Mutex, watch};

/// A limit for waits. Everything here is faster, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Memory,
    Redis,
    /// A cluster that several tests share.
    Cluster,
}

/// Flags of a cluster in which each shard serves its slots while other shards are down.
pub(crate) const PARTIAL: [&str; 2] = ["--cluster-require-full-coverage", "no"];

/// A cluster of three primaries. All tests that run at the same time share it.
pub(crate) async fn shared_cluster() -> Arc<Cluster> {
    static SHARED: Mutex<Weak<Cluster>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(cluster) = shared.upgrade() {
        return cluster;
    }
    let cluster = Arc::new(Cluster::of_primaries(3, &PARTIAL).await);
    *shared = Arc::downgrade(&cluster);
    cluster
}

/// A store under test. A test can open as many feeds of it as it needs.
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn ChannelStore>,
    pub(crate) leases: Arc<dyn Leases>,
    pub(crate) registry: Arc<dyn UserRegistry>,
    pub(crate) options: StoreOptions,
    backend: Backend,
}

enum Backend {
    Memory(Arc<MemoryStore>),
    Redis(Redis),
    Elsewhere {
        url: String,
        _servers: Option<Arc<Cluster>>,
    },
}

impl Subject {
    pub(crate) async fn new(kind: Kind) -> Self {
        Self::with(kind, StoreOptions::default()).await
    }

    pub(crate) async fn with(kind: Kind, options: StoreOptions) -> Self {
        match kind {
            Kind::Memory => {
                let store = MemoryStore::new(options.clone());
                Self {
                    store: store.clone(),
                    leases: store.leases(),
                    registry: store.registry(),
                    options,
                    backend: Backend::Memory(store),
                }
            }
            Kind::Redis => Self::on(Redis::without_persistence().await, options).await,
            Kind::Cluster => {
                let cluster = shared_cluster().await;
                // Many tests share the cluster, so each uses a prefix of its own.
                static TESTS: AtomicUsize = AtomicUsize::new(0);
                let prefix = format!("test-{}", TESTS.fetch_add(1, Ordering::Relaxed));
                let mut subject =
                    Self::at(&cluster.url(), StoreOptions { prefix, ..options }).await;
                if let Backend::Elsewhere { _servers, .. } = &mut subject.backend {
                    *_servers = Some(cluster);
                }
                subject
            }
        }
    }

    /// A store on servers that the test or another owner keeps running.
    pub(crate) async fn at(url: &str, options: StoreOptions) -> Self {
        let store = RedisStore::open(url, options.clone()).await.unwrap();
        Self {
            leases: store.leases(),
            registry: store.registry(),
            store: Arc::new(store),
            options,
            backend: Backend::Elsewhere {
                url: url.to_owned(),
                _servers: None,
            },
        }
    }

    pub(crate) async fn on(server: Redis, options: StoreOptions) -> Self {
        let store = RedisStore::open(&server.url(), options.clone())
            .await
            .unwrap();
        Self {
            leases: store.leases(),
            registry: store.registry(),
            store: Arc::new(store),
            options,
            backend: Backend::Redis(server),
        }
    }

    /// The URL of its server, if it has a server of its own.
    pub(crate) fn url(&self) -> Option<String> {
        match &self.backend {
            Backend::Redis(server) => Some(server.url()),
            Backend::Memory(_) | Backend::Elsewhere { .. } => None,
        }
    }

    pub(crate) fn server(&mut self) -> &mut Redis {
        match &mut self.backend {
            Backend::Redis(server) => server,
            _ => panic!("it has no server of its own"),
        }
    }

    pub(crate) fn memory(&self) -> &MemoryStore {
        match &self.backend {
            Backend::Memory(store) => store,
            _ => panic!("it is not a store in memory"),
        }
    }

    /// A feed, and the sink that it delivers to.
    pub(crate) async fn feed(&self) -> (Arc<dyn ChannelFeed>, Arc<RecordingSink>) {
        let sink = Arc::new(RecordingSink::default());
        let feed: Arc<dyn ChannelFeed> = match &self.backend {
            Backend::Memory(store) => store.feed(sink.clone()),
            Backend::Redis(server) => self.redis_feed(&server.url(), &sink).await,
            Backend::Elsewhere { url, .. } => self.redis_feed(url, &sink).await,
        };
        (feed, sink)
    }

    /// A feed that only looks at channels.
    pub(crate) async fn watch_feed(&self) -> (Arc<dyn WatchFeed>, Arc<RecordingSink>) {
        let sink = Arc::new(RecordingSink::default());
        let feed: Arc<dyn WatchFeed> = match &self.backend {
            Backend::Memory(store) => store.watch_feed(sink.clone()),
            Backend::Redis(server) => self.redis_feed(&server.url(), &sink).await,
            Backend::Elsewhere { url, .. } => self.redis_feed(url, &sink).await,
        };
        (feed, sink)
    }

    /// A connection for the hints between connectors.
    pub(crate) async fn hints(&self) -> Arc<dyn Hints> {
        let sink = Arc::new(RecordingSink::default());
        match &self.backend {
            Backend::Memory(store) => store.hints(),
            Backend::Redis(server) => self.redis_feed(&server.url(), &sink).await.hints(),
            Backend::Elsewhere { url, .. } => self.redis_feed(url, &sink).await.hints(),
        }
    }

    /// Letters to and from other processes.
    pub(crate) async fn inboxes(&self) -> Arc<dyn Inboxes> {
        let sink = Arc::new(RecordingSink::default());
        match &self.backend {
            Backend::Memory(store) => store.inboxes(),
            Backend::Redis(server) => self.redis_feed(&server.url(), &sink).await.inboxes(),
            Backend::Elsewhere { url, .. } => self.redis_feed(url, &sink).await.inboxes(),
        }
    }

    async fn redis_feed(&self, url: &str, sink: &Arc<RecordingSink>) -> Arc<RedisFeed> {
        let feed = RedisFeed::open(url, self.options.clone(), sink.clone()).await;
        Arc::new(feed.unwrap())
    }

    /// A feed that already follows a channel.
    pub(crate) async fn follow(&self, channel: &str) -> (Arc<dyn ChannelFeed>, Arc<RecordingSink>) {
        let (feed, sink) = self.feed().await;
        feed.subscribe(&name(channel));
        sink.until_subscribed(channel, 1).await;
        (feed, sink)
    }

    /// Publishes with a key and repeats it until enough replicas have it. On a busy machine half a second may be too
    /// short.
    pub(crate) async fn publish_until_acknowledged(&self, publish: Publish) -> Published {
        let begun = std::time::Instant::now();
        loop {
            match self.publish(publish.clone()).await {
                Err(StoreError::Unavailable(_)) if begun.elapsed() < Duration::from_secs(10) => {}
                answer => return answer.unwrap(),
            }
        }
    }

    pub(crate) async fn publish(&self, publish: Publish) -> Result<Published, StoreError> {
        self.store.publish(publish).await
    }

    pub(crate) async fn join(
        &self,
        channel: &str,
        user: &str,
        as_: Membership,
    ) -> Result<Joined, StoreError> {
        self.join_as(channel, text_user(user), as_).await
    }

    pub(crate) async fn join_as(
        &self,
        channel: &str,
        user: User,
        as_: Membership,
    ) -> Result<Joined, StoreError> {
        self.store.join(Join::new(name(channel), user, as_)).await
    }

    /// A join that tells something about the user.
    pub(crate) async fn join_with(
        &self,
        channel: &str,
        user: &str,
        as_: Membership,
        info: &str,
    ) -> Joined {
        let join = Join {
            info: Some(UserInfo::new(info).unwrap()),
            ..Join::new(name(channel), text_user(user), as_)
        };
        self.store.join(join).await.unwrap()
    }

    /// The join of a detached member that says how long it stays.
    pub(crate) async fn join_for(&self, channel: &str, user: &str, stay: Duration) -> Joined {
        let join = Join {
            stay: Some(stay),
            ..Join::new(name(channel), text_user(user), Membership::Detached)
        };
        self.store.join(join).await.unwrap()
    }

    /// A join that replaces other sessions, which are named with their incarnations.
    pub(crate) async fn replace(
        &self,
        channel: &str,
        user: &str,
        as_: Membership,
        replaces: &[(&str, &str)],
    ) -> Result<Joined, StoreError> {
        let replaces = replaces.iter().map(|(whose, session)| Predecessor {
            session: SessionId::new(*session).unwrap(),
            incarnation: incarnation(whose),
        });
        let join = Join {
            replaces: replaces.collect(),
            ..Join::new(name(channel), text_user(user), as_)
        };
        self.store.join(join).await
    }

    pub(crate) async fn leave(&self, channel: &str, user: &str, as_: Membership) -> bool {
        self.leave_fenced(channel, user, as_, false).await
    }

    pub(crate) async fn leave_fenced(
        &self,
        channel: &str,
        user: &str,
        as_: Membership,
        fence: bool,
    ) -> bool {
        let leave = Leave {
            channel: name(channel),
            user: text_user(user),
            membership: as_,
            fence,
        };
        self.store.leave(leave).await.unwrap()
    }

    /// All members with the number of their sessions, sorted.
    pub(crate) async fn members(&self, channel: &str) -> Vec<(String, u32)> {
        let users = self.users(channel).await.into_iter();
        users.map(|it| (it.id.to_string(), it.sessions)).collect()
    }

    /// All members with what is known of them, sorted.
    pub(crate) async fn users(&self, channel: &str) -> Vec<PresentUser> {
        let mut users = Vec::new();
        let mut page = None;
        loop {
            let channel = name(channel);
            let found = self.store.members(&channel, page.as_deref(), 100);
            let found = found.await.unwrap();
            users.extend(found.members);
            page = found.next;
            if page.is_none() {
                users.sort_by(|a, b| a.id.cmp(&b.id));
                return users;
            }
        }
    }

    /// Everything in a channel's log, read by another feed.
    pub(crate) async fn log(&self, channel: &str) -> Vec<Publication> {
        let (feed, _) = self.feed().await;
        let head = feed.read(&name(channel), &Since::Head, 0).await.unwrap();
        let start = Position {
            epoch: head.position.epoch,
            offset: 0,
        };
        let mut entries: Vec<Publication> = Vec::new();
        loop {
            let since = entries.last().map_or(&start, |it| &it.position).clone();
            let page = read(&*feed, channel, &since, 100).await;
            if page.entries.is_empty() {
                return entries;
            }
            entries.extend(page.entries);
        }
    }
}

pub(crate) async fn read(
    feed: &dyn ChannelFeed,
    channel: &str,
    since: &Position,
    limit: usize,
) -> LogPage {
    let since = Since::Position(since.clone());
    feed.read(&name(channel), &since, limit).await.unwrap()
}

/// The position at the end of a channel that does not exist.
pub(crate) fn no_position() -> Position {
    Position {
        epoch: Epoch::new(""),
        offset: 0,
    }
}

/// Makes every call that reads something of a channel that does not exist, except those of a feed that is about to
/// follow it.
pub(crate) async fn ask_about_unknown_channel(
    subject: &Subject,
    feed: &dyn ChannelFeed,
    channel: &str,
) {
    let unknown = Position {
        epoch: Epoch::new("another"),
        offset: 7,
    };
    let channel = name(channel);
    for (range, continuity) in [
        (HistoryRange::Oldest, Continuity::Contiguous),
        (HistoryRange::Newest, Continuity::Contiguous),
        (HistoryRange::After(no_position()), Continuity::Contiguous),
        (HistoryRange::After(unknown.clone()), Continuity::Unknown),
        (HistoryRange::UpTo(unknown.clone()), Continuity::Unknown),
    ] {
        let page = subject.store.history(&channel, &range, 10).await.unwrap();
        let answer = (page.continuity, page.position);
        assert_eq!(answer, (continuity, no_position()), "{range:?}");
        assert_eq!(page.entries, []);
    }
    for (since, continuity) in [
        (no_position(), Continuity::Contiguous),
        (unknown, Continuity::Unknown),
    ] {
        for limit in [0, 10] {
            let page = read(feed, channel.as_str(), &since, limit).await;
            assert_eq!(
                (page.continuity, page.position),
                (continuity, no_position())
            );
            assert_eq!((page.last, page.entries.len()), (0, 0));
        }
    }
    let members = subject.store.members(&channel, None, 10).await.unwrap();
    assert_eq!((members.members.len(), members.users), (0, 0));
    assert_eq!(subject.store.expire(&channel).await.unwrap(), None);
    let channels = [channel.clone()];
    assert_eq!(feed.heads(&channels).await.unwrap(), [None]);
    assert_eq!(feed.touch(&channels).await.unwrap(), [None]);
    let leases = &subject.leases;
    let nobody = incarnation("nobody");
    assert!(leases.incarnations_in(&channel).await.unwrap().is_empty());
    assert!(leases.list(&nobody, &channel).await.unwrap().is_empty());
    let look = leases.presence(&nobody, &channels).await.unwrap().remove(0);
    assert_eq!((look.sessions, look.tombstoned), (0, false));
    let leave = session_of("nobody", "s", 1);
    assert!(!subject.leave(channel.as_str(), "u", leave).await);
}

pub(crate) fn name(channel: &str) -> ChannelName {
    ChannelName::new(channel).unwrap()
}

pub(crate) fn text_user(user: &str) -> User {
    User {
        id: UserId::new(user).unwrap(),
        is_number: false,
    }
}

pub(crate) fn number_user(user: &str) -> User {
    User {
        is_number: true,
        ..text_user(user)
    }
}

pub(crate) fn incarnation(name: &str) -> Incarnation {
    Incarnation::new(name).unwrap()
}

/// A session of the usual connector.
pub(crate) fn session(session: &str, operation: u64) -> Membership {
    session_of("connector-1/aa", session, operation)
}

/// A session of another connector.
pub(crate) fn session_of(incarnation: &str, session: &str, operation: u64) -> Membership {
    Membership::Session {
        incarnation: self::incarnation(incarnation),
        session: SessionId::new(session).unwrap(),
        operation,
    }
}

/// A message of a back end.
pub(crate) fn message(channel: &str, user: &str, body: &str) -> Publish {
    bytes_message(channel, user, body.as_bytes())
}

pub(crate) fn bytes_message(channel: &str, user: &str, body: &[u8]) -> Publish {
    let route = Route::new("onMessage").unwrap();
    let payload = Payload::new(&route, &text_user(user), body);
    Publish::new(name(channel), UserId::new(user).unwrap(), payload)
}

pub(crate) fn with_key(mut publish: Publish, key: &str) -> Publish {
    publish.key = Some(IdempotencyKey::new(key).unwrap());
    publish
}

/// To be stored only if the log ends there.
pub(crate) fn expecting(mut publish: Publish, end: &Position) -> Publish {
    publish.expected = Some(end.clone());
    publish
}

/// For those who are there now.
pub(crate) fn ephemeral(mut publish: Publish) -> Publish {
    publish.ephemeral = true;
    publish
}

/// To be stored only if its user is a member.
pub(crate) fn from_member(mut publish: Publish) -> Publish {
    publish.require_member = true;
    publish
}

pub(crate) fn from_session(mut publish: Publish, session: &str) -> Publish {
    publish.session = Some(SessionId::new(session).unwrap());
    publish
}

/// Each publication as `route body`.
pub(crate) fn said(publications: &[Publication]) -> Vec<String> {
    publications
        .iter()
        .map(|it| {
            format!(
                "{} {}",
                it.payload.route(),
                String::from_utf8_lossy(it.payload.body())
            )
        })
        .collect()
}

pub(crate) fn offsets(publications: &[Publication]) -> Vec<u64> {
    publications.iter().map(|it| it.position.offset).collect()
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(
            start.elapsed() < PATIENCE,
            "this did not happen in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a store or feed is available, or is not.
pub(crate) async fn until_available_is(
    mut available: watch::Receiver<bool>,
    wanted: bool,
    within: Duration,
) {
    let wait = available.wait_for(|it| *it == wanted);
    let in_time = tokio::time::timeout(within, wait).await.is_ok();
    assert!(
        in_time,
        "available did not become {wanted} within {within:?}"
    );
}

/// Repeats a publication until it is answered. Until then, every answer must say that the store is unavailable.
pub(crate) async fn publish_until_answered(
    subject: &Subject,
    channel: &str,
    body: &str,
) -> Published {
    let start = Instant::now();
    loop {
        let message = with_key(message(channel, "u", body), body);
        match subject.publish(message).await {
            Ok(published) => return published,
            Err(StoreError::Unavailable(_)) => {
                assert!(
                    start.elapsed() < PATIENCE,
                    "the store did not become available again"
                );
            }
            Err(other) => panic!("{other}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
