//! What clients write and read in each protocol.

use crate::message::Stamp;
use crate::tokens;
use crate::wire::masked;
use clap::ValueEnum;
use testkit::pomelo::{
    self, DATA, HANDSHAKE, HANDSHAKE_ACK, HEARTBEAT, HELLO, KICK, SEND, login_body,
};
use testkit::websocket::{BINARY, TEXT};

/// The protocol of the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// docs/protocols/pomelo.md
    Pomelo,
    /// docs/protocols/json.md
    Json,
    /// The JSON protocol of Centrifugo, to compare with (docs/performance.md)
    Centrifugo,
    /// The protocol of the floor: a frame is sent to the room as it is, and nothing is answered.
    #[value(skip)]
    Floor,
}

/// What a frame tells a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received<'a> {
    /// The answer to the protocol's own handshake.
    Greeting,
    /// The answer to the request with this number. True: the request was carried out.
    Answer(u64, bool),
    /// A message.
    Message(Stamp),
    /// This user has joined.
    Joined(u32),
    /// A user has left.
    Left,
    /// A heartbeat of the server.
    Heartbeat,
    /// The reason for which the server closes.
    Kicked(&'a [u8]),
    /// Anything else.
    Other,
}

/// The number of the login among a client's requests.
pub(crate) const LOGIN: u64 = 1;

const ON_MESSAGE: &[u8] = b"onMessage";
const ON_JOIN: &[u8] = b"onJoin";
const ON_LEAVE: &[u8] = b"onLeave";

impl Protocol {
    /// The path to which a client connects.
    pub(crate) fn path(self, room: u32, user: u32) -> String {
        match self {
            Self::Pomelo => "/".to_owned(),
            Self::Json => "/ws".to_owned(),
            Self::Centrifugo => "/connection/websocket".to_owned(),
            Self::Floor => format!("/{room}/{user}"),
        }
    }

    /// True if a client is a member as soon as its login is answered. Otherwise it is one when it gets its own join.
    pub(crate) fn answer_is_entry(self) -> bool {
        self == Self::Centrifugo
    }

    /// True if requests are answered.
    pub(crate) fn answers(self) -> bool {
        self != Self::Floor
    }

