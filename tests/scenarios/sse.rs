//! Server-Sent Events: clients that read a stream, come back where they broke off, and ask by posts.

mod bounds;
mod carriers;
mod coming_back;
mod posts;
mod refused;
mod tokens;

use serde_json::json;
use std::net::SocketAddr;
use std::process::Command;
use testkit::pomelo::SENT;
use testkit::process::Process;
use testkit::service::Standalone;
use testkit::sse::{Ask, Stream, query};
use testkit::system::{Plan, System};
use testkit::{SOON, permit::Permit, wait};

const ROOM: &str = "room";
const SIDE: &str = "side";

fn address(system: &System, connector: usize) -> SocketAddr {
    system.connectors[connector].address()
}

/// What a member of the room says, so many times.
async fn say(speaker: &testkit::pomelo::Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        assert_eq!(speaker.say(&number.to_string()).await, SENT);
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|it| it.to_string()).collect()
}

/// Waits until these messages have come, and nothing else among messages.
async fn until_contents(stream: &Stream, expected: &[String]) {
    wait::some(&format!("{expected:?} come"), SOON, async || {
        let contents = stream.contents();
        assert!(
            expected.starts_with(&contents),
            "{contents:?}, not {expected:?}"
        );
        (contents == expected).then_some(())
    })
    .await;
}

/// `curl -N` is all that is needed.
#[tokio::test]
async fn curl_prints_each_event_as_it_comes() {
    let _permit = Permit::shared().await;
    let system = Standalone::start().await;
    let mut curl = Command::new("curl");
    let url = format!("http://{}/sse?userId=reader&channel=room", system.address());
    curl.args(["-sS", "-N", "-i", &url]);
    let mut curl = Process::spawn("curl", &mut curl);
    let line = async |curl: &mut Process, begin: &str| {
        let begins = |line: &str| line.starts_with(begin).then(|| line.to_owned());
        curl.until_line(begin, begins).await
    };
    line(&mut curl, "HTTP/1.1 200 OK").await;
    line(&mut curl, "content-type: text/event-stream").await;
    line(&mut curl, "cache-control: no-store").await;
    line(&mut curl, "x-accel-buffering: no").await;
    line(&mut curl, "retry: ").await;
    line(&mut curl, "event: onSession").await;
    line(&mut curl, "event: onJoin").await;
    let speaker = testkit::json::Client::connect(system.address()).await;
    let login = json!({"userId": "speaker", "lessonId": "room"});
    speaker.request("connector.handler.login", login).await;
    // Each is printed before the next one is said.
    for number in 0..5 {
        let said = json!({ "content": format!("said {number}") });
        assert_eq!(speaker.request("chat.handler.send", said).await["code"], 0);
        let begin = format!(
            r#"data: {{"route":"onMessage","channel":"room","offset":{}"#,
            number + 3
        );
        let data = line(&mut curl, &begin).await;
        assert!(data.contains(&format!("said {number}")), "{data}");
    }
    curl.kill();
    let gone = speaker.inbox().until(SOON, |it| {
        let mut left = it.pushes.iter().filter(|it| it["route"] == "onLeave");
        left.any(|it| it["body"]["userId"] == "reader")
            .then_some(())
    });
    assert!(gone.await.is_some(), "its leave is told");
}

/// A reader is a member like everybody else, and gets the same JSON.
#[tokio::test]
async fn a_reader_is_a_member_and_gets_the_json_of_a_websocket() {
    let system = System::start().await;
    let watcher = testkit::json::Client::connect(address(&system, 0)).await;
    let login = json!({"userId": "watcher", "lessonId": ROOM});
    watcher.request("connector.handler.login", login).await;
    let stream = Stream::of(address(&system, 1), "reader", &[ROOM, SIDE]).await;
    let first = &stream.events()[0];
    assert_eq!(first.name, "onSession");
    let body = &first.data["body"];
    assert_eq!(body["connector"], "connector-2");
    assert_eq!(body["userId"], "reader");
    for (channel, name) in body["channels"]
        .as_array()
        .expect("channels")
        .iter()
        .zip([ROOM, SIDE])
    {
        assert_eq!(channel["channel"], name);
        assert!(channel["position"]["offset"].is_u64(), "{channel}");
        assert_eq!(channel["recovered"], false);
    }
    assert!(!body.to_string().contains("resume"), "{body}");
    system
        .until_members(ROOM, &[("reader", 1), ("watcher", 1)])
        .await;
    system.until_members(SIDE, &[("reader", 1)]).await;

    // The body is passed on byte for byte, but for line breaks between tokens.
    watcher
        .text("{\"id\":7,\"route\":\"chat.handler.send\",\"body\":{\"content\":\n\"a\\nb\",\r\n \"n\": 1.50}}")
        .await;
    let event = stream.until("onMessage").await;
    assert_eq!(event.data["body"]["content"], "a\nb");
    let same = watcher.inbox().until(SOON, |it| {
        let mut pushes = it.pushes.iter();
        pushes.find(|it| it["route"] == "onMessage").cloned()
    });
    assert_eq!(Some(event.data), same.await);
    let joined = stream.until("onJoin").await;
    assert_eq!(joined.data["body"]["userId"], "reader");

    // Ephemeral messages have no place in the log, so they leave the id as it is.
    let before = stream.last_id();
    let typing = json!({"channel": ROOM, "ephemeral": true, "body": {"typing": true}});
    watcher.request("chat.handler.publish", typing).await;
    let event = stream
        .until_event("typing", |it| it.data["ephemeral"] == true)
        .await;
    assert_eq!(event.data["body"]["typing"], true);
    assert_eq!(event.id, before);

    drop(stream);
    system.until_members(ROOM, &[("watcher", 1)]).await;
}

