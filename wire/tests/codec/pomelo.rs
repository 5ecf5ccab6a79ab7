//! Pomelo's rules one by one (K6, F1, F12, F13), round trips, and arbitrary frames.

use crate::reference::{
    Decoded, Message, RouteName, channel, codec, decode, frames, object, package, publication,
    publication_position, request, unpack, working, written,
};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use proptest::prelude::*;
use std::io::Write;
use wire::{Disconnect, Input, Notice, PositionReason, RequestBody, WireFormat};

const HANDSHAKE: &[u8] = br#"{"sys":{"type":"js-websocket","version":"0.0.1"},"user":{}}"#;

fn nothing() -> Decoded {
    Decoded {
        inputs: vec![],
        frames: vec![],
        result: Ok(()),
    }
}

fn refused(reason: wire::Error) -> Decoded {
    Decoded {
        result: Err(reason),
        ..nothing()
    }
}

fn data(message: &Message) -> Vec<u8> {
    package(4, &message.encode())
}

/// The body that reaches the handler for these bytes.
fn body(bytes: &[u8]) -> RequestBody {
    let message = Message {
        body: bytes.into(),
        ..Message::request(1, "chat.handler.send", "")
    };
    let Decoded { mut inputs, .. } = decode(&mut working(), &data(&message));
    match inputs.pop() {
        Some(Input::Request(request)) => request.body,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_handshake_is_answered_and_its_ack_starts_heartbeats() {
    let mut codec = codec(WireFormat::POMELO);
    let mut inputs = Vec::new();
    codec.open(&mut inputs);
    assert_eq!(inputs, []);
    let answer = package(1, br#"{"code":200,"sys":{"heartbeat":25}}"#);
    let expected = Decoded {
        frames: vec![(2, answer)],
        ..nothing()
    };
    assert_eq!(decode(&mut codec, &package(1, HANDSHAKE)), expected);
    let heartbeat = (2, package(3, b""));
    let expected = Decoded {
        inputs: vec![Input::Ready],
        frames: vec![heartbeat.clone()],
        ..nothing()
    };
    assert_eq!(decode(&mut codec, &package(2, b"")), expected);
    let expected = Decoded {
        inputs: vec![Input::Heartbeat],
        frames: vec![heartbeat],
        ..nothing()
    };
    assert_eq!(decode(&mut codec, &package(3, b"")), expected);
}

#[test]
fn a_handshake_without_sys_is_answered_with_500_and_closed_k6() {
    let bodies = [
        "",
        "{",
        "{}",
        "null",
        r#"{"user":{}}"#,
        r#"{"sys":null}"#,
        r#"{"sys":0}"#,
        "[{}]",
    ];
    for body in bodies {
        let decoded = decode(&mut codec(WireFormat::POMELO), &package(1, body.as_bytes()));
        let answer = package(1, br#"{"code":500}"#);
        let expected = Decoded {
            frames: vec![(2, answer)],
            ..refused(wire::Error::Handshake)
        };
        assert_eq!(decoded, expected, "{body}");
    }
}

#[test]
fn packages_that_come_too_early_or_twice_are_ignored_k6() {
    let login = data(&Message::request(1, "connector.handler.login", "{}"));
    let mut codec = codec(WireFormat::POMELO);
    for early in [&login, &package(2, b""), &package(3, b""), &package(4, b"")] {
        assert_eq!(decode(&mut codec, early), nothing());
    }
    decode(&mut codec, &package(1, HANDSHAKE));
    for early in [&login, &package(1, b"{}"), &package(3, b"")] {
        assert_eq!(decode(&mut codec, early), nothing());
    }
    decode(&mut codec, &package(2, b""));
    for late in [package(1, HANDSHAKE), package(1, b"{}"), package(2, b"")] {
        assert_eq!(decode(&mut codec, &late), nothing());
    }
    assert_eq!(decode(&mut codec, &login).inputs.len(), 1);
}

#[test]
fn a_package_that_a_client_must_not_send_closes_k6_f13() {
    let frames = [
        vec![],
        package(0, b""),
        package(5, br#"{"reason":"kick"}"#),
        package(6, b""),
        vec![3],
        vec![3, 0, 0],
        vec![4, 0, 0, 9, 0, 1],
        vec![4, 0xff, 0xff, 0xff],
        // DATA packages that end before their message does.
        package(4, b""),
        package(4, &[0]),
        package(4, &[0, 0x80]),
        package(4, &[0, 1]),
        package(4, &[0, 1, 5, b'a', b'.']),
    ];
    for frame in frames {
        assert_eq!(
            decode(&mut working(), &frame),
            refused(wire::Error::Malformed),
            "{frame:x?}"
        );
    }
}

#[test]
fn several_packages_may_share_a_frame_f13() {
    let mut frame = package(1, HANDSHAKE);
    frame.extend(package(2, b""));
    frame.extend(data(&Message::request(1, "a.b", "{}")));
    frame.extend(package(3, b""));
    frame.extend(data(&Message::request(2, "a.b", r#"{"a":1}"#)));
    let mut codec = codec(WireFormat::POMELO);
    let expected = [
        Input::Ready,
        request(1, "a.b", object("{}")),
        Input::Heartbeat,
        request(2, "a.b", object(r#"{"a":1}"#)),
    ];
    let decoded = decode(&mut codec, &frame);
    assert_eq!(decoded.inputs, expected);
    assert_eq!(decoded.frames.len(), 3);
    // Packages before the faulty one are still valid.
    frame.extend(package(9, b""));
    let mut codec = self::codec(WireFormat::POMELO);
    let decoded = decode(&mut codec, &frame);
    assert_eq!(decoded.inputs, expected);
    assert_eq!(decoded.result, Err(wire::Error::Malformed));
}

#[test]
fn a_request_id_has_32_bits_f01() {
    for id in [1, 1 << 31, (1 << 32) - 1] {
        let decoded = decode(&mut working(), &data(&Message::request(id, "a.b", "{}")));
        assert_eq!(decoded.inputs, [request(id, "a.b", object("{}"))]);
    }
    for id in [1 << 32, 1 << 35, u64::MAX] {
        let decoded = decode(&mut working(), &data(&Message::request(id, "a.b", "{}")));
        assert_eq!(decoded, refused(wire::Error::Malformed), "{id}");
    }
    let endless = package(4, &[&[0], &[0xff; 1000][..]].concat());
    assert_eq!(
        decode(&mut working(), &endless),
        refused(wire::Error::Malformed)
    );
    // An id of 2³² − 1 can be written, but a smaller one may not use more bytes than five.
    let spelled = package(
        4,
        &[&[0, 0x81, 0x80, 0x80, 0x80, 0x80, 0], &b"\x03a.b{}"[..]].concat(),
    );
    assert_eq!(
        decode(&mut working(), &spelled),
        refused(wire::Error::Malformed)
    );
}

#[test]
fn a_route_without_a_dot_or_with_a_code_and_a_response_are_ignored_k6() {
    let ignored = [
        Message::request(1, "nodots", "{}"),
        Message::request(1, "", "{}"),
        Message {
            route: RouteName::Code(1),
            ..Message::request(1, "", "{}")
        },
        Message {
            route: RouteName::Code(999),
            ..Message::request(1, "", "{}")
        },
        Message {
            kind: 2,
            route: RouteName::None,
            ..Message::request(7, "", "{}")
        },
        Message {
            kind: 7,
            ..Message::request(0, "a.b", "{}")
        },
    ];
    for message in ignored {
        assert_eq!(
            decode(&mut working(), &data(&message)),
            nothing(),
            "{message:?}"
        );
    }
}

#[test]
fn a_method_of_object_is_an_attack_k6() {
    let methods = [
        "constructor",
        "toString",
        "valueOf",
        "hasOwnProperty",
        "isPrototypeOf",
        "propertyIsEnumerable",
        "toLocaleString",
        "__proto__",
        "__defineGetter__",
        "__defineSetter__",
        "__lookupGetter__",
        "__lookupSetter__",
    ];
    for method in methods {
        for handler in ["connector.handler", "chat.handler"] {
            let message = Message::request(9, &format!("{handler}.{method}"), "{}");
            assert_eq!(
                decode(&mut working(), &data(&message)),
                refused(wire::Error::Attack)
            );
        }
    }
    for harmless in [
        "connector.handler.constructor.x",
        "a.handler.constructor",
        "connector.constructor",
        "chat.handler.Constructor",
    ] {
        let message = Message::request(9, harmless, "{}");
        assert_eq!(
            decode(&mut working(), &data(&message)).inputs.len(),
            1,
            "{harmless}"
        );
    }
}

#[test]
fn a_body_that_is_no_object_counts_as_none_but_an_array_is_unusable_k6_f12() {
    for empty in [
        "", " ", "{", "nonsense", "null", "0", "-1.5", "\"{}\"", "true", "[1,", "{}{}",
    ] {
        assert_eq!(body(empty.as_bytes()), RequestBody::Empty, "{empty}");
    }
    for unusable in [
        "[]",
        " [1,{}]",
        &"[".repeat(65),
        &format!("{{\"a\":{}", "[".repeat(64)),
    ] {
        assert_eq!(
            body(unusable.as_bytes()),
            RequestBody::Unusable,
            "{unusable}"
        );
    }
    assert_eq!(body(b" {\"a\":1.0} "), object(" {\"a\":1.0} "));
}

#[test]
fn text_beyond_u_ffff_is_read_and_written_as_the_clients_do() {
    // This is how pomelo-protocol's strencode writes {"a":"😀x"}.
    assert_eq!(
        body(b"{\"a\":\"\xed\xa0\xbd\xed\xb8\x80x\"}"),
        object("{\"a\":\"😀x\"}")
    );
    assert_eq!(body("{\"a\":\"😀\"}".as_bytes()), object("{\"a\":\"😀\"}"));
    // Half a pair and bytes that are not text are read as the original's Buffer read them.
    assert_eq!(
        body(b"{\"a\":\"\xed\xa0\xbd\"}"),
        object("{\"a\":\"\u{fffd}\u{fffd}\u{fffd}\"}")
    );
    assert_eq!(body(b"{\"a\":\"\xff\"}"), object("{\"a\":\"\u{fffd}\"}"));
    let expected = "{\"a\":\"\\ud83d\\ude00é哈\"}".as_bytes();
    let out =
        written(|out| wire::reply(WireFormat::POMELO, 1, "{\"a\":\"😀é哈\"}".as_bytes(), out));
    assert_eq!(
        Message::decode(&unpack(&frames(&out)[0].1).1).body,
        expected
    );
    let publication = publication("onMessage", "{\"a\":\"😀é哈\"}");
    let out = written(|out| wire::push(WireFormat::POMELO, &channel("4"), &publication, out));
    assert_eq!(
        Message::decode(&unpack(&frames(&out)[0].1).1).body,
        expected
    );
}

#[test]
fn the_largest_body_that_operators_may_allow_fits_into_a_package() {
    let most = usize::try_from(channel_store::body::LARGEST_BODY).expect("it fits");
    let head = r#"{"a":""#;
    let emoji = "😀".repeat((most - head.len() - 2) / 4);
    let publication = publication("onMessage", &format!("{head}{emoji}\"}}"));
    let format = WireFormat::POMELO_POSITIONS;
    let out = written(|out| wire::push(format, &channel("4"), &publication, out));
    let [(2, payload)] = &frames(&out)[..] else {
        panic!("this is not one binary frame");
    };
    assert_eq!(payload[1..4], payload_length(payload.len() - 4));
}

fn payload_length(length: usize) -> [u8; 3] {
    let [zero, rest @ ..] = u32::try_from(length).expect("it fits").to_be_bytes();
    assert_eq!(zero, 0, "{length} bytes have no length of three bytes");
    rest
}

#[test]
fn a_client_that_asked_for_positions_gets_them_around_the_body() {
    let format = WireFormat::POMELO_POSITIONS;
    let read = |out: Vec<u8>| {
        let [(2, payload)] = &frames(&out)[..] else {
            panic!("this is not one binary frame");
        };
        let message = Message::decode(&unpack(payload).1);
        let RouteName::Name(route) = message.route else {
            panic!("the route is not given by its name");
        };
        (route, String::from_utf8(message.body).expect("UTF-8"))
    };
    let publication = publication("onMessage", r#"{"type":"😀"}"#);
    let out = written(|out| wire::push(format, &channel("4\"哈"), &publication, out));
    let expected =
        r#"{"channel":"4\"哈","offset":17,"time":1795377365123,"body":{"type":"\ud83d\ude00"}}"#;
    assert_eq!(read(out), ("onMessage".into(), expected.into()));

    let at = publication_position("e1", 19);
    let told = |moved| written(|out| wire::position(format, &channel("4"), &at, moved, out));
    for (moved, reason) in [
        (PositionReason::NewEpoch, "new-epoch"),
        (PositionReason::Diverged, "diverged"),
        (PositionReason::Trimmed, "trimmed"),
        (PositionReason::Unknown, "unknown"),
    ] {
        let expected =
            format!(r#"{{"channel":"4","body":{{"epoch":"e1","offset":19,"reason":"{reason}"}}}}"#);
        assert_eq!(read(told(moved)), ("onPosition".into(), expected));
    }
    let out = written(|out| {
        let format = WireFormat::POMELO;
        wire::position(format, &channel("4"), &at, PositionReason::Diverged, out);
    });
    assert!(
        out.is_empty(),
        "clients of the original don't know positions"
    );
}

#[test]
fn each_reason_closes_as_documented() {
    for (reason, kick, code) in [
        (Disconnect::CLOSED, None, 1000_u16),
        (Disconnect::HeartbeatTimeout, None, 1000),
        (Disconnect::HandshakeTimeout, None, 1000),
        (Disconnect::ByClient(wire::Error::Malformed), None, 1000),
        (Disconnect::ByClient(wire::Error::Handshake), None, 1000),
        (
            Disconnect::ByClient(wire::Error::Attack),
            Some("attack"),
            1000,
        ),
        (Disconnect::Shutdown, None, 1001),
        (Disconnect::Dead, None, 1001),
        (Disconnect::Slow, None, 1001),
        (Disconnect::PositionsLost, None, 1001),
        (Disconnect::Kicked, Some("kick"), 1000),
        (Disconnect::Idle, Some("idle"), 1000),
        (Disconnect::ByClient(wire::Error::Frame), None, 1002),
        (Disconnect::ByClient(wire::Error::Utf8), None, 1007),
    ] {
        let mut expected = Vec::new();
        expected.extend(kick.map(|kick| {
            (
                2,
                package(5, format!(r#"{{"reason":"{kick}"}}"#).as_bytes()),
            )
        }));
        expected.push((8, code.to_be_bytes().to_vec()));
        let out = written(|out| wire::close(WireFormat::POMELO, reason, out));
        assert_eq!(frames(&out), expected, "{reason:?}");
    }
}

/// For native clients a KICK is final, and for others the code 1000 is. A client that should connect again must get
/// neither. Only a heartbeat timeout has the code that was recorded (K5).
#[test]
fn a_client_that_should_come_back_gets_no_kick_and_no_normal_close() {
    let mut checked = 0;
    for reason in Disconnect::ALL {
        if !reason.farewell().is_reconnect() {
            continue;
        }
        checked += 1;
        let out = written(|out| wire::close(WireFormat::POMELO, reason, out));
        let code = match reason {
            Disconnect::HeartbeatTimeout => 1000_u16,
            _ => 1001,
        };
        let close = (8, code.to_be_bytes().to_vec());
        assert_eq!(frames(&out), [close], "{reason:?}");
        let format = WireFormat::POMELO.on_a_stream();
        let out = written(|out| wire::close(format, reason, out));
        assert_eq!(out, b"", "{reason:?}");
    }
    assert_eq!(checked, 10);
}

/// The `ws` of Pomelo's client for Node.js throws an error that nobody can catch when it reads another code.
#[test]
fn all_close_codes_are_known_to_old_libraries() {
    for reason in Disconnect::ALL {
        let code = reason.farewell().code;
        let is_known = (1000..=1011).contains(&code) && !(1004..=1006).contains(&code);
        assert!(is_known, "{reason:?}: {code}");
    }
}

fn notice(code: u16, reason: &str) -> Notice {
    Notice {
        code: Some(code),
        reason: Some(reason.into()),
        ..Notice::default()
    }
}

#[test]
fn a_back_end_chooses_the_words_of_a_kick() {
    let reason = Disconnect::ByBackEnd { reconnect: false };
    let notice = notice(4100, "\"banned\" 🙂");
    let out = written(|out| wire::close_with(WireFormat::POMELO, reason, &notice, out));
    let kick = package(5, br#"{"reason":"\"banned\" \ud83d\ude42"}"#);
    assert_eq!(
        frames(&out),
        [(2, kick), (8, 1000_u16.to_be_bytes().to_vec())]
    );
    let reason = Disconnect::ByBackEnd { reconnect: true };
    let out = written(|out| wire::close_with(WireFormat::POMELO, reason, &notice, out));
    let close = (8, 1001_u16.to_be_bytes().to_vec());
    assert_eq!(frames(&out), [close], "a KICK would be final");
}

#[test]
fn a_message_for_one_client_is_a_push_without_a_channel() {
    for format in [WireFormat::POMELO, WireFormat::POMELO_POSITIONS] {
        let out = written(|out| wire::direct(format, "onMail", r#"{"a":"🙂"}"#.as_bytes(), out));
        let expected = data(&Message {
            kind: 3,
            ..Message::request(0, "onMail", r#"{"a":"\ud83d\ude42"}"#)
        });
        assert_eq!(frames(&out), [(2, expected)]);
    }
}

/// Such a client knows pushes that the original did not have, and its library does not take a push as final.
#[test]
fn a_client_that_asked_for_positions_is_told_the_reason_by_a_push() {
    let out = written(|out| {
        wire::close(WireFormat::POMELO_POSITIONS, Disconnect::Shutdown, out);
    });
    let expected = data(&Message {
        kind: 3,
        ..Message::request(0, "onKick", r#"{"reason":"shutdown","reconnect":true}"#)
    });
    let frames = frames(&out);
    assert_eq!(frames[0], (2, expected));
    assert_eq!(frames[1..], [(8, 1001_u16.to_be_bytes().to_vec())]);
}

#[test]
fn a_client_that_sends_too_much_is_told_the_limit() {
    let reason = Disconnect::from(wire::Error::too_big(131_072));
    let kick = package(5, br#"{"reason":"too-big","limit":131072}"#);
    let format = WireFormat::POMELO.on_a_stream();
    assert_eq!(written(|out| wire::close(format, reason, out)), kick);
    let frames = frames(&written(|out| {
        wire::close(WireFormat::POMELO, reason, out);
    }));
    let text = b"message too big: the limit is 131072 bytes";
    let close = [&1009_u16.to_be_bytes()[..], text].concat();
    assert_eq!(frames, [(2, kick), (8, close)]);
}

/// The body of a request whose flag says that it is compressed.
fn compressed(body: &[u8], limit: usize) -> RequestBody {
    let message = Message {
        body: body.into(),
        ..Message::request(1, "chat.handler.send", "")
    };
    let mut message = message.encode();
    message[0] |= 0x10;
    let decoded = decode(&mut working().with_limit(limit), &package(4, &message));
    match &decoded.inputs[..] {
        [Input::Request(request)] => request.body.clone(),
        other => panic!("{other:?}"),
    }
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).expect("a vector takes everything");
    encoder.finish().expect("a vector takes everything")
}

#[test]
fn a_body_that_a_client_of_pitaya_compressed_is_inflated() {
    let text = r#"{"content":"哈哈哈哈哈哈哈哈哈哈"}"#;
    let limit = text.len();
    assert_eq!(compressed(&zlib(text.as_bytes()), limit), object(text));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    assert_eq!(compressed(&gzip.finish().unwrap(), limit), object(text));
}

/// An empty body would count as `{}`, and the sender would be told that its message was sent.
#[test]
fn a_body_that_cannot_be_inflated_is_refused_and_does_not_count_as_empty() {
    let text = br#"{"content":"the same, the same, the same"}"#;
    let whole = zlib(text);
    for length in 0..whole.len() {
        let cut_off = compressed(&whole[..length], text.len());
        assert_eq!(cut_off, RequestBody::Unusable, "after {length}");
    }
    for wrong in [&text[..], b"\x1f\x8b", b"\x78\x9c"] {
        assert_eq!(compressed(wrong, 1_000), RequestBody::Unusable);
    }
    assert_eq!(compressed(&whole, text.len() - 1), RequestBody::Unusable);
    let bomb = zlib(&vec![b' '; 16 << 20]);
    assert!(bomb.len() < 128 << 10);
    assert_eq!(compressed(&bomb, 128 << 10), RequestBody::Unusable);
}

#[test]
fn a_codec_needs_only_a_few_bytes() {
    assert!(size_of::<wire::Codec>() <= 40);
}

proptest! {
    #[test]
    fn requests_survive_the_way_to_the_server(
        kind in prop::sample::select(vec![0_u8, 1, 3]),
        id in 0_u64..1 << 32,
        route in "[a-z哈]{1,20}\\.[a-z.]{0,20}",
        value in any::<String>(),
    ) {
        let json = serde_json::json!({ "value": value }).to_string();
        let message = Message { kind, ..Message::request(id, &route, &json) };
        let decoded = decode(&mut working(), &data(&message));
        let id = (kind == 0 && id > 0).then_some(id);
        prop_assert_eq!(decoded, Decoded { inputs: vec![request(id, &route, object(&json))], ..nothing() });
    }

    #[test]
    fn replies_and_pushes_survive_the_way_to_the_client(
        id in any::<u64>(),
        route in "[a-zA-Z哈]{1,40}",
        value in any::<String>(),
        padding in prop::sample::select(vec![0_usize, 100, 65_500, 70_000]),
    ) {
        let json = serde_json::json!({ "value": value, "padding": "x".repeat(padding) });
        let received = |out: Vec<u8>| {
            let [(2, frame)] = &frames(&out)[..] else { panic!("this is not one binary frame") };
            let (4, body) = unpack(frame) else { panic!("a DATA package") };
            let message = Message::decode(&body);
            let value: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
            assert!(message.body.iter().all(|byte| *byte < 0xf0), "a character is beyond U+FFFF");
            (message, value)
        };
        let text = json.to_string();
        let (message, value) =
            received(written(|out| wire::reply(WireFormat::POMELO, id, text.as_bytes(), out)));
        prop_assert_eq!((message.kind, message.id, message.route), (2, id, RouteName::None));
        prop_assert_eq!(&value, &json);
        let publication = publication(&route, &text);
        let (message, value) = received(written(|out| {
            wire::push(WireFormat::POMELO, &channel("4"), &publication, out);
        }));
        prop_assert_eq!((message.kind, message.route), (3, RouteName::Name(route)));
        prop_assert_eq!(&value, &json);
    }

    #[test]
    fn arbitrary_frames_never_panic(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
        let mut fresh = codec(WireFormat::POMELO);
        let mut working = working();
        for frame in &frames {
            let _ = decode(&mut fresh, frame);
            let _ = decode(&mut working, frame);
            let _ = decode(&mut working, &package(4, frame));
            let _ = decode(&mut working, &package(1, frame));
        }
    }

    #[test]
    fn a_frame_of_many_heartbeats_gets_one_answer_for_each(count in 1_usize..500) {
        let frame = package(3, b"").repeat(count);
        let decoded = decode(&mut working(), &frame);
        prop_assert_eq!(decoded.inputs.len(), count);
        prop_assert_eq!(decoded.frames.len(), count);
    }
}
