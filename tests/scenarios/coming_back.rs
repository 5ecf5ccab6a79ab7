//! A client that shows the secret of its last login resumes its session at once, wherever the old session is, and
//! nobody sees it leave or join.

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use testkit::json::Client;
use testkit::link::End;
use testkit::pomelo::LOGIN;
use testkit::relay::Relay;
use testkit::system::{Plan, System};
use testkit::{SOON, pace, wait};
use tokio::task::JoinSet;
use tokio::time::Instant;

const JOIN: &str = "chat.handler.join";
const SEND: &str = "chat.handler.send";
const ROOM: &str = "room";
const SIDE: &str = "side";
/// Long enough to distinguish a client that is back at once from one that waited for the end of the lease.
const LEASE: Duration = Duration::from_secs(4);
/// From the end of a lease until what it held is reaped, on a busy machine.
const REAPED: Duration = Duration::from_secs(4);
const AT_ONCE: Duration = Duration::from_secs(1);
/// The close code of a socket whose session was resumed elsewhere. It is final.
const REPLACED: u16 = 4012;

async fn system(policy: &'static str) -> System {
    let lease = ["--lease", "4s"];
    let plan = Plan::of(3, 2).connector_flags(&lease).chat_flags(&lease);
    plan.login_policy(policy).start().await
}

fn address(system: &System, connector: usize) -> SocketAddr {
    system.connectors[connector].address()
}

/// Logs in, with the secret if there is one. Returns the answer.
async fn login(client: &Client, user: &str, secret: Option<&str>) -> Value {
    let mut body = json!({ "userId": user, "lessonId": ROOM });
    if let Some(secret) = secret {
        body["resume"] = secret.into();
    }
    client.request(LOGIN, body).await
}

/// Connects and logs in. Returns the client and its secret.
async fn logged_in(at: SocketAddr, user: &str, secret: Option<&str>) -> (Client, String) {
    let client = Client::connect(at).await;
    let answer = login(&client, user, secret).await;
    assert_eq!(answer["code"], 0, "{answer}");
    let given = answer["resume"].as_str().expect("a secret").to_owned();
    assert!(
        secret.is_none_or(|shown| shown == given),
        "the secret stays the same"
    );
    (client, given)
}

async fn join(client: &Client, channel: &str) {
    let answer = client.request(JOIN, json!({ "channel": channel })).await;
    assert_eq!(answer["code"], 0, "{answer}");
}

/// A member of both channels, on the connector to which nothing happens.
async fn watcher(system: &System) -> Client {
    let (watcher, _) = logged_in(address(system, 2), "watcher", None).await;
    join(&watcher, SIDE).await;
    watcher
}

/// The joins and leaves of a user that the watcher has received, in all channels.
fn joins_and_leaves(watcher: &Client, user: &str) -> Vec<String> {
    let pushes = &watcher.inbox().read().pushes;
    let of_user = pushes.iter().filter(|push| push["body"]["userId"] == user);
    let routes = of_user.filter_map(|push| push["route"].as_str());
    let routes = routes.filter(|route| *route != "onMessage");
    routes.map(str::to_owned).collect()
}

async fn is_replaced(client: &Client) {
    match client.end(SOON).await {
        End::Closed { code, reason } => assert_eq!((code, &*reason), (REPLACED, "replaced")),
        other => panic!("{other:?}"),
    }
    let pushes = &client.inbox().read().pushes;
    let told = pushes.iter().find(|push| push["route"] == "onKick");
    assert_eq!(told.expect("it is told")["body"]["reconnect"], false);
}

