//! Chat watches channels for those who are no members: it hears of channels that begin, and it only looks.

use crate::conformance::conformance;
use crate::support::{
    Kind, Subject, eventually, message, name, no_position, offsets, read, session,
};
use channel_store::{
    Birth, Births, Continuity, DIRECTORY_PARTS, Look, Membership, StoreOptions, WatchFeed,
};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

conformance! {
    a_channel_that_begins_is_heard_of_with_its_first_publication_or_join
    watching_only_looks
    a_look_tells_the_end_and_the_life_of_each_channel_in_their_order
    what_is_watched_is_heard_from_the_first_publication_of_each_life
    the_directory_is_read_part_by_part
}

async fn next(births: &mut Births) -> Birth {
    let birth = timeout(Duration::from_secs(20), births.next()).await;
    birth.expect("a birth is told in time")
}

async fn look(feed: &dyn WatchFeed, channel: &str) -> Look {
    feed.look(&[name(channel)]).await.unwrap().remove(0)
}

async fn a_channel_that_begins_is_heard_of_with_its_first_publication_or_join(kind: Kind) {
    let subject = Subject::new(kind).await;
    subject.publish(message("old", "u", "{}")).await.unwrap();
    let (feed, _sink) = subject.watch_feed().await;
    let mut births = feed.births();
    assert_eq!(next(&mut births).await, Birth::Missed);
    subject.publish(message("old", "u", "{}")).await.unwrap();
    subject.publish(message("4", "u", "{}")).await.unwrap();
    assert_eq!(next(&mut births).await, Birth::Of(name("4")));
    subject.publish(message("4", "u", "{}")).await.unwrap();
    subject.join("{5}", "u", session("s", 1)).await.unwrap();
    assert_eq!(next(&mut births).await, Birth::Of(name("{5}")));
}

async fn watching_only_looks(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, sink) = subject.watch_feed().await;
    feed.subscribe(&name("4"));
    sink.until_subscribed("4", 1).await;
    let seen = look(&*feed, "4").await;
    assert_eq!((seen.head.position, seen.life), (no_position(), None));
    let page = read(&*feed, "4", &no_position(), 10).await;
    assert_eq!(page.continuity, Continuity::Contiguous);
    let summary = subject.store.summaries(&[name("4")]).await.unwrap();
    assert_eq!(summary, [None], "nothing has begun because of it");

    let first = subject.publish(message("4", "u", "{}")).await.unwrap();
    let heard = sink.until_publications("4", 1).await;
    assert_eq!(heard[0].position, first.position);
    let page = read(&*feed, "4", &no_position(), 10).await;
    assert_eq!(page.continuity, Continuity::Contiguous);
    assert_eq!(offsets(&page.entries), [1]);
}

async fn a_look_tells_the_end_and_the_life_of_each_channel_in_their_order(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (feed, _sink) = subject.watch_feed().await;
    let mut ends = Vec::new();
    for n in 0..20 {
        let channel = format!("room {n}");
        let published = subject.publish(message(&channel, "u", "{}")).await.unwrap();
        ends.push(published.position);
    }
    // Nothing but a join: it expires sooner.
    subject.join("empty", "u", session("s", 1)).await.unwrap();
    let left = subject.leave("empty", "u", session("s", 2)).await;
    assert!(left);
    let mut names: Vec<_> = (0..20).map(|n| name(&format!("room {n}"))).collect();
    names.push(name("nowhere"));
    names.push(name("empty"));
    let looks = feed.look(&names).await.unwrap();
    let lifetime = &looks[0].head.lifetime;
    for (look, end) in looks.iter().zip(&ends) {
        assert_eq!(look.head.position, *end);
        let life = look.life.unwrap();
        let day = Duration::from_secs(24 * 3600);
        assert!(
            life > day / 2 && life <= day + Duration::from_secs(60),
            "{life:?}"
        );
    }
    let [nowhere, empty] = &looks[20..] else {
        panic!("an answer for each channel");
    };
    assert_eq!(
        (&nowhere.head.position, nowhere.life),
        (&no_position(), None)
    );
    assert_eq!(empty.head.position.offset, 2);
    assert!(empty.life.unwrap() <= Duration::from_secs(120));
    if !matches!(kind, Kind::Cluster) {
        assert_eq!(nowhere.head.lifetime, *lifetime);
    }
}

async fn what_is_watched_is_heard_from_the_first_publication_of_each_life(kind: Kind) {
    // Small enough to see a life end. A detached member ends at once.
    let options = StoreOptions {
        log_life: Duration::from_secs(1),
        channel_life: Duration::from_secs(1),
        key_life: Duration::from_millis(100),
        tombstone_life: Duration::from_millis(100),
        ..StoreOptions::default()
    };
    let subject = Subject::with(kind, options).await;
    let (feed, sink) = subject.watch_feed().await;
    feed.subscribe(&name("4"));
    sink.until_subscribed("4", 1).await;
    let first = subject.publish(message("4", "u", "{}")).await.unwrap();
    eventually("the channel expires although it is watched", async || {
        // The store in memory looks after idle channels when others are used.
        subject.join("5", "u", Membership::Detached).await.unwrap();
        look(&*feed, "4").await.life.is_none()
    })
    .await;
    let second = subject.publish(message("4", "u", "{}")).await.unwrap();
    assert_eq!(second.position.offset, 1);
    assert_ne!(second.position.epoch, first.position.epoch);
    let heard = sink.until_publications("4", 2).await;
    assert_eq!(heard[1].position, second.position);
}

async fn the_directory_is_read_part_by_part(kind: Kind) {
    let subject = Subject::new(kind).await;
    let mut wanted = BTreeSet::new();
    for n in 0..200 {
        let channel = format!("room:{n}");
        subject.publish(message(&channel, "u", "{}")).await.unwrap();
        wanted.insert(name(&channel));
    }
    subject.publish(message("other", "u", "{}")).await.unwrap();
    let (feed, _sink) = subject.watch_feed().await;
    for limit in [2, 1_000] {
        let mut found = Vec::new();
        for part in 0..DIRECTORY_PARTS {
            let mut after: Option<String> = None;
            loop {
                let page = feed.noted(part, "room:", after.as_deref(), limit).await;
                let page = page.unwrap();
                assert!(page.channels.len() <= limit);
                found.extend(page.channels);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        assert_eq!(found.len(), wanted.len(), "each comes once");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
    }
}

#[tokio::test]
async fn a_look_does_not_prolong_the_life_of_a_channel() {
    let mut subject = Subject::new(Kind::Redis).await;
    subject.publish(message("4", "u", "{}")).await.unwrap();
    let (feed, _sink) = subject.watch_feed().await;
    assert_eq!(subject.server().number("PEXPIRE gc:{4}:m 50000"), 1);
    for _ in 0..3 {
        let life = look(&*feed, "4").await.life.unwrap();
        assert!(life <= Duration::from_secs(50) && life > Duration::from_secs(20));
    }
    assert!(subject.server().number("PTTL gc:{4}:m") <= 50_000);
}

#[tokio::test]
async fn after_a_restart_of_redis_births_may_have_been_missed() {
    let mut subject = Subject::new(Kind::Redis).await;
    let (feed, _sink) = subject.watch_feed().await;
    let mut births = feed.births();
    assert_eq!(next(&mut births).await, Birth::Missed);
    subject.server().restart().await;
    assert_eq!(next(&mut births).await, Birth::Missed);
}
