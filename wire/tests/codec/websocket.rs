//! The WebSocket reader: the rules of RFC 6455, the limit, and bytes that are split in any way.

use crate::reference::{frames, masked, written};
use proptest::prelude::*;
use testkit::websocket::deflate;
use wire::websocket::{self, Event, Opcode, Reader};

const LIMIT: usize = 300;
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// A copy of an event.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Message(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Close(Vec<u8>),
}

fn keep(event: Event<'_>) -> Seen {
    match event {
        Event::Message(payload) => Seen::Message(payload.to_vec()),
        Event::Ping(payload) => Seen::Ping(payload.to_vec()),
        Event::Pong => Seen::Pong,
        Event::Close(payload) => Seen::Close(payload.to_vec()),
    }
}

type Outcome = (Vec<Seen>, Result<(), wire::Error>);

/// Feeds the bytes in pieces of these lengths, in turn.
fn feed(mut reader: Reader, bytes: &[u8], cuts: &[usize]) -> Outcome {
    let mut seen = Vec::new();
    let mut bytes = bytes.to_vec();
    let mut rest = &mut bytes[..];
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let cut = cuts
            .next()
            .copied()
            .unwrap_or(usize::MAX)
            .clamp(1, rest.len());
        let (piece, behind) = rest.split_at_mut(cut);
        rest = behind;
        if let Err(reason) = reader.feed(piece, |event| seen.push(keep(event))) {
            // Everything that follows is ignored.
            assert_eq!(reader.feed(rest, |event| panic!("{event:?}")), Ok(()));
            return (seen, Err(reason));
        }
    }
    (seen, Ok(()))
}

fn read_by(reader: fn(usize) -> Reader, bytes: &[u8]) -> Outcome {
    let whole = feed(reader(LIMIT), bytes, &[]);
    let split = feed(reader(LIMIT), bytes, &[1]);
    assert_eq!(split, whole, "byte by byte");
    whole
}

fn read(bytes: &[u8]) -> Outcome {
    read_by(Reader::new, bytes)
}

fn refused(bytes: &[u8], reason: wire::Error) {
    assert_eq!(read(bytes), (vec![], Err(reason)), "{bytes:x?}");
}

#[test]
fn messages_are_unmasked_whatever_their_length() {
    for length in [0, 1, 7, 8, 9, 125, 126, 127, LIMIT] {
        let payload: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
        let bytes = masked(0x82, MASK, &payload);
        assert_eq!(read(&bytes), (vec![Seen::Message(payload)], Ok(())));
    }
}

#[test]
fn fragments_are_joined_and_control_frames_may_come_in_between() {
    let bytes = [
        masked(0x01, MASK, "哈".as_bytes().split_at(2).0),
        masked(0x89, MASK, b"ping"),
        masked(0x00, MASK, "哈".as_bytes().split_at(2).1),
        masked(0x8a, MASK, b""),
        masked(0x80, MASK, b""),
        masked(0x88, MASK, b"\x03\xe8bye"),
        b"ignored".to_vec(),
    ];
    let expected = vec![
        Seen::Ping(b"ping".to_vec()),
        Seen::Pong,
        Seen::Message("哈".into()),
        Seen::Close(b"\x03\xe8bye".to_vec()),
    ];
    assert_eq!(read(&bytes.concat()), (expected, Ok(())));
}

#[test]
fn frames_that_the_rfc_forbids_are_refused_with_1002() {
    // Section 5.1: a client must mask its frames.
    refused(&[0x82, 0x00], wire::Error::Frame);
    // Section 5.2: no extension was negotiated; these opcodes are reserved.
    for first in [0xc2, 0xa2, 0x92, 0x83, 0x87, 0x8b, 0x8f] {
        refused(&masked(first, MASK, b""), wire::Error::Frame);
    }
    // Section 5.4: there is nothing to continue; a message begins within another.
    refused(&masked(0x80, MASK, b""), wire::Error::Frame);
    refused(
        &[masked(0x02, MASK, b""), masked(0x82, MASK, b"")].concat(),
        wire::Error::Frame,
    );
    // Section 5.5: control frames must be whole and short.
    refused(&masked(0x09, MASK, b""), wire::Error::Frame);
    refused(&masked(0x89, MASK, &[0; 126]), wire::Error::Frame);
    // Section 7.4: a code has two bytes, and not every code is allowed.
    refused(&masked(0x88, MASK, b"\x03"), wire::Error::Frame);
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000] {
        refused(&masked(0x88, MASK, &code.to_be_bytes()), wire::Error::Frame);
    }
    for code in [1000_u16, 1003, 1007, 1014, 3000, 4999] {
        let payload = code.to_be_bytes().to_vec();
        let bytes = masked(0x88, MASK, &payload);
        assert_eq!(read(&bytes), (vec![Seen::Close(payload)], Ok(())));
    }
}

