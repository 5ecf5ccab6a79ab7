//! While a part of the system is down, every request is answered within 2 s and never with a false success, nothing is
//! lost or repeated, and nobody is disconnected. When the part is back, everything works again by itself.

use crate::load::{Load, listeners, senders};
use std::time::Duration;
use testkit::followers::WHOLE_LOG;
use testkit::pomelo::{
    Client, FAILED, LOGGED_IN, LOGIN, SEND, SENT, heard, joined, left, login_body, said,
};
use testkit::system::{Plan, System, busy};
use testkit::{ANSWERED, SOON, pace, wait};
use tokio::time::Instant;
use tonic::Code;

/// A request without an answer for this long is with the chat that does not answer.
const STUCK: Duration = Duration::from_millis(150);

/// F7: in the original, sends and logins "succeeded" while Redis was down, and after its restart rooms were empty.
#[tokio::test]
async fn with_redis_stopped_nothing_succeeds_and_everything_works_again_by_itself_f07() {
    let mut system = System::start().await;
    let alice = system.member(0, "alice", "room").await;
    let bob = system.member(1, "bob", "room").await;
    let carol = system.visitor(1).await;

    system.redis.stop().await;
    assert_eq!(alice.request_in_time(SEND, &said("lost")).await, FAILED);
    let login = login_body("carol", "room");
    assert_eq!(carol.request_in_time(LOGIN, &login).await, FAILED);
    let asked = Instant::now();
    let status = system.api(0).send("room", "alice", "{}", "").await;
    assert_eq!(status.expect_err("Redis is down").code(), Code::Unavailable);
    let took = pace::since(asked);
    assert!(took <= ANSWERED, "{took:?}");
    for service in [&*system.chats[0], &*system.connectors[0]] {
        wait::eventually("it is not ready", SOON, async || {
            service.readyz().await == Some(503)
        })
        .await;
    }

    system.redis.restart().await;
    works_again(&alice, &bob).await;
    system
        .until_members("room", &[("alice", 1), ("bob", 1)])
        .await;
    carol.enter("carol", "room").await;
    alice.until_push(&joined("carol")).await;
    for service in [&*system.chats[0], &*system.connectors[0]] {
        service.ready().await;
    }
    for member in [&alice, &bob, &carol] {
        assert_eq!(member.ended(), None);
    }
    for push in bob.pushes() {
        assert!(
            push != left("alice") && push != heard("alice", "lost"),
            "{push}"
        );
    }
}

/// F7 with a Redis that hangs: its connections stay open, and nothing is answered.
#[tokio::test]
async fn with_redis_hanging_nothing_succeeds_and_everything_works_again_by_itself_f07() {
    let system = System::start().await;
    let alice = system.member(0, "alice", "room").await;
    let bob = system.member(1, "bob", "room").await;
    let carol = system.visitor(0).await;

    system.redis.freeze();
    assert_eq!(
        alice.request_in_time(SEND, &said("who knows")).await,
        FAILED
    );
    let login = login_body("carol", "room");
    assert_eq!(carol.request_in_time(LOGIN, &login).await, FAILED);
    let status = system.api(1).send("room", "alice", "{}", "").await;
    let code = status.expect_err("Redis hangs").code();
    assert!(
        matches!(code, Code::Unavailable | Code::DeadlineExceeded),
        "{code}"
    );

    system.redis.thaw();
    works_again(&alice, &bob).await;
    // The failed login is undone: carol is not a member, and may log in.
    system
        .until_members("room", &[("alice", 1), ("bob", 1)])
        .await;
    assert_eq!(carol.login("carol", "room").await, LOGGED_IN);
    system
        .until_members("room", &[("alice", 1), ("bob", 1), ("carol", 1)])
        .await;
    let uncertain = heard("alice", "who knows");
    let times = bob
        .pushes()
        .iter()
        .filter(|push| **push == uncertain)
        .count();
    assert!(times <= 1, "sent once, received {times} times");
}

