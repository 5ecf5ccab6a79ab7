//! Unary calls in the form of the Connect protocol: the path of gRPC, a body without a frame, an HTTP status, and errors as
//! JSON. Its specification is at <https://connectrpc.com/docs/protocol>. A method that only reads may be called by GET, too, with
//! the request in the query ([`super::query`]). A method that answers with a stream is called in the same way, and answers with
//! lines of JSON or with Server-Sent Events.
//!
//! A request becomes one of gRPC and goes to the same services, which read and write its body as [`Form`] says
//! ([`super::transcode`]). So all bounds, deadlines and metrics are those of gRPC.

use super::codec::Codec;
use super::contract::{Contract, Method};
use super::errors::{Refusal, error, error_json};
use super::query::{self, Query};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, TE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use prost_reflect::DescriptorPool;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tonic::body::Body;
use tonic::{Code, Status};

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How the body of a request and that of its answer are written. Requests carry it in their extensions.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    pub(super) codec: Codec,
    /// How the messages of a stream are told apart. `None` if the answer is a single message.
    pub(super) framing: Option<Framing>,
    pub(super) method: Arc<Method>,
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

/// Makes a call of gRPC of this request.
///
/// # Errors
/// The answer to a request that is no call.
pub(super) fn call(
    contract: &Contract,
    mut request: Request<Body>,
) -> Result<Request<Body>, Box<Response<Body>>> {
    let form = match check(contract, &request) {
        Ok(Called {
            form,
            timeout,
            message,
        }) => {
            if let Some(message) = message {
                request.headers_mut().remove(CONTENT_LENGTH);
                *request.body_mut() = Body::new(Full::new(message));
                *request.method_mut() = http::Method::POST;
            }
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
        Err(refusal) => return Err(Box::new(refusal.answer(contract))),
    };
    request.extensions_mut().insert(form);
    Ok(request)
}

/// True if a request calls a method that only reads, by GET.
pub(super) fn is_read(contract: &Contract, request: &Request<Body>) -> bool {
    let method = contract.method(request.uri().path());
    request.method() == http::Method::GET && method.is_some_and(|it| it.only_reads)
}

/// A request that was checked.
struct Called {
    form: Form,
    /// The caller's time, as gRPC writes it.
    timeout: Option<HeaderValue>,
    /// The message of a call by GET. Otherwise it is the body of the request.
    message: Option<Bytes>,
}

fn check(contract: &Contract, request: &Request<Body>) -> Result<Called, Refusal> {
    let Some(method) = contract.method(request.uri().path()) else {
        let message = format!("there is nothing at this path; call POST with one of {contract}");
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            Code::Unimplemented,
            message,
        ));
    };
    let by_get = is_read(contract, request);
    if request.method() != http::Method::POST && !by_get {
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
    let (codec, message) = if by_get {
        let Query { codec, message } = query::read(request.uri().query().unwrap_or_default())?;
        (codec, Some(message))
    } else {
        (Codec::of_body(headers)?, None)
    };
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
        let message =
            "this method answers with a stream, which is possible over HTTP with JSON alone";
        return Err(Refusal::new(unsupported, Code::Unimplemented, message));
    }
    let form = Form {
        codec,
        framing,
        method: Arc::clone(method),
    };
    Ok(Called {
        form,
        timeout,
        message,
    })
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

/// A body whose trailers, which say what the HTTP status says as well, are left out.
struct WithoutTrailers(Body);

impl http_body::Body for WithoutTrailers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(cx));
        // With the last byte of a known length the answer is over for HTTP. Nobody would ask for the trailers, in which the service
        // says that all went well.
        let is_data = |it: &Result<Frame<Bytes>, Status>| it.as_ref().is_ok_and(Frame::is_data);
        if frame.as_ref().is_some_and(is_data) && self.0.size_hint().exact() == Some(0) {
            let _ = Pin::new(&mut self.0).poll_frame(cx);
        }
        Poll::Ready(frame.filter(|it| !it.as_ref().is_ok_and(Frame::is_trailers)))
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
    use http_body_util::BodyExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A body of a known length, and then trailers.
    struct Known {
        data: Option<Bytes>,
        trailers: Option<HeaderMap>,
        is_read: Arc<AtomicBool>,
    }

    impl http_body::Body for Known {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            if let Some(data) = self.data.take() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.is_read.store(true, Ordering::Relaxed);
            Poll::Ready(self.trailers.take().map(|it| Ok(Frame::trailers(it))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.data.as_ref().map_or(0, |it| it.len() as u64))
        }
    }

    /// HTTP asks for no more than the announced bytes.
    #[tokio::test]
    async fn the_status_of_a_call_is_read_with_the_last_byte_of_its_answer() {
        let is_read = Arc::new(AtomicBool::new(false));
        let mut body = WithoutTrailers(Body::new(Known {
            data: Some(Bytes::from_static(b"{}")),
            trailers: Some(HeaderMap::new()),
            is_read: Arc::clone(&is_read),
        }));
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "{}");
        assert!(is_read.load(Ordering::Relaxed));
        assert!(body.frame().await.is_none());
    }

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
