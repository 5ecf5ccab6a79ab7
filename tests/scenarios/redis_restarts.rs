//! Redis dies and comes back with all its data, or is replaced by a replica that has all of it.

use std::time::Duration;
use testkit::followers::{Followers, WHOLE_LOG, assert_consistent};
use testkit::long;
use testkit::redis::Redis;
use testkit::relay::Relay;
use testkit::system::Plan;
use tokio::time::Instant;

/// Redis writes its file before it answers, so a kill costs only time.
#[tokio::test]
async fn after_a_kill_with_a_durable_file_everybody_recovers_in_full() {
    let kills = if long() { 10 } else { 3 };
    let plan = Plan::of(2, 2).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let mut redis = Redis::start().await;
    let services = plan.services(&redis.url(), &redis.url()).await;
    let followers = Followers::start(&services.addresses(), 8, 4).await;
    followers.start_sending();
    for _ in 0..kills {
        followers.until_each_acknowledged(30).await;
        redis.kill();
        let killed = Instant::now();
        redis.restart().await;
        println!(
            "killed; on after {:?}",
            followers.until_acknowledged_since(killed).await
        );
    }
    followers.until_each_acknowledged(30).await;
    let history = followers
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!("{}", followers.report());
    assert_eq!(
        history.log.epochs.len(),
        kills + 1,
        "one epoch for each lifetime"
    );
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    assert_eq!(followers.sum(|notes| notes.losses().len()), 0);
    assert_consistent(&history, &[]);
}

/// A replica that has everything takes over: nobody is told of a loss.
#[tokio::test]
async fn after_a_promotion_of_a_replica_that_has_everything_everybody_recovers_in_full() {
    let plan = Plan::of(2, 2).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let mut primary = Redis::start().await;
    let replica = Redis::replica_of(primary.address()).await;
    let relay = Relay::to(primary.address()).await;
    let services = plan.services(&relay.url(), &relay.url()).await;
    let followers = Followers::start(&services.addresses(), 8, 4).await;
    followers.start_sending();
    followers.until_each_acknowledged(100).await;

    // Nothing is written from here on, and so the replica can have all of it.
    primary
        .command(&["CLIENT", "PAUSE", "60000", "WRITE"])
        .await;
    replica.until_caught_up(&primary).await;
    primary.kill();
    let killed = Instant::now();
    replica.promote().await;
    relay.redirect_to(replica.address());
    relay.cut();
    let again = followers.until_acknowledged_since(killed).await;
    followers.until_each_acknowledged(100).await;

    let history = followers
        .stop_and_collect(&services.api(0), replica.address())
        .await;
    println!("promoted; on after {again:?}; {}", followers.report());
    assert_eq!(history.log.epochs.len(), 2, "one epoch for each primary");
    assert!(again < Duration::from_secs(3), "{again:?}");
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    assert_eq!(followers.sum(|notes| notes.losses().len()), 0);
    assert_consistent(&history, &[]);
}
