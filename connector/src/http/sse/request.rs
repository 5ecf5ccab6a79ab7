//! What a request for a stream of events asks for.

use crate::http::query;
use channel_store::ChannelName;
use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use wire::sse::EventId;
use wire::{Reason, Refusal};

/// What a browser shows of the events that it has got before.
const LAST_EVENT_ID: &str = "last-event-id";

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) channels: Vec<ChannelName>,
    /// `None`: the token names the user.
    pub(super) user: Option<String>,
    /// Where the client was when it broke off. `None`: it is new.
    pub(super) id: Option<EventId>,
    /// A browser has come back on its own, although its stream was ended for good.
    pub(super) is_unwanted: bool,
}

impl Asked {
    /// Reads a request.
    ///
    /// # Errors
    /// [`Reason::InvalidParameter`].
    pub(super) fn parse(query: &str, headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut channels: Vec<ChannelName> = Vec::new();
        let (mut user, mut since) = (None, None);
        for (name, value) in query::pairs(query) {
            match name {
                "channel" => {
                    let channel = ChannelName::new(decoded(name, value)?);
                    let channel = channel.map_err(|error| invalid(&format!("channel {error}")))?;
                    if !channels.contains(&channel) {
                        channels.push(channel);
                    }
                }
                "userId" => user = Some(decoded(name, value)?),
                "since" => since = Some(decoded(name, value)?),
                _ => {}
            }
        }
        let shown = match headers.get(LAST_EVENT_ID) {
            Some(id) => {
                let id = id.to_str().map_err(|_| not_an_id("Last-Event-ID"))?;
                Some(("Last-Event-ID", id)).filter(|_| !id.is_empty())
            }
            None => None,
        };
        let since = since.as_deref().filter(|it| !it.is_empty());
        let shown_in = shown.or(since.map(|since| ("since", since)));
        let id = match shown_in {
            Some((name, id)) => Some(EventId::parse(id).ok_or_else(|| not_an_id(name))?),
            None => None,
        };
        Ok(Self {
            channels,
            user,
            is_unwanted: shown.is_some() && id.as_ref().is_some_and(|it| it.is_last),
            id,
        })
    }
}

/// True for a browser's `EventSource`, and for whatever behaves like one.
pub(super) fn is_event_source(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let accepted = accepted.filter_map(|it| it.to_str().ok());
    let mut kinds = accepted.flat_map(|it| it.split(','));
    kinds.any(|it| {
        let kind = it.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("text/event-stream")
    })
}

/// A value as forms write it.
fn decoded(name: &str, value: &str) -> Result<String, Refusal> {
    let value = value.replace('+', " ");
    let decoded = percent_decode_str(&value).decode_utf8();
    let decoded = decoded.map_err(|_| invalid(&format!("{name} must be UTF-8")))?;
    Ok(decoded.into_owned())
}

fn invalid(what: &str) -> Refusal {
    Refusal::because(Reason::InvalidParameter, format!("{what}."))
}

fn not_an_id(name: &str) -> Refusal {
    invalid(&format!(
        "{name} must be the id of an event of this server, as it was given"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const SECRET: &str = "8Qp1v0Zc2mXyT7aBd3fGhA";

    fn parse(query: &str, last: Option<&str>) -> Result<Asked, Reason> {
        let mut headers = HeaderMap::new();
        if let Some(last) = last {
            headers.insert(LAST_EVENT_ID, HeaderValue::from_str(last).unwrap());
        }
        Asked::parse(query, &headers).map_err(|refusal| refusal.reason())
    }

    fn named(channels: &[&str]) -> Vec<ChannelName> {
        let named = channels.iter().map(|it| ChannelName::new(*it).unwrap());
        named.collect()
    }

    #[test]
    fn several_channels_are_read_as_forms_write_them_and_once_each() {
        let asked = parse(
            "userId=li+lei&channel=a%20b&token=t&channel=%E5%93%88&channel=a+b&x",
            None,
        );
        let asked = asked.unwrap();
        assert_eq!(asked.channels, named(&["a b", "哈"]));
        assert_eq!(asked.user.as_deref(), Some("li lei"));
        assert_eq!(asked.id, None);
        assert!(!asked.is_unwanted);
        assert_eq!(parse("", None).unwrap().channels, []);
        for query in ["channel=", "channel=%00", "channel=%FF", "userId=%FF"] {
            assert_eq!(parse(query, None), Err(Reason::InvalidParameter), "{query}");
        }
    }

    #[test]
    fn the_id_of_the_header_counts_more_than_that_of_the_url() {
        let since = format!("since=s{SECRET}~YQ~e~1");
        let secret_and_offset = |asked: Asked| {
            let id = asked.id.unwrap();
            (id.secret, id.positions[0].1.offset)
        };
        let asked = parse(&since, None).unwrap();
        assert_eq!(secret_and_offset(asked), (SECRET.to_owned(), 1));
        let asked = parse(&since, Some(&format!("s{SECRET}~YQ~e~2"))).unwrap();
        assert_eq!(secret_and_offset(asked), (SECRET.to_owned(), 2));
        // Browsers send none until they have got one.
        let asked = parse(&since, Some("")).unwrap();
        assert_eq!(secret_and_offset(asked), (SECRET.to_owned(), 1));
        for (query, last) in [("since=17", None), ("", Some("17")), (&*since, Some("17"))] {
            assert_eq!(parse(query, last), Err(Reason::InvalidParameter));
        }
    }

    #[test]
    fn only_a_browser_that_comes_back_on_its_own_is_unwanted() {
        let ended = format!("e{SECRET}~YQ~e~1");
        assert!(parse("", Some(&ended)).unwrap().is_unwanted);
        let asked = parse(&format!("since={ended}"), None).unwrap();
        assert!(!asked.is_unwanted);
        assert!(asked.id.is_some());
    }

    #[test]
    fn who_accepts_a_stream_of_events_is_an_event_source() {
        let accepts = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(value));
            is_event_source(&headers)
        };
        assert!(accepts("text/event-stream"));
        assert!(accepts("application/json, Text/Event-Stream;q=0.9"));
        assert!(!accepts("*/*"));
        assert!(!accepts("text/*"));
        assert!(!is_event_source(&HeaderMap::new()));
    }
}
