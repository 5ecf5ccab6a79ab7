//! Members of channels in cases in which the original lost count (F2, F4, F5).

use std::time::Duration;
use testkit::pomelo::{
    Client, DATA, HANDSHAKE_ACK, LOGGED_IN_ALREADY, LOGIN, SEND, SENT, joined, left, login_body,
    package, request,
};
use testkit::system::{Plan, System};
use testkit::websocket::{BINARY, CLOSE, TEXT, encode};
use testkit::{SOON, long, wait};

/// If something wrong is going to happen, it happens within this time.
const SETTLED: Duration = Duration::from_secs(1);

/// F2: in the original, joins and leaves raced on different servers, and 17 of 100 members stayed behind.
#[tokio::test]
async fn login_then_immediate_close_leaves_no_member_behind_f02() {
    const AT_ONCE: usize = 8;
    let tries = if long() { 5_000 } else { 1_000 };
    let system = System::start().await;
    let watcher = system.member(1, "watcher", "room").await;
    let address = system.connectors[0].address();
    let mut running = tokio::task::JoinSet::new();
    for number in 0..tries {
        if running.len() == AT_ONCE {
            running
                .join_next()
                .await
                .expect("one runs")
                .expect("it ends well");
        }
        running.spawn(async move {
            let login = login_body(&format!("user{number}"), "room");
            if number % 8 >= 4 {
                let client = testkit::json::Client::connect(address).await;
                let login = format!(r#"{{"id":1,"route":"{LOGIN}","body":{login}}}"#);
                let mut bytes = encode(TEXT, login.as_bytes());
                if number % 2 == 0 {
                    bytes.extend(encode(CLOSE, &1000u16.to_be_bytes()));
                    client.bytes(&bytes).await;
                    client.end(SOON).await;
                } else {
                    client.bytes(&bytes).await;
                }
                return;
            }
            let client = Client::connect(address).await;
            let login = package(DATA, &request(1, LOGIN, login.as_bytes()));
            let mut bytes = encode(BINARY, &login);
            match number % 4 {
                0 => {
                    // The close follows the login in the same segment.
                    bytes.extend(encode(CLOSE, &1000u16.to_be_bytes()));
                    client.bytes(&bytes).await;
                    client.end(SOON).await;
                }
                1 => {
                    client.bytes(&bytes).await;
                    client.finish().await;
                    client.end(SOON).await;
                }
                2 => {
                    client.bytes(&bytes).await;
                    client.reset().await;
                }
                _ => {
                    client.bytes(&bytes).await;
                    client.reply(1).await;
                    client.reset().await;
                }
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("it ends well");
    }

    // Some clients were gone before the server had read their logins.
    let connector = &system.connectors[0];
    wait::eventually("all sessions are over", SOON, async || {
        connector.connections().await == 0
            && connector.metric::<u64>("connector_sessions").await == 0
            && connector.metric::<u64>("connector_pending_leaves").await == 0
    })
    .await;
    system.until_members("room", &[("watcher", 1)]).await;
    // News of the room may come to the watcher late.
    let published = async || system.redis.published("room").await;
    wait::eventually("the watcher knows all", SOON, async || {
        watcher.push_count() as u64 == published().await
    })
    .await;
    let known = watcher.push_count();
    wait::stays("nobody comes back", SETTLED, async || {
        published().await == known as u64 && watcher.push_count() == known
    })
    .await;
    let pushes = watcher.pushes();
    let mut seen = 0;
    for number in 0..tries {
        let user = format!("user{number}");
        let quoted = format!("\"{user}\"");
        let own: Vec<_> = pushes
            .iter()
            .filter(|push| push.contains(&quoted))
            .collect();
        if !own.is_empty() {
            assert_eq!(own, [&joined(&user), &left(&user)]);
            seen += 1;
        }
    }
    assert!(seen >= tries / 4, "only {seen} of {tries} ever joined");
}

/// F4: in the original the user was listed twice, and the first session that left announced `onLeave` for the other
/// one.
#[tokio::test]
async fn a_user_on_two_connectors_is_listed_once_and_leaves_with_the_last_session_f04() {
    let system = Plan::of(2, 2).login_policy("allow").start().await;
    let watcher = system.member(1, "watcher", "room").await;
    let first = system.member(0, "alice", "room").await;
    let second = system.visitor(1).await;
    assert_eq!(
        second.login("alice", "room").await,
        testkit::pomelo::LOGGED_IN
    );
    let both = [("alice", 2), ("watcher", 1)];
    system.until_members("room", &both).await;

    first.close().await;
    let one = [("alice", 1), ("watcher", 1)];
    system.until_members("room", &one).await;
    // The session that stays can send and receive.
    assert_eq!(second.say("still here").await, SENT);
    second
        .until_push(r#"onMessage {"content":"still here","userId":"alice"}"#)
        .await;

    second.close().await;
    watcher.until_push(&left("alice")).await;
    system.until_members("room", &[("watcher", 1)]).await;
    let expected = [
        &joined("watcher"),
        &joined("alice"),
        r#"onMessage {"content":"still here","userId":"alice"}"#,
        &left("alice"),
    ];
    assert_eq!(watcher.pushes(), expected);
}

/// F5: in the original it "succeeded", and left a member behind for ever.
#[tokio::test]
async fn a_second_login_with_another_user_is_refused_and_changes_nothing_f05() {
    let system = System::start().await;
    let watcher = system.member(1, "watcher", "room").await;
    let client = system.member(0, "alice", "room").await;
    for (user, room) in [("mallory", "room"), ("mallory", "other"), ("alice", "room")] {
        assert_eq!(client.login(user, room).await, LOGGED_IN_ALREADY);
    }
    client.notify(LOGIN, &login_body("mallory", "room")).await;
    // It is still the first user.
    assert_eq!(client.request(SEND, "{}").await, SENT);
    system
        .until_members("room", &[("alice", 1), ("watcher", 1)])
        .await;
    system.until_members("other", &[]).await;
    client.close().await;
    watcher.until_push(&left("alice")).await;
    let expected = [
        &joined("watcher"),
        &joined("alice"),
        r#"onMessage {"userId":"alice"}"#,
        &left("alice"),
    ];
    assert_eq!(watcher.pushes(), expected);
}

/// A login that is under way counts, too, so the second one is refused.
#[tokio::test]
async fn two_logins_at_once_on_one_connection_make_one_member() {
    let system = System::start().await;
    let client = Client::dial(system.connectors[0].address()).await;
    client.shake_hands().await;
    client.package(HANDSHAKE_ACK, &[]).await;
    let first = client.start(LOGIN, &login_body("alice", "room")).await;
    let second = client.start(LOGIN, &login_body("mallory", "room")).await;
    assert_eq!(client.reply(first).await.text(), testkit::pomelo::LOGGED_IN);
    assert_eq!(client.reply(second).await.text(), LOGGED_IN_ALREADY);
    system.until_members("room", &[("alice", 1)]).await;
}
