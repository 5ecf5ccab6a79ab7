//! Limits of one connection: sizes and time-outs.

use std::time::Duration;
use testkit::SOON;
use testkit::json;
use testkit::link::End;
use testkit::pace;
use testkit::pomelo::{Client, DATA, LOGIN, SEND, SENT, package, request};
use testkit::system::Plan;
use testkit::websocket::BINARY;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The limit is 128 KiB: all recorded messages pass, and a larger one is refused before it is read.
#[tokio::test]
async fn a_message_beyond_the_limit_closes_only_its_own_connection() {
    let system = Plan::of(1, 1).start().await;
    let alice = system.member(0, "alice", "room").await;
    let bob = system.member(0, "bob", "room").await;
    let body = |letters: usize| format!(r#"{{"c":"{}"}}"#, "x".repeat(letters));
    assert_eq!(alice.request(SEND, &body(120_000)).await, SENT);
    bob.until_pushes(2).await;

    let too_big = package(DATA, &request(9, SEND, body(200_000).as_bytes()));
    alice.frame(BINARY, &too_big).await;
    let end = alice.end(SOON).await;
    assert!(matches!(end, End::Closed { code: 1009, .. }), "{end:?}");
    bob.until_push(r#"onLeave {"userId":"alice"}"#).await;
    assert_eq!(bob.say("undisturbed").await, SENT);
}

#[tokio::test]
async fn a_frame_that_announces_too_much_is_refused_before_its_bytes_come() {
    let system = Plan::of(1, 1).start().await;
    let client = system.visitor(0).await;
    let mut header = vec![0x82, 0x80 | 127];
    header.extend((1u64 << 40).to_be_bytes());
    header.extend([0; 4]);
    client.bytes(&header).await;
    let end = client.end(SOON).await;
    assert!(matches!(end, End::Closed { code: 1009, .. }), "{end:?}");
}

#[tokio::test]
async fn frames_that_break_rfc_6455_are_closed_with_1002() {
    let system = Plan::of(1, 1).start().await;
    let unmasked = vec![0x82, 4, 3, 0, 0, 0];
    let reserved = vec![0xc2, 0x84, 0, 0, 0, 0, 3, 0, 0, 0];
    let opcode = vec![0x83, 0x80, 0, 0, 0, 0];
    let long_ping = [vec![0x89, 0x80 | 126, 0, 126, 0, 0, 0, 0], vec![0; 126]].concat();
    for bytes in [unmasked, reserved, opcode, long_ping] {
        let client = system.visitor(0).await;
        client.bytes(&bytes).await;
        let end = client.end(SOON).await;
        let closed = matches!(end, End::Closed { code: 1002, .. });
        assert!(closed, "{:?}: {end:?}", &bytes[..2]);
    }
}

/// A ping comes between its fragments.
#[tokio::test]
async fn a_fragmented_message_is_taken_as_one() {
    let system = Plan::of(1, 1).start().await;
    let client = system.visitor(0).await;
    let login = package(
        DATA,
        &request(1, LOGIN, br#"{"userId":"a","lessonId":"r"}"#),
    );
    let (first, last) = login.split_at(10);
    let fragment = |head: u8, payload: &[u8]| {
        let mut frame = testkit::websocket::encode(0, payload);
        frame[0] = head;
        frame
    };
    client.bytes(&fragment(BINARY, first)).await;
    client.bytes(&fragment(0x80 | 9, b"ping")).await;
    client.bytes(&fragment(0x80, last)).await;
    client.until_push(r#"onJoin {"userId":"a"}"#).await;
}

/// A client has 10 s to say what it wants.
#[tokio::test]
async fn a_client_that_sends_no_handshake_is_closed_after_ten_seconds() {
    let system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    let (least, most) = (Duration::from_secs(9), Duration::from_secs(15));
    let begin = Instant::now();

    let mut half_a_request = TcpStream::connect(address).await.expect("it listens");
    half_a_request
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n")
        .await
        .expect("it takes bytes");
    let mut nothing = TcpStream::connect(address).await.expect("it listens");
    let silent = Client::dial(address).await;

    silent.end(most).await;
    assert!(begin.elapsed() > least, "{:?}", begin.elapsed());
    for stream in [&mut half_a_request, &mut nothing] {
        let mut answer = Vec::new();
        let left = most.saturating_sub(pace::since(begin));
        let closed = pace::timeout(left, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "still open");
    }
}

/// 60 s are long enough to type a name.
#[tokio::test]
#[ignore = "takes a minute: ./tests/run --long"]
async fn a_client_that_does_not_log_in_is_closed_after_a_minute() {
    let system = Plan::of(1, 1).start().await;
    let begin = Instant::now();
    let pomelo = system.visitor(0).await;
    let json = json::Client::connect(system.connectors[0].address()).await;
    let limit = Duration::from_secs(70);
    pomelo.end(limit).await;
    json.end(limit).await;
    assert!(begin.elapsed() > Duration::from_secs(58));
}

/// Paths that need an upgrade or a session, or that do not exist, give an error.
#[tokio::test]
async fn a_request_that_is_no_upgrade_is_answered_in_http() {
    let system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    for path in ["/ws", "/nosuch", "/socket.io/"] {
        let answer = testkit::http::get(address, path).await.expect("an answer");
        assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
    }
}
