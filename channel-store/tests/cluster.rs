//! Channels while the cluster changes: slots move, and nodes fail.

use crate::support::{
    PARTIAL, RecordingSink, Subject, eventually, message, name, offsets, publish_until_answered,
    read, said, shared_cluster, until_available_is,
};
use channel_store::redis::{OpenError, RedisFeed, RedisStore, SchemaMismatch};
use channel_store::{ChannelStore, Continuity, Since, StoreError, StoreOptions};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::cluster::{Cluster, slot};
use testkit::redis::Redis;

const SOON: Duration = Duration::from_secs(10);

/// This many names of channels that a node of the cluster owns.
fn channels(cluster: &Cluster, node: usize, count: usize) -> Vec<String> {
    let names = (0..).map(|n| format!("c{n}"));
    let its = names.filter(|it| cluster.first_owner(it) == node);
    its.take(count).collect()
}

/// With these options a store is available only while all nodes are up.
fn all_slots() -> StoreOptions {
    StoreOptions {
        ready_slots: 1.0,
        ..StoreOptions::default()
    }
}

#[tokio::test]
async fn a_channel_moves_with_its_slot_and_no_other_is_disturbed() {
    let cluster = Cluster::of_primaries(3, &PARTIAL).await;
    let subject = Subject::at(&cluster.url(), StoreOptions::default()).await;
    let [moving, staying] = <[String; 2]>::try_from(channels(&cluster, 0, 2)).unwrap();
    let slot = slot(&moving);
    let (feed, sink) = subject.follow(&moving).await;
    feed.subscribe(&name(&staying));
    let undisturbed = sink.until_subscribed(&staying, 1).await;
    until_available_is(feed.available(), true, SOON).await;
    let first = subject.publish(message(&moving, "u", "1")).await.unwrap();
    let publisher = subject.store.publisher().unwrap();

    cluster.begin_move(slot, 0, 1);
    cluster.move_keys(slot, 0, 1);
    // The keys have moved, but not the slot. So nobody can write.
    for _ in 0..3 {
        let answer = subject.publish(message(&moving, "u", "refused")).await;
        assert!(
            matches!(answer, Err(StoreError::Unavailable(_))),
            "{answer:?}"
        );
        let answer = feed.read(&name(&moving), &Since::Head, 0).await;
        assert!(
            matches!(answer, Err(StoreError::Unavailable(_))),
            "{answer:?}"
        );
        subject.publish(message(&staying, "u", "x")).await.unwrap();
    }
    cluster.end_move(slot, 0, 1);
    let second = publish_until_answered(&subject, &moving, "2").await;
    let moved = sink.until_subscribed(&moving, 2).await;
    assert_ne!(
        moved.number, undisturbed.number,
        "it is confirmed on the connection to the new owner"
    );
    let page = read(&*feed, &moving, &first.position, 10).await;
    assert_eq!(page.continuity, Continuity::Contiguous);
    assert_eq!(page.lifetime, moved.lifetime);
    assert_eq!(said(&page.entries), ["onMessage 2"]);
    assert_eq!(second.position.offset, 2);
    assert_ne!(
        second.position.epoch, first.position.epoch,
        "another server begins another epoch"
    );
    let late = publisher.publish(vec![message(&moving, "u", "late")]).await;
    assert!(
        matches!(late, Err(StoreError::Unavailable(_))),
        "the publisher is bound to the former owner"
    );

    cluster.begin_move(slot, 1, 0);
    cluster.move_keys(slot, 1, 0);
    cluster.end_move(slot, 1, 0);
    assert_eq!(
        sink.until_subscribed(&moving, 3).await,
        undisturbed,
        "it is confirmed on the first connection, which still exists"
    );
    publish_until_answered(&subject, &moving, "3").await;
    eventually("the new publication arrives", async || {
        sink.publications(&moving)
            .last()
            .is_some_and(|it| it.payload.body() == b"3")
    })
    .await;
    assert_eq!(sink.confirmations(&staying), [undisturbed]);
    assert_eq!(
        offsets(&sink.until_publications(&staying, 3).await),
        [1, 2, 3]
    );
    assert!(*feed.available().borrow() && *subject.store.available().borrow());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsolicited_messages_of_a_node_are_not_taken_for_answers() {
    let cluster = Cluster::of_primaries(2, &PARTIAL).await;
    let subject = Subject::at(&cluster.url(), StoreOptions::default()).await;
    let names = channels(&cluster, 0, 43);
    let (read, moving) = names.split_at(3);
    let (feed, sink) = subject.feed().await;
    for channel in moving {
        feed.subscribe(&name(channel));
    }
    for (length, channel) in read.iter().enumerate() {
        for _ in 0..=length {
            subject.publish(message(channel, "u", "x")).await.unwrap();
        }
    }
    for channel in moving {
        sink.until_subscribed(channel, 1).await;
    }
    let cluster = Arc::new(cluster);
    for channel in moving {
        let (slot, cluster) = (slot(channel), Arc::clone(&cluster));
        let moved = tokio::task::spawn_blocking(move || cluster.end_move(slot, 0, 1));
        // However fast a slot moves, there are reads meanwhile.
        loop {
            let heads = read.iter().cycle().take(30).map(async |channel| {
                let page = feed.read(&name(channel), &Since::Head, 0).await;
                page.unwrap().last
            });
            assert_eq!(join_all(heads).await, [1, 2, 3].repeat(10));
            if moved.is_finished() {
                break;
            }
        }
        moved.await.unwrap();
    }
    for channel in moving {
        sink.until_subscribed(channel, 2).await;
    }
}

#[tokio::test]
async fn a_slot_that_moves_away_and_back_at_once_is_subscribed_again() {
    let cluster = Cluster::of_primaries(2, &PARTIAL).await;
    let subject = Subject::at(&cluster.url(), StoreOptions::default()).await;
    let channel = channels(&cluster, 0, 1).remove(0);
    let slot = slot(&channel);
    let (_feed, sink) = subject.follow(&channel).await;
    cluster.end_move(slot, 0, 1);
    cluster.end_move(slot, 1, 0);
    let before = sink.until_subscribed(&channel, 2).await;
    assert_eq!(sink.confirmations(&channel), [before.clone(), before]);
    publish_until_answered(&subject, &channel, "x").await;
    sink.until_publications(&channel, 1).await;
}

#[tokio::test]
async fn the_answers_to_a_batch_for_several_nodes_come_in_its_order() {
    let cluster = shared_cluster().await;
    let options = StoreOptions {
        prefix: "batch".into(),
        ..StoreOptions::default()
    };
    let subject = Subject::at(&cluster.url(), options).await;
    let names: Vec<_> = (0..3)
        .flat_map(|node| channels(&cluster, node, 2))
        .collect();
    let publisher = subject.store.publisher().unwrap();
    let batch = |_| {
        let messages = (0..60).map(|n| message(&names[n * 7 % names.len()], "u", &n.to_string()));
        publisher.publish(messages.collect())
    };
    let mut next = vec![1; names.len()];
    for answers in join_all((0..5).map(batch)).await {
        for (n, answer) in answers.unwrap().into_iter().enumerate() {
            let channel = n * 7 % names.len();
            assert_eq!(answer.unwrap().position.offset, next[channel]);
            next[channel] += 1;
        }
    }
}

#[tokio::test]
async fn a_node_that_is_down_affects_only_its_own_channels() {
    let mut cluster = Cluster::of_primaries(3, &PARTIAL).await;
    let subject = Subject::at(&cluster.url(), all_slots()).await;
    let (lost, kept) = (
        channels(&cluster, 1, 1).remove(0),
        channels(&cluster, 2, 1).remove(0),
    );
    let (feed, sink) = subject.follow(&lost).await;
    feed.subscribe(&name(&kept));
    let kept_by = sink.until_subscribed(&kept, 1).await;
    until_available_is(feed.available(), true, SOON).await;

    cluster.nodes[1].kill();
    until_available_is(feed.available(), false, SOON).await;
    until_available_is(subject.store.available(), false, SOON).await;
    let answer = subject.publish(message(&lost, "u", "x")).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))));
    subject.publish(message(&kept, "u", "x")).await.unwrap();
    sink.until_publications(&kept, 1).await;

    cluster.nodes[1].restart().await;
    until_available_is(feed.available(), true, SOON).await;
    until_available_is(subject.store.available(), true, SOON).await;
    sink.until_subscribed(&lost, 2).await;
    assert_eq!(sink.confirmations(&kept), [kept_by]);
}

