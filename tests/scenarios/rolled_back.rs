//! A replica that lacks the last joins and leaves of a channel takes over. Log and members fall back together, and soon
//! every client with a live socket, and nobody else, is a member again.

use std::time::Duration;
use testkit::checker::Kind;
use testkit::cluster::Cluster;
use testkit::follower::Leaving;
use testkit::followers::{Followers, ROOM, WHOLE_LOG, assert_consistent};
use testkit::redis::Redis;
use testkit::resp::{Resp, Value};
use testkit::system::Plan;
use testkit::{SOON, wait};
use tokio::time::Instant;

/// From the first write that the new primary takes. Channels that may have lost something are reconciled out of turn.
const REPAIRED: Duration = Duration::from_secs(3);

/// How many sessions of the room a replica has.
async fn sessions(replica: &Redis) -> i64 {
    let connection = Resp::connect(replica.address()).await;
    let mut connection = connection.expect("the replica is there");
    let readonly = connection.command(&["READONLY"]).await;
    readonly.expect("the replica answers");
    let key = format!("gc:{{{ROOM}}}:s");
    match connection.command(&["HLEN", &key]).await {
        Ok(Value::Integer(sessions)) => sessions,
        other => panic!("HLEN: {other:?}"),
    }
}

#[tokio::test]
async fn joins_and_leaves_that_a_promoted_replica_lacks_are_repeated() {
    let lease = ["--lease", "1s"];
    let plan = Plan::of(2, 2).alone().connector_flags(&lease);
    let plan = plan.chat_flags(&[WHOLE_LOG, lease].concat());
    let _permit = plan.permit().await;
    let mut cluster = Cluster::start().await;
    let services = plan.services(&cluster.url(), &cluster.url()).await;
    let api = services.api(0);
    let mut followers = Followers::start(&services.addresses(), 4, 8).await;
    followers.start_sending();
    followers.until_each_acknowledged(20).await;

    let (primary, replica) = cluster.of(ROOM).await;
    let (leading, following) = (&cluster.nodes[primary], &cluster.nodes[replica]);
    following.until_caught_up(leading).await;
    // With a wrong password the replica cannot connect to the primary, and keeps what it has.
    following
        .command(&["CONFIG", "SET", "masterauth", "wrong"])
        .await;
    leading
        .command(&["CLIENT", "KILL", "TYPE", "replica"])
        .await;
    wait::eventually("the replica is cut off", SOON, async || {
        let link = following.info("replication", "master_link_status").await;
        link.as_deref() == Some("down")
    })
    .await;
    for number in 0..4 {
        followers.add_listener(&format!("newcomer{number}")).await;
    }
    let leavers = &followers.all()[8..12];
    for (number, leaver) in leavers.iter().enumerate() {
        let leaving = [Leaving::Closing, Leaving::Breaking][number % 2];
        leaver.disconnect(leaving).await;
    }
    followers.until_listed(SOON, &api).await;
    assert_eq!(
        sessions(following).await,
        12,
        "it has neither the joins nor the leaves"
    );

    cluster.nodes[primary].kill();
    let killed = Instant::now();
    let again = followers
        .until_acknowledged_since(killed + Duration::from_millis(500))
        .await;
    let took = followers.until_listed(REPAIRED, &api).await;
    println!("writes after {again:?}, members again after further {took:?}");
    cluster.until_primary(ROOM, replica).await;

    // Clients that were away have seen what is lost, and are told, too.
    for leaver in &followers.all()[8..12] {
        leaver.go_to(leaver.home(), Leaving::Closing).await;
    }
    followers.until_each_acknowledged(20).await;
    let history = followers.stop_and_collect(&api, cluster.any().await).await;
    println!("{}", followers.report());
    assert_eq!(followers.sum(|notes| notes.disconnected), 0);
    let forgotten = assert_consistent(&history, &[Kind::Forgotten]);
    assert!(!forgotten.is_empty(), "nothing was rolled back");
}
