//! A session that does more than it may.

use super::*;
use crate::limits::{BOUNDS_REACHED, SessionRates};
use runtime::pace::Rate;

/// A client that has logged in as "u" and may do this much from now on.
async fn logged_in_at(rates: SessionRates) -> Scene {
    let mut scene = logged_in().await;
    scene.me.paces = Some(Box::new(Paces::new(rates)));
    scene
}

fn requests(each_second: u32, burst: u32) -> SessionRates {
    SessionRates {
        requests: Rate::of(each_second, burst),
        ..SessionRates::default()
    }
}

fn told_to_wait(id: u64, milliseconds: u64) -> Told {
    let refusal = Refusal::rate_limited(Duration::from_millis(milliseconds));
    reply(id, &refusal.body(Protocol::Json))
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_rate_are_refused_and_those_that_come_later_are_not() {
    let counters = Counters::default();
    let _recording = metrics::set_default_local_recorder(&counters);
    let mut scene = logged_in_at(requests(10, 2)).await;
    let now = Instant::now();
    for id in 2..4 {
        let members = request(id, "chat.handler.unknown", &json!({}));
        scene.me.handle(members, now).await;
        assert_eq!(scene.client.next().await, refused(id, Reason::UnknownRoute));
    }
    scene.me.handle(send(4), now).await;
    assert_eq!(scene.client.next().await, told_to_wait(4, 100));
    let limited = Vec::from(["request-rate".to_owned()]);
    assert_eq!(counters.series(BOUNDS_REACHED), [(limited, 1)].into());
    let later = request(5, "chat.handler.unknown", &json!({}));
    let in_time = now + Duration::from_millis(100);
    scene.me.handle(later, in_time).await;
    assert_eq!(scene.client.next().await, refused(5, Reason::UnknownRoute));
    assert_eq!(scene.socket.closing(), None);
}

/// Otherwise its answer would come before those of messages that were sent before it.
#[tokio::test(start_paused = true)]
async fn a_refusal_comes_after_the_answers_to_earlier_messages() {
    let mut scene = logged_in_at(requests(10, 1)).await;
    let now = Instant::now();
    scene.me.handle(send(2), now).await;
    tokio::join!(scene.me.handle(send(3), now), async {
        scene.stream.next().await;
        let_run().await;
        assert!(scene.client.has_nothing(), "the first is not answered yet");
        scene.stream.sent();
    });
    assert_eq!(scene.client.next().await, reply(2, SENT));
    assert_eq!(scene.client.next().await, told_to_wait(3, 100));
}

#[tokio::test(start_paused = true)]
async fn leaves_and_pings_are_never_refused() {
    let mut scene = logged_in_at(requests(1, 1)).await;
    let now = Instant::now();
    for id in 2..50 {
        scene.me.handle(request(id, PING, &json!({})), now).await;
        assert_eq!(scene.client.next().await, reply(id, DONE));
    }
    for id in 50..60 {
        let leave = request(id, "chat.handler.leave", &json!({"channel": "another"}));
        scene.me.handle(leave, now).await;
        assert_eq!(scene.client.next().await, refused(id, Reason::NotJoined));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_after_many_refusals_is_closed() {
    let mut scene = logged_in_at(requests(10, 3)).await;
    let now = Instant::now();
    let mut tries = 0;
    while scene.socket.closing().is_none() {
        tries += 1;
        let again = request(tries, "chat.handler.unknown", &json!({}));
        scene.me.handle(again, now).await;
    }
    // As many as it may make, as many refusals, and one more.
    assert_eq!(tries, 3 + 3 + 1);
    assert_eq!(scene.socket.closing(), Some(Disconnect::TooFast));
}

#[tokio::test(start_paused = true)]
async fn bodies_beyond_the_bytes_of_a_second_are_refused_and_a_client_that_goes_on_is_closed() {
    let rates = SessionRates {
        bytes: Rate::of(1_000, 2_000),
        ..SessionRates::default()
    };
    let mut scene = logged_in_at(rates).await;
    let now = Instant::now();
    let large = |id| {
        request(
            id,
            "chat.handler.unknown",
            &json!({"text": "x".repeat(1_489)}),
        )
    };
    assert_eq!(large(2).body.len(), 1_500);
    scene.me.handle(large(2), now).await;
    assert_eq!(scene.client.next().await, refused(2, Reason::UnknownRoute));
    scene.me.handle(large(3), now).await;
    assert_eq!(scene.client.next().await, told_to_wait(3, 1_000));
    // What was refused is not counted, and what is small may still have room.
    scene.me.handle(request(4, PING, &json!({})), now).await;
    assert_eq!(scene.client.next().await, reply(4, DONE));
    // The two bytes of the ping count, too.
    let later = now + Duration::from_millis(1_002);
    scene.me.handle(large(5), later).await;
    assert_eq!(scene.client.next().await, refused(5, Reason::UnknownRoute));
    let mut refused = 0;
    while scene.socket.closing().is_none() {
        scene.me.handle(large(6), later).await;
        refused += 1;
    }
    assert_eq!(refused, 1_000 + 1);
    assert_eq!(scene.socket.closing(), Some(Disconnect::TooFast));
}

/// Each of them costs the store something, also after the session has left it.
#[tokio::test(start_paused = true)]
async fn a_session_joins_one_new_channel_after_another_only_so_fast_where_nothing_is_limited() {
    let (mut paces, now) = (Paces::default(), Instant::now());
    for _ in 0..1_000 {
        assert!(paces.join(now).is_ok());
    }
    let refused = paces.join(now).unwrap_err();
    let wait = Duration::from_millis(120);
    let expected = Refusal::rate_limited(wait);
    assert_eq!(refused.body(Protocol::Json), expected.body(Protocol::Json));
    assert!(paces.join(now + wait).is_ok());
}

#[tokio::test(start_paused = true)]
async fn bytes_that_cannot_be_refused_are_made_up_for_and_twice_a_burst_closes_the_client() {
    let rates = SessionRates {
        bytes: Rate::of(1_000, 2_000),
        ..SessionRates::default()
    };
    let now = Instant::now();
    let filler = json!({"x": "x".repeat(1_992)});
    for is_ping in [false, true] {
        let mut scene = logged_in_at(rates).await;
        let mut id = 1;
        let mut sends_a_burst = async |scene: &mut Scene| {
            id += 1;
            if !is_ping {
                return scene.me.heard(2_000, now);
            }
            let ping = request(id, PING, &filler);
            assert_eq!(ping.body.len(), 2_000);
            scene.me.handle(ping, now).await;
            assert_eq!(scene.client.next().await, reply(id, DONE));
        };
        sends_a_burst(&mut scene).await;
        let unknown = || request(90, "chat.handler.unknown", &json!({}));
        scene.me.handle(unknown(), now).await;
        assert_eq!(scene.client.next().await, told_to_wait(90, 2));
        sends_a_burst(&mut scene).await;
        scene.me.handle(unknown(), now).await;
        assert_eq!(scene.client.next().await, told_to_wait(90, 2_002));
        assert_eq!(scene.socket.closing(), None);
        let in_time = now + Duration::from_millis(2_002);
        scene.me.handle(unknown(), in_time).await;
        let unknown = refused(90, Reason::UnknownRoute);
        assert_eq!(scene.client.next().await, unknown);
        scene.me.heard(2_000, in_time);
        assert_eq!(scene.socket.closing(), None);
        if is_ping {
            let ping = request(91, PING, &json!({}));
            scene.me.handle(ping, in_time).await;
        } else {
            scene.me.heard(1, in_time);
        }
        assert_eq!(scene.socket.closing(), Some(Disconnect::TooFast));
    }
}

/// A connector without limits of bytes counts none.
#[tokio::test(start_paused = true)]
async fn without_a_limit_any_number_of_bytes_may_be_sent() {
    let mut scene = logged_in_at(requests(10, 2)).await;
    let now = Instant::now();
    scene.me.heard(usize::MAX, now);
    assert_eq!(scene.socket.closing(), None);
    let unknown = request(2, "chat.handler.unknown", &json!({}));
    scene.me.handle(unknown, now).await;
    assert_eq!(scene.client.next().await, refused(2, Reason::UnknownRoute));
}

#[tokio::test(start_paused = true)]
async fn joins_and_pages_have_rates_of_their_own() {
    let rates = SessionRates {
        joins: Rate::of(10, 1),
        reads: Rate::of(10, 1),
        ..SessionRates::default()
    };
    let mut scene = logged_in_at(rates).await;
    let now = Instant::now();
    let paces = scene.me.paces.as_mut().unwrap();
    assert!(paces.join(now).is_ok() && paces.read(now).is_ok());
    let join = request(2, "chat.handler.join", &json!({"channel": "another"}));
    scene.me.handle(join, now).await;
    assert_eq!(scene.client.next().await, told_to_wait(2, 100));
    for (id, route) in [(3, "chat.handler.members"), (4, "chat.handler.history")] {
        scene.me.handle(request(id, route, &json!({})), now).await;
        assert_eq!(scene.client.next().await, told_to_wait(id, 100));
    }
    // The paces are kept although a join takes them along.
    assert!(scene.me.paces.is_some());
    scene.instance.nobody_calls().await;
}
