//! Traces from what publishes to what the feed brings. Nothing of them is in the log.

use crate::conformance::conformance;
use crate::support::{Kind, Received, Subject, ephemeral, message, said, with_key};
use channel_store::Publish;
use futures_util::future::join_all;
use traces::{Parent, Span, TraceContext};

conformance! {
    a_feed_is_told_which_publications_belong_to_traces_before_it_brings_them
    a_message_that_is_sent_again_in_another_trace_is_the_same_one
}

/// The trace with this number.
fn trace(number: u8) -> TraceContext {
    let text = format!("00-{number:032x}-{number:016x}-01");
    Parent::parse(&text).unwrap().context
}

/// The message as a step of a trace.
fn traced(mut publish: Publish, number: u8) -> Publish {
    // All tests of this program want it, and a share of 0 begins no trace of its own.
    traces::begin(0.0);
    let span = Span::child(Some(trace(number)), "test", traces::Kind::Server);
    publish.span = Some(span.unwrap());
    publish
}

async fn a_feed_is_told_which_publications_belong_to_traces_before_it_brings_them(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (_feed, sink) = subject.follow("4").await;
    let batch = vec![
        message("4", "u", "a"),
        traced(message("4", "u", "b"), 1),
        traced(ephemeral(message("4", "u", "x")), 2),
        message("4", "u", "c"),
        traced(with_key(message("4", "u", "d"), "k"), 3),
        ephemeral(message("4", "u", "y")),
    ];
    let publisher = subject.store.publisher().unwrap();
    let outcomes = publisher.publish(batch).await.unwrap();
    assert!(outcomes.iter().all(Result::is_ok));
    let last = subject.publish(traced(message("4", "u", "e"), 4)).await;
    last.unwrap();
    sink.until_publications("4", 5).await;

    let mut order = Vec::new();
    let mut waiting: Vec<(Option<u64>, [u8; 16])> = Vec::new();
    for received in sink.all("4") {
        let (offset, body) = match received {
            Received::Subscribed(_) => continue,
            Received::Traced(it) => {
                waiting.push((it.offset, it.context.trace_id()));
                continue;
            }
            Received::Publication(_, it) => (Some(it.position.offset), it.payload),
            Received::Ephemeral(it) => (None, it.payload),
        };
        let mark = waiting.iter().position(|(at, _)| *at == offset);
        let number = mark.map(|at| waiting.remove(at).1[15]);
        let body = String::from_utf8_lossy(body.body()).into_owned();
        order.push((body, number));
    }
    let expected = [
        ("a", None),
        ("b", Some(1)),
        ("x", Some(2)),
        ("c", None),
        ("d", Some(3)),
        ("y", None),
        ("e", Some(4)),
    ];
    let expected = expected.map(|(body, number)| (body.to_owned(), number));
    assert_eq!(order, expected);
    assert_eq!(waiting, [], "no mark is left over");
}

async fn a_message_that_is_sent_again_in_another_trace_is_the_same_one(kind: Kind) {
    let subject = Subject::new(kind).await;
    let (_feed, sink) = subject.follow("4").await;
    let publish = || with_key(message("4", "u", "a"), "k");
    let first = subject.publish(traced(publish(), 1)).await.unwrap();
    let again = subject.publish(traced(publish(), 2)).await.unwrap();
    assert_eq!((first.repeated, again.repeated), (false, true));
    assert_eq!(first.position, again.position);
    let untraced = subject.publish(publish()).await.unwrap();
    assert!(untraced.repeated);
    subject.publish(message("4", "u", "end")).await.unwrap();
    sink.until_publications("4", 2).await;
    assert_eq!(
        said(&subject.log("4").await),
        ["onMessage a", "onMessage end"]
    );
    let told = sink.all("4").into_iter();
    let told: Vec<_> = told
        .filter(|it| matches!(it, Received::Traced(_)))
        .collect();
    assert_eq!(
        told.len(),
        1,
        "what is not published is not traced further: {told:?}"
    );
}
