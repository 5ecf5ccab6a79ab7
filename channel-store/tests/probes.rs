//! Probes: publications that show whether publications of chat arrive at a connector.

use crate::support::{PARTIAL, RecordingSink, Subject, until_available_is};
use channel_store::probe::{Probe, ProbeFeed, ProbeFound, ProbeOutcome, Probed, SLOTS};
use channel_store::redis::RedisFeed;
use channel_store::{ChannelFeed, ChannelStore, Position, StoreOptions};
use std::sync::Arc;
use std::time::Duration;
use testkit::cluster::Cluster;
use testkit::redis::Redis;
use testkit::relay::Relay;

const SOON: Duration = Duration::from_secs(10);

/// A feed at this URL that is available.
async fn feed_at(url: &str, options: &StoreOptions) -> RedisFeed {
    let feed = RedisFeed::open(url, options.clone(), Arc::new(RecordingSink::default())).await;
    let feed = feed.unwrap();
    until_available_is(feed.available(), true, SOON).await;
    feed
}

/// Publishes a probe in each set that the feed listens to. Returns the sets and the outcomes.
async fn probe(store: &dyn ChannelStore, feed: &RedisFeed, nonce: u64) -> Vec<(u64, Probed)> {
    let sets: Vec<u64> = feed.points().iter().map(|point| point.set).collect();
    assert!(!sets.is_empty());
    let probe = Probe {
        sets: sets.clone(),
        nonce,
    };
    sets.into_iter().zip(store.probe(&probe).await).collect()
}

fn written(probed: &Probed) -> &Position {
    match &probed.outcome {
        ProbeOutcome::Written(position) => position,
        other => panic!("the probe was not written: {other:?}"),
    }
}

#[tokio::test]
async fn a_feed_meets_only_probes_under_its_own_prefix_and_in_its_own_database() {
    let options = StoreOptions::default();
    let subject = Subject::on(Redis::without_persistence().await, options.clone()).await;
    let url = subject.url().unwrap();
    until_available_is(subject.store.available(), true, SOON).await;
    let elsewhere = StoreOptions {
        prefix: "other".into(),
        ..options.clone()
    };
    let here = feed_at(&url, &options).await;
    let other_prefix = feed_at(&url, &elsewhere).await;
    let other_database = feed_at(&format!("{url}/3"), &options).await;
    for (feed, expected) in [
        (&here, ProbeFound::Yes),
        (&other_prefix, ProbeFound::No { heard: false }),
        (&other_database, ProbeFound::No { heard: true }),
    ] {
        for nonce in 1..4 {
            for (set, probed) in probe(&*subject.store, feed, nonce).await {
                assert_eq!(probed.lifetime, feed.points()[0].lifetime);
                assert_eq!(
                    feed.find_probe(set, nonce, written(&probed)).await,
                    expected
                );
            }
        }
    }
    // A probe that was not published is not met.
    let (set, probed) = probe(&*subject.store, &here, 9).await.remove(0);
    let unsaid = here.find_probe(set, 10, written(&probed)).await;
    assert_eq!(unsaid, ProbeFound::No { heard: false });
    // The feed does not listen to this set.
    assert_eq!(
        here.find_probe(set ^ 1, 9, written(&probed)).await,
        ProbeFound::Unknown
    );
    assert_eq!(here.points()[0].slots, SLOTS);
    assert_eq!((here.prefix(), other_database.database()), ("gc", 3));
}

/// Otherwise a chat would be judged by what is wrong with the feed.
#[tokio::test]
async fn a_feed_that_receives_nothing_says_nothing_about_a_probe() {
    let options = StoreOptions::default();
    let redis = Redis::without_persistence().await;
    let relay = Relay::to_redis(redis.address()).await;
    let subject = Subject::on(redis, options.clone()).await;
    until_available_is(subject.store.available(), true, SOON).await;
    let feed = feed_at(&relay.url(), &options).await;
    relay.drop_pushes(true);
    for (set, probed) in probe(&*subject.store, &feed, 1).await {
        let found = feed.find_probe(set, 1, written(&probed)).await;
        assert_eq!(found, ProbeFound::Unknown);
    }
}

#[tokio::test]
async fn each_node_of_a_cluster_has_its_own_set() {
    let cluster = Cluster::of_primaries(3, &PARTIAL).await;
    let options = StoreOptions {
        ready_slots: 1.0,
        ..StoreOptions::default()
    };
    let subject = Subject::at(&cluster.url(), options.clone()).await;
    until_available_is(subject.store.available(), true, SOON).await;
    let feed = feed_at(&cluster.url(), &options).await;
    assert_eq!(feed.points().len(), 3);
    assert_eq!(feed.points().iter().map(|it| it.slots).sum::<u32>(), SLOTS);
    for (set, probed) in probe(&*subject.store, &feed, 5).await {
        assert_eq!(
            feed.find_probe(set, 5, written(&probed)).await,
            ProbeFound::Yes
        );
    }
}
