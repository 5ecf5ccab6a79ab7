//! Details of Pomelo's protocol that old clients depend on (K6), beyond what the recordings show.

use testkit::SOON;
use testkit::link::End;
use testkit::pomelo::{
    Client, DATA, FAILED, HANDSHAKE, HANDSHAKE_ACK, HEARTBEAT, KICK, LOGGED_IN, LOGIN, MISSING,
    NOT_LOGGED_IN, SEND, SENT, login_body, package, request,
};
use testkit::system::Plan;
use testkit::websocket::BINARY;

const HELLO: &[u8] = br#"{"sys":{"type":"x","version":"1"},"user":{}}"#;

fn closed_normally() -> End {
    End::Closed {
        code: 1000,
        reason: String::new(),
    }
}

/// K6: a body that is no JSON object counts as `{}`.
#[tokio::test]
async fn a_body_that_is_no_object_counts_as_an_empty_one() {
    let system = Plan::of(1, 1).start().await;
    let client = system.visitor(0).await;
    let bodies = ["", "nonsense", "{", "null", "17", r#""text""#];
    for body in bodies {
        assert_eq!(client.request(LOGIN, body).await, MISSING, "{body:?}");
    }
    client.enter("alice", "room").await;
    for (number, body) in bodies.into_iter().enumerate() {
        assert_eq!(client.request(SEND, body).await, SENT, "{body:?}");
        let pushes = client.until_pushes(2 + number).await;
        assert_eq!(pushes[1 + number], r#"onMessage {"userId":"alice"}"#);
    }
}

/// K6: before the handshake is acknowledged, data is ignored.
#[tokio::test]
async fn data_before_the_acknowledgement_is_ignored() {
    let system = Plan::of(1, 1).start().await;
    let client = Client::dial(system.connectors[0].address()).await;
    client.package(HANDSHAKE, HELLO).await;
    let early = request(1, LOGIN, login_body("alice", "room").as_bytes());
    client.package(DATA, &early).await;
    client.package(HANDSHAKE_ACK, &[]).await;
    client.start_as(2, SEND, "{}").await;
    assert_eq!(client.reply(2).await.text(), NOT_LOGGED_IN);
    assert!(client.inbox().read().reply(1).is_none());
}

/// K6: a second handshake and a second acknowledgement are ignored.
#[tokio::test]
async fn a_second_handshake_changes_nothing() {
    let system = Plan::of(1, 1).start().await;
    let client = system.member(0, "alice", "room").await;
    client.package(HANDSHAKE, HELLO).await;
    client.package(HANDSHAKE_ACK, &[]).await;
    assert_eq!(client.say("still here").await, SENT);
    let received = client.inbox().read();
    let kinds: Vec<_> = received.others.iter().map(|package| package[0]).collect();
    assert_eq!(kinds, [HANDSHAKE, HEARTBEAT]);
}

/// K6: if `sys` is bad or missing, the answer has code 500, and the connection ends.
#[tokio::test]
async fn a_handshake_without_sys_is_refused() {
    let system = Plan::of(1, 1).start().await;
    for hello in ["{}", r#"{"user":{}}"#, r#"{"sys":null}"#, "nonsense", ""] {
        let client = Client::dial(system.connectors[0].address()).await;
        client.package(HANDSHAKE, hello.as_bytes()).await;
        let end = client.end(SOON).await;
        assert!(matches!(end, End::Closed { .. }), "{hello:?}: {end:?}");
        let received = client.inbox().read();
        let answers: Vec<_> = received.others.iter().map(|package| &package[..]).collect();
        assert_eq!(
            answers,
            [package(HANDSHAKE, FAILED.as_bytes())],
            "{hello:?}"
        );
    }
}

/// K6: bytes that are no package of a client end its connection, and nobody else's.
#[tokio::test]
async fn a_package_that_no_client_may_send_closes_only_its_own_connection() {
    let system = Plan::of(1, 1).start().await;
    let bystander = system.member(0, "bystander", "room").await;
    let frames = [
        package(9, b"{}"),
        package(0, b""),
        package(255, b"x"),
        package(KICK, br#"{"reason":"you"}"#),
        Vec::new(),
        vec![4],
        vec![4, 0, 0],
    ];
    for frame in frames {
        let client = system.visitor(0).await;
        client.frame(BINARY, &frame).await;
        assert_eq!(client.end(SOON).await, closed_normally(), "{frame:?}");
    }
    assert_eq!(bystander.say("undisturbed").await, SENT);
}

/// K6: a route that names a method of JavaScript's Object is an attack.
#[tokio::test]
async fn a_client_whose_route_names_a_method_of_every_object_is_kicked() {
    let system = Plan::of(1, 1).start().await;
    for method in ["constructor", "toString", "hasOwnProperty", "valueOf"] {
        let client = system.visitor(0).await;
        client
            .start(&format!("connector.handler.{method}"), "{}")
            .await;
        assert_eq!(client.end(SOON).await, closed_normally(), "{method}");
        assert_eq!(client.kicked().as_deref(), Some("attack"), "{method}");
    }
}

/// K5: a client's heartbeat is answered at once.
#[tokio::test]
async fn a_heartbeat_is_answered_at_once() {
    let system = Plan::of(1, 1).start().await;
    let client = system.visitor(0).await;
    for count in 2..7 {
        client.package(HEARTBEAT, &[]).await;
        // One came with the handshake.
        let answered = client.inbox().until(SOON, |received| {
            let beats = received.others.iter().filter(|p| p[0] == HEARTBEAT);
            (beats.count() == count).then_some(())
        });
        answered.await.expect("a heartbeat");
    }
}

/// K6: a notification is carried out and not answered.
#[tokio::test]
async fn a_notification_is_carried_out_without_an_answer() {
    let system = Plan::of(1, 1).start().await;
    let client = system.visitor(0).await;
    client.notify(LOGIN, &login_body("alice", "room")).await;
    client.notify(SEND, r#"{"content":"psst"}"#).await;
    let pushes = client.until_pushes(2).await;
    assert_eq!(
        pushes[1],
        r#"onMessage {"content":"psst","userId":"alice"}"#
    );
    assert!(client.inbox().read().replies.is_empty());
}

/// Text frames are read like binary ones, because clients of the original use both.
#[tokio::test]
async fn a_text_frame_carries_packages_as_well() {
    let system = Plan::of(1, 1).start().await;
    let client = system.visitor(0).await;
    let login = package(
        DATA,
        &request(1, LOGIN, br#"{"userId":"a","lessonId":"r"}"#),
    );
    client.frame(testkit::websocket::TEXT, &login).await;
    assert_eq!(client.reply(1).await.text(), LOGGED_IN);
}
