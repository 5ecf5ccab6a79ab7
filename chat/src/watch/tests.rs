//! Watchers over the store in memory. Time is paused: it moves on when everybody waits.

use super::*;
use async_trait::async_trait;
use channel_store::memory::{MemoryStore, Snapshot};
use channel_store::{
    Births, ChannelFeed, ChannelStore, Continuity, Head, LogPage, Look, Membership, NotedPage,
    Payload, Position, Publish, Route, Since, StoreError, StoreOptions, User, UserId,
};
use futures_util::future::FutureExt;
use runtime::Shutdown;
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::watch;
use tokio::time::{Instant, advance, sleep, timeout};

/// One chat's way to the store, which can lose what is announced and counts what is read.
struct Way {
    feed: Arc<dyn WatchFeed>,
    loses: Arc<AtomicBool>,
    loses_births: Arc<AtomicBool>,
    reads: AtomicUsize,
    /// True while the store can be reached, as far as chat knows.
    available: watch::Sender<bool>,
}

#[async_trait]
impl ChannelFeed for Way {
    fn subscribe(&self, channel: &ChannelName) {
        self.feed.subscribe(channel);
    }

    fn unsubscribe(&self, channel: &ChannelName) {
        self.feed.unsubscribe(channel);
    }

    async fn read(
        &self,
        channel: &ChannelName,
        since: &Since,
        limit: usize,
    ) -> Result<LogPage, StoreError> {
        assert_ne!(*since, Since::Head, "that would begin a life");
        self.reads.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        self.feed.read(channel, since, limit).await
    }

    async fn read_back(
        &self,
        channel: &ChannelName,
        upto: &Position,
        limit: usize,
    ) -> Result<Vec<Publication>, StoreError> {
        self.feed.read_back(channel, upto, limit).await
    }

    async fn heads(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        self.feed.heads(channels).await
    }

    async fn touch(&self, _: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        panic!("watchers touch nothing")
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }
}

#[async_trait]
impl WatchFeed for Way {
    async fn look(&self, channels: &[ChannelName]) -> Result<Vec<Look>, StoreError> {
        tokio::task::yield_now().await;
        self.feed.look(channels).await
    }

    fn births(&self) -> Births {
        if self.loses_births.load(Ordering::Relaxed) {
            // Those of a store in which nothing happens.
            let other = MemoryStore::new(StoreOptions::default());
            return other.watch_feed(Arc::new(Watching::default())).births();
        }
        self.feed.births()
    }

    async fn noted(
        &self,
        part: usize,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<NotedPage, StoreError> {
        self.feed.noted(part, prefix, after, limit).await
    }
}

/// Passes on what is announced, unless it is lost.
struct Lossy {
    sink: Arc<Watching>,
    loses: Arc<AtomicBool>,
}

impl FeedSink for Lossy {
    fn subscribed(&self, connection: &FeedConnection, channel: &ChannelName) {
        self.sink.subscribed(connection, channel);
    }

    fn publications(
        &self,
        connection: &FeedConnection,
        channel: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        if !self.loses.load(Ordering::Relaxed) {
            self.sink.publications(connection, channel, run);
        }
    }
}

/// A chat as far as watchers need it.
struct Chat {
    watching: Arc<Watching>,
    way: Arc<Way>,
    places: WatchPlaces,
    shutdown: Shutdown,
}

impl Chat {
    fn over(store: &MemoryStore, channel_life: Duration) -> Self {
        let watching = Watching::new(channel_life);
        let loses = Arc::<AtomicBool>::default();
        let sink = Lossy {
            sink: Arc::clone(&watching),
            loses: Arc::clone(&loses),
        };
        let way = Arc::new(Way {
            feed: store.watch_feed(Arc::new(sink)),
            loses,
            loses_births: Arc::default(),
            reads: AtomicUsize::new(0),
            available: watch::Sender::new(true),
        });
        watching.follow(way.clone());
        Self {
            watching,
            way,
            places: WatchPlaces::new(10_000),
            shutdown: Shutdown::new(),
        }
    }

