//! Sends spans to a collector, in batches, for as long as the process lives.
//!
//! Each batch is sent once. If the collector is away, refuses, or does not answer in time, the batch is dropped and counted, and the
//! next one follows after a longer and longer pause. The log says when that begins and when it is over, and not each time.

use super::otlp::{Origin, request};
use crate::backoff::Backoff;
use crate::families::{Family, register};
use crate::tls::ClientTls;
use http::Uri;
use hyper_util::rt::TokioIo;
use metrics::counter;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use traces::Ended;

/// The most spans in one call.
const BATCH: usize = 512;
/// How often what has ended is sent.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a connection to the collector may take, and then how long one call may.
const CONNECT: Duration = Duration::from_secs(3);
const CALL: Duration = Duration::from_secs(5);
/// The pauses after calls that failed.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// How long the end of the process waits for the last spans.
const LAST: Duration = Duration::from_secs(2);

const SPANS: &str = "trace_spans_total";
const OUTCOMES: &[&str] = &["sent", "failed", "dropped"];
const FAMILIES: &[Family] = &[
    Family::counter(SPANS, "Spans of traces, by what became of them").by(&[("outcome", OUTCOMES)]),
];

/// Creates the counters, at 0.
pub(super) fn register_all() {
    register(FAMILIES);
}

fn count(outcome: &'static str, spans: u64) {
    if spans > 0 {
        counter!(SPANS, "outcome" => outcome).increment(spans);
    }
}

/// The way to a collector.
pub(super) struct Collector {
    address: Uri,
    client: TraceServiceClient<Channel>,
}

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Collector {
    /// Connects with the first call, and again whenever the connection is lost. `tls` is for a URL that asks for it.
    pub(super) fn new(address: Uri, tls: Option<Arc<ClientTls>>) -> Self {
        let to = address.clone();
        let connect = service_fn(move |_: Uri| {
            let (to, tls) = (to.clone(), tls.clone());
            async move {
                let connected = timeout(CONNECT, connect(&to, tls.as_deref())).await;
                let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                connected.map(TokioIo::new)
            }
        });
        let channel = Endpoint::from(address.clone()).connect_with_connector_lazy(connect);
        Self {
            client: TraceServiceClient::new(channel),
            address,
        }
    }
}

/// True if the URL asks for TLS.
pub(super) fn is_encrypted(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

async fn connect(to: &Uri, tls: Option<&ClientTls>) -> io::Result<Box<dyn Stream>> {
    let host = to.host().unwrap_or_default().trim_matches(['[', ']']);
    let default = if is_encrypted(to) { 443 } else { 80 };
    let port = to.port_u16().unwrap_or(default);
    let stream = TcpStream::connect((host, port)).await?;
    let Some(tls) = tls else {
        return Ok(Box::new(stream));
    };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(tls.connector().connect(name, stream).await?))
}

/// Sends spans while it lives.
#[must_use = "spans are sent only while this lives"]
pub struct Exporting(Option<Running>);

struct Running {
    task: AbortOnDropHandle<()>,
    ends: CancellationToken,
}

impl Exporting {
    /// Of a process that traces nothing.
    pub(super) fn nothing() -> Self {
        Self(None)
    }

    pub(super) fn begin(collector: Collector, origin: Origin) -> Self {
        let ends = CancellationToken::new();
        let exporter = Exporter {
            collector,
            origin,
            ends: ends.clone(),
            is_failing: false,
        };
        Self(Some(Running {
            task: AbortOnDropHandle::new(tokio::spawn(exporter.run())),
            ends,
        }))
    }

    /// Sends what is left, for two seconds at most. To be called at the end of the process.
    pub async fn end(self) {
        if let Some(Running { task, ends }) = self.0 {
            ends.cancel();
            if timeout(LAST, task).await.is_err() {
                tracing::debug!("the last spans of traces were not sent in time");
            }
        }
    }
}

struct Exporter {
    collector: Collector,
    origin: Origin,
    ends: CancellationToken,
    /// The last call failed, and the log says so.
    is_failing: bool,
}

impl Exporter {
    async fn run(mut self) {
        let mut backoff = Backoff::new(SHORTEST, LONGEST);
        while !self.ends.is_cancelled() {
            tokio::select! {
                () = self.ends.cancelled() => {}
                () = traces::filled() => {}
                () = sleep(INTERVAL) => {}
            }
            if self.send_all().await {
                backoff.reset();
            } else {
                tokio::select! {
                    () = self.ends.cancelled() => {}
                    () = backoff.wait() => {}
                }
            }
        }
        self.send_all().await;
    }

    /// Sends everything that has ended. False: a call failed, and what is left waits.
    async fn send_all(&mut self) -> bool {
        count("dropped", traces::dropped());
        loop {
            let batch = traces::take(BATCH);
            if batch.is_empty() {
                return true;
            }
            if !self.send(batch).await {
                return false;
            }
        }
    }

    async fn send(&mut self, batch: Vec<Ended>) -> bool {
        let spans = batch.len() as u64;
        let request = request(&self.origin, batch);
        let answer = timeout(CALL, self.collector.client.export(request)).await;
        let why = match answer {
            Ok(Ok(answer)) => {
                let partial = answer.into_inner().partial_success;
                let rejected = partial.map_or(0, |it| it.rejected_spans);
                let rejected = u64::try_from(rejected).unwrap_or(0).min(spans);
                count("failed", rejected);
                count("sent", spans - rejected);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!(collector = %self.collector.address, "traces reach the collector again");
                }
                return true;
            }
            Ok(Err(status)) => words(&status),
            Err(_) => format!("no answer within {} s", CALL.as_secs()),
        };
        count("failed", spans);
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(
                collector = %self.collector.address,
                reason = why,
                "the collector of traces takes none, so they are lost; requests are served as before. Look at --trace-endpoint"
            );
        }
        false
    }
}

/// Why a call failed: the innermost cause, which is the system's if the network failed.
fn words(status: &tonic::Status) -> String {
    let mut cause = std::error::Error::source(status);
    let mut last = None;
    while let Some(error) = cause {
        last = Some(error.to_string());
        cause = error.source();
    }
    last.unwrap_or_else(|| format!("{:?}: {}", status.code(), status.message()))
}
