//! Traces: what one request causes in all processes, as a collector of OpenTelemetry sees it.

use serde_json::json;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;
use testkit::collector::{Collector, Span};
use testkit::permit::Permit;
use testkit::pomelo::{LOGIN, SENT, heard};
use testkit::service::{Service, Standalone};
use testkit::system::{Plan, System};
use testkit::{SOON, json as json_client, pace, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::Request;

/// The names of the steps of a message, from the client's request to its way out to the members of a channel.
const REQUEST: &str = "chat.handler.send";
const RPC: &str = "connector.v1.SessionService/SendStream";
const SCRIPT: &str = "redis publish.lua";
const FEED: &str = "feed";
const HUB: &str = "hub";
const WRITE: &str = "socket write";

/// A trace of a caller: `-01` at the end says that it is kept, `-00` that it is not.
const OF_CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

async fn traced(collector: &Collector, ratio: &'static str) -> System {
    let flags = ["--trace-endpoint", collector.url(), "--trace-ratio", ratio];
    let plan = Plan::of(2, 2).chat_flags(&flags).connector_flags(&flags);
    plan.start().await
}

/// The one span of this name in a trace, in which process soever, with this parent.
fn child<'a>(spans: &'a [Span], parent: &Span, name: &str) -> Option<&'a Span> {
    let children = children(spans, parent, name);
    assert!(children.len() <= 1, "{children:?}");
    children.first().copied()
}

/// All of them.
fn children<'a>(spans: &'a [Span], parent: &Span, name: &str) -> Vec<&'a Span> {
    let is_child =
        |it: &&Span| it.trace == parent.trace && it.parent == parent.id && it.name == name;
    let children: Vec<_> = spans.iter().filter(is_child).collect();
    for child in &children {
        assert!(
            child.time.0 >= parent.time.0,
            "{child:?} begins before {parent:?}"
        );
        assert!(child.time.1 >= child.time.0, "{child:?}");
    }
    children
}

/// The way from a script to the sockets of each connector.
fn ways_out<'a>(spans: &'a [Span], script: &Span) -> Vec<[&'a Span; 3]> {
    let feeds = children(spans, script, FEED);
    let ways = feeds.into_iter().filter_map(|feed| {
        let hub = child(spans, feed, HUB)?;
        let write = child(spans, hub, WRITE)?;
        assert!([hub, write].iter().all(|it| it.instance == feed.instance));
        Some([feed, hub, write])
    });
    ways.collect()
}

