//! The JSON protocol (`docs/protocols/json.md`), and arbitrary text.

use crate::reference::{
    Decoded, Frame, channel, codec, decode, frames, object, publication, publication_position,
    request, written,
};
use channel_store::{ChannelName, Route};
use proptest::prelude::*;
use serde_json::{Value, json};
use wire::{Disconnect, Input, Notice, PositionReason, Request, RequestBody, WireFormat};

fn read(text: &str) -> Decoded {
    decode(&mut codec(WireFormat::JSON), text.as_bytes())
}

fn asked(input: Input) -> Decoded {
    Decoded {
        inputs: vec![input],
        frames: vec![],
        result: Ok(()),
    }
}

/// The answer to a message that is not a request. It has the `id` if that could be read.
fn refusal(id: &str) -> String {
    let message = "This is not a request. Send one JSON object with a string \\\"route\\\", and no part twice.";
    format!(
        r#"{{{id}"body":{{"code":400,"message":"{message}","reason":"INVALID_REQUEST","retry":false}}}}"#
    )
}

fn text(text: &str) -> Frame {
    (1, text.as_bytes().to_vec())
}

#[test]
fn a_connection_is_ready_at_once() {
    let mut inputs = Vec::new();
    codec(WireFormat::JSON).open(&mut inputs);
    assert_eq!(inputs, [Input::Ready]);
}

