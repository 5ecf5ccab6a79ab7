//! What a connector answers over HTTP, and how it ends connections whose clients did something wrong.

use serde_json::{Value, json};
use std::net::SocketAddr;
use testkit::json::Client as Json;
use testkit::link::End;
use testkit::pace::timeout;
use testkit::permit::Permit;
use testkit::pomelo::{self, Client, DATA, LOGGED_IN, LOGIN, SEND, SENT};
use testkit::service::{Connector, Standalone};
use testkit::system::{Plan, System};
use testkit::websocket::{BINARY, TEXT, upgrade_request};
use testkit::{SOON, http, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The head of the answer, or what of it came before the connection ended.
async fn head(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connector");
    stream.write_all(request.as_bytes()).await.expect("asked");
    let mut came = Vec::new();
    let read = async {
        while !came.windows(4).any(|window| window == b"\r\n\r\n") {
            if stream.read_buf(&mut came).await.unwrap_or(0) == 0 {
                return;
            }
        }
    };
    timeout(SOON, read).await.expect("an answer in time");
    // What follows the head may be frames.
    let end = came.windows(4).position(|window| window == b"\r\n\r\n");
    came.truncate(end.map_or(came.len(), |end| end + 4));
    String::from_utf8(came).expect("text").to_lowercase()
}

fn status(head: &str) -> &str {
    head.get(9..12).unwrap_or(head)
}

/// An upgrade request with one more header.
fn upgrade(address: SocketAddr, path: &str, header: &str) -> String {
    let request = upgrade_request(address, path, KEY);
    format!("{}{header}\r\n\r\n", request.trim_end())
}

/// A client that offers subprotocols fails the connection if none of them is accepted.
#[tokio::test]
async fn the_first_offered_subprotocol_is_accepted_on_every_path() {
    let system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    let socket_io = "/socket.io/?EIO=4&transport=websocket";
    for path in ["/", "/ws", "/any/other", socket_io] {
        let offer = "\r\nSec-WebSocket-Protocol: pomelo, json";
        let answer = head(address, &upgrade(address, path, offer)).await;
        assert_eq!(status(&answer), "101", "{path}: {answer}");
        assert!(
            answer.contains("sec-websocket-protocol: pomelo\r\n"),
            "{path}: {answer}"
        );
        let answer = head(address, &upgrade(address, path, "")).await;
        assert!(!answer.contains("sec-websocket-protocol"), "{answer}");
    }
}

/// Some clients let their users choose a path, and proxies may keep a prefix.
#[tokio::test]
async fn a_websocket_on_any_other_path_speaks_pomelo() {
    let system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    for path in ["/gate", "/ws/", "/a/b?c=d"] {
        let client = Client::dial_path(address, path).await;
        client.shake_hands().await;
        assert_eq!(client.login(path, "room").await, LOGGED_IN);
    }
    let answer = http::get(address, "/gate").await.expect("an answer");
    assert_eq!(answer.status, 404);
}

/// nginx without `proxy_http_version 1.1` sends such a request, and would cut the connection right after a 101.
#[tokio::test]
async fn an_upgrade_over_http_1_0_is_refused_with_an_explanation_and_logged_once() {
    let system = Plan::of(1, 1).start().await;
    let address = system.connectors[0].address();
    for path in ["/", "/ws", "/socket.io/?EIO=4&transport=websocket"] {
        let request = upgrade_request(address, path, KEY).replace("HTTP/1.1", "HTTP/1.0");
        let mut stream = TcpStream::connect(address).await.expect("a connector");
        stream.write_all(request.as_bytes()).await.expect("asked");
        let mut answer = String::new();
        let read = timeout(SOON, stream.read_to_string(&mut answer)).await;
        read.expect("an answer in time").expect("text");
        assert_eq!(status(&answer), "426", "{answer}");
        assert!(answer.contains("proxy_http_version 1.1"), "{answer}");
    }
    let about_it = |line: &String| line.contains("proxy_http_version 1.1");
    let lines = wait::some("the refusal is logged", SOON, async || {
        let warnings = system.connectors[0].warnings();
        let lines = warnings.into_iter().filter(about_it).count();
        (lines > 0).then_some(lines)
    });
    assert!(lines.await <= 3);
}

#[tokio::test]
async fn requests_of_load_balancers_are_answered() {
    for flags in [&[][..], &["--no-page"]] {
        let system = Plan::of(1, 1).connector_flags(flags).start().await;
        let address = system.connectors[0].address();
        for (asked, expected) in [
            ("OPTIONS / HTTP/1.0", "204"),
            ("OPTIONS / HTTP/1.1", "204"),
            ("OPTIONS * HTTP/1.1", "204"),
            ("HEAD / HTTP/1.1", "200"),
            ("GET / HTTP/1.1", "200"),
            ("GET /healthz HTTP/1.0", "200"),
            ("HEAD /healthz HTTP/1.1", "200"),
            ("GET /ws HTTP/1.1", "426"),
            ("GET /nothing HTTP/1.1", "404"),
            ("OPTIONS /nothing HTTP/1.1", "404"),
        ] {
            let answer = head(address, &format!("{asked}\r\nHost: a\r\n\r\n")).await;
            assert_eq!(status(&answer), expected, "{asked}: {answer}");
        }
    }
}

/// The clients' port says the same as the admin port.
#[tokio::test]
async fn healthz_follows_readiness() {
    let _permit = Permit::shared().await;
    let nowhere = "redis://127.0.0.1:1";
    let connector = Connector::begin("c", "http://127.0.0.1:1", nowhere, &[]).await;
    let told = http::get(connector.address(), "/healthz").await;
    let told = told.expect("an answer");
    assert_eq!(told.status, 503);
    assert!(told.body.contains("chat: not ready"), "{}", told.body);
    let standalone = Standalone::start().await;
    let told = http::get(standalone.address(), "/healthz").await;
    let told = told.expect("an answer");
    let admin = http::get(standalone.admin(), "/readyz").await;
    assert_eq!(
        (told.status, told.body),
        (200, admin.expect("an answer").body)
    );
}

fn request(id: u64, route: &str, body: &Value) -> Vec<u8> {
    pomelo::package(
        DATA,
        &pomelo::request(id, route, body.to_string().as_bytes()),
    )
}

/// Clients in Go send packages in text frames. The head of a package of 128 bytes, for one, is not UTF-8.
#[tokio::test]
async fn packages_in_text_frames_may_have_any_bytes() {
    let system = Plan::of(1, 1).start().await;
    let client = system.visitor(0).await;
    for length in [100, 128, 200, 255, 300, 70_000] {
        let body = json!({ "userId": "a", "lessonId": "room", "more": "x".repeat(length) });
        client
            .frame(TEXT, &request(length as u64, LOGIN, &body))
            .await;
        let text = client.reply(length as u64).await.text();
        let is_first = length == 100;
        assert_eq!(text == LOGGED_IN, is_first, "{length}: {text}");
    }
}

/// A request that was carried out is answered, even if something wrong follows it in the same segment.
#[tokio::test]
async fn requests_are_answered_before_the_connection_ends_whatever_ends_it() {
    let system = Plan::of(1, 1).login_policy("allow").start().await;
    let login = request(1, LOGIN, &json!({ "userId": "a", "lessonId": "room" }));
    let said = request(2, SEND, &json!({ "content": "carried out" }));
    let attack = request(3, "connector.handler.constructor", &json!({}));
    let too_big = request(3, SEND, &json!({ "content": "x".repeat(200_000) }));
    let frame = testkit::websocket::encode;
    for (end, code) in [
        (vec![0x83, 0x80, 0, 0, 0, 0], 1002_u16),
        (frame(BINARY, &too_big), 1009),
        (frame(BINARY, &[9, 0, 0, 0]), 1000),
        (frame(BINARY, &attack), 1000),
        (
            frame(testkit::websocket::CLOSE, &1000_u16.to_be_bytes()),
            1000,
        ),
    ] {
        let client = system.visitor(0).await;
        client.frame(BINARY, &login).await;
        assert_eq!(client.reply(1).await.text(), LOGGED_IN);
        client.bytes(&[frame(BINARY, &said), end].concat()).await;
        assert_eq!(client.reply(2).await.text(), SENT, "before {code}");
        let End::Closed { code: told, reason } = client.end(SOON).await else {
            panic!("not closed: {:?}", client.ended());
        };
        assert_eq!(told, code);
        assert_eq!(reason.contains("131072"), code == 1009, "{reason}");
    }
    let client = Json::connect(system.connectors[0].address()).await;
    let login = json!({ "userId": "j", "lessonId": "room" });
    assert_eq!(client.request(LOGIN, login).await["code"], 0);
    let said = json!({ "id": 9, "route": SEND, "body": { "content": "carried out" } });
    let broken = frame(TEXT, b"\xff");
    client
        .bytes(&[frame(TEXT, said.to_string().as_bytes()), broken].concat())
        .await;
    let end = client.end(SOON).await;
    assert!(matches!(end, End::Closed { code: 1007, .. }), "{end:?}");
    let texts = client.inbox().read().texts.join("\n");
    assert!(
        texts.contains(r#"{"id":9,"body":{"message":"发送成功""#),
        "{texts}"
    );
}

/// A connector is stopped while sends are under way. It answers those that it has accepted, and then closes.
#[tokio::test]
async fn a_connector_that_stops_answers_the_requests_under_way() {
    let mut system = Plan::of(1, 1).start().await;
    let alice = system.member(0, "alice", "room").await;
    let mut ids = Vec::new();
    for number in 0..20 {
        let body = json!({ "content": number.to_string() }).to_string();
        ids.push(alice.start(SEND, &body).await);
    }
    // The first one is answered, so the others are on their way.
    assert_eq!(alice.reply(ids[0]).await.text(), SENT);
    system.connectors[0].terminate();
    alice.end(SOON).await;
    let answered = ids
        .iter()
        .filter(|id| alice.inbox().read().reply(**id).is_some())
        .count();
    // What is in the log was accepted, so its sender must have been told.
    let log = system.api(0).history("room").await.expect("the log");
    let accepted = log.iter().filter(|it| it.route == "onMessage").count();
    assert_eq!(answered, accepted, "answers and accepted messages");
    let status = system.connectors[0].ended_within(std::time::Duration::from_secs(10));
    assert!(status.await.success());
}

/// Clients of Pitaya may compress a body. Everybody receives it decompressed, or the sender is told that it is broken.
#[tokio::test]
async fn a_compressed_body_reaches_everybody_decompressed_or_is_refused() {
    use std::io::Write;
    let system = Plan::of(1, 1).start().await;
    let alice = system.member(0, "alice", "room").await;
    let bob = system.member(0, "bob", "room").await;
    let text = json!({ "content": "the same, the same, the same" }).to_string();
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(text.as_bytes()).expect("compressed");
    let zlib = zlib.finish().expect("compressed");
    let mut good = pomelo::request(101, SEND, &zlib);
    let mut bad = pomelo::request(102, SEND, &zlib[..zlib.len() - 5]);
    good[0] |= 0x10;
    bad[0] |= 0x10;
    alice.package(DATA, &good).await;
    assert_eq!(alice.reply(101).await.text(), SENT);
    bob.until_push(&pomelo::heard("alice", "the same, the same, the same"))
        .await;
    alice.package(DATA, &bad).await;
    assert_eq!(alice.reply(102).await.text(), pomelo::FAILED);
}

async fn closed(system: &System, reason: &str, protocol: &str) -> u64 {
    let text = system.connectors[0].metrics().await;
    let line = text.lines().find(|line| {
        line.starts_with("connector_connections_closed_total{")
            && line.contains(&format!("reason=\"{reason}\""))
            && line.contains(&format!("protocol=\"{protocol}\""))
    });
    let line = line.unwrap_or_else(|| panic!("{reason}, {protocol}: {text}"));
    line.rsplit(' ')
        .next()
        .expect("a number")
        .parse()
        .expect("a number")
}

#[tokio::test]
async fn the_end_of_a_connection_is_counted_and_logged_with_its_reason() {
    let system = Plan::of(1, 1).start().await;
    for protocol in ["pomelo", "pomelo_tcp", "json", "socketio"] {
        for reason in [
            "client",
            "shutdown",
            "kicked",
            "too_big",
            "slow",
            "declared_dead",
        ] {
            assert_eq!(closed(&system, reason, protocol).await, 0);
        }
    }
    let alice = system.member(0, "alice", "room").await;
    alice.say("a secret").await;
    alice.frame(BINARY, &[9, 0, 0, 0]).await;
    alice.end(SOON).await;
    let counted = wait::some("the end is counted", SOON, async || {
        (closed(&system, "malformed", "pomelo").await == 1).then_some(())
    });
    counted.await;
    assert_eq!(closed(&system, "malformed", "json").await, 0);
    let lines = system.connectors[0].lines();
    let line = lines.iter().find(|line| line.contains("session closed"));
    let line: Value = serde_json::from_str(line.expect("a line")).expect("JSON");
    let fields = line.get("fields").unwrap_or(&line);
    assert_eq!(fields["reason"], "malformed");
    assert_eq!(fields["protocol"], "pomelo");
    assert!(fields["user"].as_str().expect("a user").contains("ali"));
    assert!(fields["session"].as_str().expect("a session").len() > 10);
    assert!(
        fields["peer"]
            .as_str()
            .expect("an address")
            .starts_with("127.0.0.1:")
    );
    assert!(fields["seconds"].is_number());
    assert!(!lines.iter().any(|line| line.contains("a secret")));
}
