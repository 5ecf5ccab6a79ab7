//! A collector of OpenTelemetry that keeps the spans that it is sent.

use crate::{SOON, wait};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A span, as the collector has received it.
#[derive(Debug, Clone)]
pub struct Span {
    /// The service and the process that have sent it.
    pub service: String,
    /// See [`service`](Self::service).
    pub instance: String,
    /// Its trace, in hexadecimal digits.
    pub trace: String,
    /// Its own number, in hexadecimal digits.
    pub id: String,
    /// The span that has caused it. Empty: none.
    pub parent: String,
    /// What it is about.
    pub name: String,
    /// Its part in a call.
    pub kind: SpanKind,
    /// When it began and ended: nanoseconds since 1970.
    pub time: (u64, u64),
    /// What else is known of it.
    pub attributes: BTreeMap<String, String>,
    /// Why it failed; empty if it did not.
    pub error: String,
}

/// A running collector. It ends when it is dropped.
pub struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    serving: JoinHandle<()>,
}

impl Collector {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// If there is none.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("the kernel has a free port");
        let address = listener.local_addr().expect("a bound listener");
        let spans = Arc::default();
        let service = TraceServiceServer::new(Keeper(Arc::clone(&spans)));
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        Self {
            address,
            spans,
            serving: tokio::spawn(async move {
                let _ = serving.await;
            }),
        }
    }

    /// The URL for `--trace-endpoint`. It lives as long as the process, as flags of services do.
    #[must_use]
    pub fn url(&self) -> &'static str {
        format!("http://{}", self.address).leak()
    }

    /// All spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let spans = self.spans.lock();
        spans.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the spans have what is asked for.
    ///
    /// # Panics
    /// If they don't in time.
    pub async fn until<T>(&self, what: &str, mut pick: impl FnMut(&[Span]) -> Option<T>) -> T {
        let picked = wait::within(2 * SOON, async || pick(&self.spans())).await;
        picked.unwrap_or_else(|| {
            let spans = self.spans();
            let spans = spans.iter().map(|it| format!("{it:?}\n"));
            panic!("not seen: {what}, in:\n{}", spans.collect::<String>())
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Keeper(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Keeper {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter();
        let spans = spans.flat_map(|of_process| {
            let resource = of_process.resource.unwrap_or_default();
            let from = texts(&resource.attributes);
            let spans = of_process.scope_spans.into_iter();
            spans.flat_map(|it| it.spans).map(move |span| Span {
                service: from["service.name"].clone(),
                instance: from["service.instance.id"].clone(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                kind: span.kind(),
                time: (span.start_time_unix_nano, span.end_time_unix_nano),
                attributes: texts(&span.attributes),
                error: span.status.map(|it| it.message).unwrap_or_default(),
                name: span.name,
            })
        });
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let texts = attributes.iter().map(|it| {
        let value = match it.value.as_ref().and_then(|it| it.value.as_ref()) {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            other => panic!("{}: {other:?}", it.key),
        };
        (it.key.clone(), value)
    });
    texts.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