/// What the connector says of it, in metrics and in its log.
#[tokio::test]
async fn streams_are_counted_and_logged_as_such_and_no_secret_is() {
    let system = Plan::of(1, 1).start().await;
    let connector = &system.connectors[0];
    let stream = Stream::of(connector.address(), "reader", &[ROOM]).await;
    let open = r#"connector_connections{protocol="json",transport="sse""#;
    assert_eq!(connector.metric::<u64>(open).await, 1);
    assert_eq!(connector.connections().await, 1);
    let (session, id) = (stream.session(), stream.last_id());
    drop(stream);
    wait::eventually("it is gone", SOON, async || {
        connector.metric::<u64>(open).await == 0
    })
    .await;
    let closed = r#"connector_connections_closed_total{reason="client",protocol="sse""#;
    assert_eq!(connector.metric::<u64>(closed).await, 1);
    let log = connector.lines().join("\n");
    assert!(log.contains(r#""protocol":"sse""#), "{log}");
    let secret = &id[1..23];
    for hidden in [&*session, secret] {
        assert!(!log.contains(hidden), "{hidden} is in the log");
    }
}

/// Dead readers are noticed: comments come, also if nothing happens.
#[tokio::test]
async fn a_quiet_stream_is_sent_comments() {
    let plan = Plan::of(1, 1).connector_flags(&["--heartbeat", "1s"]);
    let system = plan.start().await;
    let stream = Stream::of(address(&system, 0), "reader", &[ROOM]).await;
    let came = stream
        .inbox()
        .until(SOON, |it| (it.comments >= 3).then_some(()));
    assert!(came.await.is_some(), "no comments");
    // A client that only reads is silent, and is not closed because of that.
    assert!(!stream.inbox().read().is_over);
    assert_eq!(stream.last_id(), stream.events().last().expect("events").id);
}

/// A page of an allowed origin may read and post, and no other.
#[tokio::test]
async fn pages_of_allowed_origins_may_read_the_stream() {
    let _permit = Permit::shared().await;
    let page = "https://app.example";
    let system = Standalone::with(&["--allowed-origins", page]).await;
    let ask = |origin: &str| Ask::of(query("reader", &[ROOM])).with("Origin", origin);
    let refused = Stream::open(system.address(), ask("https://evil.example")).await;
    assert_eq!(refused.status(), 403);
    let stream = Stream::open(system.address(), ask(page)).await;
    assert_eq!(stream.status(), 200);
    let head = stream.head();
    assert!(
        head.contains("access-control-allow-origin: https://app.example\r\n"),
        "{head}"
    );
    assert!(head.contains("vary: origin\r\n"), "{head}");
    stream.until("onSession").await;
}

/// After its request a client has nothing to say on the stream.
#[tokio::test]
async fn a_client_that_says_something_on_its_stream_is_closed() {
    let _permit = Permit::shared().await;
    let system = Standalone::start().await;
    let at = system.address();
    let request = format!(
        "GET /sse?{} HTTP/1.1\r\nHost: {at}\r\n\r\n",
        query("u", &[ROOM])
    );
    for pipelined in ["", "GET / HTTP/1.1\r\n\r\n"] {
        let mut http = testkit::polling::Http::connect(at)
            .await
            .expect("it listens");
        let all = format!("{request}{pipelined}");
        http.send(all.as_bytes()).await.expect("it reads");
        http.until(b"onSession").await.expect("a stream");
        if pipelined.is_empty() {
            http.send(b"GET / HTTP/1.1\r\n\r\n")
                .await
                .expect("it reads");
        }
        http.until(b"\"reason\":\"malformed\"")
            .await
            .expect("a reason");
        wait::eventually("it has left", SOON, async || {
            system.connections().await == 0
        })
        .await;
    }
}
