//! Calls that only read, by GET: the message stands in the query, as the Connect protocol says. Pages can open such a URL with
//! `EventSource`, people with a browser, and everybody with `curl`.

use super::codec::Codec;
use super::errors::Refusal;
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::StatusCode;
use percent_encoding::percent_decode;
use tonic::Code;

/// The most bytes of a query, as it is written in the URL. The head of a request may have twice as many.
const LONGEST: usize = 8 * 1024;

/// Base64 as the protocol wants it. Padding may be left out.
const BASE64: GeneralPurpose = {
    let config = GeneralPurposeConfig::new();
    let config = config.with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&URL_SAFE, config)
};

/// What a query says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) codec: Codec,
    pub(super) message: Bytes,
}

/// Parameters that nobody knows are passed over, and of one that comes twice the first counts.
///
/// # Errors
/// Which parameter is missing or wrong.
pub(super) fn read(query: &str) -> Result<Query, Refusal> {
    if query.len() > LONGEST {
        let message =
            format!("the query must have at most {LONGEST} bytes: send a longer message by POST");
        let http = StatusCode::URI_TOO_LONG;
        return Err(Refusal::new(http, Code::InvalidArgument, message));
    }
    let find = |wanted: &str| {
        let mut all = query.split('&');
        let value = all.find_map(|it| {
            let (name, value) = it.split_once('=').unwrap_or((it, ""));
            (name == wanted).then_some(value)
        });
        value.map(decoded)
    };
    if find("connect").is_some_and(|it| it != b"v1") {
        return Err(wrong("connect must be v1, or be left out"));
    }
    let codec = match find("encoding").as_deref() {
        Some(b"json") => Codec::Json,
        Some(b"proto") => Codec::Proto,
        _ => {
            let message = "encoding must be json or proto, as in ?encoding=json&message=%7B%7D";
            let http = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Refusal::new(http, Code::Unimplemented, message));
        }
    };
    if find("compression").is_some_and(|it| it != b"identity") {
        let message = "compression must be identity: compressed requests are not supported";
        return Err(Refusal::new(None, Code::Unimplemented, message));
    }
    let Some(message) = find("message") else {
        return Err(wrong(
            "message is missing, as in ?encoding=json&message=%7B%7D",
        ));
    };
    let message = match find("base64").as_deref() {
        None | Some(b"0") => message,
        Some(b"1") => BASE64.decode(message).map_err(|_| {
            wrong("message must be base64 in its form for URLs (with - and _), because base64 is 1")
        })?,
        Some(_) => return Err(wrong("base64 must be 0 or 1")),
    };
    Ok(Query {
        codec,
        message: message.into(),
    })
}

/// A value as bytes. Forms write a blank as `+`.
fn decoded(value: &str) -> Vec<u8> {
    percent_decode(value.replace('+', " ").as_bytes()).collect()
}

fn wrong(message: &str) -> Refusal {
    Refusal::new(None, Code::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_text_or_as_base64_with_or_without_padding() {
        for (query, codec, message) in [
            ("encoding=json&message={}", Codec::Json, &b"{}"[..]),
            (
                "message=%7B%7D&encoding=json&connect=v1&base64=0",
                Codec::Json,
                b"{}",
            ),
            (
                "encoding=json&message=%22a+b%2B%E5%93%88%22",
                Codec::Json,
                "\"a b+哈\"".as_bytes(),
            ),
            (
                "encoding=json&message=a%FF&message=b&more",
                Codec::Json,
                b"a\xff",
            ),
            ("encoding=json&message=", Codec::Json, b""),
            (
                "encoding=json&base64=1&message=eyJhIjoiPz8_In0",
                Codec::Json,
                br#"{"a":"???"}"#,
            ),
            (
                "encoding=proto&base64=1&message=CgE0",
                Codec::Proto,
                b"\n\x014",
            ),
            (
                "encoding=proto&base64=1&message=_w%3D%3D&compression=identity",
                Codec::Proto,
                b"\xff",
            ),
            (
                "encoding=proto&base64=1&message=_w==",
                Codec::Proto,
                b"\xff",
            ),
            ("encoding=proto&message=%0A%014", Codec::Proto, b"\n\x014"),
        ] {
            let message = Bytes::copy_from_slice(message);
            let read = read(query).map_err(|it| it.message);
            assert_eq!(read, Ok(Query { codec, message }), "{query}");
        }
    }

    #[test]
    fn a_query_that_says_something_wrong_is_refused_with_the_parameter() {
        let long = format!("encoding=json&message={}", "a".repeat(LONGEST));
        for (query, word) in [
            ("", "encoding"),
            ("message={}", "encoding"),
            ("encoding=xml&message={}", "encoding"),
            ("encoding=json", "message"),
            ("encoding=json&message={}&connect=v2", "connect"),
            ("encoding=json&message={}&compression=gzip", "compression"),
            ("encoding=json&message={}&base64=yes", "base64 must be"),
            (
                "encoding=json&message={}&base64=1",
                "message must be base64",
            ),
            (
                "encoding=json&message=Pz8/&base64=1",
                "message must be base64",
            ),
            (long.as_str(), "the query must have at most 8192 bytes"),
        ] {
            let refusal = read(query).unwrap_err();
            assert!(
                refusal.message.starts_with(word),
                "{query}: {}",
                refusal.message
            );
        }
    }
}
