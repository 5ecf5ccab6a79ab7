//! Redis dies and comes back with all its data, or is replaced by a replica that has all of it.

use std::time::Duration;
use testkit::crowd::{Crowd, WHOLE_LOG, holds};
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
    let _turn = plan.turn().await;
    let mut redis = Redis::start().await;
    let services = plan.services(&redis.url(), &redis.url()).await;
    let crowd = Crowd::gather(&services.addresses(), 8, 4).await;
    crowd.speak();
    for _ in 0..kills {
        crowd.goes_on(30).await;
        redis.kill();
        let killed = Instant::now();
        redis.restart().await;
        println!("killed; on after {:?}", crowd.writes_again(killed).await);
    }
    crowd.goes_on(30).await;
    let history = crowd.comes_to_rest(&services.api(0), redis.address()).await;
    println!("{}", crowd.report());
    assert_eq!(
        history.log.epochs.len(),
        kills + 1,
        "one epoch for each lifetime"
    );
    assert_eq!(crowd.sum(|notes| notes.disconnected), 0);
    assert_eq!(crowd.sum(|notes| notes.losses().len()), 0);
    holds(&history, &[]);
}

/// A replica that has everything takes over: nobody is told of a loss.
#[tokio::test]
async fn after_a_promotion_of_a_replica_that_has_everything_everybody_recovers_in_full() {
    let plan = Plan::of(2, 2).alone().chat_flags(&WHOLE_LOG);
    let _turn = plan.turn().await;
    let mut primary = Redis::start().await;
    let replica = Redis::replica_of(primary.address()).await;
    let relay = Relay::to(primary.address()).await;
    let services = plan.services(&relay.url(), &relay.url()).await;
    let crowd = Crowd::gather(&services.addresses(), 8, 4).await;
    crowd.speak();
    crowd.goes_on(100).await;

    // Nothing is written from here on, and so the replica can have all of it.
    primary
        .command(&["CLIENT", "PAUSE", "60000", "WRITE"])
        .await;
    replica.until_caught_up(&primary).await;
    primary.kill();
    let killed = Instant::now();
    replica.promote().await;
    relay.lead_to(replica.address());
    relay.cut();
    let again = crowd.writes_again(killed).await;
    crowd.goes_on(100).await;

    let history = crowd
        .comes_to_rest(&services.api(0), replica.address())
        .await;
    println!("promoted; on after {again:?}; {}", crowd.report());
    assert_eq!(history.log.epochs.len(), 2, "one epoch for each primary");
    assert!(again < Duration::from_secs(3), "{again:?}");
    assert_eq!(crowd.sum(|notes| notes.disconnected), 0);
    assert_eq!(crowd.sum(|notes| notes.losses().len()), 0);
    holds(&history, &[]);
}
