//! A client that is never long in one place.

use tests::crowd::{Crowd, WHOLE_LOG, holds};
use tests::follower::Leaving;
use tests::history::Outcome;
use tests::long;
use tests::redis::Redis;
use tests::system::Plan;

/// Wherever it goes, with a word or without one, it misses nothing and gets nothing twice.
#[tokio::test]
async fn who_goes_from_connector_to_connector_while_others_speak_misses_nothing() {
    let moves = if long() { 200 } else { 60 };
    let plan = Plan::of(3, 2).alone().chat_flags(&WHOLE_LOG);
    let _turn = plan.turn().await;
    let redis = Redis::start().await;
    let services = plan.services(&redis.url(), &redis.url()).await;
    let addresses = services.addresses();
    let crowd = Crowd::gather(&addresses, 8, 2).await;
    let wanderer = crowd.followers().last().expect("somebody");
    crowd.speak();
    crowd.goes_on(10).await;
    let mut at = 0;
    for number in 0..moves {
        at = (at + fastrand::usize(1..addresses.len())) % addresses.len();
        let leaving = if fastrand::bool() {
            Leaving::Closing
        } else {
            Leaving::Breaking
        };
        wanderer.go_to(addresses[at], leaving).await;
        if number % 10 == 0 {
            crowd.goes_on(1).await;
        }
    }
    let history = crowd.comes_to_rest(&services.api(0), redis.address()).await;
    println!("{moves} moves; {}", crowd.report());
    {
        let notes = wanderer.notes().read();
        assert_eq!(notes.recovered, (moves, 0), "every login says recovered");
        assert_eq!(notes.losses(), []);
    }
    assert_eq!(crowd.count(Outcome::Unknown), 0);
    holds(&history, &[]);
}
