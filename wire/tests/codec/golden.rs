//! Test vectors from the original's own encoders. The codec must read what clients send, and write what the server
//! sends in the same bytes.

use crate::reference::{
    Message, RouteName, channel, codec, decode, frames, object, package, publication, request,
    unpack, working, written,
};
use serde::Deserialize;
use std::time::Duration;
use wire::{Disconnect, Input, WireFormat};

#[derive(Deserialize)]
struct Vectors {
    messages: Vec<MessageVector>,
    packages: Vec<PackageVector>,
}

#[derive(Deserialize)]
struct MessageVector {
    name: String,
    id: u64,
    #[serde(rename = "type")]
    kind: u8,
    route: Option<Route>,
    body: String,
    message_hex: String,
    package_hex: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Route {
    Code(u16),
    Name(String),
}

#[derive(Deserialize)]
struct PackageVector {
    #[serde(rename = "type")]
    kind: u8,
    body: Option<String>,
    hex: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!(
        "../../../testkit/recordings/golden-vectors.json"
    ))
    .expect("golden vectors")
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(digit).collect()
}

#[test]
fn the_reference_agrees_with_the_original() {
    for vector in vectors().messages {
        let route = match vector.route {
            None => RouteName::None,
            Some(Route::Code(code)) => RouteName::Code(code),
            Some(Route::Name(name)) => RouteName::Name(name),
        };
        let message = Message {
            kind: vector.kind,
            id: vector.id,
            route,
            body: vector.body.into(),
        };
        let bytes = unhex(&vector.message_hex);
        assert_eq!(message.encode(), bytes, "{}", vector.name);
        assert_eq!(Message::decode(&bytes), message, "{}", vector.name);
        assert_eq!(
            package(4, &bytes),
            unhex(&vector.package_hex),
            "{}",
            vector.name
        );
    }
}

#[test]
fn messages_of_clients_are_read() {
    let mut seen = 0;
    for vector in vectors().messages {
        let name = &vector.name;
        let expected = match (vector.kind, &vector.route) {
            (0, Some(Route::Name(route))) => {
                let id = (vector.id > 0).then_some(vector.id);
                vec![request(id, route, object(&vector.body))]
            }
            (1, Some(Route::Name(route))) => vec![request(None, route, object(&vector.body))],
            (0 | 1, _) => vec![],
            _ => continue,
        };
        let decoded = decode(&mut working(), &unhex(&vector.package_hex));
        assert_eq!(decoded.result, Ok(()), "{name}");
        assert_eq!(decoded.inputs, expected, "{name}");
        assert_eq!(decoded.frames, vec![], "{name}");
        seen += 1;
    }
    assert_eq!(seen, 16);
}

#[test]
fn messages_of_the_server_are_written() {
    let mut seen = 0;
    for vector in vectors().messages {
        let out = match (vector.kind, &vector.route) {
            (2, _) => written(|out| {
                wire::reply(WireFormat::POMELO, vector.id, vector.body.as_bytes(), out);
            }),
            (3, Some(Route::Name(route))) => written(|out| {
                let publication = publication(route, &vector.body);
                wire::push(WireFormat::POMELO, &channel("4"), &publication, out);
            }),
            _ => continue,
        };
        assert_eq!(
            frames(&out),
            [(2, unhex(&vector.package_hex))],
            "{}",
            vector.name
        );
        seen += 1;
    }
    assert_eq!(seen, 9);
}

#[test]
fn packages_are_read_and_written() {
    for vector in vectors().packages {
        let bytes = unhex(&vector.hex);
        let body = vector.body.unwrap_or_default();
        assert_eq!(unpack(&bytes), (vector.kind, body.clone().into_bytes()));
        let mut opened = codec(WireFormat::POMELO);
        let written = match vector.kind {
            1 => {
                let handshake: &[u8] = if body.contains("200") {
                    br#"{"sys":{}}"#
                } else {
                    b"{}"
                };
                decode(&mut opened, &package(1, handshake)).frames
            }
            2 => {
                decode(&mut opened, &package(1, br#"{"sys":{}}"#));
                assert_eq!(decode(&mut opened, &bytes).inputs, [Input::Ready]);
                continue;
            }
            3 => frames(&written(|out| wire::heartbeat(WireFormat::POMELO, out))),
            5 if body.contains("attack") => {
                let out = written(|out| {
                    wire::close(
                        WireFormat::POMELO,
                        Disconnect::ByClient(wire::Error::Attack),
                        out,
                    );
                });
                frames(&out)[..1].to_vec()
            }
            // The original sent "kick" to clients that were kicked by hand.
            5 => continue,
            other => panic!("package {other}"),
        };
        assert_eq!(written, [(2, bytes)]);
    }
}

#[test]
fn the_heartbeat_is_given_in_whole_seconds_and_never_as_zero() {
    for (heartbeat, seconds) in [(25_000, 25), (1_000, 1), (1_999, 1), (20, 1), (90_000, 90)] {
        let mut codec = wire::Codec::new(WireFormat::POMELO, Duration::from_millis(heartbeat));
        let decoded = decode(&mut codec, &package(1, br#"{"sys":{}}"#));
        let answer = format!(r#"{{"code":200,"sys":{{"heartbeat":{seconds}}}}}"#);
        assert_eq!(decoded.frames, [(2, package(1, answer.as_bytes()))]);
    }
}
