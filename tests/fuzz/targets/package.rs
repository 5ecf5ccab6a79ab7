//! Pomelo's packages, in a frame and in a stream. The stream gives the same packages wherever it is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use wire::{Codec, Packages, WireFormat};

fuzz_target!(|bytes: &[u8]| {
    let mut codec = Codec::new(WireFormat::POMELO, Duration::from_secs(25));
    let _ = codec.decode(bytes, &mut Vec::new(), &mut Vec::new());

    let whole = found(bytes, bytes.len().max(1));
    for size in [1, 3] {
        assert_eq!(found(bytes, size), whole, "in pieces of {size}");
    }
});

fn found(bytes: &[u8], size: usize) -> (Vec<Vec<u8>>, bool) {
    let mut packages = Packages::new(128 << 10);
    let mut found = Vec::new();
    for piece in bytes.chunks(size) {
        let fed = packages.feed(piece, |package| found.push(package.to_vec()));
        if fed.is_err() {
            return (found, false);
        }
    }
    (found, true)
}