#[tokio::test]
async fn after_a_failover_the_promoted_replica_is_used_within_seconds() {
    let cluster = Cluster::of_primaries(3, &PARTIAL).await;
    let replicas = cluster.add_replicas(&PARTIAL).await;
    let subject = Subject::at(&cluster.url(), StoreOptions::default()).await;
    let lost = channels(&cluster, 1, 1).remove(0);
    let (feed, sink) = subject.follow(&lost).await;
    let before = publish_until_answered(&subject, &lost, "before")
        .await
        .position;
    until_available_is(feed.available(), true, SOON).await;

    // The node still accepts connections, but never answers.
    cluster.nodes[1].freeze();
    let start = Instant::now();
    let after = publish_until_answered(&subject, &lost, "after")
        .await
        .position;
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    assert!(replicas[1].text("INFO replication").contains("role:master"));
    assert_eq!((after.offset, after.epoch == before.epoch), (2, false));
    sink.until_subscribed(&lost, 2).await;
    until_available_is(feed.available(), true, SOON).await;
    until_available_is(subject.store.available(), true, SOON).await;
    assert_eq!(
        said(&read(&*feed, &lost, &before, 9).await.entries),
        ["onMessage after"]
    );

    // The former primary becomes a replica, and is not used any more.
    cluster.nodes[1].thaw();
    eventually("the former primary is a replica", async || {
        cluster.nodes[1]
            .text("INFO replication")
            .contains("role:slave")
    })
    .await;
    subject.publish(message(&lost, "u", "later")).await.unwrap();
}

