//! What a request of Engine.IO asks for, and how one is refused.

use crate::http::query;
use crate::http::response::{Gone, RETRY_AFTER, ends, plain, text};
use crate::limits::Bound;
use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use wire::EngineIo;

/// The code for clients that are refused because there are too many. Engine.IO's own codes end with 5.
const BUSY: u32 = 6;

/// What a request asks for.
pub(super) struct EngineRequest<'a> {
    pub(super) version: EngineIo,
    pub(super) is_websocket: bool,
    pub(super) id: Option<&'a str>,
}

/// Why a request is not served, with Engine.IO's codes and texts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refusal {
    /// The connection is over, so the request gets no answer.
    Gone,
    Transport,
    UnknownId,
    Method,
    BadRequest,
    TooBig,
    Version,
    /// A page of this origin may not connect.
    Origin,
    /// This bound was reached.
    Busy(Bound),
}

impl Refusal {
    pub(super) fn response(self) -> Result<Response<Full<Bytes>>, Gone> {
        let (code, message) = match self {
            Self::Gone => return Err(Gone),
            Self::Busy(bound) => return Ok(busy(bound)),
            Self::TooBig => {
                return Ok(plain(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "more than the message limit\n",
                ));
            }
            Self::Transport => (0, "Transport unknown"),
            Self::UnknownId => (1, "Session ID unknown"),
            Self::Method => (2, "Bad handshake method"),
            Self::BadRequest => (3, "Bad request"),
            Self::Origin => (
                4,
                "Forbidden: the connector's setting allowed_origins does not name the origin of this page",
            ),
            Self::Version => (5, "Unsupported protocol version"),
        };
        let body = format!(r#"{{"code":{code},"message":"{message}"}}"#);
        let mut response = text(body, "application/json");
        *response.status_mut() = match self {
            Self::Origin => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        };
        Ok(response)
    }
}

/// Refuses a client because a bound was reached. The connection ends, so that each further try costs the client a new
/// one.
fn busy(bound: Bound) -> Response<Full<Bytes>> {
    bound.reached();
    let (status, message) = match bound {
        Bound::Handshakes => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many handshakes a second",
        ),
        Bound::Memory => (
            StatusCode::SERVICE_UNAVAILABLE,
            "This connector holds as much for its clients as it may",
        ),
        Bound::Polling => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many clients poll here and have not logged in",
        ),
        _ => (
            StatusCode::SERVICE_UNAVAILABLE,
            "This connector has as many connections as it may have",
        ),
    };
    let mut response = text(
        format!(r#"{{"code":{BUSY},"message":"{message}"}}"#),
        "application/json",
    );
    *response.status_mut() = status;
    let after = RETRY_AFTER.into();
    response.headers_mut().insert(header::RETRY_AFTER, after);
    ends(&mut response);
    response
}

impl<'a> EngineRequest<'a> {
    pub(super) fn parse(query: &'a str) -> Result<Self, Refusal> {
        let value = |name: &str| {
            query::pairs(query).find_map(|(key, value)| (key == name).then_some(value))
        };
        Ok(Self {
            is_websocket: match value("transport") {
                Some("websocket") => true,
                Some("polling") => false,
                _ => return Err(Refusal::Transport),
            },
            version: match value("EIO") {
                Some("3") => EngineIo::V3,
                Some("4") => EngineIo::V4,
                _ => return Err(Refusal::Version),
            },
            id: value("sid"),
        })
    }
}
