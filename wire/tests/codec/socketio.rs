//! Pomelo's string messages in packets of Socket.IO, in both versions (docs/protocols/socketio.md), and arbitrary text.

use crate::reference::{
    Decoded, Frame, channel, codec, decode, frames, object, publication, publication_position,
    request, written,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use wire::{Codec, Disconnect, EngineIo, Input, Notice, PositionReason, RequestBody, WireFormat};

const OLD: WireFormat = WireFormat::socket_io(EngineIo::V3);
const NEW: WireFormat = WireFormat::socket_io(EngineIo::V4);
const NOTHING: Decoded = Decoded {
    inputs: vec![],
    frames: vec![],
    result: Ok(()),
};

fn read(packet: &str) -> Decoded {
    let of_new = decode(&mut codec(NEW), packet.as_bytes());
    assert_eq!(decode(&mut codec(OLD), packet.as_bytes()), of_new);
    of_new
}

fn asked(input: Input) -> Decoded {
    Decoded {
        inputs: vec![input],
        ..NOTHING
    }
}

/// The event that carries a string message.
fn event(message: &str) -> String {
    format!("42{}", json!(["message", message]))
}

/// A string message as the client of the original writes it.
fn composed(id: u32, route: &str, body: &str) -> String {
    let head = id.to_be_bytes().map(char::from);
    let length = char::from(route.encode_utf16().count() as u8);
    format!("{}{length}{route}{body}", String::from_iter(head))
}

fn text(text: &str) -> Frame {
    (1, text.as_bytes().to_vec())
}

/// The JSON in a string message to a client.
fn said(frame: &Frame) -> Value {
    let packet = std::str::from_utf8(&frame.1).expect("text");
    let event: Value =
        serde_json::from_str(packet.strip_prefix("42").expect("an event")).expect("JSON");
    assert_eq!(event[0], "message");
    serde_json::from_str(event[1].as_str().expect("text")).expect("JSON")
}

#[test]
fn version_3_is_ready_at_once_and_version_4_after_the_namespace_is_connected() {
    let opened = |format| {
        let mut inputs = Vec::new();
        codec(format).open(&mut inputs);
        inputs
    };
    assert_eq!(opened(OLD), [Input::Ready]);
    assert_eq!(opened(NEW), []);
    assert_eq!(decode(&mut codec(OLD), b"40"), NOTHING);
    let connected = decode(&mut codec(NEW), b"40");
    assert_eq!(connected.inputs, [Input::Ready]);
    let answer = std::str::from_utf8(&connected.frames[0].1).expect("text");
    let id: Value =
        serde_json::from_str(answer.strip_prefix("40").expect("a connection")).expect("JSON");
    assert_eq!(id["sid"].as_str().map(str::len), Some(16));
}

#[test]
fn a_request_is_read_from_a_string_message() {
    let login = composed(
        0x0102_03ff,
        "connector.handler.login",
        r#"{"userId":"哈😀"}"#,
    );
    let body = object(r#"{"userId":"哈😀"}"#);
    let expected = asked(request(0x0102_03ff, "connector.handler.login", body));
    assert_eq!(read(&event(&login)), expected);
    // The number of an acknowledgement and a second argument are ignored.
    let numbered = format!("4217{}", json!(["message", login, {}]));
    assert_eq!(read(&numbered), expected);
}

#[test]
fn a_request_with_id_0_is_a_notify_and_an_unusable_body_counts_as_empty() {
    for (body, expected) in [
        ("", RequestBody::Empty),
        ("null", RequestBody::Empty),
        ("{", RequestBody::Empty),
        ("[]", RequestBody::Unusable),
        ("{}", object("{}")),
    ] {
        let notify = event(&composed(0, "a.b", body));
        assert_eq!(read(&notify), asked(request(None, "a.b", expected)));
    }
}

#[test]
fn characters_are_counted_as_javascript_does_and_high_bits_are_cut_off() {
    let route = "a.😀哈";
    let expected = asked(request(1, route, object("{}")));
    assert_eq!(read(&event(&composed(1, route, "{}"))), expected);
    let higher = "\u{100}\u{200}\u{300}\u{401}\u{503}a.b{}";
    assert_eq!(read(&event(higher)), asked(request(1, "a.b", object("{}"))));
    // The route would end within a character.
    assert_eq!(read(&event("\0\0\0\u{1}\u{3}a.😀")), NOTHING);
}

#[test]
fn packets_that_are_not_messages_of_pomelo_are_ignored() {
    for packet in [
        event(""),
        event("\0\0\0\u{1}"),
        event("\0\0\0\u{1}\u{9}a.b{}"),
        event(&composed(1, "nodot", "{}")),
        r#"42["other","x"]"#.to_owned(),
        r#"42["message",{}]"#.to_owned(),
        "42[]".to_owned(),
        // An acknowledgement, an error, a binary packet, another namespace.
        "431[]".to_owned(),
        r#"44"no""#.to_owned(),
        r#"451-["message",{"_placeholder":true,"num":0}]"#.to_owned(),
        format!("42/admin,{}", json!(["message", composed(1, "a.b", "{}")])),
        "41/admin".to_owned(),
        // Packets of an upgrade that come late.
        "5".to_owned(),
        "6".to_owned(),
    ] {
        assert_eq!(read(&packet), NOTHING, "{packet}");
    }
}

#[test]
fn packets_that_break_the_protocol_close_the_connection() {
    for packet in [
        "", "x", "0{}", "4", "4x", "48", "42", "42{}", "42[", r#"42"x""#,
    ] {
        let closed = Decoded {
            result: Err(wire::Error::Malformed),
            ..NOTHING
        };
        assert_eq!(read(packet), closed, "{packet}");
    }
    let mut inputs = Vec::new();
    let refused = codec(NEW).decode(b"42[\"\xff\"]", &mut inputs, &mut Vec::new());
    assert_eq!(refused, Err(wire::Error::Malformed));
    let attack = read(&event(&composed(1, "chat.handler.toString", "{}")));
    assert_eq!(attack.result, Err(wire::Error::Attack));
}

#[test]
fn other_namespaces_are_refused_in_the_form_of_each_version() {
    let answered = |format, packet: &[u8]| decode(&mut codec(format), packet).frames;
    let old = [text(r#"44/admin,"Invalid namespace""#)];
    let new = [text(r#"44/admin,{"message":"Invalid namespace"}"#)];
    for packet in ["40/admin", "40/admin,", "40/admin?token=x,"] {
        assert_eq!(answered(OLD, packet.as_bytes())[..], old);
        assert_eq!(answered(NEW, packet.as_bytes())[..], new);
    }
}

#[test]
fn a_client_that_leaves_the_namespace_is_closed_like_by_the_original() {
    let left = read("41");
    assert_eq!(left.result, Err(wire::Error::Closed));
    let [kick] = &left.frames[..] else {
        panic!("{left:?}");
    };
    let reason = "client namespace disconnect";
    assert_eq!(said(kick), json!({"route": "onKick", "reason": reason}));
    assert_eq!(read("1").result, Err(wire::Error::Closed));
}

#[test]
fn a_ping_is_answered_with_its_content_and_both_count_as_heartbeats() {
    for (packet, frames) in [
        ("2", vec![text("3")]),
        ("2x", vec![text("3x")]),
        ("3", vec![]),
    ] {
        let expected = Decoded {
            frames,
            ..asked(Input::Heartbeat)
        };
        assert_eq!(read(packet), expected);
    }
    let out = written(|out| wire::heartbeat(NEW, out));
    assert_eq!(frames(&out), [text("2")]);
}

fn only(write: impl FnOnce(&mut Vec<u8>)) -> Value {
    let out = written(write);
    let [frame] = &frames(&out)[..] else {
        panic!("this is not one frame");
    };
    said(frame)
}

#[test]
fn replies_and_pushes_are_strings_of_json_as_recorded() {
    let reply =
        written(|out| wire::reply(OLD, 1, r#"{"code":0,"message":"登录成功"}"#.as_bytes(), out));
    // The recorded bytes (siofix-01).
    let recorded = r#"42["message","{\"id\":1,\"body\":{\"code\":0,\"message\":\"登录成功\"}}"]"#;
    assert_eq!(frames(&reply), [text(recorded)]);
    let publication = publication("onMessage", r#"{"content":"哈😀","userId":"u"}"#);
    let (room, body) = (channel("4"), json!({"content": "哈😀", "userId": "u"}));
    assert_eq!(
        only(|out| wire::push(OLD, &room, &publication, out)),
        json!({"route": "onMessage", "body": body})
    );
    assert_eq!(
        only(|out| wire::push(NEW.with_positions(), &room, &publication, out)),
        json!({"route": "onMessage", "channel": "4", "offset": 17, "time": 1_795_377_365_123_u64, "body": body})
    );
}

#[test]
fn clients_that_asked_for_positions_get_them() {
    let (room, at) = (channel("4"), publication_position("e", 12));
    let format = OLD.with_positions();
    assert_eq!(
        only(|out| wire::position(format, &room, &at, PositionReason::Trimmed, out)),
        json!({"route": "onPosition", "channel": "4", "body": {"epoch": "e", "offset": 12, "reason": "trimmed"}})
    );
    assert_eq!(
        only(|out| wire::skipped(format, &room, &at, out)),
        json!({"route": "onPosition", "channel": "4", "offset": 12})
    );
    assert_eq!(written(|out| wire::skipped(OLD, &room, &at, out)), b"");
    let moved = PositionReason::NewEpoch;
    assert_eq!(
        written(|out| wire::position(OLD, &room, &at, moved, out)),
        b""
    );
}

#[test]
fn a_client_that_should_stay_away_is_kicked_with_a_reason_and_closed() {
    let out = written(|out| wire::close(NEW, Disconnect::Kicked, out));
    let ended = frames(&out);
    assert_eq!(
        said(&ended[0]),
        json!({"route": "onKick", "reason": "kick"})
    );
    assert_eq!(ended[1..], [(8, 1000_u16.to_be_bytes().to_vec())]);
    let out = written(|out| wire::close(NEW, wire::Error::too_big(300).into(), out));
    let ended = frames(&out);
    assert_eq!(
        said(&ended[0]),
        json!({"route": "onKick", "reason": "too-big", "limit": 300})
    );
    let text = b"message too big: the limit is 300 bytes";
    let close = [&1009_u16.to_be_bytes()[..], text].concat();
    assert_eq!(ended[1..], [(8, close)]);
}

/// Strings of JavaScript may contain half of a surrogate pair. It is answered like a body that cannot be used, and the
/// connection stays open.
#[test]
fn half_of_a_surrogate_pair_is_answered_and_the_connection_stays_open() {
    for half in [r"\ud800", r"\udc00", r"\ud800x", r"\udc00\ud800"] {
        let message = composed(7, "chat.handler.send", r#"{"content":"HALF"}"#);
        let packet = event(&message).replace("HALF", half);
        let Decoded { inputs, result, .. } = read(&packet);
        assert_eq!(result, Ok(()), "{packet}");
        let expected = request(Some(7), "chat.handler.send", RequestBody::Unusable);
        assert_eq!(inputs, [expected], "{packet}");
    }
    // Outside of the message it is ignored, like other events.
    for packet in [
        r#"42["\ud800","x"]"#,
        r#"42["other","\ud800"]"#,
        r#"42["message",1]"#,
    ] {
        assert_eq!(read(packet), NOTHING, "{packet}");
    }
    let message = composed(7, "chat.handler.send", "{}");
    let more = event(&message).replace(']', r#","\ud800",1e999]"#);
    assert_eq!(
        read(&more),
        asked(request(Some(7), "chat.handler.send", object("{}")))
    );
}

/// After a proper close some libraries do not connect again, or only after their own time-out.
#[test]
fn for_a_client_that_should_come_back_the_connection_breaks() {
    for format in [OLD, NEW] {
        for reason in Disconnect::ALL {
            let out = written(|out| wire::close(format, reason, out));
            let comes_back = reason.farewell().is_reconnect();
            assert_eq!(out.is_empty(), comes_back, "{reason:?}");
        }
    }
    let format = NEW.with_positions();
    let told = only(|out| wire::close(format, Disconnect::Shutdown, out));
    assert_eq!(
        told,
        json!({"route": "onKick", "reason": "shutdown", "reconnect": true})
    );
    let notice = Notice {
        reconnect_after_ms: Some(750),
        ..Notice::default()
    };
    let told = only(|out| wire::close_with(format, Disconnect::Shutdown, &notice, out));
    assert_eq!(told["reconnectAfterMs"], 750);
}

#[test]
fn a_back_end_chooses_the_words_of_a_kick() {
    let notice = Notice {
        code: None,
        reason: Some("a \"b\"".into()),
        ..Notice::default()
    };
    let reason = Disconnect::ByBackEnd { reconnect: false };
    let out = written(|out| wire::close_with(NEW, reason, &notice, out));
    let ended = frames(&out);
    assert_eq!(
        said(&ended[0]),
        json!({"route": "onKick", "reason": "a \"b\""})
    );
    assert_eq!(ended[1..], [(8, 1000_u16.to_be_bytes().to_vec())]);
    let reason = Disconnect::ByBackEnd { reconnect: true };
    let told = only(|out| wire::close_with(NEW.with_positions(), reason, &notice, out));
    let expected = json!({"route": "onKick", "reason": "a \"b\"", "reconnect": true});
    assert_eq!(told, expected);
}

#[test]
fn a_message_for_one_client_is_a_push_without_a_channel() {
    for format in [OLD, NEW, NEW.with_positions()] {
        let told = only(|out| wire::direct(format, "onMail", br#"{"a":1}"#, out));
        assert_eq!(told, json!({"route": "onMail", "body": {"a": 1}}));
    }
}

proptest! {
    #[test]
    fn every_message_that_a_client_can_write_is_read_correctly(id in 1_u32.., route in "[a-z😀]{0,9}\\.[a-z哈]{0,9}", content in ".{0,40}") {
        let body = json!({ "content": content }).to_string();
        let expected = asked(request(u64::from(id), &route, object(&body)));
        prop_assert_eq!(read(&event(&composed(id, &route, &body))), expected);
    }

    #[test]
    fn arbitrary_packets_never_panic(packet in "(4[0-9]?(/[a-z?,]{0,4})?[0-9]{0,2})?.{0,40}") {
        for format in [OLD, NEW] {
            let mut codec: Codec = codec(format);
            let _ = codec.decode(packet.as_bytes(), &mut Vec::new(), &mut Vec::new());
        }
    }
}
