//! Streams of clients that need tokens.

use super::{numbers, until_contents};
use crate::refusals::system::Locked;
use crate::refusals::tokens::{claims, now, shared, with};
use serde_json::json;
use testkit::permit::Permit;
use testkit::sse::{Ask, Stream};
use testkit::{SOON, json as ws, wait};

/// The channels that a token names are joined at each login, and go on where the browser was.
#[tokio::test]
async fn the_token_may_stand_in_the_url_or_in_a_header_and_its_channels_go_on_after_a_cut() {
    let _permit = Permit::shared().await;
    let system = Locked::start(&[], &[]).await;
    let at = system.clients();
    let token = |user: &str| shared(&with(claims(user), &json!({"channels": ["news"]})));
    let speaker = ws::Client::connect(at).await;
    let login = json!({"token": token("speaker"), "lessonId": "open"});
    assert_eq!(
        speaker.request("connector.handler.login", login).await["code"],
        0
    );
    let say = async |number: usize| {
        let said = json!({"channel": "news", "body": {"content": number.to_string()}});
        let reply = speaker.request("chat.handler.publish", said).await;
        assert_eq!(reply["code"], 0, "{reply}");
    };
    let by_url = Ask::of(format!("channel=open&token={}", token("reader")));
    let stream = Stream::open(at, by_url.clone()).await;
    let first = stream.until("onSession").await;
    assert_eq!(first.data["body"]["userId"], "reader");
    assert!(
        first.data["body"]["ttl"]
            .as_u64()
            .is_some_and(|it| it > 3_000)
    );
    let added = stream.until("onAdded").await;
    assert_eq!(added.data["body"]["channel"], "news");
    say(0).await;
    until_contents(&stream, &numbers(0..1)).await;
    let id = stream.last_id();
    drop(stream);
    for number in 1..4 {
        say(number).await;
    }
    let stream = Stream::open(at, by_url.as_browser(&id)).await;
    until_contents(&stream, &numbers(1..4)).await;
    drop(stream);

    let bearer = format!("Bearer {}", token("other"));
    let by_header = Ask::of("channel=open").with("Authorization", bearer);
    let stream = Stream::open(at, by_header).await;
    let first = stream.until("onSession").await;
    assert_eq!(first.data["body"]["userId"], "other");
    let log = system.log();
    assert!(!log.contains(&token("reader")[..60]), "no token is logged");
}

/// The browser stops, and the page goes on with a new token from where the stream ended.
#[tokio::test]
async fn a_token_that_expires_ends_the_stream_for_good_and_a_new_one_goes_on_there() {
    let _permit = Permit::shared().await;
    let flags = ["--auth-leeway", "0s", "--auth-expiry-grace", "1s"];
    let system = Locked::start(&[], &flags).await;
    let at = system.clients();
    let short = shared(&with(claims("reader"), &json!({"exp": now() + 5})));
    let url = format!("channel=open&token={short}");
    let stream = Stream::open(at, Ask::of(url.clone())).await;
    let expired = stream.until("onExpired").await;
    assert_eq!(expired.data["body"], json!({"closesIn": 1}));
    let kick = stream.until("onKick").await;
    assert_eq!(kick.data["body"]["reason"], "token expired");
    stream.end(SOON).await;
    let id = stream.last_id();
    let again = Stream::open(at, Ask::of(url.clone()).as_browser(&id)).await;
    assert_eq!(again.status(), 204);
    let old = Stream::open(at, Ask::of(url).as_browser("")).await;
    assert_eq!(old.status(), 401, "another try is useless");
    let new = shared(&claims("reader"));
    let stream = wait::some("it is let in", SOON, async || {
        let url = format!("channel=open&token={new}&since={id}");
        let stream = Stream::open(at, Ask::of(url)).await;
        (stream.status() == 200).then_some(stream)
    })
    .await;
    let first = stream.until("onSession").await;
    assert_eq!(first.data["body"]["channels"][0]["recovered"], true);
}

/// What the rules forbid is refused as a whole, and leaves nothing behind.
#[tokio::test]
async fn a_stream_of_several_channels_of_which_one_is_forbidden_does_not_begin() {
    let _permit = Permit::shared().await;
    let system = Locked::start(&[], &[]).await;
    let at = system.clients();
    for channels in ["channel=closed", "channel=open&channel=closed"] {
        let url = format!("{channels}&token={}", shared(&claims("reader")));
        for ask in [Ask::of(url.clone()), Ask::of(url).as_browser("")] {
            let stream = Stream::open(at, ask).await;
            assert_eq!(stream.status(), 403, "{channels}");
            stream.end(SOON).await;
            let body = stream.inbox().read().body.clone();
            assert!(body.contains("NOT_ALLOWED"), "{body}");
        }
    }
    // A channel that the id names, but not the URL, is told as removed.
    let url = format!("channel=open&token={}", shared(&claims("reader")));
    let id = "s8Qp1v0Zc2mXyT7aBd3fGhA~Y2xvc2Vk~7f3a~1";
    let stream = wait::some("it is let in", SOON, async || {
        let stream = Stream::open(at, Ask::of(url.clone()).as_browser(id)).await;
        let first = stream.until_event("the first", |_| true).await;
        (first.name == "onSession").then_some(stream)
    })
    .await;
    let removed = stream.until("onRemoved").await;
    assert_eq!(removed.data["body"]["channel"], "closed");
    assert!(!removed.id.contains("Y2xvc2Vk"), "{}", removed.id);
}
