//! `--ack replica`: a send is acknowledged only after a replica has the message, too.

use std::time::Duration;
use testkit::followers::{Followers, ROOM, WHOLE_LOG, assert_consistent};
use testkit::history::Outcome;
use testkit::redis::Redis;
use testkit::relay::Relay;
use testkit::system::Plan;
use testkit::{SOON, wait};
use tokio::time::Instant;

/// The replica stops receiving, then the primary dies. When the replica takes over, it has all acknowledged messages.
#[tokio::test]
async fn a_message_that_a_replica_acknowledged_survives_the_loss_of_the_primary() {
    let plan = Plan::of(2, 2)
        .alone()
        .chat_flags(&WHOLE_LOG)
        .chat_flags(&["--ack", "replica"]);
    let _permit = plan.permit().await;
    let mut primary = Redis::start().await;
    let link = Relay::to(primary.address()).await;
    let replica = Redis::replica_of(link.address()).await;
    let relay = Relay::to(primary.address()).await;
    let services = plan.services(&relay.url(), &relay.url()).await;
    let followers = Followers::start(&services.addresses(), 8, 4).await;
    followers.start_sending();
    followers.until_each_acknowledged(50).await;

    link.stall();
    let frozen = Instant::now();
    let before = followers.count(Outcome::Unknown);
    wait::eventually("sends are not acknowledged", SOON, async || {
        followers.count(Outcome::Unknown) > before + 20
    })
    .await;
    let acknowledged = followers.count(Outcome::Acknowledged);
    let published = primary.published(ROOM).await;
    let copied = replica.published(ROOM).await;
    assert!(
        published > copied,
        "the replica is not behind: {published}, {copied}"
    );
    primary.kill();
    link.refuse();
    replica.promote().await;
    // The new primary needs a replica of its own, or nothing can be acknowledged.
    let second = Redis::replica_of(replica.address()).await;
    relay.redirect_to(replica.address());
    relay.cut();
    let again = followers.until_acknowledged_since(Instant::now()).await;
    followers.until_each_acknowledged(50).await;

    let history = followers
        .stop_and_collect(&services.api(0), replica.address())
        .await;
    println!(
        "{acknowledged} acknowledged before the kill, {} lost; frozen for {:?}, on after {again:?}; {}",
        published - copied,
        frozen.elapsed(),
        followers.report()
    );
    assert!(again < Duration::from_secs(3), "{again:?}");
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    drop(second);
    assert_consistent(&history, &[]);
}
