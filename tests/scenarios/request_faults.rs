//! Requests that the original could not handle (F1, F12, F13).

use testkit::SOON;
use testkit::link::End;
use testkit::pomelo::{
    Client, DATA, FAILED, HEARTBEAT, INVALID, LOGGED_IN, LOGIN, MISSING, SEND, SENT, login_body,
    package, request, said,
};
use testkit::system::Plan;
use testkit::websocket::BINARY;

fn closed_normally(end: &End) -> bool {
    matches!(end, End::Closed { code: 1000, .. })
}

/// F1: in the original, one request with an id from 2³¹ hung the connector for everybody.
#[tokio::test]
async fn a_request_id_from_two_to_the_31_hangs_nobody_f01() {
    let system = Plan::of(1, 1).start().await;
    let bystander = system.member(0, "bystander", "room").await;
    let client = system.visitor(0).await;
    for id in [1 << 31, (1 << 31) + 1, u64::from(u32::MAX)] {
        client.start_as(id, LOGIN, "{}").await;
        assert_eq!(client.reply(id).await.text(), MISSING, "{id}");
        assert_eq!(bystander.say("undisturbed").await, SENT);
    }
}

/// F1: an id above 2³² − 1 closes its connection, and nobody else's.
#[tokio::test]
async fn a_request_id_beyond_32_bits_closes_only_its_own_connection_f01() {
    let system = Plan::of(1, 1).start().await;
    let bystander = system.member(0, "bystander", "room").await;
    for id in [1 << 32, (1 << 35) - 1, 1 << 63, u64::MAX] {
        let client = system.visitor(0).await;
        client.start_as(id, LOGIN, "{}").await;
        let end = client.end(SOON).await;
        assert!(closed_normally(&end), "{id}: {end:?}");
        assert_eq!(bystander.say("undisturbed").await, SENT);
    }
    let client = system.visitor(0).await;
    let endless: Vec<u8> = std::iter::once(0).chain([0xff; 2_000]).collect();
    client.package(DATA, &endless).await;
    assert!(closed_normally(&client.end(SOON).await));
}

/// F12: in the original, `true`, objects, arrays and endless names were accepted as users and rooms.
#[tokio::test]
async fn an_invalid_name_is_refused_as_a_user_and_as_a_room_f12() {
    let system = Plan::of(1, 1).start().await;
    let client = system.visitor(0).await;
    let text = |length: usize| format!("\"{}\"", "x".repeat(length));
    let control = r#""a\u0000b""#.to_owned();
    let invalid_names = [
        "true".to_owned(),
        "{}".to_owned(),
        r#"{"a":1}"#.to_owned(),
        "[]".to_owned(),
        "[1]".to_owned(),
        text(5_000),
        control,
        r#""a\nb""#.to_owned(),
    ];
    let too_long = [(text(129), "4".to_owned()), ("4".to_owned(), text(257))];
    let pairs = invalid_names
        .iter()
        .flat_map(|invalid| {
            let name = "4".to_owned();
            [(invalid.clone(), name.clone()), (name, invalid.clone())]
        })
        .chain(too_long);
    for (user, room) in pairs {
        let body = format!(r#"{{"userId":{user},"lessonId":{room}}}"#);
        assert_eq!(client.request(LOGIN, &body).await, INVALID, "{body}");
    }
    for falsy in ["0", "-0", "0.0", r#""""#, "null", "false"] {
        for body in [
            format!(r#"{{"userId":{falsy},"lessonId":4}}"#),
            format!(r#"{{"userId":"u","lessonId":{falsy}}}"#),
        ] {
            assert_eq!(client.request(LOGIN, &body).await, MISSING, "{body}");
        }
    }
    // A missing parameter is reported before a wrong one.
    assert_eq!(client.request(LOGIN, r#"{"userId":true}"#).await, MISSING);
    // The longest names are accepted.
    let body = format!(r#"{{"userId":{},"lessonId":{}}}"#, text(128), text(256));
    assert_eq!(client.request(LOGIN, &body).await, LOGGED_IN);
    system
        .until_members(&"x".repeat(256), &[(&"x".repeat(128), 1)])
        .await;
}

/// F12: in the original, a request with a JSON array as its body was never answered.
#[tokio::test]
async fn an_array_as_a_body_is_answered_with_an_error_f12() {
    let system = Plan::of(1, 1).start().await;
    let client = system.visitor(0).await;
    for body in ["[]", "[1]", r#" [{"userId":"u"}]"#] {
        assert_eq!(client.request_in_time(LOGIN, body).await, FAILED, "{body}");
    }
    client.enter("alice", "room").await;
    for body in ["[]", "[1,2]", "\n[]"] {
        assert_eq!(client.request_in_time(SEND, body).await, FAILED, "{body}");
    }
    assert_eq!(client.push_count(), 1, "an array was published");
}

/// F13: in the original, two packages in one frame closed the connection.
#[tokio::test]
async fn several_packages_in_one_frame_are_all_carried_out_in_order_f13() {
    let system = Plan::of(1, 1).start().await;
    let client = system.visitor(0).await;
    let requests = [
        request(1, LOGIN, login_body("alice", "room").as_bytes()),
        request(2, SEND, said("one").as_bytes()),
        request(3, SEND, said("two").as_bytes()),
    ];
    let mut frame = Vec::new();
    for request in &requests {
        frame.extend(package(DATA, request));
        frame.extend(package(HEARTBEAT, &[]));
    }
    client.frame(BINARY, &frame).await;
    for (id, answer) in [(1, LOGGED_IN), (2, SENT), (3, SENT)] {
        assert_eq!(client.reply(id).await.text(), answer);
    }
    let expected = [
        r#"onJoin {"userId":"alice"}"#,
        r#"onMessage {"content":"one","userId":"alice"}"#,
        r#"onMessage {"content":"two","userId":"alice"}"#,
    ];
    assert_eq!(client.until_pushes(3).await, expected);
}

/// F13: in the original, a length beyond the frame was padded with zeros and accepted.
#[tokio::test]
async fn a_package_longer_than_its_frame_closes_the_connection_f13() {
    let system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    let watcher = system.member(0, "watcher", "room").await;
    let login = package(
        DATA,
        &request(1, LOGIN, login_body("ghost", "room").as_bytes()),
    );
    let mut too_long = login.clone();
    too_long[3] += 1;
    let mut cut_off = login.clone();
    cut_off.truncate(login.len() - 1);
    let mut huge = login.clone();
    huge[1..4].fill(0xff);
    let mut trailing = package(HEARTBEAT, &[]);
    trailing.extend([DATA, 0, 0]);
    for frame in [too_long, cut_off, huge, trailing] {
        let client = Client::connect(address).await;
        client.frame(BINARY, &frame).await;
        let end = client.end(SOON).await;
        assert!(closed_normally(&end), "{end:?}");
        assert!(client.inbox().read().replies.is_empty());
    }
    assert_eq!(watcher.say("nobody came").await, SENT);
    watcher.until_pushes(2).await;
    system.until_members("room", &[("watcher", 1)]).await;
    assert_eq!(watcher.push_count(), 2);
}
