//! Reading and writing are checked against prost-reflect's own mapping, which others wrote.

use super::{read, write};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use proto::chat::v1::send_request::Content;
use proto::chat::v1::{HistoryResponse, Publication, SendRequest, publication};

fn pool() -> DescriptorPool {
    DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap()
}

fn message(name: &str) -> MessageDescriptor {
    pool().get_message_by_name(name).unwrap()
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
        ("[]", "-", "expected an object"),
        ("{} {}", "-", "trailing characters"),
        (r#"{"channel":"4""#, "-", "EOF while parsing"),
        (r#"{"channel":5}"#, "channel", "expected a string"),
        (r#"{"channel":["4"]}"#, "channel", "expected a string"),
        (r#"{"channel":"\ud800"}"#, "channel", "hex escape"),
        (
            r#"{"userIsNumber":"true"}"#,
            "user_is_number",
            "expected true or false",
        ),
        (
            r#"{"chanel":"4"}"#,
            "chanel",
            "SendRequest has channel, user",
        ),
        (
            r#"{"channel":"4","channel":"5"}"#,
            "channel",
            "is given twice",
        ),
        (
            r#"{"bodyJson":"e30=","body_json":"e30="}"#,
            "body_json",
            "is given twice",
        ),
        (
            r#"{"body":{},"bodyJson":"e30="}"#,
            "body_json",
            "either body or body_json, not both",
        ),
        (r#"{"bodyJson":"%%"}"#, "body_json", "not base64"),
        (
            r#"{"bodyJson":{}}"#,
            "body_json",
            "expected a string with base64",
        ),
        (r#"{"body":[]}"#, "body", "expected an object"),
        (r#"{"body":"{}"}"#, "body", "expected an object"),
        (
            r#"{"body":{"a":[{"b":1},{"b":1,"b":2}]}}"#,
            "body.a[1].b",
            "is given twice",
        ),
        (
            r#"{"body":{"id":9007199254740993}}"#,
            "body.id",
            "cannot hold 9007199254740993",
        ),
        (
            r#"{"body":{"id":18446744073709551615}}"#,
            "body.id",
            "cannot hold",
        ),
        (r#"{"body":{"id":1e999}}"#, "body.id", "number out of range"),
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
    let history = |json: &str| read(&message("chat.v1.HistoryRequest"), json.as_bytes());
    for (json, field, words) in [
        (r#"{"pageSize":-1}"#, "page_size", "from 0 to 4294967295"),
        (
            r#"{"pageSize":4294967296}"#,
            "page_size",
            "from 0 to 4294967295",
        ),
        (r#"{"pageSize":1.5}"#, "page_size", "from 0 to 4294967295"),
        (
            r#"{"pageSize":"many"}"#,
            "page_size",
            "from 0 to 4294967295",
        ),
        (
            r#"{"from":{"offset":-1}}"#,
            "from.offset",
            "a whole number from 0",
        ),
        (r#"{"from":7}"#, "from", "expected an object"),
        (
            r#"{"from":{"ofset":7}}"#,
            "from.ofset",
            "Position has epoch, offset",
        ),
    ] {
        let wrong = history(json).expect_err(json);
        assert_eq!(wrong.field.as_deref(), Some(field), "{json}");
        assert!(wrong.description.contains(words), "{json}: {wrong:?}");
    }
}

#[test]
fn the_name_of_a_field_in_an_error_is_short_however_long_the_caller_made_it() {
    let name = "哈".repeat(10_000);
    for json in [
        format!("{{\"{name}\":1}}"),
        format!("{{\"body\":{{\"{name}\":1e999}}}}"),
    ] {
        let error = send(&json).unwrap_err();
        assert!(error.chars().count() < 500, "{error}");
    }
}

/// What is read must be what the decoder behind it takes: neither more nor much less.
#[test]
fn objects_may_be_nested_as_deep_as_protobuf_takes_and_no_deeper() {
    let nested = |levels: usize, begin: &str, end: &str| {
        send(&format!(
            "{{\"body\":{{\"a\":{}1{}}}}}",
            begin.repeat(levels),
            end.repeat(levels)
        ))
    };
    for (begin, end, most) in [("{\"a\":", "}", 32), ("[", "]", 48)] {
        nested(most, begin, end).unwrap();
        for levels in [most + 1, 120, 10_000] {
            let error = nested(levels, begin, end).unwrap_err();
            let is_told = error.contains("nested too deeply") || error.contains("recursion limit");
            assert!(is_told && error.starts_with("body.a"), "{levels}: {error}");
        }
    }
}

#[test]
fn whole_numbers_come_as_numbers_or_as_texts_and_large_ones_go_as_texts() {
    let descriptor = message("chat.v1.HistoryRequest");
    for (json, page_size) in [
        (
            r#"{"pageSize":5,"from":{"offset":"18446744073709551615"}}"#,
            5,
        ),
        (
            r#"{"pageSize":"5","from":{"offset":18446744073709551615}}"#,
            5,
        ),
        (r#"{"pageSize":5e0}"#, 5),
    ] {
        let wire = read(&descriptor, json.as_bytes()).unwrap();
        let request = proto::chat::v1::HistoryRequest::decode(&*wire).unwrap();
        assert_eq!(request.page_size, page_size, "{json}");
        if let Some(from) = request.from {
            assert_eq!(from.offset, u64::MAX);
            let json = write(&descriptor, &wire).unwrap();
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            let expected =
                serde_json::json!({"from": {"offset": "18446744073709551615"}, "pageSize": 5});
            assert_eq!(json, expected);
        }
    }
}

#[test]
fn an_answer_is_written_as_prost_reflect_writes_it() {
    let body = r#"{"user":"b","body":{"z":[1,-0.5,1e21,"哈\n",null,true,{"":[]}],"a":{}}}"#;
    let Some(Content::Body(body)) = send(body).unwrap().content else {
        panic!("a Struct");
    };
    let publication = |offset, content| Publication {
        position: Some(proto::chat::v1::Position {
            epoch: "e\"1".into(),
            offset,
        }),
        publish_time: Some(prost_types::Timestamp {
            seconds: 1_795_377_365,
            nanos: 123_000_000,
        }),
        route: "onMessage".into(),
        user: "nancy".into(),
        content: Some(content),
        exclude_user: offset == 1,
    };
    let response = HistoryResponse {
        publications: vec![
            publication(1, publication::Content::Body(body)),
            publication(2, publication::Content::BodyJson("{\"a\":1}".into())),
            Publication::default(),
        ],
        next_page_token: "more".into(),
        continuity: proto::chat::v1::Continuity::Trimmed.into(),
        position: None,
    };
    is_written_as_by_others("chat.v1.HistoryResponse", &response);
    is_written_as_by_others(
        "chat.v1.HistoryResponse",
        &HistoryResponse {
            continuity: 77,
            ..HistoryResponse::default()
        },
    );
}

fn is_written_as_by_others(name: &str, sample: &impl Message) {
    let wire = sample.encode_to_vec();
    let ours = write(&message(name), &wire).unwrap();
    let ours: serde_json::Value = serde_json::from_slice(&ours).unwrap();
    let theirs = DynamicMessage::decode(message(name), &*wire).unwrap();
    let theirs = serde_json::to_value(theirs).unwrap();
    // Theirs has 1.0 where ours has 1, which JSON does not tell apart.
    assert_eq!(floats(ours), floats(theirs));
}

fn floats(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Number(number) => number.as_f64().into(),
        serde_json::Value::Array(items) => items.into_iter().map(floats).collect(),
        serde_json::Value::Object(fields) => {
            let fields = fields
                .into_iter()
                .map(|(name, value)| (name, floats(value)));
            serde_json::Value::Object(fields.collect())
        }
        other => other,
    }
}

/// A descriptor of every kind of field there is, so that later contracts find them ready.
const KINDS: &str = r#"
syntax = "proto3";
package kinds;
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
enum Colour { NONE = 0; RED = 1; BLUE = -2; }
message All {
  double f64 = 1; float f32 = 2; int32 i32 = 3; int64 i64 = 4; uint32 u32 = 5; uint64 u64 = 6; sint32 s32 = 7;
  sint64 s64 = 8; fixed32 x32 = 9; fixed64 x64 = 10; sfixed32 y32 = 11; sfixed64 y64 = 12; bool flag = 13;
  string text = 14; bytes data = 15; Colour colour = 16; All inside = 17; repeated sint32 numbers = 18;
  repeated string texts = 19; repeated All items = 20; map<string, All> by_name = 21; map<int32, string> by_number = 22;
  map<bool, double> by_flag = 23; google.protobuf.Value any = 24; google.protobuf.ListValue list = 25;
  google.protobuf.Timestamp time = 26; google.protobuf.Duration duration = 27; optional int32 maybe = 28;
  repeated Colour colours = 29 [packed = false]; google.protobuf.Struct object = 30; repeated google.protobuf.Value values = 31;
}
"#;

#[test]
fn every_kind_of_field_is_read_and_written_as_prost_reflect_does_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("kinds.proto"), KINDS).unwrap();
    let files = protox::compile(["kinds.proto"], [folder.path()]).unwrap();
    let pool = DescriptorPool::decode(&*files.encode_to_vec()).unwrap();
    let all = pool.get_message_by_name("kinds.All").unwrap();
    for json in [
        r#"{"f64":-1.5,"f32":0.25,"i32":-7,"i64":"-9223372036854775808","u32":4294967295,"u64":"18446744073709551615"}"#,
        r#"{"s32":-2147483648,"s64":"-9223372036854775808","x32":1,"x64":"2","y32":-3,"y64":"-4","flag":true}"#,
        r#"{"text":"哈\u0000\"","data":"/+8=","colour":"BLUE","inside":{"inside":{}},"numbers":[1,-1,0],"texts":["",""]}"#,
        r#"{"items":[{},{"flag":true},{}],"byName":{"b":{"flag":true},"":{}},"byNumber":{"-1":"x"},"byFlag":{"true":1}}"#,
        r#"{"any":null,"list":[1,[],{}],"time":"2026-01-31T12:00:00.500Z","duration":"-1.5s","maybe":0}"#,
        r#"{"colours":["RED","NONE",7],"f64":"NaN","f32":"-Infinity","object":{"a":{"b":[null]}},"values":[null,1,"x"]}"#,
        r#"{"colour":1,"i32":"5","u32":5.0,"x64":7,"data":"_-8"}"#,
    ] {
        let ours = read(&all, json.as_bytes()).unwrap_or_else(|wrong| panic!("{json}: {wrong:?}"));
        let mut parser = serde_json::Deserializer::from_str(json);
        let theirs = DynamicMessage::deserialize(all.clone(), &mut parser).unwrap();
        let read = DynamicMessage::decode(all.clone(), &*ours).unwrap();
        let read = serde_json::to_value(&read).unwrap();
        assert_eq!(read, serde_json::to_value(&theirs).unwrap(), "{json}");
        for wire in [ours, theirs.encode_to_vec()] {
            let written = write(&all, &wire).unwrap();
            let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
            let theirs = serde_json::to_value(&theirs).unwrap();
            assert_eq!(floats(written), floats(theirs), "{json}");
        }
    }
    for (json, field) in [
        (r#"{"i32":2147483648}"#, "i32"),
        (r#"{"i64":9223372036854775808}"#, "i64"),
        (r#"{"u64":18446744073709551616}"#, "u64"),
        (r#"{"u64":"+ 1"}"#, "u64"),
        (r#"{"s32":1.5}"#, "s32"),
        (r#"{"colour":"GREEN"}"#, "colour"),
        (r#"{"numbers":[1,"x"]}"#, "numbers[1]"),
        (r#"{"texts":[null]}"#, "texts[0]"),
        (r#"{"items":[{},{"flag":1}]}"#, "items[1].flag"),
        (r#"{"byName":{"b":{"flag":1}}}"#, "by_name.b.flag"),
        (r#"{"byNumber":{"x":"y"}}"#, "by_number.x"),
        (r#"{"byName":{"b":{},"b":{}}}"#, "by_name.b"),
        (r#"{"time":"yesterday"}"#, "time"),
        (r#"{"duration":1.5}"#, "duration"),
        (r#"{"f64":"fast"}"#, "f64"),
    ] {
        let wrong = read(&all, json.as_bytes()).expect_err(json);
        assert_eq!(wrong.field.as_deref(), Some(field), "{json}: {wrong:?}");
    }
}

/// Texts that are almost right, by the thousand: none of them may bring the reader down or make it write what is no message.
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
                write(&descriptor, &wire).unwrap();
                messages += 1;
            }
            Err(_) => errors += 1,
        }
    }
    assert!(messages > 100 && errors > 1_000, "{messages}, {errors}");
}

#[test]
fn a_broken_message_is_an_error() {
    let publication = message("chat.v1.HistoryResponse");
    for wire in [
        &b"\x0a\x05a"[..],
        b"\x0a",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x0b",
        b"\x12\x01\xff",
    ] {
        assert!(write(&publication, wire).is_err(), "{wire:?}");
    }
}
