//! The clock of Redis is set, or a server whose clock is ahead takes over. No session is closed, and dead connectors
//! are still found.

use std::time::Duration;
use testkit::pomelo::{Client, LOGGED_IN, left};
use testkit::redis::Redis;
use testkit::relay::Relay;
use testkit::system::{Plan, Services};
use testkit::{SOON, pace, wait};
use tokio::time::{Instant, sleep};

const LEASE: Duration = Duration::from_secs(2);
/// From the end of a lease to the last leave: chats observe the lease, poll, and reap.
const REAPING: Duration = Duration::from_secs(4);
/// By how many seconds the clock is wrong, one value after the other.
const CLOCKS: [i64; 5] = [15, -15, 300, 0, -300];

fn plan() -> Plan {
    let lease = ["--lease", "2s"];
    Plan::of(3, 2).chat_flags(&lease).connector_flags(&lease)
}

async fn member(services: &Services, connector: usize, user: &str) -> Client {
    Client::join(services.connectors[connector].address(), user, "room").await
}

/// Checks for this long that nobody is closed and no connector is declared dead.
async fn nobody_is_closed(services: &Services, members: &[&Client], long: Duration) {
    wait::stays("nobody is closed", long, async || {
        members.iter().all(|it| it.ended().is_none())
    })
    .await;
    for chat in &services.chats {
        let lines = chat.lines();
        let declared = lines.iter().filter(|it| it.contains("declared dead"));
        assert_eq!(declared.count(), 0, "{lines:?}");
    }
}

/// Logs a user in. Several tries, because the first one may use a connection that was just lost.
async fn log_in(services: &Services, user: &str) -> Client {
    wait::some("a login succeeds", SOON, async || {
        let client = Client::connect(services.connectors[0].address()).await;
        (client.login(user, "room").await == LOGGED_IN).then_some(client)
    })
    .await
}

#[tokio::test]
async fn setting_the_clock_closes_no_session_and_a_dead_connector_is_still_reaped() {
    let plan = plan();
    let _permit = plan.permit().await;
    let redis = Redis::with_clock(0, None).await;
    let mut services = plan.services(&redis.url(), &redis.url()).await;
    let first = member(&services, 0, "first").await;
    let second = member(&services, 1, "second").await;
    let _third = member(&services, 2, "third").await;
    for (number, seconds) in CLOCKS.into_iter().enumerate() {
        redis.set_clock(seconds);
        // At once, while the lease still has its old deadline.
        let login = Client::connect(services.connectors[0].address()).await;
        let answer = login.login(&format!("late-{number}"), "room").await;
        assert_eq!(answer, LOGGED_IN, "{seconds}");
        nobody_is_closed(&services, &[&first, &second, &login], 2 * LEASE).await;
    }
    services.connectors[2].kill();
    let killed = Instant::now();
    for seconds in CLOCKS.into_iter().cycle() {
        redis.set_clock(seconds);
        if first.pushes().contains(&left("third")) {
            break;
        }
        assert!(pace::since(killed) < LEASE + REAPING, "it is not reaped");
        sleep(Duration::from_millis(100)).await;
    }
    println!("reaped after {:?}", killed.elapsed());
    assert!((first.ended(), second.ended()) == (None, None));
}

#[tokio::test]
async fn a_failover_to_a_server_whose_clock_is_ahead_closes_no_session() {
    let plan = plan();
    let _permit = plan.permit().await;
    let mut primary = Redis::with_clock(0, None).await;
    let replica = Redis::with_clock(30, Some(primary.address())).await;
    let relay = Relay::to(primary.address()).await;
    let url = relay.url();
    let mut services = plan.services(&url, &url).await;
    let first = member(&services, 0, "first").await;
    let second = member(&services, 1, "second").await;
    let _third = member(&services, 2, "third").await;
    replica.until_caught_up(&primary).await;
    relay.redirect_to(replica.address());
    primary.kill();
    replica.promote().await;
    let late = log_in(&services, "late").await;
    nobody_is_closed(&services, &[&first, &second, &late], 3 * LEASE).await;
    services.connectors[2].kill();
    let killed = Instant::now();
    wait::eventually("it is reaped", LEASE + REAPING, async || {
        first.pushes().contains(&left("third"))
    })
    .await;
    println!("reaped after {:?}", killed.elapsed());
}
