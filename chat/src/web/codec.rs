//! How messages are written in the bodies of plain HTTP.

use super::errors::Refusal;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use tonic::Code;

const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROTO: HeaderValue = HeaderValue::from_static("application/proto");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Json,
    Proto,
}

impl Codec {
    /// That of a request's body.
    ///
    /// # Errors
    /// Which header names one that is not supported.
    pub(super) fn of_body(headers: &HeaderMap) -> Result<Self, Refusal> {
        let Some(codec) = Self::of(headers) else {
            let message = "content-type must be application/json, in UTF-8, or application/proto";
            let unsupported = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            let refusal = Refusal::new(unsupported, Code::Unimplemented, message);
            let accepted = HeaderValue::from_static("application/json, application/proto");
            return Err(refusal.with(ACCEPT_POST, accepted));
        };
        if headers
            .get(CONTENT_ENCODING)
            .is_some_and(|it| it != "identity")
        {
            let message =
                "content-encoding must be identity: compressed requests are not supported";
            return Err(Refusal::new(None, Code::Unimplemented, message));
        }
        Ok(codec)
    }

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
