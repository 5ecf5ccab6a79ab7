use super::TraceSettings;
use super::export::{Collector, Exporting, register_all};
use super::otlp::Origin;
use crate::Metrics;
use clap::Parser;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use traces::{Kind, Span};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Spans wait in one queue for the whole process, so these tests take turns.
static TURN: Mutex<()> = Mutex::const_new(());

/// Passes on what it is sent.
struct Recorder(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Recorder {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let _ = self.0.send(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

type Recorded = mpsc::UnboundedReceiver<ExportTraceServiceRequest>;

fn recorder(listener: TcpListener) -> (AbortOnDropHandle<()>, Recorded) {
    let (sender, recorded) = mpsc::unbounded_channel();
    let server = Server::builder().add_service(TraceServiceServer::new(Recorder(sender)));
    let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
    let task = tokio::spawn(async move {
        let _ = serving.await;
    });
    (AbortOnDropHandle::new(task), recorded)
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn exporting(to: SocketAddr) -> Exporting {
    Metrics::install();
    register_all();
    traces::begin(1.0);
    // What another test has left.
    drop(traces::take(usize::MAX));
    let collector = Collector::new(format!("http://{to}").parse().unwrap(), None);
    let origin = Origin {
        service: "chat".to_owned(),
        instance: "one".to_owned(),
    };
    Exporting::begin(collector, origin)
}

fn counted(outcome: &str) -> u64 {
    let text = Metrics::install().render();
    let name = format!("trace_spans_total{{outcome=\"{outcome}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.expect("it is there from the start").parse().unwrap()
}

#[tokio::test]
async fn spans_reach_the_collector_with_what_caused_them_and_where_they_are_from() {
    let _turn = TURN.lock().await;
    let (listener, address) = listener().await;
    let (_serving, mut recorded) = recorder(listener);
    let exporting = exporting(address);
    let sent = counted("sent");
    let request = Span::root("request", Kind::Server).unwrap();
    let step = Span::child(Some(request.context()), "step", Kind::Client).unwrap();
    step.set("room", "4");
    step.fail("UNAVAILABLE");
    let context = request.context();
    drop((step, request));
    // The end sends what is left.
    exporting.end().await;

    let request = recorded.recv().await.unwrap();
    let [of_process] = &request.resource_spans[..] else {
        panic!("{request:?}");
    };
    let values = of_process.resource.as_ref().unwrap().attributes.iter();
    let values: Vec<_> = values
        .map(|it| {
            let value = it.value.as_ref().and_then(|it| it.value.as_ref());
            let Some(Value::StringValue(text)) = value else {
                panic!("{it:?}");
            };
            (it.key.as_str(), text.as_str())
        })
        .collect();
    assert!(values.contains(&("service.name", "chat")), "{values:?}");
    assert!(
        values.contains(&("service.instance.id", "one")),
        "{values:?}"
    );
    let [step, request] = &of_process.scope_spans[0].spans[..] else {
        panic!("{of_process:?}");
    };
    assert_eq!(step.name, "step");
    assert_eq!(request.trace_id, context.trace_id());
    assert_eq!(request.span_id, context.span_id());
    assert_eq!(request.parent_span_id, [0; 0]);
    assert_eq!(step.parent_span_id, request.span_id);
    assert_eq!(step.trace_id, request.trace_id);
    assert_eq!(step.attributes[0].key, "room");
    assert_eq!(step.status.as_ref().unwrap().message, "UNAVAILABLE");
    assert!(step.end_time_unix_nano >= step.start_time_unix_nano);
    assert_eq!(counted("sent"), sent + 2);
}

/// Counts the lines of this crate's exporter at "info" and above.
struct Lines(Arc<AtomicUsize>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if metadata.target().ends_with("trace::export") && *metadata.level() <= tracing::Level::INFO
        {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn a_collector_that_is_away_is_told_of_once_and_used_again_when_it_is_back() {
    let _turn = TURN.lock().await;
    let lines = Arc::new(AtomicUsize::new(0));
    let subscriber = tracing_subscriber::registry().with(Lines(Arc::clone(&lines)));
    let _logging = tracing::subscriber::set_default(subscriber);
    let (taken, address) = listener().await;
    drop(taken);
    let exporting = exporting(address);
    let failed = counted("failed");
    // At least two calls fail, one after the other.
    while counted("failed") < failed + 2 {
        if traces::take(0).is_empty() {
            drop(Span::root("lost", Kind::Server));
        }
        tokio::task::yield_now().await;
    }
    let first = lines.load(Ordering::Relaxed);
    assert_eq!(first, 1, "one line says it");

    let listener = TcpListener::bind(address).await.unwrap();
    let (_serving, mut recorded) = recorder(listener);
    drop(Span::root("kept", Kind::Server));
    recorded.recv().await.unwrap();
    exporting.end().await;
    assert_eq!(
        lines.load(Ordering::Relaxed),
        2,
        "another one says that it is over"
    );
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_hangs_delays_the_end_of_the_process_for_two_seconds_at_most() {
    let _turn = TURN.lock().await;
    // It accepts connections in the kernel, and nobody answers.
    let (_listener, address) = listener().await;
    let exporting = exporting(address);
    drop(Span::root("lost", Kind::Server));
    let began = Instant::now();
    exporting.end().await;
    assert!(began.elapsed() <= Duration::from_secs(2) + Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_hangs_is_given_up_and_what_waits_for_it_is_bounded() {
    let _turn = TURN.lock().await;
    let (_listener, address) = listener().await;
    let _exporting = exporting(address);
    let (failed, dropped) = (counted("failed"), counted("dropped"));
    // Far more than the queue holds. Nobody waits here for the collector.
    for _ in 0..100_000 {
        drop(Span::root("much", Kind::Server));
    }
    while counted("failed") == failed || counted("dropped") == dropped {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[derive(Debug, Parser)]
struct Settings {
    #[command(flatten)]
    trace: TraceSettings,
}

fn settings(flags: &[&str]) -> Result<TraceSettings, String> {
    let read = Settings::try_parse_from([&["x"], flags].concat());
    let settings = read.map_err(|error| error.to_string())?;
    settings.trace.check().map(|()| settings.trace)
}

#[test]
fn only_the_address_of_a_collector_and_a_share_are_taken() {
    for right in [
        &[][..],
        &["--trace-endpoint", "http://127.0.0.1:4317"],
        &["--trace-endpoint", "http://[::1]:4317/"],
        &["--trace-endpoint", "https://collector"],
        &["--trace-ratio", "0"],
        &["--trace-ratio", "1"],
    ] {
        assert!(settings(right).is_ok(), "{right:?}");
    }
    for (flags, words) in [
        (
            &["--trace-endpoint", "collector:4317"][..],
            "http://127.0.0.1:4317",
        ),
        (&["--trace-endpoint", "http://"], "http://127.0.0.1:4317"),
        (
            &["--trace-endpoint", "http://c:4318/v1/traces"],
            "http://127.0.0.1:4317",
        ),
        (
            &["--trace-endpoint", "http://u:secret@c:4317"],
            "http://127.0.0.1:4317",
        ),
        (&["--trace-ratio", "1.1"], "from 0 to 1"),
        (&["--trace-ratio", "NaN"], "from 0 to 1"),
        (&["--trace-ca", "ca.pem"], "--trace-ca: "),
        (
            &["--trace-endpoint", "http://c:4317", "--trace-ca", "ca.pem"],
            "--trace-ca: ",
        ),
        (
            &["--trace-endpoint", "https://c:4317", "--trace-ca", "no.pem"],
            "--trace-ca: ",
        ),
    ] {
        let refused = settings(flags).unwrap_err();
        assert!(refused.contains(words), "{flags:?}: {refused}");
        assert!(!refused.contains("secret"), "{refused}");
    }
}
