//! The primary changes while connections stay open, or two servers believe that they are the primary.

use testkit::chat_api::ChatApi;
use testkit::checker::Kind;
use testkit::followers::{Followers, ROOM, WHOLE_LOG, assert_consistent};
use testkit::history::Reason;
use testkit::redis::Redis;
use testkit::relay::Relay;
use testkit::service::Chat;
use testkit::system::Plan;

/// No service was disconnected, but meanwhile others have published on another server. Nothing is lost, at most late.
#[tokio::test]
async fn a_primary_demoted_and_promoted_again_loses_nothing_published_elsewhere() {
    let plan = Plan::of(2, 1).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let primary = Redis::start().await;
    let replica = Redis::replica_of(primary.address()).await;
    let services = plan.services(&primary.url(), &primary.url()).await;
    let followers = Followers::start(&services.addresses(), 4, 4).await;
    let rounds = 3;
    for round in 0..rounds {
        followers.start_sending();
        followers.until_each_acknowledged(20).await;
        followers.stop_sending().await;
        replica.until_caught_up(&primary).await;

        replica.promote().await;
        primary.demote(replica.address()).await;
        let elsewhere = Chat::start(&replica, &WHOLE_LOG).await;
        let api = ChatApi::at(elsewhere.address());
        for number in 0..2 {
            let body = format!(r#"{{"n":{}}}"#, 10 * (round + 1) + number);
            let sent = api
                .send(ROOM, "herald", &body, &format!("{round}-{number}"))
                .await;
            assert!(sent.is_ok(), "{sent:?}");
        }
        primary.until_linked().await;
        primary.until_caught_up(&replica).await;
        primary.promote().await;
        replica.demote(primary.address()).await;
        replica.until_linked().await;
    }
    followers.start_sending();
    followers.until_each_acknowledged(20).await;

    let history = followers
        .stop_and_collect(&services.api(0), primary.address())
        .await;
    println!("{}", followers.report());
    assert_eq!(
        history.log.epochs.len(),
        1 + 2 * rounds,
        "one epoch for each time as primary"
    );
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    assert_eq!(followers.sum(|notes| notes.losses().len()), 0);
    assert_consistent(&history, &[]);
}

/// The same, but afterwards nothing is published here that could show it.
#[tokio::test]
async fn a_server_lifetime_that_changes_on_an_open_connection_is_noticed_without_traffic() {
    let plan = Plan::of(1, 1).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let primary = Redis::start().await;
    let replica = Redis::replica_of(primary.address()).await;
    let services = plan.services(&primary.url(), &primary.url()).await;
    let followers = Followers::start(&services.addresses(), 2, 2).await;
    followers.start_sending();
    followers.until_each_acknowledged(20).await;
    followers.stop_sending().await;
    replica.until_caught_up(&primary).await;

    replica.promote().await;
    let elsewhere = Chat::start(&replica, &WHOLE_LOG).await;
    let elsewhere = ChatApi::at(elsewhere.address());
    let sent = elsewhere.send(ROOM, "herald", r#"{"n":1}"#, "elsewhere");
    sent.await.expect("the replica is a primary now");
    primary.demote(replica.address()).await;
    primary.until_linked().await;
    primary.until_caught_up(&replica).await;
    primary.promote().await;

    // Nobody publishes here. The publication is found by a probe.
    let history = followers
        .collect_history(&services.api(0), primary.address())
        .await;
    println!("{}", followers.report());
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    assert_eq!(followers.sum(|notes| notes.losses().len()), 0);
    assert!(
        history
            .log
            .entries
            .values()
            .any(|entry| entry.message == Some(("herald".into(), 1)))
    );
    assert_consistent(&history, &[]);
}

/// The same with a publication that is lost. The next one has the expected offset, but is of another log.
#[tokio::test]
async fn those_who_saw_a_message_that_a_switch_of_the_primary_lost_are_told() {
    let plan = Plan::of(2, 1).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let primary = Redis::start().await;
    let link = Relay::to(primary.address()).await;
    let replica = Redis::replica_of(link.address()).await;
    let services = plan.services(&primary.url(), &primary.url()).await;
    let followers = Followers::start(&services.addresses(), 4, 4).await;
    let api = services.api(0);
    followers.start_sending();
    followers.until_each_acknowledged(20).await;
    followers.stop_sending().await;

    replica.until_caught_up(&primary).await;
    link.stall();
    let sent = api.send(ROOM, "herald", r#"{"n":1}"#, "lost").await;
    sent.expect("the primary takes it");
    let lost = primary.published(ROOM).await;
    followers.until_offset(lost).await;
    replica.promote().await;
    let elsewhere = Chat::start(&replica, &WHOLE_LOG).await;
    let sent = ChatApi::at(elsewhere.address())
        .send(ROOM, "herald", r#"{"n":2}"#, "instead")
        .await;
    sent.expect("the replica is a primary now");
    assert_eq!(
        replica.published(ROOM).await,
        lost,
        "another publication has its offset"
    );

    // Quickly, and with a message at once, so that no probe comes in between.
    primary.demote(replica.address()).await;
    primary.until_linked().await;
    primary.promote().await;
    followers.start_sending();
    followers.until_each_acknowledged(20).await;

    let history = followers.stop_and_collect(&api, primary.address()).await;
    println!("{}", followers.report());
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    for follower in followers.all() {
        let losses = follower.notes().read().losses();
        let [(position, Reason::Diverged)] = &losses[..] else {
            panic!("{} was told {losses:?}", follower.name());
        };
        assert_eq!(position.offset + 1, lost, "{}", follower.name());
    }
    assert!(
        history
            .log
            .entries
            .values()
            .any(|entry| entry.message == Some(("herald".into(), 2)))
    );
    assert_consistent(&history, &[]);
}

/// Each side accepts what its members send. When one side becomes a replica, its members are told.
#[tokio::test]
async fn after_a_split_brain_the_losing_side_is_told_and_the_other_notices_nothing() {
    let plan = Plan::of(2, 2)
        .alone()
        .each_its_own_chat()
        .chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let losing = Redis::start().await;
    let link = Relay::to(losing.address()).await;
    let winning = Redis::replica_of(link.address()).await;
    let relays = [
        Relay::to(losing.address()).await,
        Relay::to(losing.address()).await,
    ];
    // One chat and one connector on each side.
    let urls = relays.each_ref().map(Relay::url);
    let urls = urls.each_ref().map(String::as_str);
    let services = plan.services_at(&urls, &urls).await;
    let followers = Followers::start(&services.addresses(), 6, 4).await;
    followers.start_sending();
    followers.until_each_acknowledged(50).await;

    // Writes stop for a moment, so that both sides have everything that was sent before.
    losing.command(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    winning.until_caught_up(&losing).await;
    link.stall();
    winning.promote().await;
    relays[1].redirect_to(winning.address());
    relays[1].cut();
    losing.command(&["CLIENT", "UNPAUSE"]).await;
    followers.until_each_acknowledged(50).await;

    link.refuse();
    losing.demote(winning.address()).await;
    relays[0].redirect_to(winning.address());
    relays[0].cut();
    followers.until_each_acknowledged(50).await;

    let history = followers
        .stop_and_collect(&services.api(1), winning.address())
        .await;
    println!("{}", followers.report());
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    for follower in followers.at(0) {
        let losses = follower.notes().read().losses();
        let reasons: Vec<_> = losses.iter().map(|(_, reason)| *reason).collect();
        assert_eq!(reasons, [Reason::Diverged], "{}", follower.name());
    }
    for follower in followers.at(1) {
        assert_eq!(follower.notes().read().losses(), [], "{}", follower.name());
    }
    let forgotten = assert_consistent(&history, &[Kind::Forgotten]);
    assert!(!forgotten.is_empty(), "the losing side accepted nothing");
}