#[test]
fn text_that_is_not_utf_8_is_refused_with_1007_at_once() {
    refused(&masked(0x81, MASK, b"a\xff"), wire::Error::Utf8);
    refused(&masked(0x81, MASK, b"\xe5\x93"), wire::Error::Utf8);
    refused(&masked(0x88, MASK, b"\x03\xe8\xff"), wire::Error::Utf8);
    // The message is not complete, but it cannot become text any more.
    refused(&masked(0x01, MASK, b"\xe5\x93\xff"), wire::Error::Utf8);
    refused(&masked(0x81, MASK, b"a\xffb")[..8], wire::Error::Utf8);
    let binary = masked(0x82, MASK, b"a\xff");
    assert_eq!(
        read(&binary),
        (vec![Seen::Message(b"a\xff".to_vec())], Ok(()))
    );
}

#[test]
fn a_message_beyond_the_limit_is_refused_before_its_payload_is_read() {
    let header = |bytes: Vec<u8>| bytes[..8].to_vec();
    refused(
        &header(masked(0x82, MASK, &[0; LIMIT + 1])),
        wire::Error::too_big(LIMIT),
    );
    refused(
        &[
            0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4,
        ],
        wire::Error::too_big(LIMIT),
    );
    let mut fragments = masked(0x02, MASK, &[0; LIMIT - 1]);
    fragments.extend(masked(0x00, MASK, &[0]));
    assert_eq!(read(&fragments), (vec![], Ok(())));
    fragments.extend(&masked(0x00, MASK, &[0])[..6]);
    refused(&fragments, wire::Error::too_big(LIMIT));
}

/// Feeds frames to a reader that inflates. Each is given by its first byte and its payload.
fn compressed(frames: &[(u8, &[u8])]) -> Outcome {
    let mut bytes = Vec::new();
    for (first, payload) in frames {
        bytes.extend(masked(*first, MASK, payload));
    }
    read_by(Reader::inflating, &bytes)
}

/// "Hello", compressed as in RFC 7692, section 7.2.3.1.
const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

#[test]
fn compressed_messages_are_inflated_in_pieces_and_between_plain_ones() {
    let (begin, end) = HELLO.split_at(3);
    let (seen, error) = compressed(&[
        (0xc1, &HELLO),
        (0x81, b"plain"),
        (0x41, begin),
        (0x89, b"ping"),
        (0x80, end),
        (0xc2, &[]),
    ]);
    let message = |text: &[u8]| Seen::Message(text.to_vec());
    let ping = Seen::Ping(b"ping".to_vec());
    let expected = [
        message(b"Hello"),
        message(b"plain"),
        ping,
        message(b"Hello"),
        message(b""),
    ];
    assert_eq!(error, Ok(()));
    assert_eq!(seen, expected);
}

#[test]
fn frames_that_rfc_7692_forbids_are_refused() {
    for frames in [
        // Compressed control frames, continuations, other reserved bits.
        &[(0xc9, &HELLO[..])][..],
        &[(0x41, &HELLO[..3]), (0xc0, &HELLO[3..])],
        &[(0xe1, &HELLO[..])],
        &[(0x91, b"x")],
        // This is not deflate.
        &[(0xc1, &[0xff, 0xff])],
    ] {
        assert_eq!(compressed(frames).1, Err(wire::Error::Frame), "{frames:?}");
    }
    // A stored block whose only byte is not UTF-8.
    let stored = [0x00, 0x01, 0x00, 0xfe, 0xff, 0xff, 0x00];
    assert_eq!(compressed(&[(0xc1, &stored)]).1, Err(wire::Error::Utf8));
    assert_eq!(compressed(&[(0xc2, &stored)]).1, Ok(()));
    // Without the extension this bit is reserved.
    refused(&masked(0xc1, MASK, &HELLO), wire::Error::Frame);
}

#[test]
fn a_message_that_inflates_beyond_the_limit_is_refused() {
    let fits = deflate(&[b'x'; LIMIT]);
    let message = Seen::Message(vec![b'x'; LIMIT]);
    assert_eq!(compressed(&[(0xc2, &fits)]), (vec![message], Ok(())));
    for length in [LIMIT + 1, 50 * LIMIT] {
        let bomb = deflate(&vec![0; length]);
        assert!(bomb.len() < LIMIT);
        assert_eq!(
            compressed(&[(0xc2, &bomb)]).1,
            Err(wire::Error::too_big(LIMIT))
        );
    }
}

#[test]
fn a_reader_needs_only_a_few_bytes() {
    assert!(size_of::<Reader>() <= 32);
}

#[test]
fn frames_are_written_in_the_shortest_form() {
    for length in [0, 125, 126, 65_535, 65_536, 70_000] {
        let payload = vec![7; length];
        let out = written(|out| websocket::frame(out, Opcode::Binary, &payload));
        assert_eq!(frames(&out), [(2, payload)]);
    }
    let out = written(|out| websocket::close(out, 1000, ""));
    assert_eq!(out, [0x88, 0x02, 0x03, 0xe8]);
}

