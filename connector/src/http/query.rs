//! The query of a request's URL.

/// The names and values of a query, as they are written in it. What has no `=` is left out.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter_map(|pair| pair.split_once('='))
}
