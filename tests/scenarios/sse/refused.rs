//! What is refused before a stream begins. A browser gives up for good after any status but 200, so it gets one only if another try is
//! useless.

use super::{ROOM, address};
use serde_json::Value;
use testkit::permit::Permit;
use testkit::service::Standalone;
use testkit::sse::{Ask, Stream, query};
use testkit::system::Plan;
use testkit::{SOON, wait};

/// The status, and the JSON of the refusal.
async fn refused(at: std::net::SocketAddr, ask: Ask<'_>) -> (u16, Value, String) {
    let stream = Stream::open(at, ask).await;
    stream.end(SOON).await;
    let received = stream.inbox().read();
    let (status, head) = received.head.clone().expect("a head");
    let body = serde_json::from_str(&received.body);
    (status, body.unwrap_or_default(), head)
}

#[tokio::test]
async fn what_would_be_refused_again_has_a_status_for_everybody() {
    let _permit = Permit::shared().await;
    let system = Standalone::start().await;
    let at = system.address();
    let id = |id: &str| Ask::of("userId=u&channel=room").with("Last-Event-ID", id);
    let many: Vec<_> = (0..101).map(|it| it.to_string()).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    for (ask, reason) in [
        (Ask::of("channel=room"), "MISSING_PARAMETER"),
        (Ask::of("userId=&channel=room"), "MISSING_PARAMETER"),
        (Ask::of("userId=u&channel="), "INVALID_PARAMETER"),
        (Ask::of("userId=u&channel=%00"), "INVALID_PARAMETER"),
        (
            Ask::of("userId=u&channel=room&since=17"),
            "INVALID_PARAMETER",
        ),
        (id("17"), "INVALID_PARAMETER"),
        (
            id("s8Qp1v0Zc2mXyT7aBd3fGhA~room~7f3a~17~"),
            "INVALID_PARAMETER",
        ),
        // Of the right form, but not the base64 of 16 bytes.
        (id("s8Qp1v0Zc2mXyT7aBd3fGhB"), "INVALID_PARAMETER"),
        (Ask::of(query("u", &many)), "TOO_MANY_CHANNELS"),
    ] {
        for ask in [ask.clone(), ask.as_browser("")] {
            let (status, body, head) = refused(at, ask.clone()).await;
            assert_eq!(status, 400, "{ask:?}: {body}");
            assert_eq!(body["reason"], reason, "{ask:?}");
            assert!(head.contains("cache-control: no-store"), "{head}");
        }
    }
    // Nothing of this is left.
    let stream = Stream::of(at, "u", &["0", "1"]).await;
    assert_eq!(stream.status(), 200);
}

/// The browser is told why and when to come back, in a stream that ends.
#[tokio::test]
async fn what_may_pass_ends_a_short_stream_for_browsers_and_has_a_status_for_others() {
    let plan = Plan::of(1, 1).connector_flags(&["--connections", "3"]);
    let system = plan.start().await;
    let at = address(&system, 0);
    let _first = Stream::of(at, "u", &[ROOM]).await;
    let program = || Ask::of(query("u", &[ROOM]));
    let (status, body, head) = refused(at, program()).await;
    assert_eq!((status, &body["reason"]), (409, &"USER_LOGGED_IN".into()));
    assert!(head.contains("retry-after: 2\r\n"), "{head}");
    let told = Stream::open(at, program().as_browser("")).await;
    assert_eq!(told.status(), 200);
    let event = told.until("onRefused").await;
    assert_eq!(event.data["body"]["reason"], "USER_LOGGED_IN");
    told.end(SOON).await;
    let retry = told.inbox().read().retry.expect("a pause");
    assert!((2_000..=3_000).contains(&retry), "{retry}");

    // All places are taken, once those of the refused are free again.
    let mut others = Vec::new();
    for user in ["v", "w"] {
        let opened = wait::some("there is a place", SOON, async || {
            let stream = Stream::open(at, Ask::of(query(user, &[ROOM]))).await;
            (stream.status() == 200).then_some(stream)
        });
        others.push(opened.await);
    }
    let (status, body, head) = refused(at, program()).await;
    assert_eq!((status, &body["reason"]), (503, &"TRY_LATER".into()));
    assert!(head.contains("retry-after: 5\r\n"), "{head}");
    let id = "s8Qp1v0Zc2mXyT7aBd3fGhA~cm9vbQ~7f3a~17";
    let told = Stream::open(at, program().as_browser(id)).await;
    assert_eq!(told.status(), 200);
    let event = told.until("onRefused").await;
    assert_eq!(event.data["body"]["reason"], "TRY_LATER");
    assert_eq!(event.id, id, "it comes back with what it had");
}

/// While Redis is away, a browser goes on trying, and is let in when it is back.
#[tokio::test]
async fn a_browser_is_asked_to_come_back_while_the_store_is_away() {
    let mut system = Plan::of(1, 1).start().await;
    let at = address(&system, 0);
    system.redis.stop().await;
    let ask = || Ask::of(query("u", &[ROOM])).as_browser("");
    let told = Stream::open(at, ask()).await;
    assert_eq!(told.status(), 200);
    let event = told.until("onRefused").await;
    assert_eq!(event.data["body"]["retry"], true, "{event:?}");
    let (status, body, _) = refused(at, Ask::of(query("u", &[ROOM]))).await;
    assert_eq!((status, &body["retry"]), (503, &true.into()));
}

#[tokio::test]
async fn only_get_opens_a_stream_and_only_post_asks() {
    let _permit = Permit::shared().await;
    let system = Standalone::start().await;
    let at = system.address();
    for (method, path, status) in [
        ("POST", "/sse", 405),
        ("HEAD", "/sse", 405),
        ("GET", "/sse/abc", 405),
        ("DELETE", "/sse/abc", 405),
        ("OPTIONS", "/sse", 204),
        ("OPTIONS", "/sse/abc", 204),
        ("GET", "/sses", 404),
    ] {
        let mut http = testkit::polling::Http::connect(at)
            .await
            .expect("it listens");
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\n\r\n");
        http.send(request.as_bytes()).await.expect("it reads");
        http.until(b"\r\n\r\n").await.expect("a head");
        let answer = http.pending();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{method} {path}: {answer}"
        );
    }
}
