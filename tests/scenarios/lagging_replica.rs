//! A lagging replica takes over. The publications that it lacks are lost, and exactly the clients that saw them are
//! told.

use testkit::checker::Kind;
use testkit::follower::Leaving;
use testkit::followers::{Followers, ROOM, WHOLE_LOG, assert_consistent};
use testkit::history::{Outcome, Reason};
use testkit::redis::Redis;
use testkit::relay::Relay;
use testkit::system::Plan;
use testkit::{SOON, wait};

/// Publications that are lost.
const BEHIND: u64 = 3;

/// Clients that saw the lost publications are told at once, before anything new is published. The others recover in
/// full.
#[tokio::test]
async fn after_a_lagging_replica_takes_over_exactly_those_who_saw_lost_messages_are_told() {
    let plan = Plan::of(2, 2).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let mut primary = Redis::start().await;
    let link = Relay::to(primary.address()).await;
    let replica = Redis::replica_of(link.address()).await;
    let relay = Relay::to(primary.address()).await;
    let services = plan.services(&relay.url(), &relay.url()).await;
    let followers = Followers::start(&services.addresses(), 6, 6).await;
    followers.start_sending();
    followers.until_each_acknowledged(50).await;
    // Two clients are away when the three are published, and will not see them.
    let (here, away) = followers.all().split_at(10);
    for follower in away {
        follower.disconnect(Leaving::Closing).await;
    }
    followers.until_each_acknowledged(50).await;
    followers.stop_sending().await;
    let api = services.api(0);
    wait::eventually("those who are away have left", SOON, async || {
        api.members(ROOM)
            .await
            .is_ok_and(|members| members.len() == here.len())
    })
    .await;

    replica.until_caught_up(&primary).await;
    link.stall();
    let common = primary.published(ROOM).await;
    let mut lost = Vec::new();
    for number in 1..=BEHIND {
        let body = format!(r#"{{"n":{number}}}"#);
        let sent = api
            .send(ROOM, "herald", &body, &format!("lost-{number}"))
            .await;
        assert!(sent.is_ok(), "{sent:?}");
        lost.push(("herald".to_owned(), number));
    }
    for follower in here {
        let seen = follower.notes().until(SOON, |notes| {
            let position = notes.position.as_ref()?;
            (position.offset == common + BEHIND).then_some(())
        });
        assert!(seen.await.is_some(), "{} did not see all", follower.name());
    }
    let kept = replica.published(ROOM).await;
    assert_eq!(
        common + BEHIND - kept,
        BEHIND,
        "the replica is three behind"
    );

    primary.kill();
    replica.promote().await;
    link.refuse();
    relay.redirect_to(replica.address());
    relay.cut();
    for follower in here {
        let told = follower.notes().until(SOON, |notes| notes.losses().pop());
        let (position, reason) = told
            .await
            .unwrap_or_else(|| panic!("{} is not told before a message comes", follower.name()));
        assert_eq!((position.offset, reason), (common, Reason::Diverged));
    }
    for follower in away {
        follower
            .go_to(services.connectors[0].address(), Leaving::Breaking)
            .await;
    }
    followers.start_sending();
    followers.until_each_acknowledged(50).await;

    let mut history = followers.stop_and_collect(&api, replica.address()).await;
    for message in lost {
        history.sent.insert(message, Outcome::Acknowledged);
    }
    println!("{}", followers.report());
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    for follower in here {
        assert_eq!(
            follower.notes().read().losses().len(),
            1,
            "{}",
            follower.name()
        );
    }
    for follower in away {
        let notes = follower.notes().read();
        assert_eq!(
            (notes.losses().len(), notes.recovered),
            (0, (1, 0)),
            "{}",
            follower.name()
        );
    }
    let forgotten = assert_consistent(&history, &[Kind::Forgotten]);
    assert_eq!(forgotten.len() as u64, BEHIND);
}
