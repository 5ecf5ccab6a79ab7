//! What happens to channels in memory as time passes, and when several threads publish. The rules of time are the same
//! on Redis, but its clock can't be moved.

use crate::support::{Kind, Subject, from_session, message, name, read, session, with_key};
use channel_store::memory::{MemoryStore, Snapshot};
use channel_store::{
    ChannelName, ChannelStore, Continuity, FeedConnection, FeedSink, Incarnation, Publication,
    Renewed, Since, StoreError, StoreOptions,
};
use futures_util::FutureExt;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use tokio::time::advance;

#[tokio::test(start_paused = true)]
async fn a_key_is_remembered_for_its_life_and_forgotten_after_twice_its_life() {
    let subject = Subject::new(Kind::Memory).await;
    let life = subject.options.key_life;
    let publish = || with_key(message("4", "u", "a"), "k");
    // Begin in the middle of a window of time, so that the life of the key ends in the next window.
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
async fn a_tombstone_ends_after_its_life() {
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
async fn an_old_log_loses_its_entries_and_its_offsets_go_on() {
    let options = StoreOptions {
        log_life: Duration::from_secs(10),
        ..StoreOptions::default()
    };
    let subject = Subject::with(Kind::Memory, options).await;
    let (feed, _sink) = subject.feed().await;
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
        read(&*feed, "4", &first, 10).await.continuity,
        Continuity::Trimmed
    );
    assert_eq!(
        read(&*feed, "4", &second, 10).await.continuity,
        Continuity::Contiguous
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
async fn a_channel_with_a_member_never_expires() {
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

#[tokio::test]
async fn a_restart_with_the_same_data_begins_an_epoch_and_loses_nothing() {
    let subject = Subject::new(Kind::Memory).await;
    let (feed, sink) = subject.follow("4").await;
    let joined = subject.join("4", "u", session("s", 1)).await.unwrap();
    let say = || with_key(message("4", "u", "a"), "k");
    let before = subject.publish(say()).await.unwrap().position;
    let first = sink.until_subscribed("4", 1).await;

    subject.memory().restart(None);
    let second = sink.until_subscribed("4", 2).await;
    assert_eq!(second.number, first.number + 1);
    assert_ne!(second.lifetime, first.lifetime);
    let head = feed.heads(&[name("4")]).await.unwrap().remove(0).unwrap();
    assert_eq!(
        (&head.position, head.lifetime),
        (&before, second.lifetime.clone())
    );
    assert_eq!(
        subject.publish(say()).await.unwrap().position,
        before,
        "the idempotency key is still known"
    );

    let after = subject
        .publish(message("4", "u", "b"))
        .await
        .unwrap()
        .position;
    assert_eq!(after.offset, before.offset + 1);
    assert_ne!(after.epoch, before.epoch);
    let page = read(&*feed, "4", &joined.position, 10).await;
    assert_eq!(page.continuity, Continuity::Contiguous);
    let found: Vec<_> = page.entries.iter().map(|it| &it.position).collect();
    assert_eq!(found, [&before, &after], "each entry has its own epoch");
    assert_eq!(page.lifetime, second.lifetime);
    assert_eq!(
        subject.join("4", "u", session("s", 1)).await.unwrap(),
        joined
    );
    assert_eq!(
        sink.until_publications("4", 3)
            .await
            .last()
            .unwrap()
            .position,
        after
    );
}

#[tokio::test]
async fn after_a_restored_snapshot_lost_positions_have_diverged() {
    let subject = Subject::new(Kind::Memory).await;
    let (feed, sink) = subject.follow("4").await;
    let mut old = Vec::new();
    let mut replica = None;
    for n in 1..=5 {
        if n == 4 {
            replica = Some(subject.memory().snapshot());
            subject.join("4", "late", session("s", 1)).await.unwrap();
        }
        let key = format!("{n}");
        let say = with_key(message("4", "u", &key), &key);
        old.push(subject.publish(say).await.unwrap().position);
    }
    subject.memory().restart(replica);
    let continuity = async |position| {
        let page = read(&*feed, "4", position, 10).await;
        (page.continuity, page.position.offset)
    };
    // This also holds before the first new publication.
    assert_eq!(continuity(&old[4]).await, (Continuity::Diverged, 3));
    assert_eq!(continuity(&old[2]).await, (Continuity::Contiguous, 3));
    assert_eq!(subject.members("4").await, []);

    // A key is known if its publication is.
    for (n, offset) in [(3, 3), (4, 4), (5, 5)] {
        let key = format!("{n}");
        let say = with_key(message("4", "u", &key), &key);
        let again = subject.publish(say).await.unwrap();
        assert_eq!((again.position.offset, again.repeated), (offset, n == 3));
        assert_eq!(again.position.epoch == old[0].epoch, n == 3);
    }
    assert_eq!(continuity(&old[3]).await, (Continuity::Diverged, 3));
    assert_eq!(continuity(&old[4]).await, (Continuity::Diverged, 3));
    assert_eq!(continuity(&old[2]).await, (Continuity::Contiguous, 3));
    assert_eq!(sink.until_subscribed("4", 2).await.number, 2);

    subject.memory().restart(Some(Snapshot::default()));
    assert_eq!(continuity(&old[2]).await, (Continuity::Unknown, 0));
    let reborn = subject.publish(message("4", "u", "a")).await.unwrap();
    assert_eq!(reborn.position.offset, 1);
    assert_eq!(sink.until_subscribed("4", 3).await.number, 3);
}

#[tokio::test]
async fn a_position_that_diverged_below_the_first_held_offset_is_unknown() {
    let options = StoreOptions {
        log_entries: 2,
        log_keep: Duration::ZERO,
        ..StoreOptions::default()
    };
    let subject = Subject::with(Kind::Memory, options).await;
    let (feed, _sink) = subject.feed().await;
    let say = async || subject.publish(message("4", "u", "a")).await.unwrap();
    for _ in 1..=3 {
        say().await;
    }
    let replica = subject.memory().snapshot();
    say().await;
    let lost = say().await.position;
    subject.memory().restart(Some(replica));
    let page = read(&*feed, "4", &lost, 0).await;
    assert_eq!(
        (page.continuity, page.position.offset),
        (Continuity::Diverged, 3)
    );
    for _ in 4..=8 {
        say().await;
    }
    let page = read(&*feed, "4", &lost, 0).await;
    assert_eq!(
        (page.continuity, page.position.offset),
        (Continuity::Unknown, 6)
    );
}

#[tokio::test]
async fn a_log_remembers_64_epochs_and_only_those_with_held_offsets() {
    let options = StoreOptions {
        log_entries: 100,
        log_keep: Duration::ZERO,
        ..StoreOptions::default()
    };
    let subject = Subject::with(Kind::Memory, options).await;
    let (feed, _sink) = subject.feed().await;
    let mut positions = Vec::new();
    for _ in 0..70 {
        positions.push(
            subject
                .publish(message("4", "u", "a"))
                .await
                .unwrap()
                .position,
        );
        subject.memory().restart(None);
    }
    let continuity = async |position| read(&*feed, "4", position, 0).await.continuity;
    assert_eq!(continuity(&positions[5]).await, Continuity::Unknown);
    assert_eq!(continuity(&positions[6]).await, Continuity::Contiguous);
    assert_eq!(continuity(&positions[69]).await, Continuity::Contiguous);
    // The epoch of the offset right before the first held one is still known. If more is trimmed, it is not.
    for _ in 0..95 {
        subject.publish(message("4", "u", "a")).await.unwrap();
    }
    subject.memory().restart(None);
    subject.publish(message("4", "u", "a")).await.unwrap();
    assert_eq!(continuity(&positions[63]).await, Continuity::Unknown);
    assert_eq!(continuity(&positions[65]).await, Continuity::Contiguous);
}

#[test]
fn a_run_with_the_same_seed_has_the_same_result() {
    let run = || {
        fastrand::seed(7);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.unwrap().block_on(async {
            let subject = Subject::new(Kind::Memory).await;
            let (_feed, sink) = subject.follow("4").await;
            for n in 0..20 {
                let publish = message(&format!("{n}"), "u", "a");
                subject.publish(publish).await.unwrap();
            }
            let replica = subject.memory().snapshot();
            subject.memory().restart(Some(Snapshot::default()));
            subject.memory().restart(Some(replica));
            let last = subject.publish(message("7", "u", "b")).await.unwrap();
            (last.position, sink.confirmations("4"))
        })
    };
    assert_eq!(run(), run());
}

/// Blocks the delivery of the first publication for a moment, to see whether another one overtakes it.
struct SlowSink {
    heard: Mutex<Vec<u64>>,
    second: Condvar,
    delivering: Sender<()>,
}

impl FeedSink for SlowSink {
    fn subscribed(&self, _: &FeedConnection, _: &ChannelName) {}

    fn publications(
        &self,
        _: &FeedConnection,
        _: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        for publication in run {
            let mut heard = self.heard.lock();
            if publication.position.offset == 1 {
                self.delivering.send(()).unwrap();
                self.second.wait_for(&mut heard, Duration::from_millis(100));
            }
            heard.push(publication.position.offset);
            self.second.notify_all();
        }
    }
}

#[test]
fn publications_of_two_threads_are_delivered_in_the_order_of_the_log_f06() {
    let store = MemoryStore::new(StoreOptions::default());
    let (delivering, is_delivering) = channel();
    let slow = Arc::new(SlowSink {
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

/// Records the runs that it receives.
#[derive(Default)]
struct RunSink {
    heard: Mutex<Vec<(ChannelName, Vec<u64>)>>,
}

impl FeedSink for RunSink {
    fn subscribed(&self, _: &FeedConnection, _: &ChannelName) {}

    fn publications(
        &self,
        _: &FeedConnection,
        channel: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        let run = run.map(|it| it.position.offset).collect();
        self.heard.lock().push((channel.clone(), run));
    }
}

#[tokio::test]
async fn publications_of_one_call_in_a_channel_are_delivered_as_one_run() {
    let store = MemoryStore::new(StoreOptions::default());
    let runs = Arc::new(RunSink::default());
    let feed = store.feed(runs.clone());
    feed.subscribe(&name("4"));
    feed.subscribe(&name("5"));
    let stranger = from_session(message("4", "u", "x"), "stranger");
    let batch = vec![
        message("4", "u", "a"),
        message("5", "u", "b"),
        stranger,
        message("4", "u", "c"),
        message("6", "u", "d"),
    ];
    let publisher = store.publisher().unwrap();
    let outcomes = publisher.publish(batch).await.unwrap();
    assert_eq!(outcomes[2], Err(StoreError::NotMember));
    store.publish(message("4", "u", "e")).await.unwrap();
    let expected = [("4", vec![1, 2]), ("5", vec![1]), ("4", vec![3])];
    let expected = expected.map(|(channel, run)| (name(channel), run));
    assert_eq!(*runs.heard.lock(), expected);
}

/// Blocks the first delivery until the test lets it go on.
struct BlockedSink {
    runs: RunSink,
    is_delivering: Sender<()>,
    go_on: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl FeedSink for BlockedSink {
    fn subscribed(&self, _: &FeedConnection, _: &ChannelName) {}

    fn publications(
        &self,
        connection: &FeedConnection,
        channel: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        if self.runs.heard.lock().is_empty() {
            self.is_delivering.send(()).unwrap();
            self.go_on.lock().recv().unwrap();
        }
        self.runs.publications(connection, channel, run);
    }
}

#[tokio::test]
async fn during_a_delivery_63_publications_do_not_wait_and_the_next_one_does() {
    let store = MemoryStore::new(StoreOptions::default());
    let (is_delivering, delivering) = channel();
    let (go_on, goes_on) = channel();
    let sink = Arc::new(BlockedSink {
        runs: RunSink::default(),
        is_delivering,
        go_on: Mutex::new(goes_on),
    });
    let feed = store.feed(sink.clone());
    feed.subscribe(&name("4"));
    let first = std::thread::spawn({
        let store = store.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime
                .block_on(store.publish(message("4", "u", "a")))
                .unwrap();
        }
    });
    delivering.recv().unwrap();
    for offset in 2..=64 {
        let published = store.publish(message("4", "u", "a")).await.unwrap();
        assert_eq!(published.position.offset, offset);
    }
    let mut waiting = Box::pin(store.publish(message("4", "u", "a")));
    let is_pending = (&mut waiting).now_or_never().is_none();
    assert!(is_pending, "the queue of the delivery is full");
    let other = store.publish(message("5", "u", "a"));
    assert!(other.await.is_ok(), "another channel has its own queue");
    go_on.send(()).unwrap();
    assert_eq!(waiting.await.unwrap().position.offset, 65);
    first.join().unwrap();
    let runs = [vec![1], (2..=64).collect(), vec![65]];
    let runs = runs.map(|run| (name("4"), run));
    assert_eq!(*sink.runs.heard.lock(), runs);
}

/// Panics at the first publication.
#[derive(Default)]
struct PanickingSink {
    runs: RunSink,
    has_panicked: std::sync::atomic::AtomicBool,
}

impl FeedSink for PanickingSink {
    fn subscribed(&self, _: &FeedConnection, _: &ChannelName) {}

    fn publications(
        &self,
        connection: &FeedConnection,
        channel: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        let has_panicked = self
            .has_panicked
            .swap(true, std::sync::atomic::Ordering::Relaxed);
        assert!(has_panicked, "this sink panics once");
        self.runs.publications(connection, channel, run);
    }
}

#[tokio::test]
async fn a_sink_that_panics_affects_only_its_caller() {
    let store = MemoryStore::new(StoreOptions::default());
    let sink = Arc::new(PanickingSink::default());
    let feed = store.feed(sink.clone());
    feed.subscribe(&name("4"));
    let publish = {
        let store = store.clone();
        async move { store.publish(message("4", "u", "a")).await }
    };
    assert!(tokio::spawn(publish).await.unwrap_err().is_panic());
    store.publish(message("4", "u", "b")).await.unwrap();
    assert_eq!(*sink.runs.heard.lock(), [(name("4"), vec![2])]);
}

#[test]
fn publications_of_many_threads_are_all_delivered_in_order() {
    const THREADS: u64 = 4;
    const EACH: u64 = 2_000;
    let store = MemoryStore::new(StoreOptions::default());
    let runs = Arc::new(RunSink::default());
    let feed = store.feed(runs.clone());
    feed.subscribe(&name("4"));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    for _ in 0..EACH {
                        store.publish(message("4", "u", "a")).await.unwrap();
                    }
                });
            });
        }
    });
    let heard = runs.heard.lock();
    let offsets = heard.iter().flat_map(|(_, run)| run.iter().copied());
    assert!(offsets.eq(1..=THREADS * EACH));
}

