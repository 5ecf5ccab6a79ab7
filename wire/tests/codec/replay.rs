//! Replays recorded conversations. The codec must send what the original sent, and find the requests that the original
//! answered. It must write every reply, push and close in the recorded bytes.

use crate::reference::{
    Decoded, Frame, Message, RouteName, channel, decode, frames, publication, unpack, written,
};
use std::time::Duration;
use testkit::recording::{self, Event, Step};
use testkit::websocket::{BINARY, CLOSE};
use wire::{Codec, Disconnect, Input, Request, WireFormat};

/// The frames of one connection of a recording. The flag is true if the client sent the frame.
fn recorded(recording: &str, connection: usize) -> Vec<(bool, Frame)> {
    let steps = recording::read(recording).into_iter();
    let of_connection = steps.filter(|step| step.connection == connection);
    let frame = |step: Step| match step.event {
        Event::Sent(payload) => Some((true, (BINARY, payload.to_vec()))),
        Event::SentClose(payload) => Some((true, (CLOSE, payload.to_vec()))),
        Event::Received(payload) => Some((false, (BINARY, payload.to_vec()))),
        Event::ReceivedClose(payload) => Some((false, (CLOSE, payload.to_vec()))),
        Event::Opened | Event::Finished | Event::Ended => None,
    };
    of_connection.filter_map(frame).collect()
}

/// The result of a replay.
struct Replay {
    /// The client's requests, in order.
    requests: Vec<Request>,
    /// The ids that the original answered, in order.
    answered: Vec<u64>,
    result: Result<(), wire::Error>,
    /// What the original sent at the end: a KICK, and a close frame.
    farewell: Vec<Frame>,
}

/// Feeds the client's frames to a codec, and compares its answers with those of the original.
fn replay(recording: &str, connection: usize, heartbeat: u64) -> Replay {
    let recorded = recorded(recording, connection);
    assert!(recorded.len() > 2, "the recording has too few frames");
    let mut codec = Codec::new(WireFormat::POMELO, Duration::from_secs(heartbeat));
    let mut own = Vec::new();
    let mut replay = Replay {
        requests: Vec::new(),
        answered: Vec::new(),
        result: Ok(()),
        farewell: Vec::new(),
    };
    let sent = recorded.iter().filter(|(is_client, _)| *is_client);
    for (_, (_, payload)) in sent.filter(|(_, frame)| frame.0 == BINARY) {
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
    for (_, frame) in recorded.iter().filter(|(is_client, _)| !is_client) {
        if frame.0 == CLOSE || frame.1[0] == 5 {
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
    assert_eq!(own.next(), None, "the codec sends more than was recorded");
    replay
}

/// A reply or push of the original, written by the codec.
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
    let recording = "hybrid-03";
    let first = replay(recording, 1, 25);
    assert_eq!(first.answered, [1, 2, 3, 4, 5, 6]);
    assert_eq!(ids(&first.requests), first.answered);
    assert_eq!(first.result, Ok(()));
    assert_eq!(first.farewell, farewell(Disconnect::CLOSED));
    let second = replay(recording, 2, 25);
    assert_eq!(second.answered, [1]);
    assert_eq!(ids(&second.requests), second.answered);
}

#[test]
fn hybrid_04_unknown_routes() {
    let replay = replay("hybrid-04", 1, 25);
    assert_eq!(replay.answered, [2, 3, 4, 5, 6, 7, 8, 10]);
    assert_eq!(ids(&replay.requests), replay.answered);
    assert_eq!(replay.result, Ok(()));
    // The client logged in three times: by a NOTIFY, by a REQUEST with id 0, and by a PUSH.
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
    let replay = replay("hybrid-05", 1, 25);
    assert_eq!(ids(&replay.requests), [1]);
    assert_eq!(replay.answered, [1]);
    assert_eq!(replay.result, Err(wire::Error::Attack));
    assert_eq!(
        replay.farewell,
        farewell(Disconnect::ByClient(wire::Error::Attack))
    );
}

#[test]
fn hybrid_10_heartbeat() {
    let recording = "hybrid-10";
    let answering = replay(recording, 1, 1);
    assert_eq!(answering.requests, []);
    assert_eq!(answering.farewell, farewell(Disconnect::CLOSED));
    let silent = replay(recording, 2, 1);
    assert_eq!(silent.answered, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(ids(&silent.requests), silent.answered);
    assert_eq!(silent.farewell, farewell(Disconnect::HeartbeatTimeout));
}
