//! The token that a client shows when it opens a connection.

use super::query;
use crate::access::LARGEST_TOKEN;
use crate::client::Clients;
use http::{HeaderMap, Request, header};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

impl Clients {
    /// The token of a request that opens a connection, if clients must show one: that of `Authorization: Bearer`, or else
    /// `token` of the query.
    pub(super) fn shown_token(&self, request: &Request<Incoming>) -> Option<Box<str>> {
        if !self.services.access.wants_proof() {
            return None;
        }
        let query = request.uri().query().unwrap_or_default();
        of_headers(request.headers()).or_else(|| of_query(query))
    }
}

fn of_headers(headers: &HeaderMap) -> Option<Box<str>> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| kept(token.trim()))
}

fn of_query(query: &str) -> Option<Box<str>> {
    let (_, token) = query::pairs(query).find(|(name, _)| *name == "token")?;
    Some(kept(&percent_decode_str(token).decode_utf8().ok()?))
}

/// A token that is too long is not kept: the login then gets an empty one, which is refused.
fn kept(token: &str) -> Box<str> {
    let is_short = token.len() <= LARGEST_TOKEN;
    if is_short { token.into() } else { "".into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_token_is_found_in_the_header_and_in_the_query() {
        let header = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            of_headers(&headers)
        };
        assert_eq!(header("Bearer a.b.c").as_deref(), Some("a.b.c"));
        assert_eq!(header("bearer  a.b.c ").as_deref(), Some("a.b.c"));
        assert_eq!(header("Basic dTpw"), None);
        assert_eq!(header("Bearer"), None);
        assert_eq!(of_query("EIO=4&token=a.b.c&x=1").as_deref(), Some("a.b.c"));
        assert_eq!(of_query("token=a%20b%C3%A9+c").as_deref(), Some("a bé+c"));
        assert_eq!(of_query("token=%FF"), None);
        assert_eq!(of_query("xtoken=a"), None);
        assert_eq!(of_query(""), None);
        let long = format!("token={}", "a".repeat(LARGEST_TOKEN + 1));
        assert_eq!(of_query(&long).as_deref(), Some(""));
    }
}
