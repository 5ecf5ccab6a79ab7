//! Packets of Socket.IO, in both versions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use wire::{Codec, EngineIo, WireFormat};

fuzz_target!(|packet: &[u8]| {
    for version in [EngineIo::V3, EngineIo::V4] {
        let mut codec = Codec::new(WireFormat::socket_io(version), Duration::from_secs(25));
        let (mut inputs, mut out) = (Vec::new(), Vec::new());
        let _ = codec.decode(packet, &mut inputs, &mut out);
        assert!(inputs.len() <= 1);
        assert!(out.len() <= 2 * packet.len() + 128);
    }
});
