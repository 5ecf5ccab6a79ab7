//! Recorded conversations, played again to the codec: what it sends by itself equals what the original sent, it finds the
//! requests that the original answered, and every reply, push and farewell is written in the recorded bytes.

use crate::reference::{
    Decoded, Frame, Message, RouteName, channel, decode, frames, publication, unpack, written,
};
use std::time::Duration;
use wire::{Codec, Disconnect, Input, Request, WireFormat};

/// One recorded frame: opcode and payload, unmasked and inflated.
struct Recorded {
    is_client: bool,
    frame: Frame,
}

/// The frames of one connection of a transcript.
fn recorded(transcript: &str, connection: u32) -> Vec<Recorded> {
    let connection = format!("conn#{connection}");
    let mut lines = transcript.lines().peekable();
    let mut recorded = Vec::new();
    while let Some(line) = lines.next() {
        let mut words = line
            .split(']')
            .next_back()
            .unwrap_or_default()
            .split_whitespace();
        if words.next() != Some(&connection) {
            continue;
        }
        let is_client = words.next() == Some("C->S");
        let opcode = match (words.next(), words.next()) {
            (Some("WS"), Some("BINARY")) => 2,
            (Some("WS"), Some("CLOSE")) => 8,
            _ => continue,
        };
        // "raw:" and perhaps "payload:", each going on over indented lines of hex.
        let (mut raw, mut payload) = (Vec::new(), None);
        while let Some(line) = lines.next_if(|line| line.starts_with("    ")) {
            let line = line.trim();
            let bytes = if let Some(rest) = line.strip_prefix("raw:") {
                raw.extend(unhex(rest));
                continue;
            } else if let Some(rest) = line.strip_prefix("payload:") {
                payload = Some(Vec::new());
                rest
            } else if line.starts_with("inflated") || line.starts_with("close code") {
                continue;
            } else {
                line
            };
            payload.as_mut().unwrap_or(&mut raw).extend(unhex(bytes));
        }
        // What has no payload of its own was sent as it is; a masked frame without one is empty.
        let payload = payload.unwrap_or_else(|| {
            if is_client {
                Vec::new()
            } else {
                frames(&raw).remove(0).1
            }
        });
        recorded.push(Recorded {
            is_client,
            frame: (opcode, payload),
        });
    }
    recorded
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |word| u8::from_str_radix(word, 16).expect("hex");
    text.split_whitespace().map(byte).collect()
}

/// What a connection came to.
struct Replay {
    /// What the client asked for, in order.
    requests: Vec<Request>,
    /// The ids that the original answered, in order.
    answered: Vec<u64>,
    result: Result<(), wire::Error>,
    /// What the original closed with: from its KICK on.
    farewell: Vec<Frame>,
}

/// Feeds the client's frames to a codec, and compares all that the server sent.
fn replay(transcript: &str, connection: u32, heartbeat: u64) -> Replay {
    let recorded = recorded(transcript, connection);
    assert!(recorded.len() > 2, "the transcript was read");
    let mut codec = Codec::new(WireFormat::POMELO, Duration::from_secs(heartbeat));
    let mut own = Vec::new();
    let mut replay = Replay {
        requests: Vec::new(),
        answered: Vec::new(),
        result: Ok(()),
        farewell: Vec::new(),
    };
    for Recorded {
        frame: (_, payload),
        ..
    } in recorded.iter().filter(|it| it.is_client && it.frame.0 == 2)
    {
        let Decoded {
            inputs,
            frames,
            result,
        } = decode(&mut codec, payload);
        own.extend(frames);
        replay
            .requests
            .extend(inputs.into_iter().filter_map(|input| match input {
                Input::Request(request) => Some(request),
                Input::Ready | Input::Heartbeat => None,
            }));
        replay.result = replay.result.and(result);
    }
    let mut own = own.into_iter();
    for Recorded { frame, .. } in recorded.iter().filter(|it| !it.is_client) {
        if frame.0 == 8 || frame.1[0] == 5 {
            replay.farewell.push(frame.clone());
            continue;
        }
        match unpack(&frame.1) {
            (1 | 3, _) => assert_eq!(own.next().as_ref(), Some(frame)),
            (4, body) => {
                let message = Message::decode(&body);
                assert_eq!(&frames(&again(&message)), std::slice::from_ref(frame));
                if message.kind == 2 {
                    replay.answered.push(message.id);
                }
            }
            (other, _) => panic!("package {other}"),
        }
    }
    assert_eq!(own.next(), None, "nothing more than recorded");
    replay
}

/// A reply or push of the original as the codec writes it.
fn again(message: &Message) -> Vec<u8> {
    written(|out| match &message.route {
        RouteName::None => wire::reply(WireFormat::POMELO, message.id, &message.body, out),
        RouteName::Name(route) => {
            let body = std::str::from_utf8(&message.body).expect("JSON");
            wire::push(
                WireFormat::POMELO,
                &channel("1"),
                &publication(route, body),
                out,
            );
        }
        RouteName::Code(code) => panic!("route {code}"),
    })
}

fn farewell(reason: Disconnect) -> Vec<Frame> {
    frames(&written(|out| {
        wire::close(WireFormat::POMELO, reason, out);
    }))
}

fn ids(requests: &[Request]) -> Vec<u64> {
    requests.iter().filter_map(|request| request.id).collect()
}

#[test]
fn hybrid_03_error_replies() {
    let transcript = include_str!("../wire/hybrid-03-error-replies.txt");
    let first = replay(transcript, 1, 25);
    assert_eq!(first.answered, [1, 2, 3, 4, 5, 6]);
    assert_eq!(ids(&first.requests), first.answered);
    assert_eq!(first.result, Ok(()));
    assert_eq!(first.farewell, farewell(Disconnect::Client));
    let second = replay(transcript, 2, 25);
    assert_eq!(second.answered, [1]);
    assert_eq!(ids(&second.requests), second.answered);
}

#[test]
fn hybrid_04_unknown_routes() {
    let replay = replay(include_str!("../wire/hybrid-04-unknown-routes.txt"), 1, 25);
    assert_eq!(replay.answered, [2, 3, 4, 5, 6, 7, 8, 10]);
    assert_eq!(ids(&replay.requests), replay.answered);
    assert_eq!(replay.result, Ok(()));
    // A login each as NOTIFY, as REQUEST with id 0 and as PUSH.
    let notified: Vec<_> = replay
        .requests
        .iter()
        .filter(|it| it.id.is_none())
        .collect();
    assert_eq!(notified.len(), 3);
    assert!(
        notified
            .iter()
            .all(|it| &*it.route == "connector.handler.login")
    );
}

#[test]
fn hybrid_05_kick_attack() {
    let replay = replay(include_str!("../wire/hybrid-05-kick-attack.txt"), 1, 25);
    assert_eq!(ids(&replay.requests), [1]);
    assert_eq!(replay.answered, [1]);
    assert_eq!(replay.result, Err(wire::Error::Attack));
    assert_eq!(replay.farewell, farewell(Disconnect::Attack));
}

#[test]
fn hybrid_10_heartbeat() {
    let transcript = include_str!("../wire/hybrid-10-heartbeat.txt");
    let answering = replay(transcript, 1, 1);
    assert_eq!(answering.requests, []);
    assert_eq!(answering.farewell, farewell(Disconnect::Client));
    let silent = replay(transcript, 2, 1);
    assert_eq!(silent.answered, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(ids(&silent.requests), silent.answered);
    assert_eq!(silent.farewell, farewell(Disconnect::HeartbeatTimeout));
}
