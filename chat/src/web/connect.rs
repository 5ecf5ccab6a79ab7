//! Unary calls in the form of the Connect protocol: the path of gRPC, a body without a frame, an HTTP status, and errors as
//! JSON. Its specification is at <https://connectrpc.com/docs/protocol>. A method that answers with a stream is called in the same
//! way, and answers with lines of JSON or with Server-Sent Events.
//!
//! A request becomes one of gRPC and goes to the same services, which read and write its body as [`Form`] says
//! ([`super::transcode`]). So all bounds, deadlines and metrics are those of gRPC.

use super::contract::{Contract, Method};
use super::json;
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, RETRY_AFTER, TE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use prost::Message;
use prost_reflect::DescriptorPool;
use serde_json::value::RawValue;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{StatusExt, pb};

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROTO: HeaderValue = HeaderValue::from_static("application/proto");

/// How the body of a request and that of its answer are written. Requests carry it in their extensions.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    pub(super) codec: Codec,
    /// How the messages of a stream are told apart. `None` if the answer is a single message.
    pub(super) framing: Option<Framing>,
    pub(super) method: Arc<Method>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Json,
    Proto,
}

/// How the messages of a stream are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Each stands in a line of its own.
    Lines,
    /// Each is the data of an event (Server-Sent Events).
    Events,
}

impl Framing {
    /// As the caller asks for it. Lines are for everybody who does not ask for events.
    fn of(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(ACCEPT).iter();
        let mut accepted = accepted.filter_map(|it| it.to_str().ok());
        if accepted.any(|it| it.contains("text/event-stream")) {
            Self::Events
        } else {
            Self::Lines
        }
    }

    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
        })
    }

    /// Puts a message's JSON at the end of what is sent next.
    pub(super) fn put(self, to: &mut BytesMut, json: &[u8]) {
        let (before, after): (&[u8], &[u8]) = match self {
            Self::Lines => (b"", b"\n"),
            Self::Events => (b"data: ", b"\n\n"),
        };
        to.extend_from_slice(before);
        to.extend_from_slice(json);
        to.extend_from_slice(after);
    }

    /// Says why a stream ends too early. Nothing comes after it.
    pub(super) fn put_error(self, to: &mut BytesMut, types: &DescriptorPool, status: &Status) {
        let error = error_json(types, status);
        let (before, after): (&[u8], &[u8]) = match self {
            Self::Lines => (b"{\"error\":", b"}\n"),
            Self::Events => (b"event: error\ndata: ", b"\n\n"),
        };
        to.extend_from_slice(before);
        to.extend_from_slice(&error);
        to.extend_from_slice(after);
    }
}

impl Codec {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
        let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
        let charset = parameters.trim().to_ascii_lowercase();
        match kind.trim().to_ascii_lowercase().as_str() {
            "application/json"
                if matches!(&*charset, "" | "charset=utf-8" | "charset=\"utf-8\"") =>
            {
                Some(Self::Json)
            }
            "application/proto" => Some(Self::Proto),
            _ => None,
        }
    }

    pub(super) fn content_type(self) -> HeaderValue {
        match self {
            Self::Json => JSON,
            Self::Proto => PROTO,
        }
    }
}

/// Why a request does not become a call.
struct Refusal {
    /// `None`: the one that belongs to the code.
    http: Option<StatusCode>,
    code: Code,
    message: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    fn new(http: impl Into<Option<StatusCode>>, code: Code, message: impl Into<String>) -> Self {
        Self {
            http: http.into(),
            code,
            message: message.into(),
            header: None,
        }
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }
}

