//! WebSocket frames, also compressed ones. The result is the same wherever the bytes are cut, and never larger than the
//! limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::websocket::{Event, Reader};

const LIMIT: usize = 64 << 10;

fuzz_target!(|bytes: &[u8]| {
    let whole = found(bytes, bytes.len().max(1));
    for size in [1, 7] {
        assert_eq!(found(bytes, size), whole, "in pieces of {size}");
    }
});

/// The events in the bytes, and whether all bytes were valid.
fn found(bytes: &[u8], size: usize) -> (Vec<(u8, Vec<u8>)>, bool) {
    let mut reader = Reader::inflating(LIMIT);
    let mut found = Vec::new();
    for piece in bytes.to_vec().chunks_mut(size) {
        let fed = reader.feed(piece, |event| {
            found.push(match event {
                Event::Message(message) => (0, message.to_vec()),
                Event::Ping(payload) => (1, payload.to_vec()),
                Event::Pong => (2, Vec::new()),
                Event::Close(payload) => (3, payload.to_vec()),
            });
        });
        assert!(found.iter().all(|(_, payload)| payload.len() <= LIMIT));
        if fed.is_err() {
            return (found, false);
        }
    }
    (found, true)
}