/// F7: an acknowledgement holds, also if Redis is killed right after it.
///
/// Connectors reconnect to Redis at different times, and senders do not wait for them. The log has what they miss.
#[tokio::test]
async fn messages_acknowledged_before_redis_was_killed_are_seen_by_everybody() {
    let plan = Plan::of(2, 2).chat_flags(&WHOLE_LOG).alone();
    let mut system = plan.start().await;
    let listeners = listeners(&system, 4).await;
    let load = Load::start(senders(&system, 4).await, 16, usize::MAX);
    load.until_each_acknowledged(100).await;
    system.redis.kill();
    wait::eventually("somebody is refused", SOON, async || load.refused() > 0).await;
    system.redis.restart().await;
    load.until_each_acknowledged(100).await;
    let outcome = load.finish(true).await;
    assert!(outcome.slowest <= ANSWERED, "{:?}", outcome.slowest);
    outcome.was_seen_by(&listeners).await;
}

/// F8: in the original, requests hung for 30 s and then failed, though some were delivered.
#[tokio::test]
async fn a_chat_killed_under_load_loses_repeats_and_delays_nothing_f08() {
    let mut system = Plan::of(2, 2).alone().start().await;
    let listeners = listeners(&system, 10).await;
    let load = Load::start(senders(&system, 8).await, 16, usize::MAX);
    load.until_each_acknowledged(100).await;

    // Freeze it first, to know which requests it has when it dies.
    let busy = busy(&system.chats).await;
    system.chats[busy].freeze();
    wait::eventually("the frozen chat has requests", SOON, async || {
        !stuck(&load).is_empty()
    })
    .await;
    system.chats[busy].kill();
    let in_flight = stuck(&load);
    assert!(!in_flight.is_empty(), "no request was in flight");

    load.until_each_acknowledged(100).await;
    for (sender, id) in in_flight {
        assert_eq!(load.answer(sender, id).as_deref(), Some(SENT));
    }
    let outcome = load.finish(true).await;
    assert_eq!(outcome.failed, []);
    assert!(outcome.slowest <= ANSWERED, "{:?}", outcome.slowest);
    outcome.was_seen_by(&listeners).await;
}

/// F8 for each chat in turn. Each is used again when it is back.
#[tokio::test]
async fn chats_killed_in_turn_under_load_lose_repeat_and_delay_nothing_f08() {
    let mut system = Plan::of(2, 2).alone().start().await;
    let listeners = listeners(&system, 10).await;
    let load = Load::start(senders(&system, 8).await, 16, usize::MAX);
    for round in 0..4 {
        load.until_each_acknowledged(200).await;
        let unanswered: usize = load.unanswered().iter().map(Vec::len).sum();
        assert!(unanswered > 0, "no request is under way");
        let chat = &mut system.chats[round % 2];
        chat.kill();
        load.until_each_acknowledged(200).await;
        chat.restart().await;
        chat.ready().await;
    }
    let outcome = load.finish(true).await;
    assert_eq!(outcome.failed, []);
    assert!(outcome.slowest <= ANSWERED, "{:?}", outcome.slowest);
    outcome.was_seen_by(&listeners).await;
}

/// F8 with a chat that hangs instead of dying: no request waits longer than its 2 s.
#[tokio::test]
async fn a_chat_that_hangs_delays_no_request_beyond_its_deadline() {
    let system = Plan::of(2, 2).alone().start().await;
    let listeners = listeners(&system, 4).await;
    let load = Load::start(senders(&system, 8).await, 16, usize::MAX);
    load.until_each_acknowledged(100).await;
    system.chats[0].freeze();
    load.until_each_acknowledged(100).await;
    system.chats[0].thaw();
    load.until_each_acknowledged(100).await;
    let outcome = load.finish(true).await;
    assert!(outcome.slowest <= ANSWERED, "{:?}", outcome.slowest);
    outcome.was_seen_by(&listeners).await;
}