#[tokio::test(start_paused = true)]
async fn a_channel_with_only_joins_and_leaves_expires_after_two_minutes() {
    let subject = Subject::new(Kind::Memory).await;
    let (feed, _sink) = subject.feed().await;
    let joined = subject.join("4", "u", session("s", 1)).await.unwrap();
    let said = subject.publish(message("5", "u", "a")).await.unwrap();
    advance(Duration::from_secs(1_000)).await;
    subject.join("4", "v", session("t", 2)).await.unwrap();
    subject.leave("4", "v", session("t", 3)).await;
    subject.leave_fenced("4", "u", session("s", 4), true).await;
    let continuity = async |channel, position| {
        // Operations in another channel let the store remove expired channels.
        for _ in 0..3 {
            let join = subject.join("elsewhere", "u", session("w", 1));
            join.await.unwrap();
        }
        read(&*feed, channel, position, 10).await.continuity
    };
    advance(Duration::from_secs(119)).await;
    assert_eq!(
        continuity("4", &joined.position).await,
        Continuity::Contiguous
    );
    advance(Duration::from_secs(122)).await;
    assert_eq!(continuity("4", &joined.position).await, Continuity::Unknown);
    let late = subject.join("4", "u", session("s", 1)).await;
    let too_late = Err(StoreError::StaleOperation);
    assert_eq!(late, too_late, "the tombstone still exists");
    assert_eq!(
        continuity("5", &said.position).await,
        Continuity::Contiguous
    );
    advance(Duration::from_secs(500)).await;
    assert_eq!(continuity("4", &joined.position).await, Continuity::Unknown);
    let heads = feed.heads(&[name("4")]).await.unwrap();
    assert_eq!(heads, [None], "nothing of the channel is left");
}

