//! What time does to channels in memory (Redis's own clock can't be turned; the rules are the same), and what threads do.

use crate::support::{Kind, Subject, message, name, read, session, with_key};
use channel_store::memory::MemoryStore;
use channel_store::{
    ChannelName, ChannelStore, FeedConnection, FeedSink, Publication, Since, Standing, StoreError,
    StoreOptions,
};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use tokio::time::advance;

#[tokio::test(start_paused = true)]
async fn a_key_is_remembered_for_its_life_and_forgotten_after_twice_that() {
    let subject = Subject::new(Kind::Memory).await;
    let life = subject.options.key_life;
    let publish = || with_key(message("4", "u", "a"), "k");
    // In the midst of a window of time, so that its life ends in the next.
    advance(life / 2).await;
    let first = subject.publish(publish()).await.unwrap();
    advance(life - Duration::from_millis(1)).await;
    assert_eq!(
        subject.publish(publish()).await.unwrap().position,
        first.position
    );
    advance(life + Duration::from_millis(1)).await;
    assert_eq!(subject.publish(publish()).await.unwrap().position.offset, 2);
}

#[tokio::test(start_paused = true)]
async fn a_tombstone_ends_with_its_time() {
    let subject = Subject::new(Kind::Memory).await;
    let life = subject.options.tombstone_life;
    subject.leave_fenced("4", "u", session("s", 2), true).await;
    advance(life - Duration::from_millis(1)).await;
    assert_eq!(
        subject.join("4", "u", session("s", 1)).await,
        Err(StoreError::StaleOperation)
    );
    advance(Duration::from_millis(1)).await;
    assert!(subject.join("4", "u", session("s", 1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_old_log_loses_its_content_and_goes_on_counting() {
    let options = StoreOptions {
        log_life: Duration::from_secs(10),
        ..StoreOptions::default()
    };
    let subject = Subject::with(Kind::Memory, options).await;
    let (feed, _ear) = subject.feed().await;
    let first = subject
        .publish(message("4", "u", "a"))
        .await
        .unwrap()
        .position;
    let second = subject
        .publish(message("4", "u", "b"))
        .await
        .unwrap()
        .position;
    advance(Duration::from_secs(10)).await;
    assert_eq!(
        read(&*feed, "4", &first, 10).await.standing,
        Standing::Trimmed
    );
    assert_eq!(
        read(&*feed, "4", &second, 10).await.standing,
        Standing::Exact
    );
    let head = feed.read(&name("4"), &Since::Head, 0).await.unwrap();
    assert_eq!(head.position, second);
    assert_eq!(
        subject
            .publish(message("4", "u", "c"))
            .await
            .unwrap()
            .position
            .offset,
        3
    );
}

#[tokio::test(start_paused = true)]
async fn a_channel_with_a_member_is_never_forgotten() {
    let subject = Subject::new(Kind::Memory).await;
    let joined = subject.join("4", "u", session("s", 1)).await.unwrap();
    for _ in 0..10 {
        advance(subject.options.channel_life).await;
        subject.publish(message("5", "u", "a")).await.unwrap();
    }
    assert_eq!(subject.members("4").await, [("u".to_owned(), 1)]);
    assert_eq!(
        subject.join("4", "u", session("s", 1)).await.unwrap(),
        joined
    );
}

/// Makes whoever delivers the first publication wait, to see whether another overtakes it.
struct Slow {
    heard: Mutex<Vec<u64>>,
    second: Condvar,
    delivering: Sender<()>,
}

impl FeedSink for Slow {
    fn subscribed(&self, _: &FeedConnection, _: &ChannelName) {}

    fn publication(&self, _: &FeedConnection, _: &ChannelName, publication: Publication) {
        let mut heard = self.heard.lock();
        if publication.position.offset == 1 {
            self.delivering.send(()).unwrap();
            self.second.wait_for(&mut heard, Duration::from_millis(100));
        }
        heard.push(publication.position.offset);
        self.second.notify_all();
    }
}

#[test]
fn what_is_published_by_several_threads_is_delivered_in_the_logs_order_f6() {
    let store = MemoryStore::new(StoreOptions::default());
    let (delivering, is_delivering) = channel();
    let slow = Arc::new(Slow {
        heard: Mutex::default(),
        second: Condvar::new(),
        delivering,
    });
    let feed = store.feed(slow.clone());
    feed.subscribe(&name("4"));
    let publish = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime
            .block_on(store.publish(message("4", "u", "a")))
            .unwrap();
    };
    std::thread::scope(|scope| {
        scope.spawn(publish);
        is_delivering.recv().unwrap();
        publish();
    });
    assert_eq!(*slow.heard.lock(), [1, 2]);
}
