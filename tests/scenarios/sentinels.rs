//! Sentinels replace a primary that is dead or hangs, and chats and connectors follow them.

use std::time::Duration;
use testkit::followers::{Followers, WHOLE_LOG, assert_consistent};
use testkit::redis::Redis;
use testkit::sentinels::Sentinels;
use testkit::system::Plan;
use testkit::{SOON, wait};
use tokio::time::Instant;

/// From the fault to the next acknowledgement, when Sentinels take a server to be down after one second.
const BACK: Duration = Duration::from_secs(5);

/// Loses the primary, and checks that everything that a replica acknowledged is there, whichever replica takes over.
async fn a_primary_is_lost(lose: impl FnOnce(&mut Redis)) -> (Sentinels, usize) {
    let plan = Plan::of(2, 2)
        .chat_flags(&WHOLE_LOG)
        .chat_flags(&["--ack", "replica"]);
    let mut sentinels = Sentinels::start().await;
    let services = plan.services(&sentinels.url(), &sentinels.url()).await;
    let followers = Followers::start(&services.addresses(), 6, 4).await;
    followers.start_sending();
    followers.until_each_acknowledged(50).await;
    let first = sentinels.primary().await;
    assert_eq!(first, Some(sentinels.servers[0].address()));

    lose(&mut sentinels.servers[0]);
    let lost = Instant::now();
    // An acknowledgement from before may still be on its way.
    let again = followers
        .until_acknowledged_since(lost + Duration::from_millis(500))
        .await;
    let again = again + Duration::from_millis(500);
    followers.until_each_acknowledged(50).await;
    let primary = sentinels.primary().await.expect("there is a new primary");
    assert_ne!(Some(primary), first, "nobody took over");

    let history = followers.stop_and_collect(&services.api(0), primary).await;
    println!("on after {again:?}; {}", followers.report());
    assert!(history.log.epochs.len() > 1, "no new epoch");
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    assert_consistent(&history, &[]);
    assert!(again <= BACK, "{again:?}");
    let server = sentinels
        .servers
        .iter()
        .position(|s| s.address() == primary);
    (sentinels, server.expect("one of the three"))
}

#[tokio::test]
async fn sentinels_replace_a_killed_primary_and_nothing_acknowledged_is_lost() {
    let _permit = Plan::of(2, 2).alone().permit().await;
    a_primary_is_lost(Redis::kill).await;
}

/// When the old primary goes on, it is a replica and harms nobody.
#[tokio::test]
async fn sentinels_replace_a_hanging_primary_and_nothing_acknowledged_is_lost() {
    let _permit = Plan::of(2, 2).alone().permit().await;
    let (sentinels, _) = a_primary_is_lost(|primary| primary.freeze()).await;
    sentinels.servers[0].thaw();
    wait::eventually("the old primary is a replica", 2 * SOON, async || {
        let role = sentinels.servers[0].info("replication", "role").await;
        role.as_deref() == Some("slave")
    })
    .await;
}
