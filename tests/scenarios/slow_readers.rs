//! A client that does not read is cut off before it costs memory, and delays nobody (F11).

use testkit::pomelo::{FAILED, SEND, SENT, joined, left};
use testkit::system::Plan;
use testkit::{SOON, long, pace, wait};
use tokio::time::Instant;

const MEBIBYTE: u64 = 1 << 20;

/// F11: the original buffered 32 MB for one client that did not read, and had no bound.
#[tokio::test]
async fn slow_readers_are_cut_off_within_their_bound_and_delay_nobody_f11() {
    const STALLED: usize = 10;
    const LETTERS: usize = 60_000;
    let count = if long() { 5_000 } else { 600 };
    let system = Plan::of(2, 1).alone().start().await;
    let connector = &system.connectors[0];
    let healthy = system.member(0, "healthy", "room").await;
    let mut stalled = Vec::new();
    for number in 0..STALLED {
        let client = testkit::pomelo::Client::connect_with_small_buffer(connector.address()).await;
        client.enter(&format!("stalled{number}"), "room").await;
        client.stop_reading();
        stalled.push(client);
    }
    let sender = system.member(1, "sender", "room").await;
    let before = connector.memory();

    let body = format!(r#"{{"c":"{}"}}"#, "x".repeat(LETTERS));
    for number in 0..count {
        let asked = Instant::now();
        let answer = sender.request(SEND, &body).await;
        assert_eq!(answer, SENT, "message {number}");
        assert!(
            pace::since(asked) < SOON / 10,
            "slow readers delay the sender"
        );
    }

    // The healthy client has everything. It is told that the others left while they are still connected and read
    // nothing.
    for number in 0..STALLED {
        healthy.until_push(&left(&format!("stalled{number}"))).await;
    }
    let messages = || {
        let received = healthy.inbox().read();
        let pushes = received.pushes.iter();
        pushes.filter(|push| push.route == "onMessage").count()
    };
    wait::eventually("the healthy one reads all", SOON, async || {
        messages() == count
    })
    .await;
    assert_eq!(healthy.ended(), None);
    system
        .until_members("room", &[("healthy", 1), ("sender", 1)])
        .await;

    // 1 MiB for each stalled client. The rest is what a process needs under such a load, even if all clients read.
    let bound = before.now + STALLED as u64 * MEBIBYTE + 24 * MEBIBYTE;
    let peak = connector.memory().peak;
    assert!(
        peak <= bound,
        "{} MiB at the peak, {} MiB before; sent to each: {} MiB",
        peak / MEBIBYTE,
        before.now / MEBIBYTE,
        (count * LETTERS) >> 20
    );

    for client in stalled {
        client.resume_reading();
        client.end(SOON).await;
    }
}

/// F11, for the answers to a client's own requests.
#[tokio::test]
async fn a_client_that_asks_without_reading_the_answers_costs_bounded_memory_f11() {
    let count = if long() { 2_000_000 } else { 200_000 };
    let system = Plan::of(1, 1).alone().start().await;
    let connector = &system.connectors[0];
    let bystander = system.member(0, "bystander", "room").await;
    let client = testkit::pomelo::Client::connect_with_small_buffer(connector.address()).await;
    client.stop_reading();
    let before = connector.memory();
    let asks = async {
        for id in 1..=count {
            client.start_as(id, "connector.handler.nosuch", "{}").await;
        }
    };
    // It may be cut off, or it may have to wait because the connector stops reading. Both are bounds.
    let _ = testkit::pace::timeout(SOON / 2, asks).await;
    assert_eq!(
        bystander.request("connector.handler.nosuch", "{}").await,
        FAILED
    );
    assert_eq!(bystander.pushes(), [joined("bystander")]);
    let grown = connector.memory().peak.saturating_sub(before.now);
    assert!(grown < 32 * MEBIBYTE, "grown by {} MiB", grown / MEBIBYTE);
}
