//! What members of a channel see, on whichever connectors they are: joins, messages and leaves in one sequence.

use testkit::SOON;
use testkit::link::End;
use testkit::pomelo::{LOGGED_IN, LOGGED_IN_ALREADY, LOGIN, SEND, SENT, heard, joined, left};
use testkit::system::{Plan, System};
use testkit::websocket::NO_CODE;

/// K1, K2: every byte is compared, also of the sender's own copy.
#[tokio::test]
async fn members_on_two_connectors_see_joins_messages_and_leaves_in_one_sequence() {
    let system = System::start().await;
    let alice = system.member(0, "alice", "4").await;
    let bob = system.member(1, "bob", "4").await;
    alice.until_push(&joined("bob")).await;

    let answer = alice.request(SEND, r#"{"type":1,"content":"哈哈"}"#).await;
    assert_eq!(answer, SENT);
    bob.until_pushes(2).await;
    bob.close().await;
    alice.until_push(&left("bob")).await;

    let message = r#"onMessage {"type":1,"content":"哈哈","userId":"alice"}"#;
    let seen_by_alice = [&joined("alice"), &joined("bob"), message, &left("bob")];
    assert_eq!(alice.pushes(), seen_by_alice);
    assert_eq!(bob.pushes(), [&joined("bob"), message]);
}

#[tokio::test]
async fn a_member_of_another_channel_receives_nothing() {
    let system = System::start().await;
    let alice = system.member(0, "alice", "one").await;
    let bob = system.member(0, "bob", "another").await;
    assert_eq!(alice.say("hello").await, SENT);
    alice.until_push(&heard("alice", "hello")).await;
    assert_eq!(bob.say("end").await, SENT);
    bob.until_push(&heard("bob", "end")).await;
    assert_eq!(bob.pushes(), [joined("bob"), heard("bob", "end")]);
}

/// K2: the client's own onJoin is its first push.
#[tokio::test]
async fn the_reply_to_a_login_comes_before_the_clients_own_join() {
    let system = Plan::of(1, 1).start().await;
    for number in 0..20 {
        let client = system.member(0, &format!("user{number}"), "room").await;
        let received = client.inbox().read();
        assert_eq!(received.replies[0].text(), LOGGED_IN);
        assert!(received.replies[0].place < received.pushes[0].place);
        assert_eq!(received.pushes[0].text(), joined(&format!("user{number}")));
    }
}

/// K1: pushes show the JSON type that the client used for its user.
#[tokio::test]
async fn a_user_named_by_a_number_is_shown_as_a_number() {
    let system = System::start().await;
    let watcher = system.member(1, "watcher", "4").await;
    let number = system.visitor(0).await;
    let answer = number.request(LOGIN, r#"{"userId":7,"lessonId":4}"#).await;
    assert_eq!(answer, LOGGED_IN);
    assert_eq!(number.request(SEND, r#"{"a":1}"#).await, SENT);
    number.close().await;
    watcher.until_push(r#"onLeave {"userId":7}"#).await;
    let expected = [
        r#"onJoin {"userId":7}"#,
        r#"onMessage {"a":1,"userId":7}"#,
        r#"onLeave {"userId":7}"#,
    ];
    assert_eq!(watcher.pushes()[1..], expected);
}

/// K1: `userId` cannot be spoofed, however it is spelled. Every other byte is passed on unchanged.
#[tokio::test]
async fn a_body_is_passed_on_verbatim_except_for_the_user() {
    let system = System::start().await;
    let alice = system.member(0, "alice", "room").await;
    let bob = system.member(1, "bob", "room").await;
    let sent_and_heard = [
        (
            r#"{"z":1.0,"a":[1e2, null]}"#,
            r#"{"z":1.0,"a":[1e2, null],"userId":"alice"}"#,
        ),
        (
            r#"{"a":1,"userId":"bob","b":2}"#,
            r#"{"a":1,"userId":"alice","b":2}"#,
        ),
        (r"{}", r#"{"userId":"alice"}"#),
    ];
    for (sent, heard) in sent_and_heard {
        assert_eq!(alice.request(SEND, sent).await, SENT);
        bob.until_push(&format!("onMessage {heard}")).await;
    }

    let spoofed =
        r#"{"\u0075serId":"bob","a":1.0,"userId":"carol","b":{"userId":"kept"},"userId":3}"#;
    let before = bob.push_count();
    assert_eq!(alice.request(SEND, spoofed).await, SENT);
    let pushes = bob.until_pushes(before + 1).await;
    let body = pushes[before]
        .strip_prefix("onMessage ")
        .expect("a message");
    assert!(body.contains(r#""a":1.0"#), "not verbatim: {body}");
    assert_eq!(
        body.matches(r#"serId":"#).count(),
        2,
        "userId once at the top: {body}"
    );
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["userId"], "alice");
    assert_eq!(body["b"]["userId"], "kept");
}

/// K3: messages that one client sends without waiting arrive everywhere in their order.
#[tokio::test]
async fn a_senders_messages_arrive_in_its_order() {
    const COUNT: usize = 500;
    let system = System::start().await;
    let alice = system.member(0, "alice", "room").await;
    let bob = system.member(1, "bob", "room").await;
    let mut last = 0;
    for number in 0..COUNT {
        last = alice.start(SEND, &format!(r#"{{"n":{number}}}"#)).await;
    }
    assert_eq!(alice.reply(last).await.text(), SENT);
    let pushes = bob.until_pushes(1 + COUNT).await;
    for (number, push) in pushes[1..].iter().enumerate() {
        let expected = format!(r#"onMessage {{"n":{number},"userId":"alice"}}"#);
        assert_eq!(*push, expected);
    }
    // The requests of a connection are answered in order, too.
    let received = alice.inbox().read();
    let ids = received.replies.iter().map(|reply| reply.id);
    assert!(ids.is_sorted(), "answers overtook each other");
}

/// K3: it comes after the join and before the leave.
#[tokio::test]
async fn a_message_that_is_sent_right_before_a_close_is_delivered() {
    let system = System::start().await;
    let bob = system.member(1, "bob", "room").await;
    let mut expected = vec![joined("bob")];
    for number in 0..20 {
        let user = format!("user{number}");
        let client = system.member(0, &user, "room").await;
        client.start(SEND, r#"{"content":"bye"}"#).await;
        client.close().await;
        expected.extend([joined(&user), heard(&user, "bye"), left(&user)]);
    }
    // The order between users is not checked: connections of different users may end in any order.
    let pushes = bob.until_pushes(expected.len()).await;
    let of = |list: &[String], user: &str| -> Vec<String> {
        let quoted = format!("\"{user}\"");
        let own = list.iter().filter(|push| push.contains(&quoted));
        own.cloned().collect()
    };
    for number in 0..20 {
        let user = format!("user{number}");
        assert_eq!(of(&pushes, &user), of(&expected, &user));
    }
}

/// K4: a close, the end of the stream, a reset, silence and a kick are all leaves.
#[tokio::test]
async fn every_way_to_disconnect_is_a_leave() {
    let plan = Plan::of(2, 1).connector_flags(&["--heartbeat", "1"]);
    let system = plan.start().await;
    let watcher = system.member(1, "watcher", "room").await;

    let closes = system.member(0, "closes", "room").await;
    closes.close().await;
    watcher.until_push(&left("closes")).await;

    let ends = system.member(0, "ends", "room").await;
    ends.finish().await;
    watcher.until_push(&left("ends")).await;

    let resets = system.member(0, "resets", "room").await;
    resets.reset().await;
    watcher.until_push(&left("resets")).await;

    let silent = system.member(0, "silent", "room").await;
    silent.stop_heartbeats();
    watcher.until_push(&left("silent")).await;
    let closed = |end: End, codes: [u16; 2]| match end {
        End::Closed { code, .. } => codes.contains(&code),
        End::Dropped | End::Broken(_) => false,
    };
    assert!(closed(silent.end(SOON).await, [1000, NO_CODE]));

    let attacks = system.member(0, "attacks", "room").await;
    attacks.start("connector.handler.constructor", "{}").await;
    watcher.until_push(&left("attacks")).await;
    assert_eq!(attacks.kicked().as_deref(), Some("attack"));
    assert!(closed(attacks.end(SOON).await, [1000, 1000]));

    // The watcher has answered its heartbeats, and is still there.
    assert_eq!(watcher.say("here").await, SENT);
}

/// K7: the name of a room is JavaScript's `String(x)`.
#[tokio::test]
async fn a_number_and_its_text_name_the_same_room() {
    let system = Plan::of(2, 2).login_policy("allow").start().await;
    let text = system.member(1, "text", "4").await;
    for (number, lesson) in ["4", "4.0", "4e0"].iter().enumerate() {
        let client = system.visitor(0).await;
        let body = format!(r#"{{"userId":"user{number}","lessonId":{lesson}}}"#);
        assert_eq!(client.request(LOGIN, &body).await, LOGGED_IN);
        text.until_push(&joined(&format!("user{number}"))).await;
        client.close().await;
        text.until_push(&left(&format!("user{number}"))).await;
    }
    for (written, name) in [
        ("1e15", "1000000000000000"),
        ("0.5", "0.5"),
        ("1.50", "1.5"),
    ] {
        let client = system.visitor(0).await;
        let body = format!(r#"{{"userId":"u","lessonId":{written}}}"#);
        assert_eq!(client.request(LOGIN, &body).await, LOGGED_IN);
        system.until_members(name, &[("u", 1)]).await;
        client.close().await;
        system.until_members(name, &[]).await;
    }
}

/// K7: user 5 and user "5" are one user.
#[tokio::test]
async fn a_number_and_its_text_name_the_same_user() {
    let system = Plan::of(1, 1).start().await;
    let number = system.visitor(0).await;
    let answer = number
        .request(LOGIN, r#"{"userId":5,"lessonId":"r"}"#)
        .await;
    assert_eq!(answer, LOGGED_IN);
    let text = system.visitor(0).await;
    assert_eq!(text.login("5", "r").await, LOGGED_IN_ALREADY);
    system.until_members("r", &[("5", 1)]).await;
    // The refused connection stays open, and may be somebody else.
    assert_eq!(text.login("6", "r").await, LOGGED_IN);
}

/// Clients on different connectors find the same channel, whatever characters its name has.
#[tokio::test]
async fn any_text_without_control_characters_names_a_room() {
    let system = Plan::of(2, 2).login_policy("allow").start().await;
    for room in [
        "课堂",
        "a b",
        "{x}",
        "}x{",
        "%7B",
        "a/b:c*?",
        "\"quoted\\\"",
    ] {
        let alice = system.member(0, "alice", room).await;
        let bob = system.member(1, "bob", room).await;
        assert_eq!(alice.say(room.len().to_string().as_str()).await, SENT);
        bob.until_push(&heard("alice", &room.len().to_string()))
            .await;
        system
            .until_members(room, &[("alice", 1), ("bob", 1)])
            .await;
        alice.close().await;
        bob.until_push(&left("alice")).await;
        bob.close().await;
    }
}
