//! The grace: a client that drops and comes back within it has never left.

use std::time::Duration;
use testkit::follower::{Follower, Leaving};
use testkit::followers::{Followers, ROOM, WHOLE_LOG, assert_consistent};
use testkit::history::Event;
use testkit::redis::Redis;
use testkit::system::Plan;
use testkit::{SOON, pace, wait};
use tokio::time::Instant;

const GRACE: Duration = Duration::from_secs(3);
const LEASE: Duration = Duration::from_secs(1);
const REAPING: Duration = Duration::from_secs(4);

/// How many joins or leaves of a user a follower was told of.
fn told(follower: &Follower, route: &str, user: &str) -> usize {
    let events = &follower.notes().read().events;
    let quoted = format!("\"{user}\"");
    events
        .iter()
        .filter(|event| match event {
            Event::Received(_, content) => content.route == route && content.body.contains(&quoted),
            _ => false,
        })
        .count()
}

/// Clients drop in each way and in both protocols, while others send. They come back first, and then they stay away.
#[tokio::test]
async fn a_client_that_is_back_within_the_grace_never_left_and_others_leave_once() {
    let lease = ["--lease", "1s"];
    let plan = Plan::of(2, 2).connector_flags(&lease);
    let plan = plan.connector_flags(&["--grace", "3s"]);
    let plan = plan.chat_flags(&[WHOLE_LOG, lease].concat());
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let mut services = plan.services(&redis.url(), &redis.url()).await;
    let addresses = services.addresses();
    let followers = Followers::start(&addresses, 4, 12).await;
    let api = services.api(0);
    followers.start_sending();
    followers.until_each_acknowledged(10).await;
    let joins = |user: &str| told(&followers.all()[0], "onJoin", user);
    let leaves = |user: &str| told(&followers.all()[0], "onLeave", user);

    // One of each protocol at each connector.
    let droppers: Vec<_> = followers.all()[4..8].iter().collect();
    let ways = [Leaving::Closing, Leaving::Breaking];
    let dropped = Instant::now();
    for (number, dropper) in droppers.iter().enumerate() {
        let leaving = ways[number / 2];
        dropper.disconnect(leaving).await;
        let other = addresses.iter().find(|at| **at != dropper.home());
        dropper.go_to(*other.expect("two"), leaving).await;
    }
    assert!(dropped.elapsed() < GRACE, "they were not back in time");
    wait::stays("nobody sees a leave", GRACE + REAPING, async || {
        let users = droppers.iter().map(|dropper| dropper.name());
        users.map(&leaves).sum::<usize>() == 0
    })
    .await;
    followers.until_listed(SOON, &api).await;
    for dropper in &droppers {
        let user = dropper.name();
        assert!(joins(user) <= 1 && leaves(user) == 0, "{user}");
        assert_eq!(dropper.notes().read().recovered, (1, 0), "{user}");
    }

    let dropped = Instant::now();
    for (number, dropper) in droppers.iter().enumerate() {
        dropper.disconnect(ways[number / 2]).await;
    }
    let last = Instant::now();
    wait::stays(
        "nobody leaves too early",
        GRACE - Duration::from_millis(500),
        async || {
            let users = droppers.iter().map(|dropper| dropper.name());
            users.map(&leaves).sum::<usize>() == 0 || dropped.elapsed() >= GRACE
        },
    )
    .await;
    followers
        .until_listed((last + GRACE + SOON) - Instant::now(), &api)
        .await;
    let took = pace::since(last);
    assert!(took < GRACE + Duration::from_secs(2), "only after {took:?}");

    // A client that is in its grace when the connector dies leaves with all others.
    let lingering = followers.at(0).last().expect("somebody");
    lingering.disconnect(Leaving::Closing).await;
    services.connectors[0].kill();
    for member in followers.at(0) {
        member.begin_move(Leaving::Breaking, None);
    }
    followers.until_listed(LEASE + REAPING, &api).await;
    let history = followers.stop_and_collect(&api, redis.address()).await;
    println!("{}", followers.report());
    assert_consistent(&history, &[]);
    let left = history.log.entries.values();
    let left = left.filter(|content| content.route == "onLeave").count();
    let gone = followers.all().iter().filter(|it| it.notes().read().away);
    assert_eq!(left, gone.count(), "one leave of each in {ROOM}");
}