/// Makes a call of gRPC of this request.
///
/// # Errors
/// The answer to a request that is no call.
pub(super) fn call(
    contract: &Contract,
    mut request: Request<Body>,
) -> Result<Request<Body>, Box<Response<Body>>> {
    let form = match check(contract, &request) {
        Ok((form, timeout)) => {
            let headers = request.headers_mut();
            // What belongs to gRPC must not come from a caller who does not speak it.
            headers.remove("grpc-encoding");
            headers.remove(GRPC_TIMEOUT);
            if let Some(timeout) = timeout {
                headers.insert(GRPC_TIMEOUT, timeout);
            }
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(TE, HeaderValue::from_static("trailers"));
            form
        }
        Err(refusal) => {
            let status = Status::new(refusal.code, refusal.message);
            let mut answer = error(contract, &status);
            if let Some(http) = refusal.http {
                *answer.status_mut() = http;
            }
            answer.headers_mut().extend(refusal.header);
            return Err(Box::new(answer));
        }
    };
    request.extensions_mut().insert(form);
    Ok(request)
}

fn check(
    contract: &Contract,
    request: &Request<Body>,
) -> Result<(Form, Option<HeaderValue>), Refusal> {
    let Some(method) = contract.method(request.uri().path()) else {
        let message = format!("there is nothing at this path; call POST with one of {contract}");
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            Code::Unimplemented,
            message,
        ));
    };
    if request.method() != http::Method::POST {
        let message = format!("{} is not possible here; use POST", request.method());
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, message);
        return Err(refusal.with(ALLOW, HeaderValue::from_static("POST, OPTIONS")));
    }
    let unsupported = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    if method.takes_stream {
        let message = "this method takes a stream, which cannot be sent as JSON; call it over gRPC";
        return Err(Refusal::new(unsupported, Code::Unimplemented, message));
    }
    let headers = request.headers();
    let Some(codec) = Codec::of(headers) else {
        let message = "content-type must be application/json, in UTF-8, or application/proto";
        let refusal = Refusal::new(unsupported, Code::Unimplemented, message);
        let accepted = HeaderValue::from_static("application/json, application/proto");
        return Err(refusal.with(ACCEPT_POST, accepted));
    };
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|it| it != "identity")
    {
        let message = "content-encoding must be identity: compressed requests are not supported";
        return Err(Refusal::new(None, Code::Unimplemented, message));
    }
    if headers.get(PROTOCOL_VERSION).is_some_and(|it| it != "1") {
        let message = "connect-protocol-version must be 1";
        return Err(Refusal::new(None, Code::InvalidArgument, message));
    }
    let timeout = match headers.get(TIMEOUT) {
        None => None,
        Some(text) => Some(timeout(text).ok_or_else(|| {
            let message =
                "connect-timeout-ms must be a whole number of milliseconds, from 1 to 9999999999";
            Refusal::new(None, Code::InvalidArgument, message)
        })?),
    };
    let framing = method.gives_stream.then(|| Framing::of(headers));
    if framing.is_some() && codec != Codec::Json {
        let message = "this method answers with a stream, which is possible over HTTP with content-type application/json alone";
        return Err(Refusal::new(unsupported, Code::Unimplemented, message));
    }
    let form = Form {
        codec,
        framing,
        method: Arc::clone(method),
    };
    Ok((form, timeout))
}

/// The same time as gRPC writes it, with at most eight digits.
fn timeout(text: &HeaderValue) -> Option<HeaderValue> {
    let text = text.to_str().ok()?;
    if text.len() > 10 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let milliseconds: u64 = text.parse().ok().filter(|it| *it > 0)?;
    let grpc = if milliseconds < 100_000_000 {
        format!("{milliseconds}m")
    } else {
        format!("{}S", milliseconds / 1_000)
    };
    grpc.parse().ok()
}

/// Makes an answer of HTTP of gRPC's answer.
pub(super) fn answer(contract: &Contract, answer: Response<Body>) -> Response<Body> {
    if let Some(status) = Status::from_header_map(answer.headers())
        && status.code() != Code::Ok
    {
        return error(contract, &status);
    }
    answer.map(|body| Body::new(WithoutTrailers(body)))
}

