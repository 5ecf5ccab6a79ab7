//! Server-Sent Events (`docs/protocols/sse.md`): what all members share, and what becomes of it for one of them.

use crate::reference::channel;
use channel_store::{ChannelName, Ephemeral, Epoch, Payload, Position, Publication};
use serde_json::{Value, json};
use wire::sse::{EventId, EventStream};
use wire::{Disconnect, Notice, PositionReason, WireFormat};

const SECRET: &str = "8Qp1v0Zc2mXyT7aBd3fGhA";

fn at(epoch: &str, offset: u64) -> Position {
    Position {
        epoch: Epoch::new(epoch),
        offset,
    }
}

fn payload(route: &str, body: &str) -> Payload {
    Payload::parse(format!("{route}\0u\0{body}").into()).expect("a payload")
}

fn publication(offset: u64, route: &str, body: &str) -> Publication {
    Publication {
        position: at("e1", offset),
        time: 1_700,
        payload: payload(route, body),
    }
}

fn stream(positions: &[(&str, Position)]) -> EventStream {
    let positions = positions.iter();
    let positions = positions.map(|(name, position)| (channel(name), position.clone()));
    let id = EventId {
        secret: SECRET.to_owned(),
        positions: positions.collect(),
        is_last: false,
    };
    EventStream::new(&id, 1_500)
}

fn rendered(stream: &mut EventStream, write: impl FnOnce(&mut Vec<u8>)) -> String {
    let (mut records, mut out) = (Vec::new(), Vec::new());
    write(&mut records);
    assert_eq!(
        stream.render(&records, usize::MAX, &mut out),
        records.len(),
        "all of it is taken"
    );
    String::from_utf8(out).expect("UTF-8")
}

fn pushed(stream: &mut EventStream, name: &str, publication: &Publication) -> String {
    rendered(stream, |out| {
        wire::push(WireFormat::SSE, &channel(name), publication, out);
    })
}

