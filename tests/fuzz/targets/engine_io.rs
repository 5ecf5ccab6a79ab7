//! The posts of clients that poll. Packets that are encoded for such clients can be decoded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::EngineIo;
use wire::engine_io;

fuzz_target!(|bytes: &[u8]| {
    for (version, is_binary) in [
        (EngineIo::V3, false),
        (EngineIo::V3, true),
        (EngineIo::V4, false),
    ] {
        let Some(packets) = engine_io::decode(version, bytes, is_binary) else {
            continue;
        };
        let length: usize = packets.iter().map(String::len).sum();
        assert!(length <= bytes.len(), "decoding adds no bytes");
        let written = engine_io::encode(version, packets.iter().map(String::as_str));
        let again = engine_io::decode(version, written.as_bytes(), false);
        let count = again.map(|packets| packets.len());
        let binary = packets.iter().filter(|it| it.starts_with('b')).count();
        if version == EngineIo::V3 || binary == 0 && !packets.is_empty() {
            assert_eq!(count, Some(packets.len()));
        }
    }
});