/// F9: in the original, logins "succeeded", and leaves were lost.
#[tokio::test]
async fn with_every_chat_dead_logins_fail_and_leaves_are_published_later_f09() {
    const MANY: usize = 60;
    let mut system = System::start().await;
    let alice = system.member(0, "alice", "room").await;
    let bob = system.member(1, "bob", "room").await;
    let carol = system.visitor(0).await;
    let mut many = Vec::new();
    for number in 0..MANY {
        let user = format!("user{number}");
        many.push(system.member(number % 2, &user, "room").await);
    }
    for chat in &mut system.chats {
        chat.kill();
    }

    let login = login_body("carol", "room");
    assert_eq!(carol.request_in_time(LOGIN, &login).await, FAILED);
    assert_eq!(
        bob.request_in_time(SEND, &said("nobody hears")).await,
        FAILED
    );
    alice.close().await;
    for (number, client) in many.into_iter().enumerate() {
        match number % 3 {
            0 => drop(client.close().await),
            1 => client.reset().await,
            _ => drop(client),
        }
    }

    system.chats[1].restart().await;
    bob.until_push(&left("alice")).await;
    system.until_members("room", &[("bob", 1)]).await;
    wait::eventually("everybody has left once", SOON, async || {
        let pushes = bob.pushes();
        let leaves = pushes.iter().filter(|push| push.starts_with("onLeave"));
        let users: std::collections::BTreeSet<_> = leaves.clone().collect();
        (leaves.count(), users.len()) == (MANY + 1, MANY + 1)
    })
    .await;
    assert_eq!(bob.ended(), None);
    wait::eventually("sends work again", SOON, async || {
        bob.say("again").await == SENT
    })
    .await;
    assert_eq!(carol.login("carol", "room").await, LOGGED_IN);
    bob.until_push(&joined("carol")).await;
}

/// Redis does so when it forks, or waits for its disk. Nobody is taken for dead, disconnected, or seen to leave.
#[tokio::test]
async fn a_redis_that_hangs_for_three_seconds_costs_no_lease() {
    let plan = Plan::of(2, 2)
        .chat_flags(&["--lease", "5s"])
        .connector_flags(&["--lease", "5s"]);
    let system = plan.start().await;
    let alice = system.member(0, "alice", "room").await;
    let bob = system.member(1, "bob", "room").await;
    system.redis.freeze();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        let answer = alice.request_in_time(SEND, &said("who knows")).await;
        assert_eq!(answer, FAILED);
    }
    system.redis.thaw();
    works_again(&alice, &bob).await;
    system
        .until_members("room", &[("alice", 1), ("bob", 1)])
        .await;
    for member in [&alice, &bob] {
        assert_eq!(member.ended(), None);
    }
    let pushes = bob.pushes();
    assert!(pushes.iter().all(|push| *push != left("alice")));
    for connector in &system.connectors {
        let dead = connector.warnings();
        let dead = dead.iter().find(|line| line.contains("declared dead"));
        assert_eq!(dead, None);
    }
}

/// Checks that sends succeed again, that each is received once on the other connector, and nothing else.
async fn works_again(alice: &Client, bob: &Client) {
    let mut tries = 0;
    let said = wait::some("sends work again", SOON, async || {
        tries += 1;
        let content = format!("back {tries}");
        (alice.say(&content).await == SENT).then_some(content)
    })
    .await;
    bob.until_push(&heard("alice", &said)).await;
    assert_eq!(alice.say("and on").await, SENT);
    bob.until_push(&heard("alice", "and on")).await;
    let pushes = bob.pushes();
    let times = pushes.iter().filter(|push| **push == heard("alice", &said));
    assert_eq!(times.count(), 1);
}

/// The oldest unanswered request of each sender, if it has waited longer than a working chat takes.
fn stuck(load: &Load) -> Vec<(usize, u64)> {
    let unanswered = load.unanswered();
    let oldest = unanswered.iter().enumerate();
    oldest
        .filter_map(|(sender, requests)| Some((sender, requests.first()?)))
        .filter(|(_, request)| request.since.elapsed() > STUCK)
        .map(|(sender, request)| (sender, request.id))
        .collect()
}
