//! Protobuf messages as JSON and back, by the canonical mapping of protobuf ("ProtoJSON"), for any message that a descriptor
//! describes.

use bytes::Bytes;
use prost::{DecodeError, Message};
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use std::io;

/// The most commas, colons and opening brackets in a request. Every value has one beside it, and costs up to a kilobyte while it
/// is read. So this bounds what a caller can make of few bytes: a megabyte may hold half a million values. A body of 128 KiB
/// cannot reach it.
const MOST_VALUES: usize = 100_000;
/// The most characters of a caller's own words in an error.
const EXCERPT: usize = 200;

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// The path of the field, with names as the caller wrote them, for example `body.items[3]`. `None`: the text as a whole.
    pub(super) field: Option<String>,
    pub(super) description: String,
}

impl Wrong {
    fn whole(description: impl Into<String>) -> Self {
        Self {
            field: None,
            description: description.into(),
        }
    }
}

/// The message's protobuf encoding.
///
/// # Errors
/// [`Wrong`], for the first field that is wrong.
pub(super) fn read(message: &MessageDescriptor, json: &[u8]) -> Result<Vec<u8>, Wrong> {
    if json.is_empty() {
        return Err(Wrong::whole(
            "is empty; a request without fields is the JSON object {}",
        ));
    }
    let json = std::str::from_utf8(json).map_err(|error| {
        Wrong::whole(format!(
            "is not UTF-8: byte {} is wrong",
            error.valid_up_to()
        ))
    })?;
    let beside_a_value = |it: &u8| matches!(it, b',' | b':' | b'[' | b'{');
    if json.bytes().filter(beside_a_value).count() > MOST_VALUES {
        return Err(Wrong::whole(format!(
            "has more than {MOST_VALUES} commas, colons and brackets, which is too much for JSON: send less at once, or give bodies as bodyJson"
        )));
    }
    let mut parser = serde_json::Deserializer::from_str(json);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut parser, &mut track);
    let read = DynamicMessage::deserialize(message.clone(), tracked);
    match read.and_then(|read| parser.end().map(|()| read)) {
        Ok(read) => Ok(read.encode_to_vec()),
        Err(error) => {
            let path = track.path().to_string();
            // It is "." on the outside, and ends with "?" before the name of a field is known.
            let path = path.trim_end_matches('?').trim_end_matches('.');
            Err(Wrong {
                field: (!path.is_empty()).then(|| excerpt(path)),
                description: excerpt(&error.to_string()),
            })
        }
    }
}

/// The message's JSON. Fields that are not set are left out. Names are in lowerCamelCase.
///
/// # Errors
/// [`WriteError`]. This cannot happen with a message that this process has encoded.
pub(super) fn write(message: &MessageDescriptor, wire: Bytes) -> Result<Vec<u8>, WriteError> {
    let mut json = Vec::with_capacity(wire.len() * 2);
    let message = DynamicMessage::decode(message.clone(), wire)?;
    message.serialize(&mut Serializer::with_formatter(&mut json, AsJavaScript))?;
    Ok(json)
}

/// Why a message cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Prints numbers as JavaScript does: 1 and not 1.0.
struct AsJavaScript;

impl Formatter for AsJavaScript {
    fn write_f64<W: ?Sized + io::Write>(&mut self, to: &mut W, number: f64) -> io::Result<()> {
        to.write_all(ryu_js::Buffer::new().format(number).as_bytes())
    }
}