#[test]
fn a_push_is_an_event_of_its_route_with_the_json_of_a_websocket_and_where_the_client_is() {
    let mut stream = stream(&[("b", at("e2", 3))]);
    let text = pushed(&mut stream, "a", &publication(7, "onGift", r#"{"n":1}"#));
    assert_eq!(
        text,
        format!(
            "id: s{SECRET}~Yg~e2~3~YQ~e1~7\nevent: onGift\n\
             data: {{\"route\":\"onGift\",\"channel\":\"a\",\"offset\":7,\"time\":1700,\"body\":{{\"n\":1}}}}\n\n"
        )
    );
    let mut frames = Vec::new();
    let again = publication(8, "onGift", r#"{"n":1}"#);
    wire::push(WireFormat::JSON, &channel("a"), &again, &mut frames);
    let text = pushed(&mut stream, "a", &again);
    let data = text.lines().find_map(|it| it.strip_prefix("data: "));
    assert!(frames.ends_with(data.expect("data").as_bytes()));
    assert!(text.starts_with(&format!("id: s{SECRET}~Yg~e2~3~YQ~e1~8\n")));
}

#[test]
fn line_breaks_between_tokens_become_blanks_and_the_value_stays() {
    let body = "{\n\"a\":\r\n[1,\r2],\"b\":\"x\\ny\"}";
    let text = pushed(&mut stream(&[]), "a", &publication(1, "r", body));
    assert_eq!(text.lines().count(), 4, "{text}");
    let data = text.lines().find_map(|it| it.strip_prefix("data: "));
    let data: Value = serde_json::from_str(data.expect("data")).expect("JSON");
    assert_eq!(data["body"], json!({"a": [1, 2], "b": "x\ny"}));
}

/// A browser has events of its own with these names.
#[test]
fn routes_that_a_browser_would_take_for_its_own_events_come_without_a_name() {
    for (route, name) in [
        ("open", None),
        ("error", None),
        ("message", Some("message")),
    ] {
        let text = pushed(&mut stream(&[]), "a", &publication(1, route, "{}"));
        let named = text.lines().find_map(|it| it.strip_prefix("event: "));
        assert_eq!(named, name);
        assert!(text.contains(&format!(r#""route":"{route}""#)));
    }
}

#[test]
fn what_has_no_place_in_the_log_has_no_id() {
    let mut stream = stream(&[("a", at("e1", 7))]);
    let ephemeral = Ephemeral {
        place: at("e1", 7),
        time: 1,
        payload: payload("onMessage", "{}"),
    };
    let text = rendered(&mut stream, |out| {
        wire::ephemeral(WireFormat::SSE, &channel("a"), &ephemeral, out);
        wire::direct(WireFormat::SSE, "onMail", b"{}", out);
        wire::heartbeat(WireFormat::SSE, out);
    });
    assert!(!text.contains("id:"), "{text}");
    assert!(text.contains("event: onMail\ndata: {\"route\":\"onMail\",\"body\":{}}\n\n"));
    assert!(text.ends_with("\n\n:\n\n"), "{text}");
}

/// An event without data is not shown to the page, but its id counts.
#[test]
fn positions_move_without_an_event_too() {
    let mut stream = stream(&[]);
    let name = channel("a");
    let moved = |stream: &mut EventStream, write: &dyn Fn(&ChannelName, &mut Vec<u8>)| {
        rendered(stream, |out| write(&name, out))
    };
    let id = |places: &str| format!("id: s{SECRET}{places}\n\n");
    let begins = |name: &ChannelName, out: &mut Vec<u8>| {
        wire::begins(WireFormat::SSE, name, &at("e1", 4), out);
    };
    assert_eq!(moved(&mut stream, &begins), id("~YQ~e1~4"));
    assert_eq!(moved(&mut stream, &begins), "", "it is there already");
    let skips = |name: &ChannelName, out: &mut Vec<u8>| {
        wire::skipped(WireFormat::SSE, name, &at("e1", 5), out);
    };
    assert_eq!(moved(&mut stream, &skips), id("~YQ~e1~5"));
    let tells = |name: &ChannelName, out: &mut Vec<u8>| {
        let reason = PositionReason::NewEpoch;
        wire::position(WireFormat::SSE, name, &at("e2", 5), reason, out);
    };
    let told = moved(&mut stream, &tells);
    assert!(told.starts_with(&format!("id: s{SECRET}~YQ~e2~5\nevent: onPosition\n")));
    let leaves = |name: &ChannelName, out: &mut Vec<u8>| {
        wire::leaves(WireFormat::SSE, name, out);
    };
    assert_eq!(moved(&mut stream, &leaves), id(""));
    for format in [WireFormat::JSON, WireFormat::POMELO] {
        let mut out = Vec::new();
        wire::begins(format, &name, &at("e1", 4), &mut out);
        wire::leaves(format, &name, &mut out);
        assert!(out.is_empty(), "others need none of this");
    }
}

#[test]
fn a_farewell_says_when_to_come_back_or_that_nobody_should() {
    let notice = Notice {
        reconnect_after_ms: Some(250),
        ..Notice::default()
    };
    let begin = |reason: Disconnect, notice: &Notice| {
        let mut stream = stream(&[("a", at("e1", 7))]);
        let text = rendered(&mut stream, |out| {
            wire::close_with(WireFormat::SSE, reason, notice, out);
        });
        text.split_once("event: ")
            .map_or(text.clone(), |it| it.0.to_owned())
    };
    let id = format!("{SECRET}~YQ~e1~7\n");
    assert_eq!(
        begin(Disconnect::Shutdown, &notice),
        format!("retry: 1750\nid: s{id}")
    );
    assert_eq!(
        begin(Disconnect::Slow, &Notice::default()),
        format!("retry: 1500\nid: s{id}")
    );
    assert_eq!(begin(Disconnect::Kicked, &notice), format!("id: e{id}"));
    // Nobody is there to be told.
    assert_eq!(begin(Disconnect::CLOSED, &notice), "");
    for reason in Disconnect::ALL {
        let Some(json) = reason.farewell().json else {
            continue;
        };
        let kind = if json.reconnect { "s" } else { "e" };
        let begun = begin(reason, &Notice::default());
        assert!(begun.contains(&format!("id: {kind}")), "{reason:?}");
    }
}

#[test]
fn whole_records_are_taken_until_there_is_enough() {
    let mut stream = stream(&[]);
    let mut records = Vec::new();
    for offset in 1..=10 {
        let publication = publication(offset, "r", "{}");
        wire::push(WireFormat::SSE, &channel("a"), &publication, &mut records);
    }
    let (mut taken, mut events) = (0, Vec::new());
    let mut rounds = 0;
    while taken < records.len() {
        let mut out = Vec::new();
        let now = stream.render(&records[taken..], 200, &mut out);
        assert!(now > 0);
        assert!(out.len() < 400, "{}", out.len());
        assert!(out.ends_with(b"\n\n"));
        taken += now;
        events.extend(out);
        rounds += 1;
    }
    assert!(rounds > 4, "{rounds}");
    let text = String::from_utf8(events).expect("UTF-8");
    let ids: Vec<_> = text
        .lines()
        .filter_map(|it| it.strip_prefix("id: "))
        .collect();
    let expected: Vec<_> = (1..=10).map(|it| format!("s{SECRET}~YQ~e1~{it}")).collect();
    assert_eq!(ids, expected);
    // What is no whole record is not taken.
    let mut out = Vec::new();
    assert_eq!(stream.render(&records[..20], 200, &mut out), 0);
    assert_eq!(stream.render(&[1, 0, 0, 0, 99], 200, &mut out), 0);
}

#[test]
fn a_post_gets_an_id_of_ours_and_keeps_everything_else() {
    let message = r#"{"key":"k", "body":{"a": 1.0},"id":7,"route":"a.b"}"#;
    let (id, text) = wire::readdressed(message.as_bytes(), 42).expect("a request");
    assert_eq!(id, Some(7));
    assert_eq!(
        text,
        r#"{"id":42,"route":"a.b","body":{"a": 1.0},"key":"k"}"#
    );
    let (id, text) = wire::readdressed(br#"{"route":"a.b"}"#, 43).expect("a request");
    assert_eq!((id, &*text), (None, r#"{"id":43,"route":"a.b"}"#));
    for (message, id) in [
        ("", None),
        ("[]", None),
        (r#"{"id":1}"#, Some(1)),
        (r#"{"id":1,"route":7}"#, Some(1)),
        (r#"{"id":1,"route":"a","key":7}"#, Some(1)),
        (r#"{"id":1.5,"route":"a"}"#, None),
    ] {
        assert_eq!(
            wire::readdressed(message.as_bytes(), 1),
            Err(id),
            "{message}"
        );
    }
}
