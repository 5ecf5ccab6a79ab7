//! What a process traces, from the first span to the queue. The queue is one for the whole process, so this is one test.

use std::time::Duration;
use tokio::task::yield_now;
use traces::{Ended, Kind, Parent, Span, Value};

fn ended() -> Vec<Ended> {
    traces::take(usize::MAX)
}

#[tokio::test]
async fn only_what_is_kept_has_a_span_and_steps_know_what_caused_them() {
    // Nothing is traced before the beginning, whatever callers want.
    let wish = Parent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    assert!(wish.is_some());
    assert!(Span::root("early", Kind::Server).is_none());
    assert!(Span::of_request(wish, "early", Kind::Server).is_none());
    assert!(traces::current().is_none());

    // With a share of 0, only the callers decide.
    traces::begin(0.0);
    for _ in 0..1_000 {
        assert!(Span::root("none", Kind::Server).is_none());
    }
    let no_wish = Parent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
    assert!(Span::of_request(no_wish, "no", Kind::Server).is_none());
    let of_caller = Span::of_request(wish, "yes", Kind::Server);
    drop(of_caller.expect("the caller keeps it"));
    let spans = ended();
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].parent, wish.map(|it| it.context.span_id()));
    assert_eq!(
        spans[0].context.trace_id(),
        wish.expect("it is one").context.trace_id()
    );

    traces::begin(0.25);
    let kept = (0..4_000).filter(|_| Span::root("some", Kind::Server).is_some());
    let kept = kept.count();
    assert!((700..1_300).contains(&kept), "{kept} of 4,000 are kept");
    ended();

    traces::begin(1.0);
    let root = Span::root("request", Kind::Server).expect("all are kept");
    assert!(traces::current().is_none());
    let context = root.context();
    let inside = async {
        yield_now().await;
        let current = traces::current().expect("the task works on it");
        assert_eq!(current.context(), context);
        let step = Span::child(Some(current.context()), "step", Kind::Client);
        let step = step.expect("what caused it is kept");
        step.set("size", 7_usize);
        step.set("text", "x".repeat(1_000).as_str());
        step.fail("no answer");
        // Another task has no part in it.
        let other = tokio::spawn(async { traces::current().is_none() });
        assert!(other.await.expect("it ends"));
        // A span within the span, and then this one again.
        let inner = Span::root("inner", Kind::Internal).expect("all are kept");
        let expected = inner.context();
        traces::within(inner, async {
            assert_eq!(traces::current().map(|it| it.context()), Some(expected));
        })
        .await;
        assert_eq!(traces::current().map(|it| it.context()), Some(context));
    };
    traces::within(root, inside).await;
    assert!(traces::current().is_none());
    let spans = ended();
    let names: Vec<_> = spans.iter().map(|it| it.name).collect();
    assert_eq!(names, ["inner", "step", "request"]);
    let (step, request) = (&spans[1], &spans[2]);
    assert_eq!(step.parent, Some(request.context.span_id()));
    assert_eq!(step.context.trace_id(), request.context.trace_id());
    assert!(step.began >= request.began && step.began > Duration::from_secs(1_700_000_000));
    assert!(step.took <= request.took);
    assert_eq!(step.error.as_deref(), Some("no answer"));
    assert_eq!(step.values[0], ("size", Value::Number(7)));
    assert_eq!(step.values[1], ("text", Value::Text("x".repeat(256))));
    assert_eq!(request.parent, None);

    // A future that panics leaves no span behind.
    let root = Span::root("panics", Kind::Server).expect("all are kept");
    let panics = traces::within(root, async { panic!("as it should") });
    let outcome = tokio::spawn(panics);
    assert!(outcome.await.is_err());
    assert!(traces::current().is_none());
    assert_eq!(ended().len(), 1);
}
