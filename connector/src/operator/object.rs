//! JSON objects in the answers of the operator's services, checked before anybody gets them.

use channel_store::body::{self, BodyError};
use prost_types::Struct;
use proto::json::{self, NotFinite};

/// An object as an answer holds it.
pub(crate) enum Object {
    Struct(Struct),
    Json(Vec<u8>),
}

/// Why an object can't be passed on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectError {
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

/// One JSON object of at most `limit` bytes.
///
/// # Errors
/// [`ObjectError`] says what the answer is instead.
pub(crate) fn object(content: Option<Object>, limit: usize) -> Result<String, ObjectError> {
    let json = match content.ok_or(ObjectError::Empty)? {
        Object::Struct(object) => json::render(&object)?,
        Object::Json(json) => json,
    };
    if json.len() > limit {
        let length = json.len();
        return Err(ObjectError::TooLarge { length, limit });
    }
    let json = body::without_half_pairs(json)?;
    Ok(String::from_utf8(json).map_err(|_| BodyError::NotUtf8)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Value;
    use prost_types::value::Kind;

    fn of_json(json: impl Into<Vec<u8>>) -> Result<String, String> {
        of(Object::Json(json.into()))
    }

    fn of(content: Object) -> Result<String, String> {
        super::object(Some(content), 64).map_err(|error| error.to_string())
    }

    fn object(kind: Kind) -> Object {
        let value = Value { kind: Some(kind) };
        Object::Struct(Struct {
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
        let deep = Some(Object::Json(deep.into()));
        let error = super::object(deep, 1 << 10).unwrap_err().to_string();
        assert!(error.contains("deeper than 64 levels"), "{error}");
        let error = of(object(Kind::NumberValue(f64::NAN))).unwrap_err();
        assert!(error.contains("NaN"), "{error}");
        let error = of(object(Kind::StringValue("x".repeat(57)))).unwrap_err();
        assert!(error.contains("has 65 bytes"), "{error}");
        let error = super::object(None, 64).unwrap_err();
        assert!(
            error.to_string().contains("neither body nor body_json"),
            "{error}"
        );
    }
}
