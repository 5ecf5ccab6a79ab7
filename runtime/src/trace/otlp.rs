//! Spans as OTLP has them.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Kept;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use std::time::Duration;
use traces::{Ended, Kind, Value};

/// Set in the flags of each span of a trace that is kept.
const SAMPLED: u32 = 1;

/// The process that the spans are from.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) service: String,
    pub(super) instance: String,
}

/// The request that hands these spans to a collector.
pub(super) fn request(origin: &Origin, spans: Vec<Ended>) -> ExportTraceServiceRequest {
    let version = env!("CARGO_PKG_VERSION");
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let resource = Resource {
        attributes: vec![
            attribute("host.name", Value::from(&*host)),
            attribute("service.name", Value::from(&*origin.service)),
            attribute("service.instance.id", Value::from(&*origin.instance)),
            attribute("service.version", Value::from(version)),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "global-channel".to_owned(),
        version: version.to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = ScopeSpans {
        scope: Some(scope),
        spans: spans.into_iter().map(span).collect(),
        ..ScopeSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![spans],
            ..ResourceSpans::default()
        }],
    }
}

fn span(ended: Ended) -> Span {
    let status = ended.error.map(|message| Status {
        message,
        code: StatusCode::Error.into(),
    });
    let attributes = ended.values.into_iter();
    Span {
        trace_id: ended.context.trace_id().into(),
        span_id: ended.context.span_id().into(),
        parent_span_id: ended.parent.map(Vec::from).unwrap_or_default(),
        flags: SAMPLED,
        name: ended.name.to_owned(),
        kind: match ended.kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
            Kind::Consumer => SpanKind::Consumer,
            Kind::Internal => SpanKind::Internal,
        }
        .into(),
        start_time_unix_nano: nanoseconds(ended.began),
        end_time_unix_nano: nanoseconds(ended.began + ended.took),
        attributes: attributes.map(|(key, it)| attribute(key, it)).collect(),
        status,
        ..Span::default()
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => Kept::StringValue(text),
        Value::Number(number) => Kept::IntValue(number),
    };
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