#[tokio::test]
async fn a_client_whose_connector_was_killed_resumes_at_once_and_nobody_sees_it() {
    let mut system = system("reject").await;
    let watcher = watcher(&system).await;
    let (mut me, secret) = logged_in(address(&system, 0), "me", None).await;
    join(&me, SIDE).await;
    wait::eventually("the watcher sees the joins", SOON, async || {
        joins_and_leaves(&watcher, "me") == ["onJoin", "onJoin"]
    })
    .await;
    for round in 0..20 {
        let (here, there) = (round % 2, (round + 1) % 2);
        system.connectors[here].kill();
        let killed = Instant::now();
        if round == 0 {
            let stranger = Client::connect(address(&system, there)).await;
            let refused = login(&stranger, "me", None).await;
            assert_eq!(
                refused["reason"], "USER_LOGGED_IN",
                "without the secret: {refused}"
            );
        }
        let (back, _) = logged_in(address(&system, there), "me", Some(&secret)).await;
        join(&back, SIDE).await;
        let took = pace::since(killed);
        assert!(took < AT_ONCE, "round {round}: back after {took:?}");
        for channel in [ROOM, SIDE] {
            let members = system.api(round % 2).members(channel).await.unwrap();
            let expected = [("me".to_owned(), 1), ("watcher".to_owned(), 1)];
            assert_eq!(members, expected, "round {round}, {channel}");
        }
        let answer = back.request(SEND, json!({ "round": round })).await;
        assert_eq!(answer["code"], 0, "{answer}");
        me = back;
        system.connectors[here].restart().await;
        system.connectors[here].ready().await;
    }
    // The dead incarnations are reaped, and hold nothing of this user any more.
    wait::stays("nobody sees it", LEASE + REAPED, async || {
        joins_and_leaves(&watcher, "me") == ["onJoin", "onJoin"] && me.ended().is_none()
    })
    .await;
    for channel in [ROOM, SIDE] {
        system
            .until_members(channel, &[("me", 1), ("watcher", 1)])
            .await;
    }
    let told = watcher.inbox().read().pushes.clone();
    let rounds = told
        .iter()
        .filter_map(|push| push["body"]["round"].as_u64());
    assert!(rounds.eq(0..20), "each message once, in order");
}

#[tokio::test]
async fn a_client_whose_socket_is_half_open_resumes_at_once_under_every_policy() {
    for policy in ["reject", "kick-old", "allow"] {
        let system = system(policy).await;
        let watcher = watcher(&system).await;
        let relay = Relay::to(address(&system, 0)).await;
        let (old, secret) = logged_in(relay.address(), "me", None).await;
        join(&old, SIDE).await;
        wait::eventually("the watcher sees the joins", SOON, async || {
            joins_and_leaves(&watcher, "me").len() == 2
        })
        .await;
        relay.stall();
        let away = Instant::now();
        let (back, _) = logged_in(address(&system, 1), "me", Some(&secret)).await;
        let took = pace::since(away);
        assert!(took < AT_ONCE, "{policy}: back after {took:?}");
        system
            .until_members(ROOM, &[("me", 1), ("watcher", 1)])
            .await;
        // Its further channel is kept for it, although the old connector knows of the resume by now.
        relay.resume();
        is_replaced(&old).await;
        join(&back, SIDE).await;
        system
            .until_members(SIDE, &[("me", 1), ("watcher", 1)])
            .await;
        let linger = Duration::from_secs(7);
        wait::stays("nobody sees it", linger, async || {
            joins_and_leaves(&watcher, "me").len() == 2 && back.ended().is_none()
        })
        .await;
    }
}

#[tokio::test]
async fn a_connector_that_was_frozen_gives_up_the_sessions_that_were_taken_over() {
    let system = system("reject").await;
    let watcher = watcher(&system).await;
    let (mut old, secret) = logged_in(address(&system, 0), "me", None).await;
    wait::eventually("the watcher sees the joins", SOON, async || {
        joins_and_leaves(&watcher, "me").len() == 1
    })
    .await;
    for round in 0..3 {
        system.connectors[0].freeze();
        // The connector reads this message only when it thaws.
        let late = json!({ "id": 99, "route": SEND, "body": { "late": true } });
        old.text(&late.to_string()).await;
        let away = Instant::now();
        let (back, _) = logged_in(address(&system, 1), "me", Some(&secret)).await;
        let took = pace::since(away);
        assert!(took < AT_ONCE, "back after {took:?}");
        system.connectors[0].thaw();
        is_replaced(&old).await;
        // Then it comes back to the connector of the old session.
        let (again, _) = logged_in(address(&system, 0), "me", Some(&secret)).await;
        is_replaced(&back).await;
        let answer = again.request(SEND, json!({ "round": round })).await;
        assert_eq!(answer["code"], 0, "{answer}");
        system
            .until_members(ROOM, &[("me", 1), ("watcher", 1)])
            .await;
        old = again;
    }
    assert_eq!(joins_and_leaves(&watcher, "me"), ["onJoin"]);
    let pushes = watcher.inbox().read().pushes.clone();
    let late = pushes.iter().any(|push| push["body"]["late"] == true);
    assert!(!late, "a session that was taken over has published");
}

