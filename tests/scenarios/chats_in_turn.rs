//! Chats die, stop, and retire connections again and again while members send.

use testkit::checker::History;
use testkit::follower::Notes;
use testkit::followers::{Followers, WHOLE_LOG, assert_consistent};
use testkit::history::Outcome;
use testkit::redis::Redis;
use testkit::system::{Plan, busy};
use testkit::{ANSWERED, SOON, long, wait};

/// Every send was answered in time, nobody lost the connection, and everybody saw the one history.
fn assert_undisturbed(followers: &Followers, history: &History) {
    assert_eq!(followers.count(Outcome::Unknown), 0);
    assert!(followers.slowest() <= ANSWERED, "{:?}", followers.slowest());
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    assert_consistent(history, &[]);
}

/// No acknowledged message is lost, none comes twice, and nobody waits long.
#[tokio::test]
async fn chats_killed_again_and_again_lose_nothing_repeat_nothing_and_delay_nobody() {
    let kills = if long() { 20 } else { 6 };
    let plan = Plan::of(2, 2).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let mut services = plan.services(&redis.url(), &redis.url()).await;
    let followers = Followers::start(&services.addresses(), 8, 4).await;
    followers.start_sending();
    let mut in_flight = 0;
    for _ in 0..kills {
        followers.until_each_acknowledged(40).await;
        let busy = busy(&services.chats).await;
        let chat = &mut services.chats[busy];
        // Freeze it first, so that it has requests when it dies.
        chat.freeze();
        wait::eventually("it has requests", SOON, async || {
            followers.sum(Notes::unanswered) > 8
        })
        .await;
        chat.kill();
        in_flight += followers.sum(Notes::unanswered);
        followers.until_each_acknowledged(40).await;
        chat.restart().await;
        chat.ready().await;
    }
    let history = followers
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!(
        "{kills} kills with {in_flight} requests under way; {}",
        followers.report()
    );
    assert!(in_flight > 0, "no request was under way");
    assert_undisturbed(&followers, &history);
}

/// Those that stop finish what they have begun, and connectors go on with another chat.
#[tokio::test]
async fn chats_stopped_again_and_again_lose_nothing_repeat_nothing_and_keep_the_order() {
    let stops = if long() { 20 } else { 6 };
    let plan = Plan::of(2, 2).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let mut services = plan.services(&redis.url(), &redis.url()).await;
    let followers = Followers::start(&services.addresses(), 8, 4).await;
    followers.start_sending();
    for _ in 0..stops {
        followers.until_each_acknowledged(40).await;
        let busy = busy(&services.chats).await;
        let chat = &mut services.chats[busy];
        chat.terminate();
        assert!(chat.ended_within(SOON).await.success());
        followers.until_each_acknowledged(40).await;
        chat.restart().await;
        chat.ready().await;
    }
    let history = followers
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!("{stops} stops; {}", followers.report());
    assert_undisturbed(&followers, &history);
}

/// The streams of sends go over to other connections all the time, and from one chat to another and back.
#[tokio::test]
async fn streams_whose_connections_become_too_old_move_on_without_loss_repetition_or_reordering() {
    let each: u64 = if long() { 60 } else { 8 };
    let flags = [&WHOLE_LOG[..], &["--max-connection-age", "1s"]].concat();
    let plan = Plan::of(2, 2).alone().chat_flags(&flags);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let services = plan.services(&redis.url(), &redis.url()).await;
    let followers = Followers::start(&services.addresses(), 8, 4).await;
    followers.start_sending();
    for chat in &services.chats {
        let is_enough = async || chat.metric::<u64>("chat_connections_retired_total").await >= each;
        wait::eventually("connections were retired", 10 * SOON, is_enough).await;
    }
    followers.until_each_acknowledged(40).await;
    let history = followers
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!("{}; slowest {:?}", followers.report(), followers.slowest());
    assert_undisturbed(&followers, &history);
}
