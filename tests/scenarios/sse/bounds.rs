//! A reader costs a bounded amount of memory, also if it does not read.

use super::{ROOM, address};
use serde_json::json;
use testkit::pomelo::{SEND, SENT};
use testkit::sse::{Ask, Stream, post, query};
use testkit::system::Plan;
use testkit::{SOON, wait};

const MEBIBYTE: u64 = 1 << 20;

/// The bound is that of any other client. The reader is told why it was cut off, and goes on from where it was.
#[tokio::test]
async fn a_slow_reader_is_cut_off_within_its_bound_and_goes_on_where_it_was() {
    const READERS: usize = 8;
    const COUNT: usize = 600;
    let system = Plan::of(1, 1).alone().start().await;
    let connector = &system.connectors[0];
    let speaker = system.member(0, "speaker", ROOM).await;
    let mut slow = Vec::new();
    for number in 0..READERS {
        let mut ask = Ask::of(query(&format!("slow{number}"), &[ROOM]));
        ask.small_buffer = true;
        let stream = Stream::open(connector.address(), ask).await;
        stream.until("onSession").await;
        stream.stop_reading();
        slow.push(stream);
    }
    let before = connector.memory();
    let body = |number: usize| json!({"content": number.to_string(), "c": "x".repeat(60_000)});
    for number in 0..COUNT {
        let answer = speaker.request(SEND, &body(number).to_string()).await;
        assert_eq!(answer, SENT, "message {number}");
    }
    system.until_members(ROOM, &[("speaker", 1)]).await;
    let closed = r#"connector_connections_closed_total{reason="slow",protocol="sse""#;
    wait::eventually("all are cut off", SOON, async || {
        connector.metric::<usize>(closed).await == READERS
    })
    .await;
    let grown = connector.memory().peak.saturating_sub(before.now);
    let bound = READERS as u64 * MEBIBYTE * 5 / 4 + 24 * MEBIBYTE;
    assert!(grown <= bound, "{} MiB", grown / MEBIBYTE);

    let stream = &slow[0];
    stream.resume_reading();
    stream.end(SOON).await;
    let came = stream.contents();
    assert!(came.len() < COUNT, "{}", came.len());
    let ask = Ask::of(query("slow0", &[ROOM])).as_browser(&stream.last_id());
    let rest = Stream::open(connector.address(), ask).await;
    wait::eventually("the rest comes", SOON, async || {
        came.len() + rest.contents().len() >= COUNT || !losses(&rest).is_empty()
    })
    .await;
    // The log holds 8 MiB, so it may have been trimmed meanwhile. Then the reader is told, and the rest has no hole.
    let rest_came = rest.contents();
    let first: usize = rest_came
        .first()
        .map_or(COUNT, |it| it.parse().expect("a number"));
    assert!(
        first == came.len() || losses(&rest) == ["trimmed"],
        "{first} after {}",
        came.len()
    );
}

fn losses(stream: &Stream) -> Vec<String> {
    let events = stream.events();
    let lost = events.iter().filter(|it| it.name == "onPosition");
    lost.map(|it| {
        it.data["body"]["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    })
    .collect()
}

/// A client of a stream has the same rates as others.
#[tokio::test]
async fn too_many_posts_are_refused_and_then_end_the_stream() {
    let rates = ["--request-rate", "1", "--request-burst", "5"];
    let system = Plan::of(1, 1).connector_flags(&rates).start().await;
    let at = address(&system, 0);
    let stream = Stream::of(at, "reader", &[ROOM]).await;
    let session = stream.session();
    let ask = json!({"id": 1, "route": "chat.handler.members", "body": {}});
    let mut reasons = Vec::new();
    while !stream.inbox().read().is_over {
        let (status, reply) = post(at, &session, &ask).await;
        if status != 200 {
            break;
        }
        reasons.push(reply["body"]["reason"].clone());
    }
    assert!(reasons.contains(&"RATE_LIMITED".into()), "{reasons:?}");
    let kick = stream.until("onKick").await;
    assert_eq!(kick.data["body"]["reason"], "too many requests");
    assert_eq!(kick.data["body"]["reconnect"], true);
}

/// The id of an event stays short enough for a header, so there is a bound for all names together.
#[tokio::test]
async fn channels_with_long_names_are_refused_before_the_id_is_too_long() {
    let system = Plan::of(1, 1).start().await;
    let at = address(&system, 0);
    let stream = Stream::of(at, "reader", &[ROOM]).await;
    let session = stream.session();
    let mut joined = 1;
    let reason = loop {
        let channel = format!("{joined:0250}");
        let join = json!({"route": "chat.handler.join", "body": {"channel": channel}});
        let (_, reply) = post(at, &session, &join).await;
        if reply["body"]["code"] != 0 {
            break reply["body"]["reason"].clone();
        }
        joined += 1;
        assert!(joined < 100);
    };
    assert_eq!(reason, "TOO_MANY_CHANNELS");
    assert!(joined > 10, "{joined}");
    let id = stream.last_id();
    assert!(id.len() <= 7 << 10, "{}", id.len());
    drop(stream);
    // As a header, it is taken.
    let ask = Ask::of(query("reader", &[ROOM])).as_browser(&id);
    let stream = Stream::open(at, ask).await;
    let first = stream.until("onSession").await;
    let channels = first.data["body"]["channels"].as_array().map(Vec::len);
    assert_eq!(channels, Some(joined));
}