#[tokio::test]
async fn when_two_tabs_share_a_secret_the_newer_one_keeps_the_session() {
    for policy in ["reject", "allow"] {
        let system = system(policy).await;
        let watcher = watcher(&system).await;
        let (first, secret) = logged_in(address(&system, 0), "me", None).await;
        let (second, _) = logged_in(address(&system, 1), "me", Some(&secret)).await;
        is_replaced(&first).await;
        let (third, _) = logged_in(address(&system, 1), "me", Some(&secret)).await;
        is_replaced(&second).await;
        system
            .until_members(ROOM, &[("me", 1), ("watcher", 1)])
            .await;
        // Many logins at once: one session is left, and the user is a member all the time. The other clients are told
        // that they were replaced, or that their login failed because another one was faster.
        let at = [address(&system, 0), address(&system, 1)];
        let mut coming = JoinSet::new();
        for n in 0..10 {
            let (at, secret) = (at[n % 2], secret.clone());
            coming.spawn(async move {
                let tab = Client::connect(at).await;
                let body = json!({ "userId": "me", "lessonId": ROOM, "resume": secret });
                let login = json!({ "id": 1, "route": LOGIN, "body": body });
                tab.text(&login.to_string()).await;
                tab
            });
        }
        let all = coming.join_all().await;
        is_replaced(&third).await;
        wait::eventually("one is left", SOON, async || {
            all.iter().filter(|tab| tab.ended().is_none()).count() == 1
        })
        .await;
        let left = all.iter().find(|tab| tab.ended().is_none()).expect("one");
        // Its answer may come after the others are closed.
        let reply = wait::some("it is answered", SOON, async || {
            left.inbox().read().replies.first().cloned()
        })
        .await;
        assert_eq!(reply["body"]["code"], 0, "{reply}");
        system
            .until_members(ROOM, &[("me", 1), ("watcher", 1)])
            .await;
        assert_eq!(joins_and_leaves(&watcher, "me"), ["onJoin"], "{policy}");
    }
}

#[tokio::test]
async fn after_a_thousand_quick_reconnects_a_user_still_has_one_session() {
    let plan = Plan::of(3, 2).connector_flags(&["--grace", "3s"]);
    let system = plan.start().await;
    let watcher = watcher(&system).await;
    let (mut me, secret) = logged_in(address(&system, 0), "me", None).await;
    let mut half_open = Vec::new();
    for round in 0..1_000 {
        match round % 3 {
            0 => drop(me.close().await),
            1 => drop(me),
            _ => half_open.push(me),
        }
        (me, _) = logged_in(address(&system, round % 2), "me", Some(&secret)).await;
        let members = system.api(round % 2).members(ROOM).await.unwrap();
        let sessions = members.iter().find(|(user, _)| user == "me");
        assert_eq!(sessions, Some(&("me".to_owned(), 1)), "round {round}");
    }
    for old in &half_open {
        is_replaced(old).await;
    }
    wait::stays("nobody sees it", Duration::from_secs(7), async || {
        joins_and_leaves(&watcher, "me") == ["onJoin"] && me.ended().is_none()
    })
    .await;
    system
        .until_members(ROOM, &[("me", 1), ("watcher", 1)])
        .await;
    // A client that does not come back leaves once, when its grace is over.
    drop(me);
    system.until_members(ROOM, &[("watcher", 1)]).await;
    wait::eventually("the leave is published", SOON, async || {
        joins_and_leaves(&watcher, "me") == ["onJoin", "onLeave"]
    })
    .await;
}

/// With a grace, a client without a secret resumes its session, too, after its connector has noticed that it is gone.
#[tokio::test]
async fn a_login_without_a_secret_takes_over_a_session_that_is_in_its_grace() {
    let plan = Plan::of(3, 2).connector_flags(&["--grace", "5s"]);
    let system = plan.login_policy("allow").start().await;
    let watcher = watcher(&system).await;
    let (me, _) = logged_in(address(&system, 0), "me", None).await;
    let (tab, _) = logged_in(address(&system, 1), "me", None).await;
    system
        .until_members(ROOM, &[("me", 2), ("watcher", 1)])
        .await;
    drop(me);
    let began = Instant::now();
    let mut back = Vec::new();
    wait::some("a login takes over the session", SOON, async || {
        let (client, _) = logged_in(address(&system, 0), "me", None).await;
        back.push(client);
        let members = system.api(0).members(ROOM).await.ok()?;
        let (_, sessions) = members.into_iter().find(|(user, _)| user == "me")?;
        (sessions as usize == 1 + back.len()).then_some(())
    })
    .await;
    assert!(
        pace::since(began) < Duration::from_secs(5),
        "the grace was over"
    );
    assert_eq!(tab.ended(), None, "a live tab keeps its session");
    assert_eq!(joins_and_leaves(&watcher, "me"), ["onJoin"]);
}
