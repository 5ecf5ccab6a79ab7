//! Requests in JSON. Each is read or refused, and only an attack ends the connection.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use wire::{Codec, Error, WireFormat};

fuzz_target!(|message: &[u8]| {
    let mut codec = Codec::new(WireFormat::JSON, Duration::from_secs(25));
    let (mut inputs, mut out) = (Vec::new(), Vec::new());
    match codec.decode(message, &mut inputs, &mut out) {
        Ok(()) => assert_eq!(inputs.len() + usize::from(!out.is_empty()), 1),
        Err(reason) => assert_eq!(reason, Error::Attack),
    }
});