#[tokio::test]
async fn a_cluster_is_found_by_any_of_its_nodes_and_may_start_later() {
    let mut cluster = Cluster::of_primaries(2, &PARTIAL).await;
    let url = format!(
        "redis-cluster://127.0.0.1:1,127.0.0.1:{}",
        cluster.nodes[1].port()
    );
    let subject = Subject::at(&url, all_slots()).await;
    until_available_is(subject.store.available(), true, SOON).await;
    cluster.nodes.iter_mut().for_each(Redis::kill);
    let later = RedisStore::open(&url, all_slots()).await.unwrap();
    assert!(later.publisher().is_err());
    for node in &mut cluster.nodes {
        node.restart().await;
    }
    until_available_is(later.available(), true, SOON).await;
    for channel in ["a", "b", "c"] {
        later.publish(message(channel, "u", "x")).await.unwrap();
    }
}

#[tokio::test]
async fn the_schema_is_checked_on_the_node_that_owns_its_key() {
    let cluster = shared_cluster().await;
    let options = StoreOptions {
        prefix: "foreign".into(),
        ..StoreOptions::default()
    };
    let schema = "foreign:schema";
    cluster.nodes[cluster.first_owner(schema)].say(&format!("SET {schema} 99"));
    let refused = OpenError::Schema(SchemaMismatch::Newer {
        found: 99,
        oldest: 99,
        own: 2,
    });
    let store = RedisStore::open(&cluster.url(), options.clone())
        .await
        .err();
    assert_eq!(store, Some(refused.clone()));
    let feed = RedisFeed::open(&cluster.url(), options, Arc::new(RecordingSink::default()))
        .await
        .err();
    assert_eq!(feed, Some(refused));
}
