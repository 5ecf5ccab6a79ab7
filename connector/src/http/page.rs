//! The page at `/`: a small chat, which shows what the system does and how the client library is used.
//!
//! The files in `connector/page` are part of the program, and the page loads nothing from anywhere else. `page.js` and
//! `client.js` are made by `connector/page/build.mjs` of the sources in `connector/page/src` and `clients/js`.

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body_util::Full;

/// The page may load scripts and styles only from this connector, and may connect only to it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page's file at this path.
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
