//! Ids of events that clients show. One that is read is written again byte for byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::sse::{EventId, EventStream};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let Some(id) = EventId::parse(text) else {
        return;
    };
    assert!(id.positions.len() <= 100);
    let written = EventStream::new(&id, 0).id();
    assert_eq!(written[1..], text[1..]);
});