    /// What a client writes first on a new connection.
    pub(crate) fn open(self, room: u32, user: u32, more: &str, out: &mut Vec<u8>) {
        match self {
            Self::Pomelo => package(HANDSHAKE, out, |out| {
                out.extend_from_slice(HELLO.as_bytes());
            }),
            Self::Json => self.login(room, user, more, out),
            Self::Centrifugo => {
                masked(out, TEXT, |out| {
                    out.extend_from_slice(br#"{"id":4294967295,"connect":{}}"#);
                });
                self.login(room, user, more, out);
            }
            Self::Floor => {}
        }
    }

    /// What a client writes after the greeting.
    pub(crate) fn greeted(self, room: u32, user: u32, more: &str, out: &mut Vec<u8>) {
        package(HANDSHAKE_ACK, out, |_| {});
        self.login(room, user, more, out);
    }

    /// The request to log in, which makes the client a member of its room. `more`: further parameters, each after a comma.
    pub(crate) fn login(self, room: u32, user: u32, more: &str, out: &mut Vec<u8>) {
        if self == Self::Centrifugo {
            return masked(out, TEXT, |out| {
                let subscribe =
                    format!(r#"{{"id":{LOGIN},"subscribe":{{"channel":"room{room}"}}}}"#);
                out.extend_from_slice(subscribe.as_bytes());
            });
        }
        let mut body = login_body(&format!("u{user}"), &format!("room{room}"));
        body.truncate(body.len() - 1);
        body.push_str(more);
        if let Some(token) = tokens::of(user) {
            body.push_str(&format!(r#","token":"{token}""#));
        }
        body.push('}');
        self.request(LOGIN, pomelo::LOGIN, out, |out| {
            out.extend_from_slice(body.as_bytes());
        });
    }

    /// A message, in a request with this number.
    pub(crate) fn send(self, room: u32, id: u64, stamp: Stamp, length: usize, out: &mut Vec<u8>) {
        match self {
            Self::Floor => masked(out, BINARY, |out| stamp.write(length, out)),
            Self::Centrifugo => masked(out, TEXT, |out| {
                let head = format!(r#"{{"id":{id},"publish":{{"channel":"room{room}","data":"#);
                out.extend_from_slice(head.as_bytes());
                stamp.write(length, out);
                out.extend_from_slice(b"}}");
            }),
            _ => self.request(id, SEND, out, |out| stamp.write(length, out)),
        }
    }

    /// A heartbeat of the client.
    pub(crate) fn heartbeat(self, out: &mut Vec<u8>) {
        if self == Self::Pomelo {
            package(HEARTBEAT, out, |_| {});
        }
    }

    /// The answer to a heartbeat of the server, if it wants one.
    pub(crate) fn pong(self, out: &mut Vec<u8>) {
        if self == Self::Centrifugo {
            masked(out, TEXT, |out| out.extend_from_slice(b"{}"));
        }
    }

    fn request(self, id: u64, route: &str, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
        if self == Self::Pomelo {
            return package(DATA, out, |out| {
                out.push(0);
                let mut left = id;
                while left >= 0x80 {
                    out.push(left as u8 | 0x80);
                    left >>= 7;
                }
                out.push(left as u8);
                out.push(route.len() as u8);
                out.extend_from_slice(route.as_bytes());
                body(out);
            });
        }
        masked(out, TEXT, |out| {
            let head = format!(r#"{{"id":{id},"route":"{route}","body":"#);
            out.extend_from_slice(head.as_bytes());
            body(out);
            out.push(b'}');
        });
    }

    /// Tells what is in the payload of a frame, each thing with its text. There may be several things, if the protocol
    /// packs them.
    pub(crate) fn receive(self, payload: &[u8], mut tell: impl FnMut(Received<'_>, &[u8])) {
        match self {
            Self::Floor => {
                let received = match payload.split_first() {
                    Some((b'J', user)) => Received::Joined(number(user)),
                    Some((b'L', _)) => Received::Left,
                    _ => message(payload),
                };
                tell(received, payload);
            }
            Self::Json => tell(json(payload), payload),
            Self::Centrifugo => {
                for reply in payload.split(|byte| *byte == b'\n') {
                    tell(centrifugo(reply), reply);
                }
            }
            Self::Pomelo => {
                let mut rest = payload;
                while let Some((&[kind, a, b, c], behind)) = rest.split_first_chunk() {
                    let length = u32::from_be_bytes([0, a, b, c]) as usize;
                    let Some((body, behind)) = behind.split_at_checked(length) else {
                        return tell(Received::Other, payload);
                    };
                    tell(package_of(kind, body), body);
                    rest = behind;
                }
            }
        }
    }
}

/// A masked frame with one Pomelo package.
fn package(kind: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    masked(out, BINARY, |out| {
        let from = out.len();
        out.extend_from_slice(&[kind, 0, 0, 0]);
        body(out);
        let length = (out.len() - from - 4) as u32;
        out[from + 1..from + 4].copy_from_slice(&length.to_be_bytes()[1..]);
    });
}

fn package_of(kind: u8, body: &[u8]) -> Received<'_> {
    match (kind, body) {
        (HANDSHAKE, _) => Received::Greeting,
        (HEARTBEAT, _) => Received::Heartbeat,
        (KICK, reason) => Received::Kicked(reason),
        (DATA, [6, length, rest @ ..]) => match rest.split_at_checked((*length).into()) {
            Some((route, body)) => push(route, body),
            None => Received::Other,
        },
        (DATA, [4, rest @ ..]) => {
            let mut id = 0;
            for (place, byte) in rest.iter().enumerate().take(5) {
                id |= u64::from(byte & 0x7f) << (7 * place);
                if *byte < 0x80 {
                    return answer(id, &rest[place + 1..]);
                }
            }
            Received::Other
        }
        _ => Received::Other,
    }
}

fn json(text: &[u8]) -> Received<'_> {
    if let Some(rest) = text.strip_prefix(b"{\"route\":\"") {
        let end = memchr::memchr(b'"', rest).unwrap_or(0);
        // The name of the channel stands before the body.
        let body = memchr::memmem::find(rest, b"\"body\":").map_or(rest, |at| &rest[at + 7..]);
        return push(&rest[..end], body);
    }
    let Some(rest) = text.strip_prefix(b"{\"id\":") else {
        return Received::Other;
    };
    answer(number_before(rest).into(), rest)
}

fn centrifugo(reply: &[u8]) -> Received<'_> {
    let begins = |what: &[u8]| memchr::memmem::find(reply, what).is_some();
    if reply == b"{}" {
        Received::Heartbeat
    } else if let Some(rest) = reply.strip_prefix(b"{\"id\":") {
        Received::Answer(number_before(rest).into(), !begins(b"\"error\":{"))
    } else if begins(b"\"pub\":{") {
        message(reply)
    } else if begins(b"\"join\":{") {
        Received::Joined(named(reply))
    } else if begins(b"\"leave\":{") {
        Received::Left
    } else {
        Received::Other
    }
}

fn push<'a>(route: &[u8], body: &[u8]) -> Received<'a> {
    match route {
        ON_MESSAGE => message(body),
        ON_JOIN => Received::Joined(named(body)),
        ON_LEAVE => Received::Left,
        _ => Received::Other,
    }
}

fn message<'a>(body: &[u8]) -> Received<'a> {
    Stamp::read(body).map_or(Received::Other, Received::Message)
}

fn answer<'a>(id: u64, body: &[u8]) -> Received<'a> {
    let code = memchr::memmem::find(body, b"\"code\":").map(|at| &body[at + 7..]);
    Received::Answer(id, code.is_some_and(|code| number_before(code) == 0))
}

/// The user in `"userId":"u17"`, or in `"user":"u17"`.
fn named(body: &[u8]) -> u32 {
    let name = memchr::memmem::find(body, b":\"u");
    name.map_or(u32::MAX, |at| number_before(&body[at + 3..]))
}

/// The number at the beginning of the text.
fn number_before(text: &[u8]) -> u32 {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    number(&text[..digits])
}

fn number(digits: &[u8]) -> u32 {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(u32::MAX)
}