#[test]
fn a_request_is_read_and_its_body_is_not_changed() {
    let login =
        r#"{"id":1,"route":"connector.handler.login","body":{"userId":"u", "n":1.0},"key":"k"}"#;
    assert_eq!(
        read(login),
        asked(Input::Request(Request {
            id: Some(1),
            route: "connector.handler.login".into(),
            body: object(r#"{"userId":"u", "n":1.0}"#),
            key: Some("k".into()),
        }))
    );
    // Parts may come in any order, may be unknown, and may hold escapes. The id may be 0.
    assert_eq!(
        read("\n{\"body\":{},\"x\":[{}],\"route\":\"a\\u002eb\",\"id\":0} "),
        asked(request(0, "a.b", object("{}")))
    );
    // The codec does not check routes. The handlers do.
    assert_eq!(
        read(r#"{"id":1,"route":""}"#),
        asked(request(1, "", RequestBody::Empty))
    );
}

#[test]
fn a_route_that_names_a_method_of_object_is_an_attack_k6() {
    let mut inputs = Vec::new();
    let attack = br#"{"id":1,"route":"connector.handler.constructor"}"#;
    let refused = codec(WireFormat::JSON).decode(attack, &mut inputs, &mut Vec::new());
    assert_eq!(refused, Err(wire::Error::Attack));
    assert_eq!(inputs, []);
}

#[test]
fn optional_fields_may_be_null() {
    assert_eq!(
        read(r#"{"id":null,"route":"a.b","body":null,"key":null}"#),
        asked(request(None, "a.b", RequestBody::Empty))
    );
}

#[test]
fn a_body_that_is_no_object_counts_as_none_but_an_array_is_unusable() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64));
    for (body, expected) in [
        ("1", RequestBody::Empty),
        ("\"{}\"", RequestBody::Empty),
        ("false", RequestBody::Empty),
        ("[{}]", RequestBody::Unusable),
        (&deep, RequestBody::Unusable),
    ] {
        let decoded = read(&format!(r#"{{"id":1,"route":"a.b","body":{body}}}"#));
        assert_eq!(decoded, asked(request(1, "a.b", expected)), "{body}");
    }
}

#[test]
fn a_message_that_is_not_a_request_is_answered_with_400() {
    let deep = "[".repeat(100_000);
    for message in [
        "",
        "{",
        "null",
        "[]",
        r#"[1,"a.b",{},"k"]"#,
        r#""{}""#,
        "{}{}",
        "{}",
        r#"{"id":"1","route":"a.b"}"#,
        r#"{"id":1.0,"route":"a.b"}"#,
        r#"{"id":-1,"route":"a.b"}"#,
        r#"{"id":9007199254740992,"route":"a.b"}"#,
        r#"{"id":99999999999999999999,"route":"a.b"}"#,
        r#"{"id":1,"id":1,"route":"a.b"}"#,
        r#"{"id":1,"route":"a.b","body":}"#,
        &deep,
    ] {
        let decoded = read(message);
        assert_eq!(decoded.inputs, [], "{message}");
        assert_eq!(decoded.frames, [text(&refusal(""))], "{message}");
        assert_eq!(decoded.result, Ok(()));
    }
    let decoded = decode(
        &mut codec(WireFormat::JSON),
        b"{\"id\":1,\"route\":\"\xff.\"}",
    );
    assert_eq!(decoded.frames, [text(&refusal(""))]);
}

#[test]
fn the_answer_400_has_the_id_if_it_could_be_read() {
    for message in [
        r#"{"id":9007199254740991}"#,
        r#"{"id":9007199254740991,"route":null}"#,
        r#"{"id":9007199254740991,"route":7}"#,
        r#"{"id":9007199254740991,"route":"a.b","key":7}"#,
    ] {
        let decoded = read(message);
        assert_eq!(decoded.inputs, []);
        assert_eq!(
            decoded.frames,
            [text(&refusal(r#""id":9007199254740991,"#))]
        );
    }
}

#[test]
fn replies_pushes_and_heartbeats_are_written_as_documented() {
    let out = written(|out| wire::reply(WireFormat::JSON, 1, br#"{"code":0}"#, out));
    assert_eq!(frames(&out), [text(r#"{"id":1,"body":{"code":0}}"#)]);
    let publication = publication("onMessage", r#"{"type":1}"#);
    let out = written(|out| wire::push(WireFormat::JSON, &channel("4"), &publication, out));
    let expected =
        r#"{"route":"onMessage","channel":"4","offset":17,"time":1795377365123,"body":{"type":1}}"#;
    assert_eq!(frames(&out), [text(expected)]);
    let out = written(|out| {
        let at = publication_position("e1", 19);
        wire::position(
            WireFormat::JSON,
            &channel("4"),
            &at,
            PositionReason::Diverged,
            out,
        );
    });
    let expected = r#"{"route":"onPosition","channel":"4","body":{"epoch":"e1","offset":19,"reason":"diverged"}}"#;
    assert_eq!(frames(&out), [text(expected)]);
    let out = written(|out| wire::heartbeat(WireFormat::JSON, out));
    assert_eq!(frames(&out), [(9, vec![])]);
}

#[test]
fn a_close_is_a_push_and_a_close_code() {
    let out = written(|out| wire::close(WireFormat::JSON, Disconnect::Slow, out));
    let kick = r#"{"route":"onKick","body":{"reason":"slow","reconnect":true}}"#;
    assert_eq!(frames(&out), [text(kick), (8, b"\x0f\xa1slow".to_vec())]);
    let out = written(|out| wire::close(WireFormat::JSON, wire::Error::too_big(300).into(), out));
    let text = b"message too big: the limit is 300 bytes";
    let close = [&1009_u16.to_be_bytes()[..], text].concat();
    assert_eq!(frames(&out), [(8, close)]);
    for reason in Disconnect::ALL {
        let out = written(|out| wire::close(WireFormat::JSON, reason, out));
        for (opcode, payload) in frames(&out) {
            if opcode == 1 {
                serde_json::from_slice::<Value>(&payload).unwrap();
            }
            assert!(opcode == 1 || payload.len() <= 125);
        }
    }
}

/// A client that must not come back is not told when.
#[test]
fn a_client_that_connects_again_is_told_how_long_to_wait() {
    let notice = Notice {
        reconnect_after_ms: Some(750),
        ..Notice::default()
    };
    let told = |reason| {
        let out = written(|out| wire::close_with(WireFormat::JSON, reason, &notice, out));
        String::from_utf8(frames(&out)[0].1.clone()).unwrap()
    };
    assert_eq!(
        told(Disconnect::Shutdown),
        r#"{"route":"onKick","body":{"reason":"shutdown","reconnect":true,"reconnectAfterMs":750}}"#
    );
    assert_eq!(
        told(Disconnect::Kicked),
        r#"{"route":"onKick","body":{"reason":"kick","reconnect":false}}"#
    );
}

#[test]
fn a_back_end_chooses_code_and_reason_and_may_leave_them_as_they_are() {
    let reason = Disconnect::ByBackEnd { reconnect: false };
    let said = |reason, code, text: Option<&str>| {
        let notice = Notice {
            code,
            reason: text.map(Into::into),
            ..Notice::default()
        };
        frames(&written(|out| {
            wire::close_with(WireFormat::JSON, reason, &notice, out);
        }))
    };
    let kick = r#"{"route":"onKick","body":{"reason":"a \"b\"","reconnect":false}}"#;
    let close = [&4100_u16.to_be_bytes()[..], b"a \"b\""].concat();
    let told = said(reason, Some(4100), Some("a \"b\""));
    assert_eq!(told, [text(kick), (8, close)]);
    let kick = r#"{"route":"onKick","body":{"reason":"disconnected","reconnect":false}}"#;
    let close = [&4015_u16.to_be_bytes()[..], b"disconnected"].concat();
    assert_eq!(said(reason, None, None), [text(kick), (8, close)]);
    let kick = r#"{"route":"onKick","body":{"reason":"rights","reconnect":true}}"#;
    let close = [&4016_u16.to_be_bytes()[..], b"rights"].concat();
    let told = said(
        Disconnect::ByBackEnd { reconnect: true },
        None,
        Some("rights"),
    );
    assert_eq!(told, [text(kick), (8, close)]);
}

#[test]
fn a_message_for_one_client_is_a_push_without_a_channel() {
    let out = written(|out| wire::direct(WireFormat::JSON, "on\"Mail", br#"{"a":1}"#, out));
    let push = r#"{"route":"on\"Mail","body":{"a":1}}"#;
    assert_eq!(frames(&out), [text(push)]);
}

proptest! {
    #[test]
    fn pushes_survive_the_way_to_the_client(name in "[^\\pC]{1,20}", route in "[^\\pC]{1,20}", value in any::<String>()) {
        // Not every character is allowed in a name.
        prop_assume!(ChannelName::new(name.as_str()).is_ok() && Route::new(route.as_str()).is_ok());
        let body = json!({ "value": value });
        let publication = publication(&route, &body.to_string());
        let out = written(|out| wire::push(WireFormat::JSON, &channel(&name), &publication, out));
        let [(1, payload)] = &frames(&out)[..] else { panic!("this is not one text frame") };
        let expected = json!({
            "route": route, "channel": name, "offset": 17, "time": 1_795_377_365_123_u64, "body": body,
        });
        prop_assert_eq!(serde_json::from_slice::<Value>(payload).unwrap(), expected);
    }

    #[test]
    fn requests_survive_the_way_to_the_server(
        id in prop::option::of(0_u64..1 << 53),
        route in any::<String>(),
        key in prop::option::of(any::<String>()),
        value in any::<String>(),
    ) {
        let body = json!({ "value": value });
        let message = json!({ "id": id, "route": route, "key": key, "body": body }).to_string();
        let expected = Request {
            id,
            route: route.into(),
            body: object(&body.to_string()),
            key: key.map(Into::into),
        };
        prop_assert_eq!(read(&message), asked(Input::Request(expected)));
    }

    #[test]
    fn arbitrary_messages_are_read_or_answered(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "[{}\\[\\]\":,a-e0-9 idroutebodykey]{0,60}") {
        for message in [&bytes[..], text.as_bytes()] {
            let decoded = decode(&mut codec(WireFormat::JSON), message);
            prop_assert_eq!(decoded.inputs.len() + decoded.frames.len(), 1);
        }
    }
}
