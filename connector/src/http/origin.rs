//! Which pages may connect: those that this connector serves, and those of the origins that the operator allows.
//!
//! A browser lets any page open a WebSocket to any host, and sends the cookies of that host along. So a page that somebody visits
//! could speak to a connector that only this person reaches. Browsers name the page's origin in each such request, and scripts
//! cannot change it. Programs name none, and are not affected.

use super::response::plain;
use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use parking_lot::RwLock;
use std::sync::Arc;

/// What a page is told that may not connect.
const REFUSED: &str = "Pages of this origin may not connect here. \
    The connector's setting allowed_origins names the origins that may.\n";

/// The origins of pages that may connect.
#[derive(Debug, Default)]
pub(crate) struct Origins(RwLock<Arc<[String]>>);

/// Where a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// A program, which names no origin.
    Program,
    /// A page that this connector serves.
    SameHost,
    /// Another page that may connect. The value is for the header that lets its scripts read the answer.
    Allowed(HeaderValue),
    /// A page that may not.
    Refused,
}

impl Origins {
    /// From now on these origins are allowed, and no others.
    pub(crate) fn set(&self, allowed: &[String]) {
        *self.0.write() = allowed.into();
    }

    /// True if the request comes from a page that may not connect.
    pub(crate) fn refuses(&self, headers: &HeaderMap) -> bool {
        self.of(headers) == From::Refused
    }

    pub(super) fn of(&self, headers: &HeaderMap) -> From {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return From::Program;
        };
        let allowed = Arc::clone(&self.0.read());
        if allowed.iter().any(|it| it.as_bytes() == origin.as_bytes()) {
            return From::Allowed(origin.clone());
        }
        if is_same_host(origin, headers.get(header::HOST)) {
            return From::SameHost;
        }
        // A page is not let read with cookies only because all pages may connect.
        match allowed.iter().any(|it| it == "*") {
            true => From::Allowed(HeaderValue::from_static("*")),
            false => From::Refused,
        }
    }
}

/// True if the host and port of the origin are those to which the request was sent. The scheme may differ, because a proxy may
/// have taken the encryption off.
fn is_same_host(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let origin = origin.to_str().ok().and_then(|it| it.split_once("://"));
    let (Some((scheme, origin)), Some(host)) = (origin, host.and_then(|it| it.to_str().ok()))
    else {
        return false;
    };
    let usual = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let parse = |text: &str| text.parse::<Authority>().ok();
    let (Some(origin), Some(host)) = (parse(origin), parse(host)) else {
        return false;
    };
    let port = |it: &Authority| it.port_u16().unwrap_or(usual);
    origin.host().eq_ignore_ascii_case(host.host()) && port(&origin) == port(&host)
}

/// The answer to a page that may not connect.
pub(super) fn refused() -> Response<Full<Bytes>> {
    plain(StatusCode::FORBIDDEN, REFUSED)
}

/// Lets the scripts of a page read the answer. The cookies that balancers use come along only if the page's origin is named.
pub(super) fn allow(origin: HeaderValue, headers: &mut HeaderMap) {
    if origin != "*" {
        let yes = HeaderValue::from_static("true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
}

/// The answer to a browser that asks whether a page of another origin may send what needs that question. These are the
/// headers that it may send.
pub(super) fn preflight(allowed_headers: &'static str) -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::NO_CONTENT, "");
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, allowed_headers),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(allowed: &[&str], origin: Option<&'static str>, host: &'static str) -> From {
        let allowed: Vec<_> = allowed.iter().map(|&it| it.to_owned()).collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        let origins = Origins::default();
        origins.set(&allowed);
        origins.of(&headers)
    }

    #[test]
    fn a_program_and_a_page_of_the_same_host_may_connect() {
        assert_eq!(of(&[], None, "chat.example"), From::Program);
        for (origin, host) in [
            ("http://127.0.0.1:3010", "127.0.0.1:3010"),
            ("http://chat.example", "chat.example"),
            ("http://chat.example", "Chat.Example:80"),
            ("https://chat.example", "chat.example"),
            ("https://chat.example:443", "chat.example"),
            ("http://[::1]:3010", "[::1]:3010"),
        ] {
            assert_eq!(of(&[], Some(origin), host), From::SameHost, "{origin}");
        }
    }

    #[test]
    fn any_other_page_is_refused() {
        for (origin, host) in [
            ("http://evil.example", "chat.example"),
            ("http://chat.example:8080", "chat.example"),
            ("http://chat.example", "chat.example:443"),
            ("http://chat.example.evil.example", "chat.example"),
            ("http://evilchat.example", "chat.example"),
            ("null", "chat.example"),
            ("", "chat.example"),
            ("chat.example", "chat.example"),
            ("file://chat.example", "chat.example"),
            ("http://chat.example/", "chat.example"),
            ("http://user@chat.example.evil", "chat.example"),
        ] {
            assert_eq!(of(&[], Some(origin), host), From::Refused, "{origin}");
        }
    }

    #[test]
    fn an_allowed_origin_is_compared_as_a_whole() {
        let allowed = ["https://app.example", "null"];
        let from = |origin| of(&allowed, Some(origin), "chat.example");
        let named = From::Allowed(HeaderValue::from_static("https://app.example"));
        assert_eq!(from("https://app.example"), named);
        assert_eq!(
            from("null"),
            From::Allowed(HeaderValue::from_static("null"))
        );
        for other in [
            "http://app.example",
            "https://app.example:8443",
            "https://app.example.evil",
        ] {
            assert_eq!(from(other), From::Refused, "{other}");
        }
    }

    #[test]
    fn if_all_origins_are_allowed_none_is_let_read_with_cookies() {
        let from = of(&["*"], Some("http://any.example"), "chat.example");
        assert_eq!(from, From::Allowed(HeaderValue::from_static("*")));
    }

    #[test]
    fn the_list_can_change() {
        let origins = Origins::default();
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ORIGIN,
            HeaderValue::from_static("https://a.example"),
        );
        assert_eq!(origins.of(&headers), From::Refused);
        origins.set(&["https://a.example".to_owned()]);
        assert!(matches!(origins.of(&headers), From::Allowed(_)));
    }
}