#[tokio::test]
async fn one_trace_leads_from_a_clients_request_to_the_sockets_of_all_connectors() {
    let collector = Collector::start().await;
    let system = traced(&collector, "1").await;
    let bob = system.member(1, "bob", "room").await;
    let alice = json_client::Client::connect(system.connectors[0].address()).await;
    let login = json!({ "userId": "alice", "lessonId": "room" });
    let answer = alice.request(LOGIN, login).await;
    let secret = answer["resume"].as_str().expect("a secret").to_owned();
    let content = "a-body-that-nobody-else-may-read";
    let said = json!({ "content": content });
    assert_eq!(alice.request(REQUEST, said).await["code"], 0);
    bob.until_push(&heard("alice", content)).await;

    let steps = collector
        .until("the whole trace of the message", |spans| {
            let request = spans.iter().find(|it| it.name == REQUEST)?;
            let call = child(spans, request, RPC)?;
            let answer = child(spans, call, RPC)?;
            let script = child(spans, answer, SCRIPT)?;
            let ways = ways_out(spans, script);
            let steps = [request, call, answer, script].map(Span::clone);
            (ways.len() == 2).then(|| {
                (
                    steps,
                    ways.concat().into_iter().cloned().collect::<Vec<_>>(),
                )
            })
        })
        .await;
    let ([request, call, answer, script], ways) = steps;
    assert_eq!(request.parent, "");
    let who = |span: &Span| (span.service.clone(), span.instance.clone());
    let first = ("connector".to_owned(), "connector-1".to_owned());
    assert_eq!((who(&request), who(&call)), (first.clone(), first));
    assert_eq!(answer.service, "chat");
    assert_eq!(who(&script), who(&answer));
    assert_eq!(call.id.len(), 16);
    assert_ne!(call.id, answer.id, "each process has a span of its own");
    assert!(
        request.time.1 >= call.time.1,
        "it lasts until it is answered"
    );
    assert!(
        call.time.1 >= script.time.1,
        "the answer follows the script"
    );
    let connectors: BTreeSet<_> = ways.iter().map(|it| it.instance.as_str()).collect();
    assert_eq!(connectors, BTreeSet::from(["connector-1", "connector-2"]));
    for write in ways.iter().filter(|it| it.name == WRITE) {
        assert_eq!(write.attributes["sockets"], "1");
        assert_eq!(write.attributes["channel"], "room");
    }
    assert!(request.attributes.contains_key("session"), "{request:?}");

    // A join calls chat, too. Leaves are in the background, and belong to no request.
    let join = collector.until("the trace of the login", |spans| {
        let login = spans.iter().find(|it| it.name == LOGIN)?;
        let call = child(spans, login, "connector.v1.SessionService/Join")?;
        child(spans, call, "connector.v1.SessionService/Join").cloned()
    });
    assert_eq!(join.await.service, "chat");

    // Nothing in a trace is secret.
    for span in collector.spans() {
        let text = format!("{span:?}");
        for hidden in [content, secret.as_str()] {
            assert!(!text.contains(hidden), "{text}");
        }
    }
    // The log holds nothing of a trace, so a message that is sent again is the same one.
    let log = testkit::log::Log::read(system.redis.address(), "room").await;
    let log = format!("{log:?}");
    assert!(
        log.contains(content) && !log.contains(&request.trace),
        "{log}"
    );
}

