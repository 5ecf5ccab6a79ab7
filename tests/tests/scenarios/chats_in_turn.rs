//! Chats that die, again and again, while everybody speaks.

use tests::crowd::{Crowd, WHOLE_LOG, holds};
use tests::follower::Notes;
use tests::history::Outcome;
use tests::redis::Redis;
use tests::service::Chat;
use tests::system::Plan;
use tests::{ANSWERED, SOON, http, long, wait};

/// Nothing acknowledged is lost, nothing comes twice, and nobody waits.
#[tokio::test]
async fn chats_killed_again_and_again_lose_nothing_repeat_nothing_and_delay_nobody() {
    let kills = if long() { 20 } else { 6 };
    let plan = Plan::of(2, 2).alone().chat_flags(&WHOLE_LOG);
    let _turn = plan.turn().await;
    let redis = Redis::start().await;
    let mut services = plan.services(&redis.url(), &redis.url()).await;
    let crowd = Crowd::gather(&services.addresses(), 8, 4).await;
    crowd.speak();
    let mut in_flight = 0;
    for _ in 0..kills {
        let before = [
            publications(&services.chats[0]).await,
            publications(&services.chats[1]).await,
        ];
        crowd.goes_on(40).await;
        let after = [
            publications(&services.chats[0]).await,
            publications(&services.chats[1]).await,
        ];
        // The one that a channel's sends go to while it is up.
        let second = after[0] - before[0] < after[1] - before[1];
        let chat = &mut services.chats[usize::from(second)];
        // Frozen first, so that some requests are with it when it dies.
        chat.freeze();
        wait::eventually("requests are with it", SOON, async || {
            crowd.sum(Notes::unanswered) > 8
        })
        .await;
        chat.kill();
        in_flight += crowd.sum(Notes::unanswered);
        crowd.goes_on(40).await;
        chat.restart().await;
        chat.ready().await;
    }
    let history = crowd.comes_to_rest(&services.api(0), redis.address()).await;
    println!(
        "{kills} kills with {in_flight} requests under way; {}",
        crowd.report()
    );
    assert!(in_flight > 0, "no request was under way");
    assert_eq!(crowd.count(Outcome::Unknown), 0);
    assert!(crowd.slowest() <= ANSWERED, "{:?}", crowd.slowest());
    assert_eq!(crowd.sum(|notes| notes.disconnected), 0);
    holds(&history, &[]);
}

/// How many publications a chat counts in its metrics.
async fn publications(chat: &Chat) -> u64 {
    let metrics = http::get(chat.admin(), "/metrics").await;
    let metrics = metrics.expect("chat tells its metrics").body;
    let mut lines = metrics.lines();
    let count = lines.find_map(|line| line.strip_prefix("chat_publications_total "));
    count.map_or(0, |count| count.parse().expect("a number"))
}
