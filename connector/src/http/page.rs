//! A page to try the system with, and the shortest honest example of a client: `connector/page`.
//!
//! It is part of the program, and asks nobody but this connector for anything.

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::Full;

/// Nothing but what comes from here is run, shown or spoken to.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The file of the page at this path.
pub(crate) fn file(path: &str) -> Option<Response<Full<Bytes>>> {
    let (kind, text) = match path {
        "/" => (
            "text/html; charset=utf-8",
            include_str!("../../page/index.html"),
        ),
        "/page.css" => (
            "text/css; charset=utf-8",
            include_str!("../../page/page.css"),
        ),
        "/page.js" => (
            "text/javascript; charset=utf-8",
            include_str!("../../page/page.js"),
        ),
        "/client.js" => (
            "text/javascript; charset=utf-8",
            include_str!("../../page/client.js"),
        ),
        _ => return None,
    };
    let mut response = Response::new(Full::from(text));
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}
