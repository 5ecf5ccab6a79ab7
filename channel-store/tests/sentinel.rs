//! Redis with Sentinel: the store uses the primary that the Sentinels name.

use crate::support::{
    Subject, eventually, message, name, publish_until_answered, until_available_is,
};
use channel_store::StoreOptions;
use std::time::{Duration, Instant};
use testkit::redis::Redis;
use testkit::sentinels::{sentinel_of, url_of};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn after_a_failover_the_promoted_replica_is_used_within_seconds() {
    let mut primary = Redis::without_persistence().await;
    let replica = Redis::replica_of(primary.address()).await;
    let sentinel = sentinel_of(&primary).await;
    eventually("the Sentinel knows the replica", async || {
        sentinel.text("INFO sentinel").contains("slaves=1")
    })
    .await;
    let subject = Subject::at(&url_of(&[&sentinel]), StoreOptions::default()).await;
    let (feed, sink) = subject.follow("4").await;
    publish_until_answered(&subject, "4", "before").await;

    primary.freeze();
    let start = Instant::now();
    publish_until_answered(&subject, "4", "after").await;
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert!(replica.text("INFO replication").contains("role:master"));
    sink.until_subscribed("4", 2).await;
    until_available_is(feed.available(), true, SOON).await;
    primary.kill();
}

#[tokio::test]
async fn a_primary_that_sentinels_no_longer_name_is_left_even_if_it_answers() {
    let (old, new) = (
        Redis::without_persistence().await,
        Redis::without_persistence().await,
    );
    let sentinel = sentinel_of(&old).await;
    let subject = Subject::at(&url_of(&[&sentinel]), StoreOptions::default()).await;
    let (_feed, sink) = subject.follow("4").await;
    let publisher = subject.store.publisher().unwrap();
    subject.publish(message("4", "u", "old")).await.unwrap();

    sentinel.say("SENTINEL REMOVE main");
    sentinel.say(&format!("SENTINEL MONITOR main 127.0.0.1 {} 1", new.port()));
    let second = sink.until_subscribed("4", 2).await;
    assert_ne!(second.lifetime, sink.confirmations("4")[0].lifetime);
    eventually("the new primary has a publication", async || {
        let _ = subject.publish(message("4", "u", "new")).await;
        !new.keys().iter().all(|key| key == "gc:schema")
    })
    .await;
    assert!(
        publisher
            .publish(vec![message("4", "u", "late")])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_sentinel_that_is_frozen_or_down_is_skipped() {
    let server = Redis::without_persistence().await;
    let mut sentinels = Vec::new();
    for _ in 0..3 {
        sentinels.push(sentinel_of(&server).await);
    }
    sentinels[0].freeze();
    sentinels[1].kill();
    let [frozen, away, well] = &sentinels[..] else {
        unreachable!()
    };
    let subject = Subject::at(&url_of(&[frozen, away, well]), StoreOptions::default()).await;
    assert!(
        *subject.store.available().borrow(),
        "it is available at the first attempt"
    );
    let (feed, _) = subject.follow("4").await;
    assert!(
        feed.read(&name("4"), &channel_store::Since::Head, 0)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn sentinels_can_have_their_own_password() {
    let server = Redis::without_persistence().await;
    let sentinel = sentinel_of(&server).await;
    server.say("ACL SETUSER default resetpass >servers");
    sentinel.say("ACL SETUSER default resetpass >sentinels");
    let known = format!(
        "redis+sentinel://:servers@127.0.0.1:{}/main?sentinel-password=sentinels",
        sentinel.port()
    );
    let subject = Subject::at(&known, StoreOptions::default()).await;
    subject.publish(message("4", "u", "x")).await.unwrap();
    let unknown = known.replace("=sentinels", "=wrong");
    let subject = Subject::at(&unknown, StoreOptions::default()).await;
    assert!(subject.store.publisher().is_err());
}
