//! Errors in the form of the Connect protocol: an HTTP status, and JSON with the code and the details of gRPC.

use super::contract::Contract;
use super::json;
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use prost::Message;
use prost_reflect::DescriptorPool;
use serde_json::value::RawValue;
use std::time::Duration;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{StatusExt, pb};

/// Why a request does not become a call.
#[derive(Debug)]
pub(super) struct Refusal {
    /// `None`: the one that belongs to the code.
    http: Option<StatusCode>,
    code: Code,
    pub(super) message: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// `http`: the status that is answered instead of the one that belongs to the code.
    pub(super) fn new(
        http: impl Into<Option<StatusCode>>,
        code: Code,
        message: impl Into<String>,
    ) -> Self {
        Self {
            http: http.into(),
            code,
            message: message.into(),
            header: None,
        }
    }

    /// The answer has this header, too.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    /// The answer of a unary call: the status of HTTP that belongs to the code, and the error as JSON.
    pub(super) fn answer(self, contract: &Contract) -> Response<Body> {
        let mut answer = error(contract, &Status::new(self.code, self.message));
        if let Some(http) = self.http {
            *answer.status_mut() = http;
        }
        answer.headers_mut().extend(self.header);
        answer
    }
}

/// An error, with the HTTP status that the specification gives to its code.
pub(super) fn error(contract: &Contract, status: &Status) -> Response<Body> {
    let (_, http) = code(status.code());
    let body = error_json(&contract.types, status);
    let mut answer = Response::new(Body::new(http_body_util::Full::new(Bytes::from(body))));
    *answer.status_mut() = http;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status.code() == Code::Unauthenticated {
        let scheme = HeaderValue::from_static("Bearer");
        answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    }
    let wait = status
        .get_details_retry_info()
        .and_then(|it| it.retry_delay);
    if let Some(wait) = wait {
        let seconds = whole_seconds(wait).into();
        answer.headers_mut().insert(RETRY_AFTER, seconds);
    }
    answer
}

/// Rounded up, because a caller that comes back too early is refused again.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

pub(super) fn error_json(types: &DescriptorPool, status: &Status) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_told_to_wait_whole_seconds_and_long_enough() {
        for (milliseconds, seconds) in [(0, 1), (1, 1), (1_000, 1), (4_001, 5), (4_999, 5)] {
            assert_eq!(whole_seconds(Duration::from_millis(milliseconds)), seconds);
        }
    }
}
