//! Whatever comes before a client's bytes: what is taken for a header of the PROXY protocol is bounded, and nothing behind it is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::proxy::{Progress, read};

fuzz_target!(|bytes: &[u8]| {
    let mut taken = 0;
    while let Ok(Progress::Missing(missing)) = read(&bytes[..taken]) {
        assert!(missing > 0, "it goes on");
        taken += missing;
        assert!(taken <= 16 + 4096, "it is bounded");
        if taken > bytes.len() {
            return;
        }
    }
});
