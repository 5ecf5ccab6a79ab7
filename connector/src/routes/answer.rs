//! What a handler answers, checked before a client gets it.

use channel_store::body::{self, BodyError};
use proto::json::{self, NotFinite};
use proto::route::v1::HandleResponse;
use proto::route::v1::handle_response::Content;

/// Why an answer can't be passed on.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("the answer has neither body nor body_json")]
    Empty,
    #[error("the body of the answer {0}")]
    NotFinite(#[from] NotFinite),
    #[error("body_json of the answer can't be used: {0}")]
    NoBody(#[from] BodyError),
    #[error(
        "the body of the answer has {length} bytes as JSON, and {limit} are allowed (--message-limit)"
    )]
    TooLarge { length: usize, limit: usize },
}

/// The client's reply: one JSON object of at most `limit` bytes.
///
/// # Errors
/// [`AnswerError`] says what the answer is instead.
pub(super) fn reply(answer: HandleResponse, limit: usize) -> Result<String, AnswerError> {
    let json = match answer.content.ok_or(AnswerError::Empty)? {
        Content::Body(object) => json::render(&object)?,
        Content::BodyJson(json) => json,
    };
    if json.len() > limit {
        let length = json.len();
        return Err(AnswerError::TooLarge { length, limit });
    }
    let json = body::without_half_pairs(json)?;
    Ok(String::from_utf8(json).map_err(|_| BodyError::NotUtf8)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::value::Kind;
    use prost_types::{Struct, Value};

    fn of_json(json: impl Into<Vec<u8>>) -> Result<String, String> {
        of(Content::BodyJson(json.into()))
    }

    fn of(content: Content) -> Result<String, String> {
        let content = Some(content);
        reply(HandleResponse { content }, 64).map_err(|error| error.to_string())
    }

    fn object(kind: Kind) -> Content {
        let value = Value { kind: Some(kind) };
        Content::Body(Struct {
            fields: [("a".to_owned(), value)].into(),
        })
    }

    #[test]
    fn an_object_of_json_is_passed_on_byte_for_byte() {
        let json = r#"{ "b":1.0,"a":"\u54c8哈" }"#;
        assert_eq!(of_json(json).as_deref(), Ok(json));
        assert_eq!(
            of_json(r#"{"a":"\ud83d"}"#).as_deref(),
            Ok(r#"{"a":"\ufffd"}"#)
        );
        let largest = format!("{{\"a\":\"{}\"}}", "x".repeat(56));
        assert_eq!(of_json(&*largest).as_deref(), Ok(&*largest));
    }

    #[test]
    fn a_struct_becomes_json() {
        let text = Kind::StringValue("哈\"".into());
        assert_eq!(of(object(text)).as_deref(), Ok(r#"{"a":"哈\""}"#));
    }

    #[test]
    fn an_answer_that_is_no_usable_object_is_refused_with_the_reason() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64));
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(57));
        for (json, says) in [
            (&b""[..], "not JSON"),
            (b"{", "not JSON"),
            (b"{} {}", "not JSON"),
            (b"[1]", "not a JSON object"),
            (b"null", "not a JSON object"),
            (b"\xff", "not UTF-8"),
            (br#"{"a":1e999}"#, "beyond the range of a double"),
            (large.as_bytes(), "has 65 bytes as JSON, and 64 are allowed"),
        ] {
            let error = of_json(json).unwrap_err();
            assert!(error.contains(says), "{}: {error}", json.escape_ascii());
        }
        let answer = HandleResponse {
            content: Some(Content::BodyJson(deep.into())),
        };
        let error = reply(answer, 1 << 10).unwrap_err().to_string();
        assert!(error.contains("deeper than 64 levels"), "{error}");
        let error = of(object(Kind::NumberValue(f64::NAN))).unwrap_err();
        assert!(error.contains("NaN"), "{error}");
        let error = of(object(Kind::StringValue("x".repeat(57)))).unwrap_err();
        assert!(error.contains("has 65 bytes"), "{error}");
        let error = reply(HandleResponse::default(), 64).unwrap_err();
        assert!(
            error.to_string().contains("neither body nor body_json"),
            "{error}"
        );
    }
}
