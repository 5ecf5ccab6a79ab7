//! Members without a connector stay as long as a back end renews their join.

use std::time::Duration;
use testkit::pomelo::{SENT, heard, joined, left};
use testkit::system::Plan;
use testkit::{SOON, pace, wait};
use tokio::time::Instant;

const LIFE: Duration = Duration::from_secs(1);
/// How late a leave may be: chat polls, and the machine may be busy.
const LATE: Duration = Duration::from_millis(2_000);

fn plan() -> Plan {
    Plan::of(1, 2).chat_flags(&["--detached-life", "1s"])
}

#[tokio::test]
async fn a_detached_member_that_is_not_renewed_leaves_once_and_on_time() {
    let system = plan().start().await;
    let watcher = system.member(0, "watcher", "room").await;
    let api = system.api(0);
    let first = Instant::now();
    api.join("room", "bot").await.expect("it joins");
    watcher.until_push(&joined("bot")).await;
    // For twice as long as it would last without a renewal.
    let mut renewed = Instant::now();
    while first.elapsed() < 2 * LIFE {
        tokio::time::sleep(LIFE / 3).await;
        renewed = Instant::now();
        api.join("room", "bot").await.expect("it stays");
    }
    assert_eq!(watcher.push_count(), 2, "it has left too early");
    watcher.until_push(&left("bot")).await;
    let (took, counted) = (renewed.elapsed(), pace::since(renewed));
    assert!(LIFE <= took && counted < LIFE + LATE, "after {took:?}");
    system.until_members("room", &[("watcher", 1)]).await;
    wait::stays("it leaves once", LIFE, async || watcher.push_count() == 3).await;
}

#[tokio::test]
async fn a_detached_member_that_joins_again_for_a_shorter_time_leaves_earlier() {
    let system = Plan::of(1, 1).start().await;
    let watcher = system.member(0, "watcher", "room").await;
    let api = system.api(0);
    let (hour, second) = (Duration::from_secs(3600), Duration::from_secs(1));
    api.join_for("room", "bot", hour).await.expect("it joins");
    api.join_for("room", "other", hour).await.expect("it joins");
    watcher.until_push(&joined("other")).await;
    let begun = Instant::now();
    api.join_for("room", "bot", second).await.expect("it stays");
    watcher.until_push(&left("bot")).await;
    assert!(begun.elapsed() >= second);
    let members = [("other", 1), ("watcher", 1)];
    system.until_members("room", &members).await;
}

/// The chat that would end the membership is dead, so the next script that runs on the channel ends it.
#[tokio::test]
async fn after_its_chat_is_killed_an_expired_detached_member_leaves_at_the_next_call() {
    let mut system = plan().start().await;
    let watcher = system.member(0, "watcher", "room").await;
    let joined_at = Instant::now();
    let bot = system.api(0).join("room", "bot").await;
    bot.expect("it joins");
    watcher.until_push(&joined("bot")).await;
    system.chats[0].kill();
    tokio::time::sleep((LIFE + LATE).saturating_sub(joined_at.elapsed())).await;
    drop(system.chats.remove(0));
    wait::eventually("sends work", SOON, async || {
        watcher.say("hello").await == SENT
    })
    .await;
    watcher.until_push(&heard("watcher", "hello")).await;
    let guest = system.member(0, "guest", "room").await;
    watcher.until_push(&left("bot")).await;
    watcher.until_push(&joined("guest")).await;
    system
        .until_members("room", &[("guest", 1), ("watcher", 1)])
        .await;
    let pushes = watcher.pushes();
    let leaves = pushes.iter().filter(|push| **push == left("bot"));
    assert_eq!(leaves.count(), 1, "{pushes:?}");
    assert_eq!(guest.ended(), None);
}