/// The beginning of a text that a caller wrote, short enough for an answer.
fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::Contract;
    use proto::chat::v1::send_request::Content;
    use proto::chat::v1::{HistoryRequest, HistoryResponse, Publication, SendRequest, publication};

    fn message(name: &str) -> MessageDescriptor {
        let types = Contract::load().unwrap().types;
        types.get_message_by_name(name).unwrap()
    }

    fn send(json: &str) -> Result<SendRequest, String> {
        let read = read(&message("chat.v1.SendRequest"), json.as_bytes());
        let wire = read.map_err(|wrong| {
            let field = wrong.field.unwrap_or_else(|| "-".to_owned());
            format!("{field}: {}", wrong.description)
        })?;
        Ok(SendRequest::decode(&*wire).expect("what was read can be decoded"))
    }

    #[test]
    fn a_request_has_fields_in_either_spelling_and_null_for_one_that_is_not_set() {
        for json in [
            r#"{"channel":"4","user":"7","userIsNumber":true,"bodyJson":"e30=","idempotencyKey":"k","route":null}"#,
            r#"{"channel":"4","user":"7","user_is_number":true,"body_json":"e30","idempotency_key":"k","body":null}"#,
        ] {
            let request = send(json).unwrap();
            assert!(request.user_is_number, "{json}");
            assert_eq!(request.idempotency_key, "k");
            assert_eq!(request.content, Some(Content::BodyJson("{}".into())));
        }
        assert_eq!(send("{}"), Ok(SendRequest::default()));
    }

    #[test]
    fn an_error_names_the_field_and_says_what_is_expected() {
        for (json, field, words) in [
            ("", "-", "is empty"),
            ("[]", "-", "expected a map"),
            ("{} {}", "-", "trailing characters"),
            (r#"{"channel":"4""#, "-", "EOF while parsing"),
            (r#"{"channel":5}"#, "channel", "expected a string"),
            (r#"{"channel":["4"]}"#, "channel", "expected a string"),
            (r#"{"channel":"\ud800"}"#, "channel", "hex escape"),
            (
                r#"{"userIsNumber":"true"}"#,
                "userIsNumber",
                "expected a boolean",
            ),
            (r#"{"chanel":"4"}"#, "-", "unrecognized field name 'chanel'"),
            (
                r#"{"body":{},"bodyJson":"e30="}"#,
                "-",
                "multiple fields provided for oneof 'content'",
            ),
            (r#"{"bodyJson":"%%"}"#, "bodyJson", "invalid base64"),
            (
                r#"{"bodyJson":{}}"#,
                "bodyJson",
                "expected a base64-encoded string",
            ),
            (r#"{"body":[]}"#, "body", "expected a map"),
            (r#"{"body":"{}"}"#, "body", "expected a map"),
            (
                r#"{"body":{"a":[{"b":1},{"b":1e999}]}}"#,
                "body.a[1].b",
                "number out of range",
            ),
        ] {
            let error = send(json).expect_err(json);
            assert!(error.starts_with(&format!("{field}: ")), "{json}: {error}");
            assert!(error.contains(words), "{json}: {error}");
        }
        let wrong = read(&message("chat.v1.SendRequest"), b"{\"channel\":\"\xff\"}").unwrap_err();
        assert!(
            wrong.description.contains("not UTF-8: byte 12"),
            "{wrong:?}"
        );
        for (json, field, words) in [
            (r#"{"pageSize":-1}"#, "pageSize", "out of range"),
            (r#"{"pageSize":4294967296}"#, "pageSize", "out of range"),
            (r#"{"pageSize":1.5}"#, "pageSize", "expected integer"),
            (r#"{"pageSize":"many"}"#, "pageSize", "invalid digit"),
            (r#"{"from":{"offset":-1}}"#, "from.offset", "out of range"),
            (r#"{"from":7}"#, "from", "expected a map"),
            (
                r#"{"from":{"ofset":7}}"#,
                "from",
                "unrecognized field name 'ofset'",
            ),
        ] {
            let wrong = read(&message("chat.v1.HistoryRequest"), json.as_bytes()).expect_err(json);
            assert_eq!(wrong.field.as_deref(), Some(field), "{json}: {wrong:?}");
            assert!(wrong.description.contains(words), "{json}: {wrong:?}");
        }
    }

    #[test]
    fn an_error_is_short_however_long_the_callers_names_and_values_are() {
        let long = "哈".repeat(10_000);
        for json in [
            format!("{{\"{long}\":1}}"),
            format!("{{\"body\":{{\"{long}\":1e999}}}}"),
            format!("{{\"userIsNumber\":\"{long}\"}}"),
        ] {
            let error = send(&json).unwrap_err();
            assert!(error.chars().count() < 500, "{error}");
        }
    }

    /// The values of a body are looked into by the decoder behind this.
    #[test]
    fn objects_may_be_nested_as_deep_as_protobuf_takes_and_no_deeper() {
        let nested = |levels: usize, begin: &str, end: &str| {
            let (begin, end) = (begin.repeat(levels), end.repeat(levels));
            let json = format!("{{\"body\":{{\"a\":{begin}1{end}}}}}");
            let wire = read(&message("chat.v1.SendRequest"), json.as_bytes());
            let wire = wire.map_err(|wrong| wrong.description)?;
            SendRequest::decode(&*wire).map_err(|error| error.to_string())
        };
        for (begin, end, most) in [("{\"a\":", "}", 32), ("[", "]", 48)] {
            nested(most, begin, end).unwrap();
            for levels in [most + 1, 120, 10_000] {
                let error = nested(levels, begin, end).unwrap_err();
                assert!(error.contains("recursion limit"), "{levels}: {error}");
            }
        }
    }

    #[test]
    fn a_request_has_a_bounded_number_of_values() {
        let list = |values: usize| format!("{{\"body\":{{\"a\":[{}1]}}}}", "1,".repeat(values));
        // Two colons and three brackets stand around the list.
        send(&list(MOST_VALUES - 5)).unwrap();
        for text in [
            list(MOST_VALUES - 4),
            "[".repeat(MOST_VALUES + 1),
            "{\"a\":".repeat(MOST_VALUES / 2 + 1),
        ] {
            let error = send(&text).unwrap_err();
            assert!(error.contains("more than 100000 commas"), "{error}");
        }
    }

    #[test]
    fn whole_numbers_come_as_numbers_or_as_texts_and_large_ones_go_as_texts() {
        let descriptor = message("chat.v1.HistoryRequest");
        for json in [
            r#"{"pageSize":5,"from":{"offset":"18446744073709551615"}}"#,
            r#"{"pageSize":"5","from":{"offset":18446744073709551615}}"#,
            r#"{"pageSize":5e0,"from":{"offset":"18446744073709551615"}}"#,
        ] {
            let wire = read(&descriptor, json.as_bytes()).unwrap();
            let request = HistoryRequest::decode(&*wire).unwrap();
            assert_eq!(request.page_size, 5, "{json}");
            assert_eq!(request.from.unwrap().offset, u64::MAX);
            let json = write(&descriptor, wire.into()).unwrap();
            let expected = r#"{"from":{"offset":"18446744073709551615"},"pageSize":5}"#;
            assert_eq!(String::from_utf8(json).unwrap(), expected);
        }
    }

    #[test]
    fn a_body_is_written_as_it_was_read_with_numbers_as_in_javascript() {
        let json = r#"{"a":{},"n":[1,-0.5,1e+21,0,123456789012],"z":["哈\n",null,true,{"":[[]]}]}"#;
        let body = send(&format!("{{\"body\":{json}}}")).unwrap().content;
        let Some(Content::Body(body)) = body else {
            panic!("{body:?}");
        };
        let response = HistoryResponse {
            publications: vec![
                Publication {
                    content: Some(publication::Content::Body(body)),
                    ..Publication::default()
                },
                Publication {
                    content: Some(publication::Content::BodyJson("{}".into())),
                    ..Publication::default()
                },
            ],
            continuity: 77,
            ..HistoryResponse::default()
        };
        let wire = response.encode_to_vec().into();
        let written = write(&message("chat.v1.HistoryResponse"), wire).unwrap();
        let expected = format!(
            r#"{{"publications":[{{"body":{json}}},{{"bodyJson":"e30="}}],"continuity":77}}"#
        );
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    /// Texts that are almost right, by the thousand: none of them may cause a panic, or be read as something that is no message.
    #[test]
    fn whatever_is_read_is_a_message_or_an_error() {
        let right = r#"{"channel":"4","user":"7","userIsNumber":true,"body":{"a":[1,{"b":null}],"c":"\u54c8"},"route":"on"}"#;
        let descriptor = message("chat.v1.SendRequest");
        let mut random = fastrand::Rng::with_seed(7);
        let (mut messages, mut errors) = (0, 0);
        for _ in 0..20_000 {
            let mut bytes = right.as_bytes().to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                match random.u8(..3) {
                    0 => drop(bytes.remove(at)),
                    1 => bytes.insert(at, *random.choice(right.as_bytes()).unwrap()),
                    _ => bytes[at] = random.u8(..),
                }
            }
            match read(&descriptor, &bytes) {
                Ok(wire) => {
                    SendRequest::decode(&*wire).expect("what was read can be decoded");
                    write(&descriptor, wire.into()).unwrap();
                    messages += 1;
                }
                Err(_) => errors += 1,
            }
        }
        assert!(messages > 100 && errors > 1_000, "{messages}, {errors}");
    }

    #[test]
    fn a_broken_message_is_an_error() {
        let response = message("chat.v1.HistoryResponse");
        for wire in [&b"\x0a\x05a"[..], b"\x0a", b"\x0b", b"\x12\x01\xff"] {
            assert!(
                write(&response, Bytes::copy_from_slice(wire)).is_err(),
                "{wire:?}"
            );
        }
    }
}