#[test]
fn the_accept_key_is_the_one_of_the_rfc_and_the_recording() {
    // Section 1.3 of the RFC, and hybrid-03.
    let pairs = [
        ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("iFHiSkQO2/+W+AZWgkXhAg==", "u0/W/XrA0FvzcV8ztUCz6ChowmE="),
    ];
    for (key, accept) in pairs {
        assert_eq!(websocket::accept_key(key.as_bytes()), accept);
    }
}

/// A frame that may be part of a valid or an invalid stream.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        "[a哈😀]{0,10}".prop_map(String::into_bytes),
        "[a哈😀]{0,100}".prop_map(|text| deflate(text.as_bytes())),
        prop::collection::vec(any::<u8>(), 0..10),
        (0..LIMIT + 2).prop_map(|length| vec![b'x'; length]),
        Just(b"\x03\xe8".to_vec()),
    ];
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x81_u8, 0x82, 0x01, 0x02, 0x00, 0x00, 0x80, 0x80, 0x89, 0x8a]),
        2 => prop::sample::select(vec![0xc1_u8, 0xc2, 0x41, 0x42]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    (first, any::<[u8; 4]>(), payload)
        .prop_map(|(first, mask, payload)| masked(first, mask, &payload))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_result_does_not_depend_on_how_the_bytes_are_split(
        parts in prop::collection::vec(any_frame(), 0..8),
        cuts in prop::collection::vec(1_usize..40, 1..6),
    ) {
        let bytes = parts.concat();
        for reader in [Reader::new, Reader::inflating] {
            prop_assert_eq!(feed(reader(LIMIT), &bytes, &cuts), read_by(reader, &bytes));
        }
    }

    #[test]
    fn compressed_messages_are_complete_however_they_are_split(
        texts in prop::collection::vec("[a哈😀]{0,60}", 1..4),
        fragment in 1_usize..40,
        cuts in prop::collection::vec(1_usize..40, 1..6),
    ) {
        let mut bytes = Vec::new();
        for text in &texts {
            let payload = deflate(text.as_bytes());
            let fragments: Vec<_> = payload.chunks(fragment).collect();
            for (at, piece) in fragments.iter().enumerate() {
                let begins = if at == 0 { 0x41 } else { 0x00 };
                let ends = if at + 1 == fragments.len() { 0x80 } else { 0x00 };
                bytes.extend(masked(begins | ends, MASK, piece));
            }
        }
        let messages = texts.into_iter().map(|text| Seen::Message(text.into_bytes()));
        let expected = (messages.collect(), Ok(()));
        prop_assert_eq!(feed(Reader::inflating(LIMIT), &bytes, &cuts), expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(1_usize..20, 1..4)) {
        for reader in [Reader::new, Reader::inflating] {
            prop_assert_eq!(feed(reader(LIMIT), &bytes, &cuts), read_by(reader, &bytes));
        }
    }
}

/// For a binary protocol in text frames, the text is not checked, whether a message comes whole, in pieces, or
/// compressed.
#[test]
fn text_frames_of_a_binary_protocol_may_have_any_bytes() {
    let message = b"\x04\0\0\x80\xff\xed\xa0\x80";
    let mut fragments = masked(0x01, MASK, &message[..5]);
    fragments.extend(masked(0x80, MASK, &message[5..]));
    let compressed = masked(0xc1, MASK, &deflate(message));
    for bytes in [masked(0x81, MASK, message), fragments, compressed] {
        let mut reader = Reader::inflating(LIMIT).taking_any_text();
        let mut seen = Vec::new();
        let fed = reader.feed(&mut bytes.clone(), |event| {
            if let Event::Message(message) = event {
                seen.push(message.to_vec());
            }
        });
        assert_eq!((fed, seen), (Ok(()), vec![message.to_vec()]));
    }
}

/// A read of a few thousand bytes may hold messages of many megabytes.
#[test]
fn compressed_messages_are_inflated_a_few_at_a_time_and_none_is_lost() {
    let frame = masked(0xc1, MASK, &deflate(&[b'x'; LIMIT]));
    let mut bytes = frame.repeat(50);
    let mut reader = Reader::inflating(LIMIT);
    let mut given = 0;
    let mut most = 0;
    reader
        .feed_some(&mut bytes, 3 * LIMIT, |_| given += 1)
        .unwrap();
    while reader.unread() > 0 {
        assert!(reader.held() >= reader.unread());
        let before = given;
        reader.resume(3 * LIMIT, |_| given += 1).unwrap();
        most = most.max(given - before);
    }
    assert_eq!(given, 50);
    assert_eq!(most, 4);
    assert_eq!(reader.held(), 0);
}