/// Sends a message over HTTP, with this header.
async fn post(chat: std::net::SocketAddr, traceparent: &str) {
    let json = r#"{"channel":"room","user":"bot","body":{"type":1}}"#;
    let mut stream = TcpStream::connect(chat).await.expect("chat listens");
    let request = format!(
        "POST /chat.v1.ChatService/Send HTTP/1.1\r\nhost: chat\r\nconnection: close\r\ncontent-type: application/json\r\n\
         traceparent: {traceparent}\r\ncontent-length: {}\r\n\r\n{json}",
        json.len()
    );
    let sent = stream.write_all(request.as_bytes()).await;
    sent.expect("chat reads the request");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("chat answers");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn the_trace_of_a_back_end_goes_on_and_with_a_share_of_0_there_is_no_other_one() {
    let collector = Collector::start().await;
    let system = traced(&collector, "0").await;
    let alice = system.member(0, "alice", "room").await;
    let _bob = system.member(1, "bob", "room").await;
    for _ in 0..20 {
        assert_eq!(alice.say("not traced").await, SENT);
    }
    let api = system.api(0);
    for _ in 0..20 {
        api.send("room", "bot", "{}", "").await.expect("it is sent");
    }
    // A caller that does not keep its trace, and one that names none.
    post(system.chats[0].address(), &OF_CALLER.replace("-01", "-00")).await;
    post(system.chats[0].address(), "nonsense").await;

    let mut request = Request::new(proto::chat::v1::SendRequest {
        channel: "room".into(),
        user: "bot".into(),
        content: Some(proto::chat::v1::send_request::Content::BodyJson(
            "{}".into(),
        )),
        ..Default::default()
    });
    let traceparent = OF_CALLER.parse().expect("a header");
    request.metadata_mut().insert("traceparent", traceparent);
    api.client().send(request).await.expect("it is sent");
    post(system.chats[1].address(), OF_CALLER).await;

    let both = collector.until("both messages on both connectors", |spans| {
        let calls = spans
            .iter()
            .filter(|it| it.name == "chat.v1.ChatService/Send");
        let ways = calls.filter_map(|call| {
            assert_eq!((&*call.trace, &*call.parent), (TRACE, "00f067aa0ba902b7"));
            let script = child(spans, call, SCRIPT)?;
            Some(ways_out(spans, script).len())
        });
        (ways.collect::<Vec<_>>() == [2, 2]).then_some(())
    });
    both.await;
    let others: Vec<_> = collector.spans();
    let others: Vec<_> = others.iter().filter(|it| it.trace != TRACE).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test]
async fn with_the_store_in_memory_the_steps_are_the_same() {
    let _permit = Permit::shared().await;
    let collector = Collector::start().await;
    let flags = ["--trace-endpoint", collector.url(), "--trace-ratio", "1"];
    let standalone = Standalone::with(&flags).await;
    let alice = testkit::pomelo::Client::join(standalone.address(), "alice", "room").await;
    assert_eq!(alice.say("hello").await, SENT);
    let way = collector.until("the whole trace", |spans| {
        let request = spans.iter().find(|it| it.name == REQUEST)?;
        let answer = child(spans, child(spans, request, RPC)?, RPC)?;
        let stored = child(spans, answer, "memory publish")?;
        ways_out(spans, stored).pop().map(|_| ())
    });
    way.await;
}

/// How long it takes until this many messages are answered, one after another.
async fn time_of(client: &testkit::pomelo::Client, messages: usize) -> Duration {
    let began = Instant::now();
    for _ in 0..messages {
        assert_eq!(client.say("hello").await, SENT);
    }
    pace::since(began)
}

/// How many spans of a service had this outcome.
async fn spans(service: &Service, outcome: &str) -> u64 {
    let series = format!("trace_spans_total{{outcome=\"{outcome}\"");
    service.metric(&series).await
}

#[tokio::test]
async fn a_collector_that_hangs_slows_no_message_and_costs_no_more_than_its_queue() {
    // It accepts connections in the kernel, and nobody answers.
    let hanging = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = hanging.local_addr().expect("a bound listener");
    let hanging_url: &str = format!("http://{address}").leak();
    let collector = Collector::start().await;
    let permit = Plan::of(0, 0).alone().permit().await;
    let start = async |url| {
        let flags = ["--trace-endpoint", url, "--trace-ratio", "1"];
        Standalone::with(&flags).await
    };
    let (healthy, mut stuck) = (start(collector.url()).await, start(hanging_url).await);
    let of_healthy = testkit::pomelo::Client::join(healthy.address(), "alice", "room").await;
    let of_stuck = testkit::pomelo::Client::join(stuck.address(), "alice", "room").await;

    // The first messages fill the queue. Each has at least seven spans.
    let until_full = async {
        while spans(&stuck, "dropped").await == 0 {
            time_of(&of_stuck, 100).await;
        }
    };
    until_full.await;
    let before = stuck.memory().now;
    let mut times = Vec::new();
    for _ in 0..5 {
        let with = time_of(&of_stuck, 200).await;
        let without = time_of(&of_healthy, 200).await;
        times.push((with, without));
    }
    let fastest = |pick: fn(&(Duration, Duration)) -> Duration| times.iter().map(pick).min();
    let (with, without) = (fastest(|it| it.0), fastest(|it| it.1));
    assert!(with < without.map(|it| 2 * it), "{times:?}");
    let grown = stuck.memory().now.saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes");

    // One line of the log says it.
    let fails = wait::some("the log says it", SOON, async || {
        let lines = stuck.lines();
        let lines = lines
            .into_iter()
            .filter(|it| it.contains("the collector of traces"));
        Some(lines.count()).filter(|count| *count > 0)
    });
    assert_eq!(fails.await, 1);
    // The end of the process does not wait for it.
    stuck.terminate();
    let status = stuck.ended_within(SOON).await;
    assert!(status.success(), "{status}");
    drop(permit);
}
