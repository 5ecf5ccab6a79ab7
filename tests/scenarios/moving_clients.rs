//! Clients that move between connectors, or were away for long.

use testkit::follower::Leaving;
use testkit::followers::{Followers, WHOLE_LOG, assert_consistent};
use testkit::history::{Outcome, Reason};
use testkit::long;
use testkit::redis::Redis;
use testkit::system::Plan;

/// With or without a close frame, they miss nothing and get nothing twice.
#[tokio::test]
async fn a_client_that_moves_between_connectors_while_others_send_misses_nothing() {
    let moves = if long() { 200 } else { 60 };
    let plan = Plan::of(3, 2).alone().chat_flags(&WHOLE_LOG);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let services = plan.services(&redis.url(), &redis.url()).await;
    let addresses = services.addresses();
    let followers = Followers::start(&addresses, 8, 4).await;
    // One of each protocol.
    let moving = [&followers.all()[9], &followers.all()[11]];
    followers.start_sending();
    followers.until_each_acknowledged(10).await;
    let mut at = [0; 2];
    for number in 0..moves {
        let at = &mut at[number % 2];
        *at = (*at + fastrand::usize(1..addresses.len())) % addresses.len();
        let leaving = if fastrand::bool() {
            Leaving::Closing
        } else {
            Leaving::Breaking
        };
        moving[number % 2].go_to(addresses[*at], leaving).await;
        if number % 10 == 0 {
            followers.until_each_acknowledged(1).await;
        }
    }
    let history = followers
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!("{moves} moves; {}", followers.report());
    for client in moving {
        let notes = client.notes().read();
        let recovered = (moves / 2, 0);
        assert_eq!(notes.recovered, recovered, "every login says recovered");
        assert_eq!(notes.losses(), []);
    }
    assert_eq!(followers.count(Outcome::Unknown), 0);
    assert_consistent(&history, &[]);
}

/// The log does not hold what it missed any more, so it is told from where it goes on.
#[tokio::test]
async fn a_session_that_was_away_too_long_is_told_so() {
    const KEPT: usize = 50;
    let plan = Plan::of(2, 1).chat_flags(&["--log-entries", "50", "--log-keep", "1ms"]);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let services = plan.services(&redis.url(), &redis.url()).await;
    let followers = Followers::start(&services.addresses(), 4, 4).await;
    let moving = &followers.all()[5..7];
    followers.start_sending();
    followers.until_each_acknowledged(10).await;
    for client in moving {
        client.disconnect(Leaving::Closing).await;
    }
    followers.until_each_acknowledged(4 * KEPT).await;
    for client in moving {
        client
            .go_to(services.connectors[1].address(), Leaving::Closing)
            .await;
    }
    followers.until_each_acknowledged(10).await;
    let history = followers
        .stop_and_collect(&services.api(0), redis.address())
        .await;
    println!("{}", followers.report());
    assert!(history.log.first() > 1, "nothing was trimmed");
    for client in moving {
        let notes = client.notes().read();
        let losses = notes.losses();
        let trimmed = matches!(&losses[..], [(_, Reason::Trimmed)]);
        assert!(trimmed && notes.recovered == (0, 1), "told {losses:?}");
    }
    assert_consistent(&history, &[]);
}
