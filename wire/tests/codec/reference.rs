//! The client's side of the protocols. It shares no code with the codecs. It is slow and simple, and strict about what
//! a server may send.

use bytes::Bytes;
use channel_store::{ChannelName, Epoch, Payload, Position, Publication, Route, User, UserId};
use std::time::Duration;
pub(crate) use testkit::pomelo::package;
pub(crate) use testkit::websocket::masked;
use wire::{Codec, Input, Request, RequestBody, WireFormat};

/// A server's frame: opcode and payload.
pub(crate) type Frame = (u8, Vec<u8>);

/// Splits a server's bytes into frames. All frames must be complete, unmasked, final and in the shortest form.
pub(crate) fn frames(bytes: &[u8]) -> Vec<Frame> {
    let frames = testkit::websocket::decode_all(bytes).expect("whole frames");
    let frames = frames.into_iter();
    frames.map(|it| (it.opcode, it.payload.to_vec())).collect()
}

/// Unpacks a frame that consists of one Pomelo package.
pub(crate) fn unpack(frame: &[u8]) -> (u8, Vec<u8>) {
    let length =
        usize::from(frame[1]) * 65_536 + usize::from(frame[2]) * 256 + usize::from(frame[3]);
    assert_eq!(frame.len(), 4 + length);
    (frame[0], frame[4..].to_vec())
}

/// A Pomelo message as in the documentation of the original.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) id: u64,
    pub(crate) route: RouteName,
    pub(crate) body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RouteName {
    None,
    Name(String),
    Code(u16),
}

impl Message {
    pub(crate) fn request(id: u64, route: &str, body: &str) -> Self {
        Self {
            kind: 0,
            id,
            route: RouteName::Name(route.to_owned()),
            body: body.into(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let is_code = matches!(self.route, RouteName::Code(_));
        let mut bytes = vec![self.kind * 2 + u8::from(is_code)];
        if self.kind == 0 || self.kind == 2 {
            let mut id = self.id;
            loop {
                let digit = (id % 128) as u8;
                id /= 128;
                bytes.push(if id > 0 { digit + 128 } else { digit });
                if id == 0 {
                    break;
                }
            }
        }
        match &self.route {
            RouteName::None => {}
            RouteName::Name(name) => {
                bytes.push(name.len() as u8);
                bytes.extend(name.as_bytes());
            }
            RouteName::Code(code) => bytes.extend(code.to_be_bytes()),
        }
        bytes.extend(&self.body);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let kind = bytes[0] / 2;
        let mut at = 1;
        let mut id = 0;
        if kind == 0 || kind == 2 {
            let mut factor = 1;
            loop {
                id += u64::from(bytes[at] % 128) * factor;
                factor *= 128;
                at += 1;
                if bytes[at - 1] < 128 {
                    break;
                }
            }
        }
        let route = if kind == 2 {
            RouteName::None
        } else if bytes[0] % 2 == 1 {
            at += 2;
            RouteName::Code(u16::from(bytes[at - 2]) * 256 + u16::from(bytes[at - 1]))
        } else {
            let end = at + 1 + usize::from(bytes[at]);
            let name = String::from_utf8(bytes[at + 1..end].to_vec()).expect("a route is UTF-8");
            at = end;
            RouteName::Name(name)
        };
        Self {
            kind,
            id,
            route,
            body: bytes[at..].to_vec(),
        }
    }
}

/// What a codec has made of one message.
#[derive(Debug, PartialEq)]
pub(crate) struct Decoded {
    pub(crate) inputs: Vec<Input>,
    pub(crate) frames: Vec<Frame>,
    pub(crate) result: Result<(), wire::Error>,
}

pub(crate) fn decode(codec: &mut Codec, message: &[u8]) -> Decoded {
    let (mut inputs, mut out) = (Vec::new(), Vec::new());
    let result = codec.decode(message, &mut inputs, &mut out);
    Decoded {
        inputs,
        frames: frames(&out),
        result,
    }
}

/// The bytes that a function appends. It must not change the bytes before them.
pub(crate) fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = b"before".to_vec();
    write(&mut out);
    assert!(
        out.starts_with(b"before"),
        "the function changed earlier bytes"
    );
    out.split_off(6)
}

pub(crate) fn codec(format: WireFormat) -> Codec {
    Codec::new(format, Duration::from_secs(25))
}

/// A Pomelo connection that has finished its handshake.
pub(crate) fn working() -> Codec {
    let mut codec = codec(WireFormat::POMELO);
    decode(&mut codec, &package(1, br#"{"sys":{}}"#));
    decode(&mut codec, &package(2, b""));
    codec
}

pub(crate) fn object(json: &str) -> RequestBody {
    RequestBody::Object(Bytes::copy_from_slice(json.as_bytes()))
}

pub(crate) fn request(id: impl Into<Option<u64>>, route: &str, body: RequestBody) -> Input {
    Input::Request(Request {
        id: id.into(),
        route: route.into(),
        body,
        key: None,
    })
}

pub(crate) fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).expect("a channel's name")
}

pub(crate) fn publication(route: &str, body: &str) -> Publication {
    let sender = User {
        id: UserId::new("xialei").expect("a user's name"),
        is_number: false,
    };
    let route = Route::new(route).expect("a route");
    Publication {
        position: publication_position("e", 17),
        time: 1_795_377_365_123,
        payload: Payload::new(&route, &sender, body.as_bytes()),
    }
}

pub(crate) fn publication_position(epoch: &str, offset: u64) -> Position {
    let epoch = Epoch::new(epoch);
    Position { epoch, offset }
}