#[tokio::test(start_paused = true)]
async fn a_beat_grows_even_if_the_clock_is_set_back() {
    let store = MemoryStore::new(StoreOptions::default());
    let (leases, held) = (store.leases(), Incarnation::new("c:1").unwrap());
    let mut last = 0;
    for step in [0, -300_000, -15_000, 300_000] {
        store.set_clock(Some(held.as_str()), step);
        let renewed = leases.renew(&held, Duration::from_secs(10)).await.unwrap();
        let (Renewed::Live(term) | Renewed::Lost(term)) = renewed else {
            panic!("it is dead");
        };
        assert_eq!(
            term.until,
            store.clock(held.as_str()) + 10_000,
            "the clock of this connector counts"
        );
        let state = leases.observe(std::slice::from_ref(&held)).await.remove(0);
        let beat = state.unwrap().unwrap().beat;
        assert!(beat > last);
        last = beat;
    }
}

/// Measures how long a publication takes if several threads publish, in channels of their own or in shared ones.
#[test]
#[ignore = "it only measures"]
fn throughput_of_several_threads() {
    const EACH: usize = 300_000;
    for threads in [1, 2, 4] {
        for shared in [false, true] {
            let store = MemoryStore::new(StoreOptions::default());
            let feed = store.feed(Arc::new(CountingSink::default()));
            let begun = std::time::Instant::now();
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let (store, feed) = (&store, &feed);
                    scope.spawn(move || {
                        let runtime = tokio::runtime::Builder::new_current_thread().build();
                        let own = if shared { 0 } else { thread };
                        let publish: Vec<_> = (0..64)
                            .map(|n| message(&format!("{own}-{n}"), "u", "{\"content\":\"hello\"}"))
                            .collect();
                        for publish in &publish {
                            feed.subscribe(&publish.channel);
                        }
                        runtime.unwrap().block_on(async {
                            for n in 0..EACH {
                                let publish = publish[n % publish.len()].clone();
                                store.publish(publish).await.unwrap();
                            }
                        });
                    });
                }
            });
            let each = begun.elapsed() / u32::try_from(threads * EACH).unwrap();
            println!("{threads} threads, shared channels {shared}: {each:?} for each publication");
        }
    }
}

/// Does a little work for each publication, as a hub does.
#[derive(Default)]
struct CountingSink(std::sync::atomic::AtomicU64);

impl FeedSink for CountingSink {
    fn subscribed(&self, _: &FeedConnection, _: &ChannelName) {}

    fn publications(
        &self,
        _: &FeedConnection,
        _: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        for publication in run {
            let sum: u64 = (0..200)
                .map(|n| std::hint::black_box(n) ^ publication.position.offset)
                .sum();
            self.0.fetch_add(sum, std::sync::atomic::Ordering::Relaxed);
        }
    }
}
