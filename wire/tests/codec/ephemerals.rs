//! What is not in the log: in formats with positions it shows no offset, in all others it is a push like any other.

use crate::reference::{channel, frames};
use channel_store::{Ephemeral, Epoch, Payload, Position, Publication};
use serde_json::{Value, json};
use wire::{EngineIo, WireFormat};

/// The same content, as something ephemeral and as a publication.
fn contents() -> (Ephemeral, Publication) {
    let payload = "onGift\0u\0{\"a\":\"哈\",\"userId\":\"u\"}";
    let payload = Payload::parse(payload.into()).expect("a payload");
    let place = Position {
        epoch: Epoch::new("e"),
        offset: 7,
    };
    let publication = Publication {
        position: place.clone(),
        time: 1700,
        payload: payload.clone(),
    };
    let ephemeral = Ephemeral {
        place,
        time: 1700,
        payload,
    };
    (ephemeral, publication)
}

fn written(format: WireFormat) -> Vec<u8> {
    let mut out = Vec::new();
    wire::ephemeral(format, &channel("4"), &contents().0, &mut out);
    out
}

#[test]
fn without_positions_it_looks_like_a_publication() {
    for format in [WireFormat::POMELO, WireFormat::socket_io(EngineIo::V4)] {
        let mut pushed = Vec::new();
        wire::push(format, &channel("4"), &contents().1, &mut pushed);
        assert_eq!(written(format), pushed);
    }
}

#[test]
fn with_positions_it_says_that_it_is_ephemeral_and_shows_no_offset() {
    let name = channel("4");
    let body = json!({"a": "哈", "userId": "u"});
    let expected = json!({"channel": name.as_str(), "ephemeral": true, "time": 1700, "body": body});
    let of_route = |mut value: Value| {
        value["route"] = "onGift".into();
        value
    };

    let json = frames(&written(WireFormat::JSON));
    let [(1, text)] = &json[..] else {
        panic!("{json:?}")
    };
    let told: Value = serde_json::from_slice(text).unwrap();
    assert_eq!(told, of_route(expected.clone()));

    let pomelo = frames(&written(WireFormat::POMELO_POSITIONS));
    let [(2, package)] = &pomelo[..] else {
        panic!("{pomelo:?}")
    };
    // A package of data with a push: four bytes, the flag, and the length of the route.
    assert_eq!(package[4..12], *b"\x06\x06onGift");
    let told: Value = serde_json::from_slice(&package[12..]).unwrap();
    assert_eq!(told, expected);

    let format = WireFormat::socket_io(EngineIo::V4).with_positions();
    let socket_io = frames(&written(format));
    let [(1, text)] = &socket_io[..] else {
        panic!("{socket_io:?}")
    };
    let event: [String; 2] = serde_json::from_slice(&text[2..]).unwrap();
    let told: Value = serde_json::from_str(&event[1]).unwrap();
    assert_eq!(told, of_route(expected));
}
