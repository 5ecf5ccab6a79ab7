//! A deploy behind a proxy: three connectors are restarted one after another while members send, and their clients come back through
//! the proxy. Nothing is lost, nobody seems to leave, and the proxy is not overrun.

use crate::deploys::{END, assert_paced, assert_undisturbed, watch};
use crate::proxies_in_front::{FORWARDED, Front, PREFACED};
use std::time::Duration;
use testkit::followers::{Followers, ROOM, WHOLE_LOG, assert_consistent};
use testkit::json::Client as Json;
use testkit::redis::Redis;
use testkit::service::Connector;
use testkit::system::Plan;
use testkit::{SOON, long, wait};
use tokio::time::Instant;

/// Clients come from so many addresses, because a proxy may choose the connector by the address.
const ADDRESSES: u8 = 100;

/// Restarts all connectors behind the proxy of this example.
async fn deploy(example: &str, flags: &[&'static str]) {
    let (listeners, rate, rate_flag) = if long() {
        (300, 60, "60")
    } else {
        (60, 20, "20")
    };
    let plan = Plan::of(3, 2)
        .alone()
        .chat_flags(&WHOLE_LOG)
        // These clients keep no secrets. Under `reject` they could not move twice within one grace.
        .login_policy("kick-old")
        .connector_flags(&["--grace", "60s", "--drain-rate", rate_flag])
        .connector_flags(flags);
    let _permit = plan.permit().await;
    let redis = Redis::start().await;
    let mut services = plan.services(&redis.url(), &redis.url()).await;
    let mut front = Front::start_from(example, &services.connectors, ADDRESSES).await;
    let mut followers = Followers::empty(ROOM, &[front.address()]);
    for number in 0..4 {
        let pace = Some(Duration::from_millis(100));
        followers.add(&format!("speaker{number}"), pace, 0);
    }
    for number in 0..listeners {
        followers.add(&format!("listener{number}"), None, 0);
    }
    followers.until_online().await;
    followers.start_sending();
    followers.until_each_acknowledged(5).await;

    for (number, connector) in (1..).zip(&mut services.connectors) {
        let arrived = front.arrivals().len();
        let before = connector.connections().await;
        assert!(before > 0, "the proxy sends clients to every connector");
        connector.terminate();
        let began = Instant::now();
        let seen = watch(connector.admin()).await;
        assert!(connector.ended_within(END).await.success());
        println!("{before} connections, ended after {:?}", began.elapsed());
        assert_paced(&seen, rate);
        followers.until_online().await;
        // These clients wait for a moment only. So they come at the pace at which they were closed.
        let arrivals = front.arrivals().split_off(arrived);
        assert!(arrivals.len() as u64 >= before, "all came back");
        let expected = (0..arrivals.len() as u64).rev();
        let expected: Vec<_> = arrivals.into_iter().zip(expected).collect();
        assert_paced(&expected, rate);

        connector.restart().await;
        connector.ready().await;
        until_it_gets_clients(&mut front, number, connector).await;
        followers.until_each_acknowledged(5).await;
    }

    let api = services.api(0);
    let history = followers.stop_and_collect(&api, redis.address()).await;
    println!("{}; slowest {:?}", followers.report(), followers.slowest());
    assert_consistent(&history, &[]);
    assert_undisturbed(&followers);
}

/// Waits until the proxy has noticed that this connector is back. haproxy says so. nginx sends a new client to it, because it has the
/// fewest.
async fn until_it_gets_clients(front: &mut Front, number: usize, connector: &Connector) {
    if front.is_haproxy() {
        let line = format!("Server connectors/connector-{number} is UP");
        return front.until_line(&line).await;
    }
    wait::eventually("the proxy uses the connector", 3 * SOON, async || {
        let before = connector.connections().await;
        let client = Json::connect(front.address()).await;
        let is_there = connector.connections().await > before;
        drop(client);
        is_there
    })
    .await;
}

#[tokio::test]
async fn connectors_behind_haproxy_are_restarted_and_nobody_notices() {
    // haproxy asks /readyz each second, and notices after two failures.
    let flags = [&PREFACED[..], &["--drain-notice", "4s"]].concat();
    deploy("haproxy/tcp.cfg", &flags).await;
}

#[tokio::test]
async fn connectors_behind_nginx_are_restarted_and_nobody_notices() {
    deploy("nginx/http.conf", &FORWARDED).await;
}