/// An error, with the HTTP status that the specification gives to its code.
pub(super) fn error(contract: &Contract, status: &Status) -> Response<Body> {
    let (_, http) = code(status.code());
    let body = error_json(&contract.types, status);
    let mut answer = Response::new(Body::new(http_body_util::Full::new(Bytes::from(body))));
    *answer.status_mut() = http;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    let wait = status
        .get_details_retry_info()
        .and_then(|it| it.retry_delay);
    if let Some(wait) = wait {
        let seconds = wait.as_secs().max(1).into();
        answer.headers_mut().insert(RETRY_AFTER, seconds);
    }
    answer
}

fn error_json(types: &DescriptorPool, status: &Status) -> Vec<u8> {
    let details = pb::Status::decode(status.details()).unwrap_or_default();
    let details = details.details.iter();
    let shown = Shown {
        code: code(status.code()).0,
        message: status.message(),
        details: details.map(|it| Detail::new(types, it)).collect(),
    };
    serde_json::to_vec(&shown).unwrap_or_default()
}

#[derive(serde::Serialize)]
struct Shown<'a> {
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<Detail>,
}

/// A detail as bytes for programs, and as JSON for people.
#[derive(serde::Serialize)]
struct Detail {
    #[serde(rename = "type")]
    name: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<Box<RawValue>>,
}

impl Detail {
    fn new(types: &DescriptorPool, detail: &prost_types::Any) -> Self {
        let name = detail.type_url.rsplit('/').next().unwrap_or_default();
        let known = types.get_message_by_name(name);
        let debug = known.and_then(|it| json::write(&it, detail.value.clone().into()).ok());
        let debug = debug.and_then(|json| String::from_utf8(json).ok());
        Self {
            name: name.to_owned(),
            value: BASE64_STANDARD_NO_PAD.encode(&detail.value),
            debug: debug.and_then(|json| RawValue::from_string(json).ok()),
        }
    }
}

/// The code's name and its HTTP status.
fn code(code: Code) -> (&'static str, StatusCode) {
    // No constant of the crate has this one, which nginx made up.
    let closed = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
    match code {
        Code::Cancelled => ("canceled", closed),
        Code::Ok | Code::Unknown => ("unknown", StatusCode::INTERNAL_SERVER_ERROR),
        Code::InvalidArgument => ("invalid_argument", StatusCode::BAD_REQUEST),
        Code::DeadlineExceeded => ("deadline_exceeded", StatusCode::GATEWAY_TIMEOUT),
        Code::NotFound => ("not_found", StatusCode::NOT_FOUND),
        Code::AlreadyExists => ("already_exists", StatusCode::CONFLICT),
        Code::PermissionDenied => ("permission_denied", StatusCode::FORBIDDEN),
        Code::ResourceExhausted => ("resource_exhausted", StatusCode::TOO_MANY_REQUESTS),
        Code::FailedPrecondition => ("failed_precondition", StatusCode::BAD_REQUEST),
        Code::Aborted => ("aborted", StatusCode::CONFLICT),
        Code::OutOfRange => ("out_of_range", StatusCode::BAD_REQUEST),
        Code::Unimplemented => ("unimplemented", StatusCode::NOT_IMPLEMENTED),
        Code::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE),
        Code::DataLoss => ("data_loss", StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED),
    }
}

/// A body whose trailers, which say what the HTTP status says as well, are left out.
struct WithoutTrailers(Body);

impl http_body::Body for WithoutTrailers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.0)
            .poll_frame(cx)
            .map(|frame| frame.filter(|it| !it.as_ref().is_ok_and(Frame::is_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_in_milliseconds_becomes_one_of_grpc_with_at_most_eight_digits() {
        let read = |text: &'static str| timeout(&HeaderValue::from_static(text));
        for (given, grpc) in [
            ("1", "1m"),
            ("0050", "50m"),
            ("99999999", "99999999m"),
            ("100000000", "100000S"),
            ("9999999999", "9999999S"),
        ] {
            assert_eq!(read(given).unwrap(), grpc, "{given}");
        }
        for wrong in ["", "0", "-1", "1.5", "1s", "10000000000", "00000000001"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