    fn watch(&self, plan: Plan) -> Watched {
        let place = self.places.enter(&Caller::in_process()).unwrap();
        let shutdown = self.shutdown.clone();
        let ending = async move {
            shutdown.requested().await;
            Error::ShuttingDown
        };
        let watcher = self.watching.watch(plan, place, ending.boxed());
        Watched {
            watcher: watcher.unwrap(),
            places: BTreeMap::new(),
        }
    }

    fn reads(&self) -> usize {
        self.way.reads.load(Ordering::Relaxed)
    }
}

/// A watcher, and the places that it would store.
struct Watched {
    watcher: Watcher,
    places: BTreeMap<ChannelName, Position>,
}

impl Watched {
    /// The next event but a progress, whose places are stored.
    async fn next(&mut self) -> Event {
        loop {
            let next = timeout(Duration::from_secs(300), self.watcher.next()).await;
            match next.expect("something is told").unwrap().unwrap() {
                Event::Progress(places) => self.places.extend(places),
                event => return event,
            }
        }
    }

    /// The next event as a short text.
    async fn told(&mut self) -> String {
        text(&self.next().await)
    }

    async fn all(&mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        while all.len() < count {
            all.push(self.told().await);
        }
        all
    }

    /// Lets some time pass, in which nothing must be told but places.
    async fn hears_nothing(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Ok(event) = tokio::time::timeout_at(until, self.watcher.next()).await {
            match event.unwrap().unwrap() {
                Event::Progress(places) => self.places.extend(places),
                other => panic!("{}", text(&other)),
            }
        }
    }
}

fn text(event: &Event) -> String {
    match event {
        Event::Started => "started".into(),
        Event::Opened(channel, at) => format!("{channel} opened at {}", at.offset),
        Event::Publication(channel, it) => {
            let body = String::from_utf8_lossy(it.payload.body());
            format!("{channel} {} {body}", it.position.offset)
        }
        Event::Gap(channel, why, at) => format!("{channel} {why:?} {}", at.offset),
        Event::Ended(channel) => format!("{channel} ended"),
        Event::Progress(_) => "progress".into(),
    }
}

fn name(channel: &str) -> ChannelName {
    ChannelName::new(channel).unwrap()
}

fn user() -> User {
    User {
        id: UserId::new("u").unwrap(),
        is_number: false,
    }
}

async fn publish_as(store: &MemoryStore, channel: &str, route: &str, body: &str) -> Position {
    let payload = Payload::new(&Route::new(route).unwrap(), &user(), body.as_bytes());
    let publish = Publish::new(name(channel), user().id, payload);
    store.publish(publish).await.unwrap().position
}

async fn publish(store: &MemoryStore, channel: &str, body: impl ToString) -> Position {
    publish_as(store, channel, "onMessage", &body.to_string()).await
}

fn named(channels: &[(&str, Begin)]) -> Plan {
    let places = channels.iter();
    Plan {
        places: places
            .map(|(it, begin)| (name(it), begin.clone()))
            .collect(),
        ..Plan::default()
    }
}

fn prefixed(prefix: &str, others: Begin) -> Plan {
    Plan {
        prefix: Some(prefix.into()),
        others,
        ..Plan::default()
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

fn store() -> (Arc<MemoryStore>, Chat) {
    let store = MemoryStore::new(StoreOptions::default());
    let chat = Chat::over(&store, DAY);
    (store, chat)
}

#[tokio::test(start_paused = true)]
async fn what_is_published_is_given_in_order_and_then_the_place_is_told() {
    let (store, chat) = store();
    publish(&store, "4", 1).await;
    let mut watched = chat.watch(named(&[("4", Begin::Now), ("5", Begin::Now)]));
    let mut start = watched.all(3).await;
    start[..2].sort();
    assert_eq!(start, ["4 opened at 1", "5 opened at 0", "started"]);
    for n in 2..=4 {
        publish(&store, "4", n).await;
    }
    let last = publish(&store, "5", "x").await;
    let mut told = watched.all(4).await;
    told.sort();
    assert_eq!(told, ["4 2 2", "4 3 3", "4 4 4", "5 1 x"]);
    watched.hears_nothing(Duration::from_secs(100)).await;
    assert_eq!(watched.places[&name("5")], last);
    assert_eq!(watched.places[&name("4")].offset, 4);
    assert_eq!(chat.reads(), 1, "only the life of 5 was read");

    // A place that was told is told again when it has changed.
    let last = publish(&store, "4", 5).await;
    assert_eq!(watched.told().await, "4 5 5");
    watched.hears_nothing(Duration::from_secs(3)).await;
    assert_eq!(watched.places[&name("4")], last);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_the_store_is_away_for_a_minute_and_not_before() {
    const NEARLY: Duration = Duration::from_secs(55);
    let (_store, chat) = store();
    let mut watched = chat.watch(named(&[("4", Begin::Now)]));
    assert_eq!(watched.all(2).await, ["4 opened at 0", "started"]);
    for is_available in [false, true, false] {
        chat.way.available.send_replace(is_available);
        watched.hears_nothing(NEARLY).await;
    }
    let error = timeout(NEARLY, watched.watcher.next()).await;
    let error = error.expect("it ends").unwrap().unwrap_err();
    assert!(
        matches!(error, Error::Store(StoreError::Unavailable(_))),
        "{error}"
    );
    assert_eq!(watched.watcher.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn one_watch_may_follow_a_bounded_number_of_channels() {
    let (_store, chat) = store();
    let plan = |channels: usize| Plan {
        places: (0..channels)
            .map(|it| (name(&it.to_string()), Begin::Now))
            .collect(),
        ..Plan::default()
    };
    let watch = |channels| {
        let place = chat.places.enter(&Caller::in_process()).unwrap();
        let begun = chat
            .watching
            .watch(plan(channels), place, pending().boxed());
        begun.map(drop)
    };
    assert_eq!(watch(MOST), Ok(()));
    assert_eq!(watch(MOST + 1), Err(Error::PrefixTooWide { most: MOST }));
    assert!(chat.watching.channels.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_watch_can_begin_with_the_oldest_publication_or_with_the_first() {
    let store = MemoryStore::new(StoreOptions {
        log_entries: 3,
        log_keep: Duration::ZERO,
        ..StoreOptions::default()
    });
    let chat = Chat::over(&store, DAY);
    for n in 1..=5 {
        publish(&store, "4", n).await;
    }
    let mut oldest = chat.watch(named(&[("4", Begin::Oldest)]));
    assert_eq!(
        oldest.all(5).await,
        ["started", "4 opened at 2", "4 3 3", "4 4 4", "4 5 5"]
    );
    let mut first = chat.watch(named(&[("4", Begin::First)]));
    assert_eq!(
        first.all(4).await,
        ["started", "4 opened at 0", "4 Trimmed 2", "4 3 3"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_is_given_pages_of_the_log_and_holds_little_meanwhile() {
    let (store, chat) = store();
    let mut slow = chat.watch(named(&[("4", Begin::Now)]));
    let mut quick = chat.watch(named(&[("4", Begin::Now)]));
    for watched in [&mut slow, &mut quick] {
        assert_eq!(watched.all(2).await, ["4 opened at 0", "started"]);
    }
    let large = "x".repeat(2_000);
    for n in 1..=2_000 {
        publish(&store, "4", format!("{n} {large}")).await;
        assert!(quick.told().await.starts_with(&format!("4 {n} ")));
    }
    assert!(chat.reads() <= 2, "{}", chat.reads());
    for n in 1..=2_000 {
        assert!(slow.told().await.starts_with(&format!("4 {n} ")), "{n}");
        let held = slow.watcher.held();
        assert!(held <= 192 << 10, "{held} bytes");
    }
    assert!(chat.reads() > 20, "{}", chat.reads());
    publish(&store, "4", "live").await;
    assert_eq!(slow.told().await, "4 2001 live");
}

/// Where they have no room any more, watchers read the log.
#[tokio::test(start_paused = true)]
async fn what_is_kept_of_all_channels_is_bounded_and_nothing_is_lost_by_that() {
    const CHANNELS: usize = 600;
    let (store, chat) = store();
    let names: Vec<_> = (0..CHANNELS).map(|it| it.to_string()).collect();
    let places: Vec<_> = names.iter().map(|it| (it.as_str(), Begin::Now)).collect();
    let mut slow = chat.watch(named(&places));
    slow.all(CHANNELS + 1).await;
    let large = "x".repeat(60_000);
    for number in 1..=2 {
        for name in &names {
            publish(&store, name, format!("{number} {large}")).await;
            // Until everybody waits, so that it has arrived.
            sleep(Duration::from_millis(1)).await;
        }
    }
    let kept = chat.watching.channels.ring_bytes();
    assert!((32 << 20..=64 << 20).contains(&kept), "{kept} bytes");
    let mut told = BTreeMap::<_, Vec<_>>::new();
    for _ in 0..2 * CHANNELS {
        let Event::Publication(channel, it) = slow.next().await else {
            panic!("something else");
        };
        told.entry(channel).or_default().push(it.position.offset);
    }
    assert_eq!(told.len(), CHANNELS);
    assert!(told.values().all(|it| *it == [1, 2]), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_log_does_not_hold_any_more_is_told_as_a_gap() {
    let store = MemoryStore::new(StoreOptions {
        log_entries: 700,
        log_keep: Duration::ZERO,
        ..StoreOptions::default()
    });
    let chat = Chat::over(&store, DAY);
    let mut watched = chat.watch(named(&[("4", Begin::Now)]));
    assert_eq!(watched.all(2).await, ["4 opened at 0", "started"]);
    for n in 1..=2_000 {
        publish(&store, "4", n).await;
    }
    assert_eq!(watched.told().await, "4 Trimmed 1300");
    for n in 1_301..=2_000 {
        assert_eq!(watched.told().await, format!("4 {n} {n}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_watchers_of_one_channel_cost_no_read_of_their_own() {
    let (store, chat) = store();
    publish(&store, "4", 0).await;
    let mut all: Vec<_> = (0..1_000)
        .map(|_| chat.watch(named(&[("4", Begin::Now)])))
        .collect();
    for watched in &mut all {
        assert_eq!(watched.all(2).await, ["4 opened at 1", "started"]);
    }
    for n in 2..=20 {
        publish(&store, "4", n).await;
    }
    for watched in &mut all {
        for n in 2..=20 {
            assert_eq!(watched.told().await, format!("4 {n} {n}"));
        }
    }
    for watched in &mut all {
        watched.hears_nothing(Duration::from_millis(1)).await;
    }
    assert_eq!(chat.reads(), 0);
    assert_eq!(
        chat.watching.channels.ring_bytes(),
        0,
        "all have everything"
    );
    drop(all);
    assert!(chat.watching.channels.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_announcement_that_is_lost_is_read_before_anything_newer_is_given() {
    let (store, chat) = store();
    let mut watched = chat.watch(named(&[("4", Begin::Now)]));
    publish(&store, "4", 1).await;
    watched.all(2).await;
    let before = chat.reads();
    chat.way.loses.store(true, Ordering::Relaxed);
    publish(&store, "4", 2).await;
    publish(&store, "4", 3).await;
    chat.way.loses.store(false, Ordering::Relaxed);
    publish(&store, "4", 4).await;
    let mut told = watched.all(3).await;
    if told[0] == "4 1 1" {
        told.remove(0);
        told.push(watched.told().await);
    }
    assert_eq!(told, ["4 2 2", "4 3 3", "4 4 4"]);
    assert!(chat.reads() > before);

    // Nothing newer comes: a look finds the last one.
    chat.way.loses.store(true, Ordering::Relaxed);
    publish(&store, "4", 5).await;
    let lost = Instant::now();
    assert_eq!(watched.told().await, "4 5 5");
    assert!(lost.elapsed() <= 2 * LOOK_INTERVAL);
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_from_the_log_is_not_given_from_memory() {
    let (store, chat) = store();
    let first = publish(&store, "4", 1).await;
    // It takes nothing, so that everything stays in the ring.
    let mut slow = chat.watch(named(&[("4", Begin::Now)]));
    slow.all(2).await;
    publish(&store, "4", 2).await;
    let trimmed = publish(&store, "4", 3).await;
    publish(&store, "4", 4).await;
    store.trim(&name("4"), &trimmed).await.unwrap();
    let mut watched = chat.watch(named(&[("4", Begin::After(first))]));
    assert_eq!(
        watched.all(4).await,
        ["started", "4 opened at 1", "4 Trimmed 3", "4 4 4"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_loses_nothing_is_not_noticed() {
    let (store, chat) = store();
    let mut watched = chat.watch(named(&[("4", Begin::Now)]));
    watched.all(2).await;
    for n in 1..=10 {
        publish(&store, "4", n).await;
        if n % 3 == 0 {
            store.restart(None);
        }
    }
    for n in 1..=10 {
        assert_eq!(watched.told().await, format!("4 {n} {n}"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_given_and_is_lost_by_the_store_is_told() {
    let (store, chat) = store();
    let mut watched = chat.watch(named(&[("4", Begin::Now), ("5", Begin::Now)]));
    watched.all(3).await;
    publish(&store, "4", 1).await;
    assert_eq!(watched.told().await, "4 1 1");
    let snapshot = store.snapshot();
    publish(&store, "4", 2).await;
    assert_eq!(watched.told().await, "4 2 2");
    publish(&store, "5", 1).await;
    assert_eq!(watched.told().await, "5 1 1");
    store.restart(Some(snapshot));
    let mut told = watched.all(2).await;
    told.sort();
    assert_eq!(told, ["4 Diverged 1", "5 Diverged 0"]);
    publish(&store, "4", "again").await;
    assert_eq!(watched.told().await, "4 2 again");
    // All is wiped.
    store.restart(Some(Snapshot::default()));
    let mut told = watched.all(2).await;
    told.sort();
    assert_eq!(told, ["4 Unknown 0", "5 Unknown 0"]);
    publish(&store, "4", "new").await;
    assert_eq!(watched.told().await, "4 1 new");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_goes_on_from_its_stored_places_on_another_chat() {
    let (store, chat) = store();
    for n in 1..=3 {
        publish(&store, "room:a", n).await;
    }
    let mut watched = chat.watch(prefixed("room:", Begin::Now));
    assert_eq!(watched.all(2).await, ["room:a opened at 3", "started"]);
    publish(&store, "room:a", 4).await;
    publish(&store, "room:b", 1).await;
    let mut told = watched.all(3).await;
    told.sort();
    assert_eq!(told, ["room:a 4 4", "room:b 1 1", "room:b opened at 0"]);
    watched.hears_nothing(Duration::from_secs(3)).await;
    let places = std::mem::take(&mut watched.places);
    assert_eq!(places.len(), 2);
    drop(watched);

    publish(&store, "room:a", 5).await;
    publish(&store, "room:c", 1).await;
    let other = Chat::over(&store, DAY);
    let mut plan = prefixed("room:", Begin::First);
    let places = places.into_iter();
    plan.places = places.map(|(it, at)| (it, Begin::After(at))).collect();
    let mut watched = other.watch(plan);
    let mut told = watched.all(6).await;
    told.sort();
    assert_eq!(
        told,
        [
            "room:a 5 5",
            "room:a opened at 4",
            "room:b opened at 1",
            "room:c 1 1",
            "room:c opened at 0",
            "started"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_begins_during_a_watch_is_given_from_its_first_publication() {
    let (store, chat) = store();
    let mut watched = chat.watch(prefixed("room:", Begin::Now));
    assert_eq!(watched.told().await, "started");
    for channel in ["room:1", "other", "room:2"] {
        for n in 1..=3 {
            publish(&store, channel, n).await;
        }
    }
    let mut told = watched.all(8).await;
    told.sort();
    let expected = |channel| {
        [
            format!("{channel} 1 1"),
            format!("{channel} 2 2"),
            format!("{channel} 3 3"),
            format!("{channel} opened at 0"),
        ]
    };
    assert_eq!(told, [expected("room:1"), expected("room:2")].concat());
    watched.hears_nothing(Duration::from_secs(100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_channel_whose_birth_was_not_heard_is_found_in_the_directory() {
    let (store, chat) = store();
    chat.way.loses_births.store(true, Ordering::Relaxed);
    let mut watched = chat.watch(prefixed("room:", Begin::Now));
    assert_eq!(watched.told().await, "started");
    publish(&store, "room:1", 1).await;
    publish(&store, "room:1", 2).await;
    let born = Instant::now();
    assert_eq!(
        watched.all(3).await,
        ["room:1 opened at 0", "room:1 1 1", "room:1 2 2"]
    );
    assert!(born.elapsed() < Duration::from_secs(35));
}

/// A store whose channels expire after this time, and a chat.
fn short_lived(life: Duration) -> (Arc<MemoryStore>, Chat) {
    let store = MemoryStore::new(StoreOptions {
        log_life: life,
        channel_life: life,
        key_life: Duration::from_secs(1),
        tombstone_life: Duration::from_secs(1),
        ..StoreOptions::default()
    });
    let chat = Chat::over(&store, life);
    (store, chat)
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_expires_has_ended_and_is_opened_again_when_it_begins_again() {
    let (store, chat) = short_lived(Duration::from_secs(60));
    let mut named_one = chat.watch(named(&[("room:1", Begin::Now)]));
    let mut prefix = chat.watch(prefixed("room:", Begin::Now));
    named_one.all(2).await;
    assert_eq!(prefix.told().await, "started");
    publish(&store, "room:1", 1).await;
    assert_eq!(named_one.told().await, "room:1 1 1");
    assert_eq!(prefix.all(2).await, ["room:1 opened at 0", "room:1 1 1"]);
    let mut lives = 1;
    for pause in [100, 1_000, 61] {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(pause) {
            // The store looks after idle channels when others are used.
            publish(&store, "other", 0).await;
            advance(Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
        }
        lives += 1;
        publish(&store, "room:1", lives).await;
        let expected = [
            "room:1 ended".to_owned(),
            "room:1 opened at 0".to_owned(),
            format!("room:1 1 {lives}"),
        ];
        assert_eq!(named_one.all(3).await, expected, "after {pause} s");
        assert_eq!(prefix.all(3).await, expected, "after {pause} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_channel_without_messages_expires_after_two_minutes_and_that_is_no_loss() {
    let (store, chat) = store();
    let mut watched = chat.watch(named(&[("4", Begin::Now)]));
    watched.all(2).await;
    let join = channel_store::Join::new(name("4"), user(), Membership::Detached);
    store.join(join).await.unwrap();
    let leave = channel_store::Leave {
        channel: name("4"),
        user: user(),
        membership: Membership::Detached,
        fence: false,
    };
    store.leave(leave).await.unwrap();
    assert!(watched.told().await.starts_with("4 1 "));
    assert!(watched.told().await.starts_with("4 2 "));
    for _ in 0..200 {
        publish(&store, "other", 0).await;
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(watched.told().await, "4 ended");
}

#[tokio::test(start_paused = true)]
async fn routes_that_were_not_asked_for_are_passed_over_and_count_as_seen() {
    let (store, chat) = store();
    let mut plan = named(&[("4", Begin::Now)]);
    plan.routes.insert("wanted".into());
    let mut watched = chat.watch(plan);
    watched.all(2).await;
    publish_as(&store, "4", "wanted", "1").await;
    let last = publish_as(&store, "4", "other", "2").await;
    assert_eq!(watched.told().await, "4 1 1");
    watched.hears_nothing(Duration::from_secs(5)).await;
    assert_eq!(watched.places[&name("4")], last);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_has_to_end_tells_its_places_first() {
    let (store, chat) = store();
    let mut watched = chat.watch(named(&[("4", Begin::Now)]));
    watched.all(2).await;
    let last = publish(&store, "4", 1).await;
    assert_eq!(watched.told().await, "4 1 1");
    chat.shutdown.request();
    let place = (name("4"), last);
    let told = watched.watcher.next().await.unwrap();
    assert_eq!(told, Ok(Event::Progress(vec![place])), "where it goes on");
    let ended = watched.watcher.next().await.unwrap();
    assert_eq!(ended, Err(Error::ShuttingDown));
    assert_eq!(watched.watcher.next().await.transpose(), Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_caller_may_have_half_of_all_watches() {
    let places = WatchPlaces::new(4);
    let caller = Caller::in_process();
    let two = [(); 2].map(|()| places.enter(&caller).unwrap());
    assert_eq!(places.enter(&caller).err(), Some(Error::Overloaded));
    assert!(places.enter(&Caller::in_process()).is_ok());
    drop(two);
    assert!(places.enter(&caller).is_ok());
}

/// Random histories: publications, announcements that are lost, restarts with and without loss, watchers that come, go on
/// from stored places, and are slow. Every publication that the store still has is given once and in order, unless a gap was
/// told right there; and a gap is told only where something was lost.
#[tokio::test(start_paused = true)]
async fn no_history_has_an_untold_gap() {
    let mut gaps = 0;
    for seed in 0..60 {
        fastrand::seed(seed);
        // Nothing is trimmed.
        let store = MemoryStore::new(StoreOptions {
            log_entries: 1_000_000,
            ..StoreOptions::default()
        });
        let chat = Chat::over(&store, DAY);
        let lossless = seed % 2 == 0;
        let mut watched = chat.watch(prefixed("", Begin::First));
        let mut given: BTreeMap<ChannelName, Position> = BTreeMap::new();
        let mut count = 0;
        let mut snapshot = store.snapshot();
        for _ in 0..120 {
            match fastrand::u32(..12) {
                0 => chat.way.loses.store(true, Ordering::Relaxed),
                1 | 2 => chat.way.loses.store(false, Ordering::Relaxed),
                3 if lossless => store.restart(None),
                3 => store.restart(Some(snapshot.clone())),
                4 => snapshot = store.snapshot(),
                5 => {
                    let places = given.iter();
                    let places = places.map(|(it, at)| (it.clone(), Begin::After(at.clone())));
                    let mut plan = prefixed("", Begin::First);
                    plan.places = places.collect();
                    watched = chat.watch(plan);
                }
                6 | 7 => {
                    let time = Duration::from_millis(fastrand::u64(..60_000));
                    let until = Instant::now() + time;
                    while let Ok(event) =
                        tokio::time::timeout_at(until, watched.watcher.next()).await
                    {
                        gaps += check(&mut given, event.unwrap().unwrap(), lossless);
                    }
                }
                _ => {
                    let channel = ["a", "b", "c"][fastrand::usize(..3)];
                    for _ in 0..fastrand::u32(1..200) {
                        count += 1;
                        publish(&store, channel, count).await;
                    }
                }
            }
        }
        chat.way.loses.store(false, Ordering::Relaxed);
        while let Ok(event) = timeout(Duration::from_secs(200), watched.watcher.next()).await {
            gaps += check(&mut given, event.unwrap().unwrap(), lossless);
        }
        let names: Vec<_> = given.keys().cloned().collect();
        for (name, summary) in names.iter().zip(store.summaries(&names).await.unwrap()) {
            let end = summary.map(|it| it.end);
            let own = Some(given[name].clone()).filter(|it| it.offset > 0);
            assert_eq!(own, end, "seed {seed}: the watcher is at the end of {name}");
        }
    }
    assert!(gaps > 10, "{gaps} gaps were told");
}

fn check(given: &mut BTreeMap<ChannelName, Position>, event: Event, lossless: bool) -> usize {
    match event {
        Event::Publication(channel, it) => {
            let own = given.get(&channel).map_or(0, |it| it.offset);
            assert_eq!(it.position.offset, own + 1, "{channel}");
            given.insert(channel, it.position);
            0
        }
        Event::Gap(channel, why, at) => {
            assert!(!lossless, "{channel} {why:?}");
            assert_ne!(why, Continuity::Contiguous);
            given.insert(channel, at);
            1
        }
        Event::Opened(channel, at) => {
            given.entry(channel).or_insert(at);
            0
        }
        Event::Ended(channel) => panic!("{channel} has not expired"),
        Event::Started | Event::Progress(_) => 0,
    }
}
