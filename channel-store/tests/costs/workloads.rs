//! The ways of a message through the client of Redis, each as a function that can be repeated.

use super::fake::{EPOCH, FakeRedis, message};
use channel_store::redis::{RedisFeed, RedisStore};
use channel_store::{
    ChannelFeed, ChannelName, ChannelStore, FeedConnection, FeedSink, IdempotencyKey, Payload,
    Publication, Publish, Route, SessionId, StoreOptions, User, UserId,
};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::runtime::Runtime;
use tokio::task::yield_now;

/// The number of messages in one call, for paths that take several. It is typical of a busy system.
pub(crate) const TOGETHER: usize = 8;

const BODY: &str = r#"{"content":"a message of an ordinary length, as people write them to each other all day long in rooms like this","type":1}"#;
const ROOM: &str = "room";

/// A path that can be repeated.
pub(crate) struct Workload {
    /// Runs the path once.
    pub(crate) run: Box<dyn FnMut()>,
}

impl Workload {
    /// The workload of this name.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "redis-publish" => publish(1),
            "redis-publish-together" => publish(TOGETHER),
            "redis-push" => push(),
            _ => panic!("there is no workload {name}"),
        }
    }
}

fn channel() -> ChannelName {
    ChannelName::new(ROOM).expect("a name")
}

fn payload() -> Payload {
    let user = User {
        id: UserId::new("lin").expect("a name"),
        is_number: false,
    };
    let route = Route::new("onMessage").expect("a route");
    Payload::new(&route, &user, BODY.as_bytes())
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// From messages to a call of the script, over the connection, and from its answer to outcomes.
fn publish(together: usize) -> Workload {
    let runtime = runtime();
    let (store, publisher) = runtime.block_on(async {
        let redis = FakeRedis::begin().await;
        let store = RedisStore::open(&redis.url(), StoreOptions::default()).await;
        let store = store.expect("a store");
        let mut available = store.available();
        let up = available.wait_for(|up| *up).await;
        up.expect("the store is there");
        let publisher = store.publisher().expect("it is connected");
        (store, publisher)
    });
    let (mut number, user) = (0_u64, UserId::new("lin").expect("a name"));
    let session = SessionId::new("a-session-of-ordinary-length").expect("an id");
    let run = move || {
        let batch = (0..together).map(|_| {
            number += 1;
            let key = IdempotencyKey::new(format!("key-{number}"));
            Publish {
                key: Some(key.expect("a key")),
                session: Some(session.clone()),
                ..Publish::new(channel(), user.clone(), payload())
            }
        });
        let batch: Vec<_> = batch.collect();
        let outcomes = runtime.block_on(publisher.publish(batch));
        let outcomes = outcomes.expect("an answer");
        assert_eq!(outcomes.len(), together);
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        black_box(&store);
    };
    Workload { run: Box::new(run) }
}

/// Counts what a feed brings.
#[derive(Default)]
struct Counting {
    subscribed: AtomicBool,
    publications: AtomicUsize,
}

impl FeedSink for Counting {
    fn subscribed(&self, _: &FeedConnection, _: &ChannelName) {
        self.subscribed.store(true, Ordering::Relaxed);
    }

    fn publications(
        &self,
        _: &FeedConnection,
        _: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        for publication in run {
            black_box(&publication);
            self.publications.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// From the bytes of a connection to the sink of the feed. Each publication comes in a push of its own.
fn push() -> Workload {
    let runtime = runtime();
    let sink = Arc::<Counting>::default();
    let (redis, feed, pushes) = runtime.block_on(async {
        let redis = FakeRedis::begin().await;
        let feed = RedisFeed::open(&redis.url(), StoreOptions::default(), sink.clone()).await;
        let feed = feed.expect("a feed");
        feed.subscribe(&channel());
        while !sink.subscribed.load(Ordering::Relaxed) {
            yield_now().await;
        }
        let topic = redis.topic(TOPIC).expect("the feed has subscribed");
        let payload = payload();
        let pushes = (0..TOGETHER).flat_map(|number| {
            let head = format!("{EPOCH} {}-1795377365123\n", 1_000 + number);
            let content = [head.as_bytes(), payload.as_bytes()].concat();
            message(&topic, &content)
        });
        let pushes: Vec<u8> = pushes.collect();
        (redis, feed, pushes)
    });
    let mut expected = 0;
    let run = move || {
        assert!(redis.push(TOPIC, pushes.clone()), "the feed listens");
        expected += TOGETHER;
        runtime.block_on(async {
            while sink.publications.load(Ordering::Relaxed) < expected {
                yield_now().await;
            }
        });
        black_box(&feed);
    };
    Workload { run: Box::new(run) }
}

/// How the topic of the channel ends.
const TOPIC: &[u8] = b"{room}:t";
